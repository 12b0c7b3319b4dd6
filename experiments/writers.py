"""How many images is MNIST's test set worth?

    rowrnn data prepare mnist
    python experiments/writers.py QMNIST [--held-out] [--table]

QMNIST is its `qmnist-test-labels-idx2-int.gz`, which says who wrote each test image. Shows: how
much the images of one writer are right or wrong together, for networks from 95 to 99.6 % (the
design effect: how often the variance of an accuracy by writers is that of as many images alone);
the half by students beside the half by employees; and the first 256 images, which the notebook
looked at. `--held-out` trains other seeds, which were kept apart. Sweeps are kept in `runs/writers`
and go on where they were cut; those of `factors.py` are taken as they are, the first six seeds and
the others, kept apart. Which image each network had right goes into
`experiments/results/writers.npz`; `--table` computes from it.
Known before it was run (2026-11-27), of 16 notebook networks: design effects from 2.7 to 3.5, and
5.6 % of the students' images wrong for 3.3 % of the others. Expected: the design effect falls to
nearly 1 at 99.6 %, where what is left are images that nobody reads, and the ratio of the two halves
stays.
Last result: see experiments/results/writers.json.
"""

import argparse
import json
from pathlib import Path

import ablations
import numpy as np
from ablations import IMAGES, machine, sweep

from rowrnn import config, data
from rowrnn.data import groups
from rowrnn.figures import frame

ROOT = Path(__file__).parents[1]
RUNS, RESULTS = ROOT / "runs", ROOT / "experiments" / "results"
HALF, NOTEBOOK = 5_000, 256
DRAWS, SHUFFLES = 4_000, 400
# Shares of wrong images that the figure names.
TICKS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.08)

# Config, what is changed in it, and how many seeds; and of the seeds that are kept apart.
RECIPES = {
    "notebook": ("notebook_2015.toml", {}, 16, 8),
    "lstm128, 1 epoch": ("lstm128.toml", {"train.epochs": 1}, 8, 4),
    "lstm128, 5 epochs": ("lstm128.toml", {"train.epochs": 5}, 8, 4),
    "speedrun": ("speedrun.toml", {}, 8, 4),
}
# Cells of factors.py, and how many of their seeds were looked at first; the others are kept apart.
FACTORS = ("adamw-none", "muon-none", "adamw-warps", "muon-warps")
FIRST = 6
APART = 1_000


