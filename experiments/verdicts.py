"""How often is a verdict of `rowrnn compare` wrong, and does an interval hold what it should?

    python experiments/verdicts.py [--runs 10000]

Shows: in simulated sweeps of 2 to 128 seeds, how often equal sides are called better or worse, how
often intervals hold the truth, and how often the number of seeds that is advised shows the
difference that it was advised for. Values are normal, on 200 images (a standard deviation of two
thirds of an image), skewed (exponential), or normal with 3 % of failed seeds. Cells that are
finished are kept in `experiments/results/verdicts.json`, and the tables in `verdicts.md`.
Last result: see the tables.
"""

import argparse
import json
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np

from rowrnn.lab import evidence, stats

RESULTS = Path(__file__).parent / "results" / "verdicts.json"
COUNTS = (2, 3, 4, 5, 6, 8, 12, 16, 32, 64, 128)
ONE_IMAGE = 0.005


NO_TEST = {"mean": "Student's / interquartile"}
TITLES = {
    "false": "Equal sides are called better or worse, %",
    "coverage": "The interval of a difference holds it, %",
    "power": "The advised number of seeds (in brackets) shows the difference, %",
    "mean": "The intervals of a mean and of an interquartile mean hold them, %",
    "peeking": "Equal sides are called better or worse at one look or another, %",
}
HEAD = """\
# Verdicts in simulation

`python experiments/verdicts.py --runs {runs}`: simulated sweeps, n seeds on each side; {runs:,} of
them with at most 8 seeds, fewer with more (`verdicts.json` has the numbers). Normal values;
discrete ones, on 200 images with a standard deviation of 0.6 images; skewed ones (exponential,
skewness -2); contaminated ones, of which 3 % are failed seeds. A verdict asks for p below 0.05; an
interval is one of 95 %, Student's or Welch's where an S stands, which names its assumption. A share
of 5 % of 10,000 has a standard error of 0.2 points, of 1,000 one of 0.7.

Sides that are spread unlike each other (wide: ten times as far) are beyond what the tests assume;
their rows say how much that matters.
"""


def normal(rng, shape):
    """Accuracies about 0.98."""
    return rng.normal(0.98, 0.003, shape)


def discrete(rng, shape):
    """The same as 200 images can show them."""
    return np.round(normal(rng, shape) / ONE_IMAGE) * ONE_IMAGE


def skewed(rng, shape):
    """A tail of bad seeds, skewness -2."""
    return 0.983 - rng.exponential(0.003, shape)


def contaminated(rng, shape):
    """3 % of the seeds have learned nothing."""
    return np.where(rng.random(shape) < 0.03, 0.11, normal(rng, shape))


def wide(rng, shape):
    """Spread ten times as far as the normal ones."""
    return rng.normal(0.98, 0.03, shape)


DRAWS = {draw.__name__: draw for draw in (normal, discrete, skewed, contaminated, wide)}
MEANS = {"contaminated": 0.97 * 0.98 + 0.03 * 0.11}
ALIKE = ("normal", "discrete", "skewed", "contaminated")
UNLIKE = (("normal", "wide"), ("normal", "skewed"), ("wide", "skewed"))


def rate(hits):
    """A share with its number."""
    return {"share": float(np.mean(hits)), "runs": len(hits)}


def resolution(name):
    """One image, where there are images."""
    return ONE_IMAGE if name == "discrete" else 1e-4


def test(name, a, b, one_image):
    """The test of this name on the two sides."""
    if name == "relabelling":
        return evidence.relabelling(a, b, one_image)
    tests = {"sign flips": evidence.sign_flips, "betting": evidence.betting}
    return tests[name](b - a, one_image)


def false_verdict(runs, name, a, b, count):
    """How often sides of the same mean are called different."""
    rng = np.random.default_rng(count)
    one_image = max(resolution(a), resolution(b))
    wrong = []
    for _ in range(runs):
        x, y = DRAWS[a](rng, count), DRAWS[b](rng, count)
        wrong.append(test(name, x, y, one_image).p_value() < 0.05)
    return rate(wrong)


def coverage(runs, name, a, count):
    """How often the interval of a comparison holds the true difference, 0."""
    rng = np.random.default_rng(count + 1000)
    held, found = [], None
    for _ in range(runs):
        x, y = DRAWS[a](rng, (2, count))
        found = stats.compare(
            x, y, paired=name == "sign flips", sequential=name == "betting",
            resolution=resolution(a), within=(-1, 1),
        )  # fmt: skip
        held.append(found.interval[0] <= 1e-12 and found.interval[1] >= -1e-12)
    return rate(held) | {"method": found and found.interval_method}


def of_mean(runs, a, count):
    """How often the intervals of a mean and of an interquartile mean hold them."""
    rng = np.random.default_rng(count + 2000)
    mean = MEANS.get(a, 0.98)
    iqm = stats.summarize(DRAWS[a](np.random.default_rng(0), 2_000_000)).iqm
    found: list[Any] = [
        stats.summarize(values, resolution=resolution(a), within=stats.SHARE)
        for values in DRAWS[a](rng, (runs, count))
    ]
    share = rate([one.interval[0] <= mean <= one.interval[1] for one in found])
    if count >= 4:
        inside = [one.iqm_interval[0] <= iqm <= one.iqm_interval[1] for one in found]
        share["iqm"] = float(np.mean(inside))
    return share


