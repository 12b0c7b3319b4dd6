"""How much of the variance over seeds is rounding?

    rowrnn data prepare mnist
    python experiments/rounding.py [--seeds held-out] [--table]

Shows: what initial parameters, data order and rounding each do to the test accuracy of the
notebook's network. 12 initialisations x 12 data orders, each trained twice: as it is, and with one
recurrent weight moved by one unit in the last place. The same training gives the same bits, so that
the two differ by rounding that has grown, and by nothing else. `--seeds held-out` is the same with
6 x 6 seeds of its own. What is trained lies in `runs/rounding`, and it goes on where it was cut.
The answers go into `experiments/results/rounding.npz`; `--table` computes from these alone.
Expected before it was run (2026-11-27): rounding is 40 to 50 % of the variance (a first look at two
arms of the ablations said 43 %), initialisation and order less than 20 % each.
Last result: see experiments/results/rounding.json.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from ablations import machine
from matplotlib.ticker import PercentFormatter

from rowrnn import config, data, parallel
from rowrnn.figures import frame
from rowrnn.lab.trainer import Trainer, prepare
from rowrnn.store import rundir

ROOT = Path(__file__).parents[1]
RUNS, RESULTS = ROOT / "runs" / "rounding", ROOT / "experiments" / "results"
CONFIG = ROOT / "experiments" / "notebook_2015.toml"

# Initialisations and orders have these seeds.
SEEDS = {"main": range(12), "held-out": range(100, 106)}
PARTS = ("rounding", "initialisation", "order", "initialisation x order")
NAMES = {"main": "12 x 12 x 2 networks", "held-out": "6 x 6 x 2 others, kept apart"}
DRAWS = 100_000


def main():
    """Trains what is missing, packs the answers and computes."""
    parser = argparse.ArgumentParser(description="Rounding in the variance over seeds.")
    parser.add_argument("--seeds", choices=SEEDS, default="main")
    parser.add_argument("--table", action="store_true", help="compute from the packed answers")
    given = parser.parse_args()
    path = RESULTS / "rounding.json"
    document = json.loads(path.read_text()) if path.exists() else {}
    if not given.table:
        document["environment"] = train_all(given.seeds)
        pack()
    with np.load(RESULTS / "rounding.npz") as packed:
        labels = packed["labels"]
        found = {name: packed[name] for name in SEEDS if name in packed.files}
    document |= {name: figures_of(classes, labels) for name, classes in found.items()}
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    draw({name: document[name]["shares"] for name in found}, RESULTS / "rounding.png")
    for name in found:
        print(NAMES[name], in_words(document[name]), machine(document["environment"]), sep="\n")


def train_all(name):
    """Trains all pairs, one initialisation after the other; what they were trained on."""
    settings = config.replace(config.load(CONFIG), {"train.display": "none"})
    parallel.start_sweep(settings.parallel)
    mesh = parallel.make_sweep_mesh(settings.parallel)
    experiment, orders, trainer = prepare(settings), np.array(SEEDS[name], np.uint32), None
    RUNS.mkdir(parents=True, exist_ok=True)
    for init in SEEDS[name]:
        path = RUNS / f"{name}-{init}.npy"
        if path.exists():
            continue
        trainer = trainer or Trainer(experiment, mesh, 2 * len(orders))
        classes = train(trainer, experiment, init, orders)
        np.save(path.with_suffix(".part.npy"), classes)
        path.with_suffix(".part.npy").rename(path)
        right = classes == experiment.dataset.test.labels
        print(f"initialisation {init}: {right.mean():.4f}", flush=True)
    environment = rundir.environment() | parallel.describe(mesh)
    del environment["command"]
    return environment


def train(trainer, experiment, init, orders):
    """Predicted classes [2, orders, images]: as it is, and moved by one unit in the last place."""
    seeds = np.tile(orders, 2)
    numbers = {name: np.full(len(seeds), value) for name, value in experiment.hyperparams.items()}
    state = trainer.init(seeds, np.full_like(seeds, init), numbers)
    state = trainer.put(moved(trainer.fetch(state), range(len(orders), len(seeds))))
    for start in range(0, experiment.steps, experiment.epoch_steps):
        order = trainer.order(state, start // experiment.epoch_steps)
        steps = min(experiment.epoch_steps, experiment.steps - start)
        state = trainer.run(state, order, steps)
    _, classes = trainer.test(state)
    return trainer.fetch(classes).astype(np.uint8).reshape(2, len(orders), -1)


def moved(state, members):
    """The state with one weight of these members moved by one unit in the last place.

    It is the first of the last row: a recurrent one, since the corners of images are empty, and
    the weights of their pixels count for nothing.
    """
    kernel = np.array(state.params["lstm_0"].kernel)
    for member in members:
        kernel[member, -1, 0] = np.nextafter(kernel[member, -1, 0], np.float32(np.inf))
    lstm = state.params["lstm_0"]._replace(kernel=kernel)
    return state._replace(params=dict(state.params) | {"lstm_0": lstm})


def pack():
    """All answers in one file: classes [initialisations, orders, 2, images] of each set of seeds.

    Images come first in the file, where it compresses best: most have one class from all.
    """
    arrays = {"labels": data.load(config.load(CONFIG).data).test.labels.astype(np.uint8)}
    for name, seeds in SEEDS.items():
        paths = [RUNS / f"{name}-{init}.npy" for init in seeds]
        if all(path.exists() for path in paths):
            classes = np.stack([np.load(path) for path in paths]).transpose(0, 2, 1, 3)
            arrays[name] = np.asfortranarray(classes)
    np.savez_compressed(RESULTS / "rounding.npz", **arrays)


def figures_of(classes, labels):
    """What the classes [I, O, 2, N] say."""
    right = classes == labels
    accuracy, firsts = right.mean(axis=-1), right[..., :256].mean(axis=-1)
    generator = np.random.default_rng(0)
    return {
        "mean": accuracy.mean(),
        "sd_over_seeds": float(np.sqrt(sum(parts(*mean_squares(accuracy)).values()))),
        "sd_of_rounding": float(np.sqrt(mean_squares(accuracy)[0][0])),
        "pairs_alike": int((classes[:, :, 0] == classes[:, :, 1]).all(axis=-1).sum()),
        "shares": shares(accuracy, generator),
        "shares_first256": shares(firsts, generator),
        # Accuracies have a tail towards the bad ones; does it make the result?
        "shares_log_errors": shares(np.log(1 - accuracy), generator),
        "disagreement": disagreement(classes),
        "accuracy": accuracy.round(4).tolist(),
    }


def mean_squares(values):
    """Mean squares of values [I, O, R] and their degrees of freedom, in the order of `PARTS`."""
    inits, orders, times = values.shape
    cells, rows, columns = values.mean(2), values.mean((1, 2)), values.mean((0, 2))
    mean = values.mean()
    squares = (
        ((values - cells[..., None]) ** 2).sum(),
        orders * times * ((rows - mean) ** 2).sum(),
        inits * times * ((columns - mean) ** 2).sum(),
        times * ((cells - rows[:, None] - columns + mean) ** 2).sum(),
    )
    freedom = np.array(
        [inits * orders * (times - 1), inits - 1, orders - 1, (inits - 1) * (orders - 1)]
    )
    return np.array(squares) / freedom, freedom, values.shape


def parts(squares, freedom, shape):
    """Variance of each part, of mean squares [4, ...]; a negative estimate says that it is small.

    Source: S. R. Searle, G. Casella and C. E. McCulloch, "Variance Components", 1992, chapter 4.
    """
    inits, orders, times = shape
    rounding, by_init, by_order, both = squares
    found = (
        rounding,
        (by_init - both) / (orders * times),
        (by_order - both) / (inits * times),
        (both - rounding) / times,
    )
    return dict(zip(PARTS, found, strict=True))


def shares(values, generator):
    """The share of each part in the variance over seeds, with its 95 % interval.

    Generalized intervals: mean squares are drawn as their chi-squared distributions give them.
    Source: S. Weerahandi, "Generalized confidence intervals", Journal of the American Statistical
    Association 88 (1993), 899-905.
    """
    squares, freedom, shape = mean_squares(values)
    draws = generator.chisquare(freedom[:, None], (len(PARTS), DRAWS))
    drawn = parts((squares * freedom)[:, None] / draws, freedom, shape)
    drawn = {name: np.maximum(values, 0) for name, values in drawn.items()}
    total, found = sum(drawn.values()), parts(squares, freedom, shape)
    found = {name: max(float(value), 0.0) for name, value in found.items()}
    return {
        name: {
            "share": found[name] / sum(found.values()),
            "interval": np.quantile(drawn[name] / total, (0.025, 0.975)).round(4).tolist(),
        }
        for name in PARTS
    }


def disagreement(classes):
    """The share of test images to which two networks give other classes, by what differs."""
    inits, orders, times, images = classes.shape
    flat = classes.reshape(-1, images)
    init, order, _ = np.unravel_index(np.arange(len(flat)), (inits, orders, times))
    sums = {"rounding": [], "initialisation": [], "order": [], "both": []}
    for at in range(len(flat) - 1):
        differs = (flat[at + 1 :] != flat[at]).mean(axis=1)
        same_init, same_order = init[at + 1 :] == init[at], order[at + 1 :] == order[at]
        sums["rounding"] += differs[same_init & same_order].tolist()
        sums["initialisation"] += differs[~same_init & same_order].tolist()
        sums["order"] += differs[same_init & ~same_order].tolist()
        sums["both"] += differs[~same_init & ~same_order].tolist()
    return {name: float(np.mean(values)) for name, values in sums.items()}


def in_words(found):
    """The figures, a line each."""
    lines = [f"mean {found['mean']:.4f}, sd over seeds {found['sd_over_seeds']:.4f}"]
    for name, part in found["shares"].items():
        low, high = part["interval"]
        lines.append(f"{name}: {part['share']:.0%} ({low:.0%} to {high:.0%})")
    lines += [f"answers differ by {k}: {v:.2%}" for k, v in found["disagreement"].items()]
    return "\n".join(lines)


def draw(found, path):
    """The shares of each set of seeds, as points with their intervals."""
    figure, axes = frame.begin("What the variance over seeds is made of", 8, 3.4, path)
    for index, (name, shares_) in enumerate(found.items()):
        places = np.arange(len(PARTS)) + 0.18 * (index - (len(found) - 1) / 2) * 2
        means = np.array([shares_[part]["share"] for part in PARTS])
        ends = np.array([shares_[part]["interval"] for part in PARTS]).T
        axes.hlines(places, *ends, color=frame.COLOURS[index], linewidth=2)
        axes.plot(means, places, "o", color=frame.COLOURS[index], label=NAMES[name])
    axes.set_yticks(range(len(PARTS)), PARTS)
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_xlabel("share of the variance of the test accuracy")
    axes.legend(frameon=False, fontsize=9)
    frame.finish(figure, "point: estimate; line: 95 % interval", path)


if __name__ == "__main__":
    main()