def main():
    """Trains what is missing, packs the answers and computes."""
    parser = argparse.ArgumentParser(description="Test images by writer.")
    parser.add_argument("qmnist", help="qmnist-test-labels-idx2-int.gz")
    parser.add_argument("--held-out", action="store_true", help="train the seeds kept apart")
    parser.add_argument("--table", action="store_true", help="compute from the packed answers")
    given = parser.parse_args()
    if not given.table:
        for name, (file, changes, seeds, apart) in RECIPES.items():
            settings = config.load(ROOT / "experiments" / file)
            settings = config.replace(settings, changes | {"train.display": "none"})
            first, count = (APART, apart) if given.held_out else (0, seeds)
            sweep(settings, range(first, first + count), directory(name, given.held_out))
        pack()
    labels = data.load(config.load(ROOT / "experiments" / "notebook_2015.toml").data).test.labels
    writers = groups.read(given.qmnist, labels)
    with np.load(RESULTS / "writers.npz") as packed:
        found = {
            name: np.unpackbits(packed[name], axis=1, count=IMAGES).astype(bool)
            for name in packed.files
        }
    document = {"environment": environment(), **figures_of(found, writers)}
    (RESULTS / "writers.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    draw(document["recipes"], RESULTS / "writers.png")
    print(machine(document["environment"]), table(document["recipes"]), sep="\n")


def directory(name, apart):
    """Where a recipe's sweep is kept."""
    return RUNS / "writers" / (name.replace(", ", "-").replace(" ", "-") + "-apart" * apart)


def environment():
    """What the sweeps ran on."""
    run = directory("notebook", False)
    if not run.exists():
        return json.loads((RESULTS / "writers.json").read_text())["environment"]
    return ablations.environment(run)


def pack():
    """Which image each network had right, in the order of the seeds, as bits: [S, N] by recipe."""
    places = {name: directory(name, False) for name in RECIPES}
    places |= {f"{name}, apart": directory(name, True) for name in RECIPES}
    found = {name: ablations.answers(place)[0] for name, place in places.items()}
    for name in FACTORS:
        right, _ = ablations.answers(RUNS / "factors" / name)
        found |= {name: right[:FIRST], f"{name}, apart": right[FIRST:]}
    arrays = {name: np.packbits(right, axis=1) for name, right in found.items() if len(right)}
    np.savez_compressed(RESULTS / "writers.npz", **arrays)


def figures_of(found, writers):
    """What the answers [S, N] of each recipe say."""
    _, index = np.unique(writers, return_inverse=True)
    generator = np.random.default_rng(0)
    sizes = np.bincount(index)
    # The same writers are drawn for all recipes, so that these can be compared.
    drawn = generator.multinomial(len(sizes), np.full(len(sizes), 1 / len(sizes)), DRAWS)
    recipes, draws = {}, {}
    for name, right in found.items():
        wrong = by_writer(~right, index)
        effect = effect_of(right, index)
        draws[name] = design_effect(wrong, sizes, drawn)
        low, high = np.quantile(draws[name], (0.025, 0.975))
        shuffled = [effect_of(right, generator.permutation(index)) for _ in range(SHUFFLES)]
        recipes[name] = {
            "networks": len(right),
            "accuracy": right.mean(),
            "design_effect": effect,
            "interval": [low, high],
            "by_chance": np.quantile(shuffled, (0.025, 0.975)).tolist(),
            "effective_images": IMAGES / effect,
            "halves": halves(right, index),
        }
    document = {"writers": len(sizes), "recipes": recipes, "first256": first(found, index)}
    if FACTORS[-1] in draws:
        ratios = draws["notebook"] / draws[FACTORS[-1]]
        low, high = np.quantile(ratios, (0.025, 0.975))
        document["notebook_to_best"] = {
            "ratio": recipes["notebook"]["design_effect"] / recipes[FACTORS[-1]]["design_effect"],
            "interval": [low, high],
        }
    return document


def by_writer(wrong, index):
    """Wrong answers of each network to images of each writer, [S, G], of wrong answers [S, N]."""
    return np.stack([np.bincount(index, row, index.max() + 1) for row in wrong])


def design_effect(wrong, sizes, drawn):
    """For each draw of writers [D, G] the design effect of a single network, [D].

    Variances are means over the networks before they are divided, since that of a network with few
    wrong answers says little.

    Source: L. Kish, "Survey Sampling", 1965, chapter 5, by the sums of each group.
    """
    images = drawn @ sizes
    number = drawn.sum(axis=1)
    by_writers, alone = 0, 0
    for row in wrong:
        mean = drawn @ row / images
        squares = drawn @ row**2 - 2 * mean * (drawn @ (row * sizes)) + mean**2 * (drawn @ sizes**2)
        by_writers = by_writers + squares * number / (number - 1)
        alone = alone + mean * (1 - mean) * images
    return by_writers / alone


def halves(right, index):
    """Errors of the students' and the employees' half, and their difference, by writers."""
    wrong = 1 - right.mean(axis=0)
    parts = [wrong[:HALF], wrong[HALF:]]
    errors = [float(part.mean()) for part in parts]
    variances = [
        over_groups(part, place) for part, place in zip(parts, np.split(index, [HALF]), strict=True)
    ]
    answers = zip(np.split(right, [HALF], axis=1), np.split(index, [HALF]), strict=True)
    effects = [effect_of(part, place) for part, place in answers]
    half = 1.96 * np.sqrt(sum(variances))
    difference = errors[0] - errors[1]
    return {
        "students": errors[0],
        "employees": errors[1],
        "difference": difference,
        "interval": [difference - half, difference + half],
        "design_effects": effects,
    }


def effect_of(right, index):
    """The design effect of the answers [S, N] as they are."""
    _, place, sizes = np.unique(index, return_inverse=True, return_counts=True)
    return float(design_effect(by_writer(~right, place), sizes, np.ones((1, len(sizes))))[0])


def over_groups(values, index):
    """Variance of the mean of values [N] whose groups are the sample."""
    _, place = np.unique(index, return_inverse=True)
    sums = np.bincount(place, values - values.mean())
    return (sums**2).sum() / len(values) ** 2 * len(sums) / (len(sums) - 1)


def first(found, index):
    """What the notebook's 256 images are worth for its own network."""
    right, place = found["notebook"][:, :NOTEBOOK], index[:NOTEBOOK]
    effect = effect_of(right, place)
    mean = float(right.mean())
    return {
        "writers": len(np.unique(place)),
        "accuracy": mean,
        "design_effect": effect,
        "effective_images": NOTEBOOK / effect,
        "standard_error": float(np.sqrt(mean * (1 - mean) * effect / NOTEBOOK)),
    }


def table(recipes):
    """All recipes, in Markdown."""
    text = "| | networks | accuracy | design effect | worth | students | employees |\n"
    text += "|---|---|---|---|---|---|---|\n"
    for name, found in recipes.items():
        low, high = found["interval"]
        parts = found["halves"]
        text += (
            f"| {name} | {found['networks']} | {found['accuracy']:.4f} "
            f"| {found['design_effect']:.2f} ({low:.2f} to {high:.2f}) "
            f"| {found['effective_images']:,.0f} "
            f"| {parts['students']:.2%} | {parts['employees']:.2%} |\n"
        )
    return text


def draw(recipes, path):
    """Design effects against errors, with intervals and what chance alone would show.

    Of the cells of factors.py the best alone: the others lie too close to it to be told apart.
    """
    recipes = {k: v for k, v in recipes.items() if not k.startswith(FACTORS[:-1])}
    figure, axes = frame.begin("What one writer's images have in common", 8, 4.6, path)
    for apart, colour in ((False, frame.BLUE), (True, frame.VERMILION)):
        found = {k: v for k, v in recipes.items() if k.endswith(", apart") == apart}
        if not found:
            continue
        errors = [1 - each["accuracy"] for each in found.values()]
        effects = [each["design_effect"] for each in found.values()]
        ends = np.array([each["interval"] for each in found.values()]).T
        axes.vlines(errors, *ends, color=colour, linewidth=1.6)
        label = "other seeds, kept apart" if apart else "networks of one recipe"
        axes.plot(errors, effects, "o", color=colour, label=label)
        for error, effect, name in zip(errors, effects, found, strict=True):
            if not apart:
                place = {"xytext": (-6, 4), "ha": "right"}
                axes.annotate(
                    "best" if name == FACTORS[-1] else name,
                    (error, effect),
                    textcoords="offset points",
                    fontsize=8,
                    **place,
                )
    ordered = sorted(recipes.values(), key=lambda each: each["accuracy"])
    chance = np.array([each["by_chance"] for each in ordered]).T
    axes.fill_between(
        [1 - each["accuracy"] for each in ordered], *chance, color="0.8", label="by chance"
    )
    axes.set_xscale("log")
    axes.set_xticks(TICKS, [f"{tick:.1%}" for tick in TICKS])
    axes.xaxis.set_minor_formatter(lambda value, _: "")
    axes.set_xlim(TICKS[0], TICKS[-1])
    axes.set_ylim(bottom=0)
    axes.set_xlabel("test images that are wrong")
    axes.set_ylabel("design effect by writer")
    axes.legend(frameon=False, fontsize=9, loc="lower right")
    frame.finish(
        figure, "line: 95 % interval, writers drawn anew; grey: writers' names exchanged", path
    )


if __name__ == "__main__":
    main()