def power(runs, name, a, given):
    """How often the number of seeds that is advised shows the difference."""
    effect, comparisons = given
    rng = np.random.default_rng(int(100 * effect))
    spread = float(DRAWS[a](rng, 1_000_000).std())
    # Of pairs whose sides do not depend on one another.
    spread *= 1.0 if name == "relabelling" else np.sqrt(2)
    # As `stats.compare` counts it.
    least = max(spread, resolution(a))
    count = stats.seeds_needed(least, effect * spread, test=name, comparisons=comparisons)
    shown = []
    for _ in range(runs):
        x, y = DRAWS[a](rng, (2, count))
        p = test(name, x, y + effect * spread, resolution(a)).p_value()
        shown.append(p * comparisons < 0.05)
    return rate(shown) | {"seeds": count}


def peeking(runs, name, looks):
    """How often sides of the same mean are called different at any of several looks."""
    rng = np.random.default_rng(0)
    wrong = []
    for _ in range(runs):
        x, y = normal(rng, (2, looks[-1]))
        wrong.append(any(test(name, x[:n], y[:n], 1e-4).p_value() < 0.05 for n in looks))
    return rate(wrong) | {"looks": looks}


def cells(runs):
    """All that is simulated: by name, a function and its arguments."""

    def fewer(count):
        return runs if count <= 8 else runs // 4 if count <= 32 else runs // 10

    made = {}
    for name in ("sign flips", "relabelling"):
        for a, b in [(a, a) for a in ALIKE] + list(UNLIKE):
            for count in COUNTS if a == b else (6, 8, 16, 64):
                made["false", name, sides(a, b), count] = false_verdict, fewer(count), name, a, b
    for name in ("sign flips", "relabelling", "betting"):
        for a in ALIKE:
            for count in (2, 4, 6, 8, 16, 64):
                made["coverage", name, a, count] = coverage, fewer(count) // 4, name, a
        for a in ("normal", "discrete", "skewed"):
            for effect in ((2.0, 1), (1.5, 1), (1.0, 1), (0.5, 1), (2.0, 7), (1.0, 7)):
                made["power", name, a, effect] = power, runs // 5, name, a
    for a in ALIKE:
        for count in COUNTS:
            made["mean", "", a, count] = of_mean, runs, a
    for name in ("sign flips", "betting"):
        made["peeking", name, "normal", tuple(range(8, 65, 4))] = peeking, runs // 10, name
    return made


def sides(a, b):
    """Both sides in words."""
    return a if a == b else f"{a} and {b}"


def main():
    """Simulates what is missing, and writes the tables."""
    parser = argparse.ArgumentParser(description="False verdicts, coverage and power.")
    parser.add_argument("--runs", type=int, default=10_000)
    runs = parser.parse_args().runs
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    # The quick ones first.
    left = {
        json.dumps(key): (function, *arguments, key[-1])
        for key, (function, *arguments) in cells(runs).items()
        if json.dumps(key) not in known
    }
    with ProcessPoolExecutor(2) as pool:
        begun = {pool.submit(*call): key for key, call in left.items()}
        for done in as_completed(begun):
            known[begun[done]] = done.result()
            RESULTS.write_text(json.dumps(known, indent=0) + "\n")
    RESULTS.with_suffix(".md").write_text(tables(known, runs), encoding="utf-8")


def tables(known, runs):
    """All cells as tables in Markdown."""
    found = {tuple(map(_hashable, json.loads(key))): cell for key, cell in known.items()}
    text = HEAD.format(runs=runs)
    for what, title in TITLES.items():
        keys = [key for key in found if key[0] == what]
        columns = sorted({key[-1] for key in keys}, key=str if what == "power" else None)
        text += f"\n## {title}\n\n| test | values |"
        text += "".join(f" {_words(column)} |" for column in columns)
        text += f"\n|---|---|{'---|' * len(columns)}\n"
        for row in sorted({key[1:3] for key in keys}, key=_place):
            text += f"| {row[0] or NO_TEST.get(what, '')} | {row[1]} |"
            for column in columns:
                cell = found.get((what, *row, column))
                text += f" {_share(what, cell)} |"
            text += "\n"
    return text


def _hashable(value):
    return tuple(value) if isinstance(value, list) else value


def _place(row):
    names = ("", "sign flips", "relabelling", "betting")
    return names.index(row[0]), " and " in row[1], row[1]


def _words(column):
    if not isinstance(column, tuple):
        return f"n = {column}"
    if len(column) > 2:
        return f"after {column[0]}, {column[1]}, … {column[-1]} seeds"
    return f"{column[0]} sd" + (f", {column[1]} comparisons" if column[1] > 1 else "")


def _share(what, cell):
    if cell is None:
        return ""
    text = f"{100 * cell['share']:.1f}"
    if what == "power":
        text += f" ({cell['seeds']})"
    if "iqm" in cell:
        text += f" / {100 * cell['iqm']:.1f}"
    return text + (" S" if cell.get("method") == "student" else "")


if __name__ == "__main__":
    main()
