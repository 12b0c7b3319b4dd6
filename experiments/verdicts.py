"""How often is a verdict of `rowrnn compare` wrong, and does an interval hold what it should?

    python experiments/verdicts.py [--runs 10000]

Shows: in simulated sweeps of 2 to 128 seeds, how often equal sides are called better or worse, how
often intervals hold the truth, and how often the number of seeds that is advised shows the
difference that it was advised for. Cells that are finished are kept in
`experiments/results/verdicts.json`, and the tables in `verdicts.md`.
Last result: see the tables.
"""

import argparse
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import ndtr, stdtr

from rowrnn.lab import evidence, stats

RESULTS = Path(__file__).parent / "results" / "verdicts.json"
COUNTS = (2, 3, 4, 5, 6, 8, 12, 16, 32, 64, 128)
TESTS = {"sign flips": evidence.sign_flips, "betting": evidence.betting}
ONE_IMAGE = 0.005

HEAD = """\
# Verdicts in simulation

`python experiments/verdicts.py`: simulated sweeps of n seeds on each side, in per cent of {runs:,}
(of fewer with many seeds and in the tables of looks, power and means; `verdicts.json` has the
numbers). A share of 5 % of 10,000 has a standard error of 0.2 points, of 2,000 one of 0.5. Values
are normal; discrete, on 200 images with a standard deviation of 0.6 images; skewed (exponential,
skewness -2); or contaminated, with 3 % of failed seeds.

A verdict asks for p below 0.05, an interval is one of 95 %. That of a difference is what its test
does not reject: it holds the true difference as often as equal sides are not called different.
Where the test has no finite interval, Student's or Welch's is given, which names its assumption
and has a table of its own.

Sides that are spread unlike each other (wide: ten times as far) are beyond what the tests assume;
their rows say how much that matters. Student's interval of a mean is too narrow with skewed values,
and above all with failed seeds: there the interquartile mean is to be read.
"""
TITLES = {
    "false": "Equal sides are called better or worse",
    "peeking": "The same, at one look or another, after 8, 12, 16, … 64 seeds",
    "power": "The advised number of seeds (in brackets) shows the difference",
    "student": "Student's (in pairs) and Welch's interval of a difference hold it",
    "mean": "Student's interval of a mean, and that of the interquartile mean, hold them",
}


def normal(rng, shape):
    """Accuracies about 0.98."""
    return rng.normal(0.98, 0.003, shape)


def discrete(rng, shape):
    """The same as 200 images can show them."""
    return np.round(normal(rng, shape) / ONE_IMAGE) * ONE_IMAGE


def skewed(rng, shape):
    """A tail of bad seeds."""
    return 0.983 - rng.exponential(0.003, shape)


def contaminated(rng, shape):
    """3 % of the seeds have learned nothing."""
    return np.where(rng.random(shape) < 0.03, 0.11, normal(rng, shape))


def wide(rng, shape):
    """Spread ten times as far as the normal ones."""
    return rng.normal(0.98, 0.03, shape)


DRAWS = {draw.__name__: draw for draw in (normal, discrete, skewed, contaminated, wide)}
ALIKE = ("normal", "discrete", "skewed", "contaminated")
UNLIKE = (("normal", "wide"), ("normal", "skewed"), ("wide", "skewed"))


def resolution(*names):
    """One image, where there are images."""
    return ONE_IMAGE if "discrete" in names else 1e-4


