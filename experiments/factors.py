"""What do the warps do, and what does Muon do?

    rowrnn data prepare mnist
    python experiments/factors.py [--seeds 12] [--table]

Shows: the accuracy of `best.toml` with and without its warps of the training images (rotation,
scale, shear, elastic; shifts stay), and with Muon or AdamW, over the same seeds each. The learning
rate of each optimizer is chosen first, on 10,000 training images set apart, by the mean over both
kinds of images after 8 epochs; nobody looks at test images there. Sweeps are kept in `runs/factors`
and go on where they were cut; figures go into `experiments/results/factors.json` and `.png`, and
which test image each network had right into `factors.npz`. `--table` computes from the figures.
Expected before it was run (2026-11-27): without warps 99.0 to 99.2 %, so that warps are worth about
0.5 points and Muon 0.1, with warps as without. When this was known, the shifts were taken away too
(Muon, no warps), which was expected to cost 0.3 points. Six seeds came first, as planned; corrected
for six comparisons, no p of six pairs can be below 0.05, and six more followed.
Last result: see experiments/results/factors.json.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from ablations import IMAGES, answers, environment, machine, sweep
from matplotlib.ticker import PercentFormatter

from rowrnn import config
from rowrnn.figures import frame
from rowrnn.lab import stats

ROOT = Path(__file__).parents[1]
RUNS, RESULTS = ROOT / "runs" / "factors", ROOT / "experiments" / "results"

NO_WARPS = dict.fromkeys(("data.rotation", "data.scale", "data.shear", "data.elastic"), 0.0)
RATES = {"adamw": (1e-3, 3e-3, 1e-2, 3e-2), "muon": (1e-2, 3e-2, 1e-1)}
TRIED = ("none", "warps")
APART = {"data.validation_size": 10_000, "train.epochs": 8}
IMAGES_ARE = {"still": NO_WARPS | {"data.shift": 0}, "none": NO_WARPS, "warps": {}}
CELLS = (*((name, images) for images in ("none", "warps") for name in RATES), ("muon", "still"))


def main():
    """Chooses the rates, trains what is missing and computes."""
    parser = argparse.ArgumentParser(description="Warps and Muon, each with and without the other.")
    parser.add_argument("--seeds", type=int, default=12)
    parser.add_argument("--table", action="store_true", help="compute from the figures alone")
    given = parser.parse_args()
    if given.seeds < 2:
        parser.error("--seeds: must be at least 2, which have a spread")
    path = RESULTS / "factors.json"
    document = json.loads(path.read_text()) if given.table else train_all(given.seeds)
    document |= effects(document["accuracy"])
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    draw(document["accuracy"], RESULTS / "factors.png")
    print(machine(document["environment"]), in_words(document), sep="\n")


def train_all(seeds):
    """What the four cells gave, at the rates that validation chose."""
    best = config.load(ROOT / "experiments" / "best.toml")
    best = config.replace(best, {"train.display": "none"})
    trials = {
        name: {rate: [trial(best, name, rate, images) for images in TRIED] for rate in rates}
        for name, rates in RATES.items()
    }
    chosen = {name: max(rates, key=lambda rate: sum(rates[rate])) for name, rates in trials.items()}
    accuracy, packed = {}, {}
    for name, images in CELLS:
        cell, run = cell_name(name, images), RUNS / cell_name(name, images)
        result = sweep(settings(best, name, chosen[name], images), range(seeds), run)
        accuracy[cell] = result.accuracy.tolist()
        packed[cell] = np.packbits(answers(run)[0], axis=1)
        print(f"{cell}: {result.accuracy.mean():.4f}", flush=True)
    np.savez_compressed(RESULTS / "factors.npz", **packed)
    trials = {
        name: {str(rate): values for rate, values in rates.items()}
        for name, rates in trials.items()
    }
    return {
        "environment": environment(RUNS / cell_name(*CELLS[-1])),
        "validation": trials,
        "learning_rate": chosen,
        "accuracy": accuracy,
    }


def cell_name(name, images):
    """The cell in words."""
    return f"{name}-{images}"


def settings(best, name, rate, images):
    """The config of a cell."""
    changes = {"optimizer.name": name, "optimizer.learning_rate": rate}
    return config.replace(best, changes | IMAGES_ARE[images])


def trial(best, name, rate, images):
    """Mean validation accuracy of two seeds, which are none of those that are compared."""
    run = RUNS / "rates" / f"{cell_name(name, images)}-{rate:g}"
    settings_ = config.replace(settings(best, name, rate, images), APART)
    members = sweep(settings_, (1_000, 1_001), run).members
    return float(np.mean([member.validation_accuracy for member in members]))


def effects(accuracy):
    """Differences that warps and Muon make, seed by seed, with intervals by sign flips."""
    cells = {name: np.array(values) for name, values in accuracy.items()}
    pairs = {
        "warps, with AdamW": ("adamw-none", "adamw-warps"),
        "warps, with Muon": ("muon-none", "muon-warps"),
        "Muon, without warps": ("adamw-none", "muon-none"),
        "Muon, with warps": ("adamw-warps", "muon-warps"),
        "shifts, with Muon and no warps": ("muon-still", "muon-none"),
    }
    sides = {name: (cells[a], cells[b]) for name, (a, b) in pairs.items()}
    sides["Muon with warps, less Muon without"] = (
        cells["muon-none"] - cells["adamw-none"],
        cells["muon-warps"] - cells["adamw-warps"],
    )
    found = {}
    for name, (a, b) in sides.items():
        compared = stats.compare(a, b, paired=True, resolution=1 / IMAGES)
        found[name] = {
            "difference": compared.difference,
            "interval": list(compared.interval),
            "method": compared.interval_method,
            "p": compared.p_value,
        }
    adjusted = stats.adjust([each["p"] for each in found.values()])
    for each, p in zip(found.values(), adjusted, strict=True):
        each["adjusted_p"] = p
    summaries = {name: stats.summarize(values) for name, values in cells.items()}
    means = {
        name: {"mean": each.mean, "interval": list(each.interval), "sd": each.sd}
        for name, each in summaries.items()
    }
    return {"cells": means, "effects": found}


def in_words(document):
    """The cells and the effects, a line each."""
    lines = []
    for name, each in document["cells"].items():
        low, high = each["interval"]
        lines.append(f"{name}: {each['mean']:.4f} ({low:.4f} to {high:.4f}), sd {each['sd']:.4f}")
    for name, each in document["effects"].items():
        low, high = each["interval"]
        lines.append(
            f"{name}: {each['difference']:+.4f} ({low:+.4f} to {high:+.4f}), "
            f"p = {each['adjusted_p']:.2g}, corrected for {len(document['effects'])} comparisons"
        )
    return "\n".join(lines)


def draw(accuracy, path):
    """Every network of the cells."""
    figure, axes = frame.begin("Warps and Muon, each with and without the other", 8, 3.6, path)
    for index, (name, images) in enumerate(CELLS):
        values = np.array(accuracy[cell_name(name, images)])
        colour = frame.VERMILION if name == "muon" else frame.BLUE
        axes.plot(1 - values, np.full(len(values), index), "o", color=colour, alpha=0.6)
        axes.plot(1 - values.mean(), index, "|", color="black", markersize=22)
    optimizers = {"adamw": "AdamW", "muon": "Muon"}
    kinds = {"still": "no warps, no shifts", "none": "no warps", "warps": "warps"}
    labels = [f"{optimizers[name]}, {kinds[images]}" for name, images in CELLS]
    axes.set_yticks(range(len(CELLS)), labels)
    axes.set_ylim(len(CELLS) - 0.5, -0.5)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=1, symbol=" %"))
    axes.set_xlabel("test images that are wrong")
    frame.finish(figure, "point: a network; stroke: the mean", path)


if __name__ == "__main__":
    main()