def p_values(test, a, b, one_image):
    """The p-values of many comparisons at once, of sides [R, n]; the first ones are checked."""
    parts = max(1, len(a) * evidence.DRAWS // 2**23)
    parts = zip(np.array_split(a, parts), np.array_split(b, parts), strict=True)
    tails = [
        labels(x, y, one_image) if test == "relabelling" else signs(test, y - x) for x, y in parts
    ]
    least = one_image * math.sqrt((2 if test == "relabelling" else 1) / a.shape[1])
    z = np.abs(b.mean(axis=1) - a.mean(axis=1)) / least
    p = np.minimum(1, 2 * np.maximum(np.concatenate(tails), ndtr(-z)))
    for k in range(3):
        one = (
            evidence.relabelling(a[k], b[k], one_image)
            if test == "relabelling"
            else TESTS[test](b[k] - a[k], one_image)
        )
        assert math.isclose(one.p_value(), p[k], rel_tol=1e-6), (test, one.p_value(), p[k])
    return p


def signs(test, differences):
    """The smaller one-sided p-value of pairs [R, n] by sign flips or betting."""
    if test == "betting":
        sizes = evidence.in_typical_sizes(differences)
        most = [evidence.capital(side)[:, -1] for side in (sizes, -sizes)]
        return np.minimum(1, 1 / np.maximum(*most))
    flipped = evidence._subsets(differences.shape[1]).astype(float)
    sums = differences @ flipped.T
    close = 1e-9 * np.abs(differences).max(axis=1, keepdims=True)
    close = np.maximum(close, 1e-300) * flipped.sum(axis=1)
    fewest = np.minimum((sums <= close).sum(axis=1), (sums >= -close).sum(axis=1))
    return (1 + fewest) / (1 + len(flipped))


def labels(a, b, one_image):
    """The smaller one-sided p-value of sides [R, n] by relabelling."""
    count = a.shape[1]
    is_b = np.concatenate(
        [evidence._labellings(count, count), [[False] * count + [True] * count]]
    ).astype(float)
    values = np.concatenate([a, b], axis=1)
    values -= values.mean(axis=1, keepdims=True)
    of_b, squares = values @ is_b.T, (values**2) @ is_b.T
    rest = (values**2).sum(axis=1, keepdims=True) - squares
    # The values have a mean of 0: what is not b's is the opposite.
    spreads = [
        np.maximum((square - of_b**2 / count) / (count - 1), one_image**2) / count
        for square in (squares, rest)
    ]
    t = 2 * of_b / count / np.sqrt(sum(spreads))
    seen, close = t[:, -1:], 1e-9 * np.abs(t[:, -1:]) + 1e-12
    fewest = np.minimum((t >= seen - close).mean(axis=1), (t <= seen + close).mean(axis=1))
    errors = [spread[:, -1] for spread in spreads]
    freedom = sum(errors) ** 2 / sum(error**2 / (count - 1) for error in errors)
    return np.maximum(fewest, stdtr(freedom, -np.abs(t[:, -1])))


def of_false(runs, test, values, count):
    """How often sides of the same mean are called different."""
    first, _, second = values.partition(" and ")
    second = second or first
    rng = np.random.default_rng(count)
    a, b = DRAWS[first](rng, (runs, count)), DRAWS[second](rng, (runs, count))
    return rate(p_values(test, a, b, resolution(first, second)) < 0.05)


def of_peeking(runs, test, values, _):
    """How often sides of the same mean are called different at any of several looks."""
    a, b = DRAWS[values](np.random.default_rng(0), (2, runs, 64))
    looks = [p_values(test, a[:, :n], b[:, :n], 1e-4) < 0.05 for n in range(8, 65, 4)]
    return rate(np.any(looks, axis=0))


def of_power(runs, test, values, given):
    """How often the number of seeds that is advised shows the difference."""
    effect, comparisons = given
    rng = np.random.default_rng(int(100 * effect))
    spread = float(DRAWS[values](rng, 1_000_000).std())
    # The sides of a pair do not depend on one another.
    spread *= 1.0 if test == "relabelling" else math.sqrt(2)
    # `stats.compare` counts it so.
    least = max(spread, resolution(values))
    count = stats.seeds_needed(least, effect * spread, test=test, comparisons=comparisons)
    a, b = DRAWS[values](rng, (2, runs, count))
    if test == "betting":
        # It is looked at after each seed.
        sizes = evidence.in_typical_sizes(b + effect * spread - a)
        return rate((evidence.capital(sizes) >= 40 * comparisons).any(axis=1)) | {"seeds": count}
    p = p_values(test, a, b + effect * spread, resolution(values))
    return rate(p * comparisons < 0.05) | {"seeds": count}


def of_student(runs, test, values, count):
    """How often the interval that assumes normal values holds the true difference, 0."""
    a, b = DRAWS[values](np.random.default_rng(count), (2, runs, count))
    rows = [(y - x,) if test == "sign flips" else (x, y) for x, y in zip(a, b, strict=True)]
    found = np.array([stats._student(row, resolution(values), 0.95) for row in rows])
    return rate((found[:, 0] <= 1e-12) & (found[:, 1] >= -1e-12))


def of_mean(runs, _, values, count):
    """How often the intervals of a mean and of an interquartile mean hold them."""
    everyone = DRAWS[values](np.random.default_rng(0), 4_000_000)
    found: list[Any] = [
        stats.summarize(row, resolution=resolution(values), within=stats.SHARE)
        for row in DRAWS[values](np.random.default_rng(count), (runs, count))
    ]
    truth = {"contaminated": 0.97 * 0.98 + 0.03 * 0.11}.get(values, 0.98)
    share = rate([one.interval[0] <= truth <= one.interval[1] for one in found])
    if count >= 5:
        iqm = stats.summarize(everyone).iqm
        inside = [one.iqm_interval[0] <= iqm <= one.iqm_interval[1] for one in found]
        share["iqm"] = float(np.mean(inside))
    return share


def rate(hits):
    """A share with its number."""
    return {"share": float(np.mean(hits)), "runs": len(hits)}


def cells():
    """All that is simulated: the function, the share of the runs, and the arguments."""
    for test in ("sign flips", "relabelling", "betting"):
        for values in (*ALIKE, *map(" and ".join, UNLIKE)):
            for count in COUNTS if values in ALIKE else (4, 6, 8, 16, 64):
                yield of_false, 1.0 if count <= 8 else 0.2, test, values, count
        for values in ("normal", "discrete", "skewed"):
            for given in ((2.0, 1), (1.5, 1), (1.0, 1), (0.5, 1), (2.0, 7), (1.0, 7)):
                yield of_power, 0.1, test, values, given
        if test != "relabelling":
            yield of_peeking, 0.2, test, "normal", "ever"
    for test, counts in (("sign flips", (2, 3, 4, 5)), ("relabelling", (2, 3))):
        for values in ALIKE:
            for count in counts:
                yield of_student, 1.0, test, values, count
    for values in ALIKE:
        for count in COUNTS:
            yield of_mean, 0.2, "", values, count


def main():
    """Simulates what is missing, and writes the tables."""
    parser = argparse.ArgumentParser(description="False verdicts, coverage and power.")
    parser.add_argument("--runs", type=int, default=10_000)
    runs = parser.parse_args().runs
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for function, share, *arguments in cells():
        key = json.dumps([function.__name__[3:], *arguments])
        if key not in known:
            known[key] = function(int(share * runs), *arguments)
            RESULTS.write_text(json.dumps(known, indent=0) + "\n")
    RESULTS.with_suffix(".md").write_text(tables(known), encoding="utf-8")


def tables(known):
    """All cells as tables in Markdown."""
    cells = [(*json.loads(key), cell) for key, cell in known.items()]
    text = HEAD.format(runs=max(cell["runs"] for *_, cell in cells))
    for what, title in TITLES.items():
        of_this = [cell for cell in cells if cell[0] == what]
        columns = list(dict.fromkeys(str(cell[3]) for cell in of_this))
        found = {(test, values, str(column)): cell for _, test, values, column, cell in of_this}
        rows = list(dict.fromkeys(key[:2] for key in found))
        names = map(column_in_words, dict.fromkeys(map(str, columns)))
        text += f"\n## {title}\n\n| test | values | {' | '.join(names)} |\n"
        text += "|---" * (2 + len(columns)) + "|\n"
        for row in rows:
            shares = (share_in_words(found.get((*row, column))) for column in columns)
            text += f"| {row[0]} | {row[1]} | {' | '.join(shares)} |\n"
    return text


def column_in_words(column):
    """The head of a column: a number of seeds, or a difference and a number of comparisons."""
    if not column.startswith("["):
        return column if column == "ever" else f"n = {column}"
    effect, comparisons = json.loads(column)
    return f"{effect:g} sd" + (f", {comparisons} comparisons" if comparisons > 1 else "")


def share_in_words(cell):
    """A share in per cent, and what stands beside it."""
    if cell is None:
        return ""
    text = f"{100 * cell['share']:.1f}"
    if "seeds" in cell:
        text += f" ({cell['seeds']})"
    return text + (f", {100 * cell['iqm']:.1f}" if "iqm" in cell else "")


if __name__ == "__main__":
    main()
