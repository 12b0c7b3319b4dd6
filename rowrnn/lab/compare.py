"""Is one sweep better than another, or one point of a grid than the first, and by how much?"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from numbers import Real
from pathlib import Path
from typing import Any, Literal

import numpy as np

from rowrnn import files
from rowrnn.config import Seed
from rowrnn.data import load as load_data
from rowrnn.data.groups import read as read_groups
from rowrnn.errors import ConfigError, DataError, RunError, shown
from rowrnn.files import Count, Share
from rowrnn.lab import stats
from rowrnn.lab.over_images import Grouped, grouped_difference, interval_of_difference
from rowrnn.lab.shown import Shown
from rowrnn.lab.stats import Comparison, Interval, Summary
from rowrnn.store import ledger, members, rundir
from rowrnn.store.ledger import Ledger
from rowrnn.store.members import point_of

ALPHA = 0.05
"""Largest probability of calling anything better or worse where nothing is."""

Verdict = Literal["better", "worse", "not shown", "cannot tell"]


@dataclass(frozen=True, repr=False)
class Side(Shown):
    """The seeds of one side.

    Attributes:
        name: which group, in words.
        mean: of the test accuracies that are compared.
        summary: of the test accuracies of all seeds that have finished.
        members: how many there are, with those that diverged.
        failed: members that diverged, which are in no other figure, and seeds far below the others.
        failure_rate: their share of all members.
        failure_interval: Wilson's, of that share.
        unused: seeds that took no part, since the other side does not have them.
    """

    name: str
    mean: float
    summary: Summary
    members: int
    failed: int
    failure_rate: float
    failure_interval: tuple[float, float]
    unused: int

    def _facts(self) -> dict[str, Any]:
        names = ("name", "mean", "members", "failed", "unused")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True, repr=False)
class Pair(Shown):
    """Two groups of seeds held against each other.

    Attributes:
        a, b: which groups, in words.
        mean_a, mean_b: mean test accuracies over the seeds that are compared.
        comparison: what the seeds say; `difference` is b minus a.
        adjusted_p: its p-value, corrected for the number of comparisons made at once (Holm).
        verdict: "better" or "worse" where that is below 0.05; "cannot tell" where no accuracies of
            so many seeds could bring it there; otherwise "not shown".
        seeds_to_tell: how many seeds each side needs for any verdict.
        equivalence: whether the difference lies within the margin ("the same") or that is "not
            shown", by two one-sided tests, corrected likewise; None without a margin.
        adjusted_equivalent_p: the p-value of that.
        side_a, side_b: both groups, with the rate of their failures.
        over_images: 95 % interval of the difference for another seed on other images; None where
            the answers to the images are not known. The verdict is for these images.
        grouped: what groups of the images do to the difference; None where none were given.
    """

    a: str
    b: str
    mean_a: float
    mean_b: float
    comparison: Comparison
    adjusted_p: float
    verdict: Verdict
    seeds_to_tell: int | None
    equivalence: Literal["the same", "not shown"] | None
    adjusted_equivalent_p: float | None
    side_a: Side
    side_b: Side
    over_images: Interval | None = None
    grouped: Grouped | None = None

    def _facts(self) -> dict[str, Any]:
        names = ("a", "b", "mean_a", "mean_b", "verdict", "adjusted_p")
        return {name: getattr(self, name) for name in names} | {
            "difference": self.comparison.difference,
            "interval": self.comparison.interval,
        }


@dataclass(frozen=True, repr=False)
class SweepComparison(Shown):
    """All comparisons that were asked for.

    Attributes:
        pairs: the comparisons.
        left_out: the names of the members that take no part, since they have diverged.
        machines: what all members were trained on, as far as it is known; more than one is a
            mixture, whose last digits differ.
        margin: the largest difference that counts as the same; None where that was not asked.
    """

    pairs: list[Pair]
    left_out: list[str]
    machines: list[str]
    margin: float | None = None

    def _facts(self) -> dict[str, Any]:
        return {
            "pairs": [
                "{}: {}, {:+.4f} ({:+.4f} to {:+.4f})".format(
                    f"{pair.b} against {pair.a}",
                    pair.verdict,
                    pair.comparison.difference,
                    *pair.comparison.interval,
                )
                for pair in self.pairs
            ],
            "left_out": self.left_out,
        }

    @property
    def regressed(self) -> bool:
        """Whether b is worse anywhere, beyond chance."""
        return any(pair.verdict == "worse" for pair in self.pairs)


def compare(
    a: str | Path,
    b: str | Path | None = None,
    *,
    margin: float | None = None,
    sequential: bool = False,
    groups: str | Path | None = None,
    baseline: str | None = None,
) -> SweepComparison:
    """Compares the test accuracies of two sweeps, or of the points of one.

    Where both have the same points of a grid, point is compared with point; where one has a single
    point, that is compared with each of the other's. One sweep alone has its first point compared
    with each of the others. Where both sides share most of their seeds, those are compared in
    pairs; otherwise all seeds of both are, unpaired. `stats.compare` says how.

    Args:
        a: directory of a sweep: what is known.
        b: directory of another: what may be better. None compares the points of `a`.
        margin: the largest difference in accuracy that counts as the same, such as 0.002.
        sequential: whether seeds are added until the verdict is clear, and this is one of several
            looks. Seeds count in ascending order, so add higher ones.
        groups: a file with an integer for each test image, such as its writer, as `evaluate` takes
            it. The data must be where the config of `a` says.
        baseline: of one sweep the point that the others are compared with, such as
            "learning_rate=0.001"; its first where not given.

    Raises:
        DataError: the groups or the data are missing, damaged or do not fit.
        ConfigError: the two sides were tested on different data, the margin is no share, or there
            is no such baseline.
        RunError: a directory holds no finished sweep or there is nothing to compare.
    """
    if margin is not None and not (isinstance(margin, Real) and 0 < margin < 1):
        raise ConfigError(f"margin = {shown(margin)}: must lie between 0 and 1, such as 0.002")
    if baseline is not None and b is not None:
        raise ConfigError(
            f"baseline = {shown(baseline)}: it is a point of one sweep alone; leave {b} out"
        )
    one = _read(files.as_path(a, "a"))
    if b is None:
        other = one
        first = next(iter(one.points)) if baseline is None else baseline
        if first not in one.points:
            raise ConfigError(
                f"baseline = {shown(first)}: {a} has no such point; it has {', '.join(one.points)}"
            )
        matched = [(first, point) for point in one.points if point != first]
        if not matched:
            raise RunError(f"{a} has a single point; give a second sweep to compare it with")
    else:
        other = _read(files.as_path(b, "b"))
        matched = _match(one.points, other.points, a, b)
    # A point of which all have diverged is among those left out.
    matched = [(at, bt) for at, bt in matched if one.points[at].seeds and other.points[bt].seeds]
    names = (str(a), str(b if b is not None else a))
    if not matched:
        raise RunError(
            f"{' and '.join(dict.fromkeys(names))}: wherever two points would be compared, all "
            "members of one have diverged; there is nothing to compare"
        )
    alone = b is not None and len(one.points) == len(other.points) == 1
    of_images = None
    if groups is not None:
        labels = load_data(rundir.read_config(Path(a)).data).test.labels
        of_images = read_groups(groups, labels)
    found, images = [], []
    for at, bt in matched:
        words = names if alone else (_words(names[0], at, b), _words(names[1], bt, b))
        found.append(
            _compare(one.points[at], other.points[bt], words, len(matched), margin, sequential)
        )
        images.append(_over_images(one.points[at], other.points[bt], found[-1][-1], of_images))
    left_out = one.failed + (other.failed if b is not None else [])
    machines = sorted({*one.machines, *other.machines})
    pairs = [
        replace(pair, over_images=interval, grouped=of_groups)
        for pair, (interval, of_groups) in zip(judge(found), images, strict=True)
    ]
    return SweepComparison(pairs, left_out, machines, margin)


def judge(found: list[tuple[Side, Side, Comparison]]) -> list[Pair]:
    """The verdicts of comparisons that are made at once: `Side` a, `Side` b, what they say."""
    comparisons = [comparison for *_, comparison in found]
    adjusted = stats.adjust([comparison.p_value for comparison in comparisons])
    # No verdict can come of seeds whose smallest p-values are too large even together.
    reachable = stats.adjust([comparison.smallest_p for comparison in comparisons])
    same = [comparison.equivalent_p for comparison in comparisons]
    adjusted_same = stats.adjust([p for p in same if p is not None]) or [None] * len(found)
    pairs = []
    for (side_a, side_b, comparison), p, least, p_same in zip(
        found, adjusted, reachable, adjusted_same, strict=True
    ):
        verdict = "better" if comparison.difference > 0 else "worse"
        if p >= ALPHA:
            verdict = "not shown" if least < ALPHA else "cannot tell"
        equivalence = None
        if p_same is not None:
            equivalence = "the same" if p_same < ALPHA else "not shown"
        pairs.append(
            Pair(
                a=side_a.name,
                b=side_b.name,
                mean_a=side_a.mean,
                mean_b=side_b.mean,
                comparison=comparison,
                adjusted_p=p,
                verdict=verdict,
                seeds_to_tell=stats.fewest_seeds(comparison.test, comparisons=len(found)),
                equivalence=equivalence,
                adjusted_equivalent_p=p_same,
                side_a=side_a,
                side_b=side_b,
            )
        )
    return pairs


@dataclass(frozen=True)
class _Point:
    """A point of a grid: test accuracy by seed, how many diverged, and what it was tested on.

    `data` is the fingerprint and `test_images` their number; "" and 0 where they are not known.
    `answers` are those of the seeds, as the ledger has them, as far as it does.
    """

    seeds: dict[int, float]
    answers: dict[int, str]
    diverged: int
    data: str
    test_images: int


@dataclass(frozen=True)
class _Sweep:
    points: dict[str, _Point]
    failed: list[str]
    machines: list[str]


def _match(
    points_a: Mapping[str, _Point], points_b: Mapping[str, _Point], a: str | Path, b: str | Path
) -> list[tuple[str, str]]:
    if list(points_a) == list(points_b) or set(points_a) == set(points_b):
        return [(point, point) for point in points_a]
    if len(points_a) == 1:
        return [(next(iter(points_a)), point) for point in points_b]
    if len(points_b) == 1:
        return [(point, next(iter(points_b))) for point in points_a]
    raise RunError(
        f"{a} and {b} have different points ({', '.join(points_a)}; {', '.join(points_b)}): "
        "compare sweeps of the same grid, or one with a single point"
    )


def _compare(
    a: _Point,
    b: _Point,
    names: tuple[str, str],
    comparisons: int,
    margin: float | None,
    sequential: bool,
) -> tuple[Side, Side, Comparison]:
    if a.data and b.data and a.data != b.data:
        raise ConfigError(
            f"{names[0]} and {names[1]} are on different data (fingerprints {a.data[:12]}… and "
            f"{b.data[:12]}…): compare sweeps of the same data"
        )
    paired, *seeds = _seeds(a, b)
    sides, values = [], []
    for name, point, those in zip(names, (a, b), seeds, strict=True):
        chosen = [point.seeds[seed] for seed in those]
        if len(chosen) < 2:
            raise RunError(
                f"{name} has {len(chosen)} finished seed(s) to compare: two or more show a "
                f"spread; run more with rowrnn sweep --resume {name.split()[0]} --seeds 0:16"
            )
        values.append(chosen)
    resolution = 1 / (a.test_images or _denominator(*values))
    for name, point, chosen in zip(names, (a, b), values, strict=True):
        everyone = list(point.seeds.values())
        sides.append(side_of(name, chosen, everyone, point.diverged, resolution))
    comparison = stats.compare(
        *values,
        paired=paired,
        comparisons=comparisons,
        resolution=resolution,
        margin=margin,
        sequential=sequential,
        within=(-1.0, 1.0),
    )
    return *sides, comparison


def _seeds(a: _Point, b: _Point) -> tuple[bool, list[int], list[int]]:
    """Whether two points are compared in pairs, and which seeds of each."""
    shared = a.seeds.keys() & b.seeds.keys()
    if 2 * len(shared) > max(len(a.seeds), len(b.seeds)):
        return True, sorted(shared), sorted(shared)
    return False, sorted(a.seeds), sorted(b.seeds)


def _over_images(
    a: _Point, b: _Point, comparison: Comparison, groups: np.ndarray | None
) -> tuple[Interval | None, Grouped | None]:
    """What other images would say of a difference, and groups of them, as far as it is known."""
    paired, *seeds = _seeds(a, b)
    count = a.test_images if a.test_images == b.test_images else 0
    known = all(
        seed in point.answers for point, those in zip((a, b), seeds, strict=True) for seed in those
    )
    if not known or count < 2:
        if groups is not None:
            raise RunError(
                "--groups: the answers of some members are not known any more; make them anew "
                "with rowrnn sweep --resume"
            )
        return None, None
    left, right = (
        np.array([ledger.unpack(point.answers[seed], count) for seed in those])
        for point, those in zip((a, b), seeds, strict=True)
    )
    interval = interval_of_difference(left, right, comparison.interval, paired=paired)
    if groups is None:
        return interval, None
    if len(groups) != count:
        raise DataError(f"--groups: {len(groups):,} entries for the {count:,} images of a point")
    return interval, grouped_difference(
        left, right, comparison.interval, paired=paired, groups=groups
    )


def side_of(
    name: str,
    compared: Sequence[float],
    everyone: Sequence[float] | None = None,
    diverged: int = 0,
    resolution: float = 0.0,
) -> Side:
    """A side of a comparison: accuracies that are compared, and those of all that have finished."""
    everyone = compared if everyone is None else everyone
    summary = stats.summarize(everyone, resolution=resolution, within=stats.SHARE)
    failed, count = diverged + summary.far_below, diverged + len(everyone)
    return Side(
        name=name,
        mean=float(np.mean(compared)),
        summary=summary,
        members=count,
        failed=failed,
        failure_rate=failed / count,
        failure_interval=stats.wilson_interval(failed, count),
        unused=len(everyone) - len(compared),
    )


def _denominator(*sides: list[float]) -> int:
    """The smallest number of images that gives all these accuracies."""
    fractions = (Fraction(value).limit_denominator(10**6) for side in sides for value in side)
    return math.lcm(*(fraction.denominator for fraction in fractions))


def _words(name: str, point: str, other: str | Path | None) -> str:
    if other is None:
        return point
    return f"{name} {point}" if point else name


def _read(path: Path) -> _Sweep:
    """The members of a finished sweep."""
    grid = members.read_sweep(path).grid
    file = path / "results.json"
    try:
        document = files.read_json(file)
        rows, summary = document["members"], document["summary"]
        machines = files.fit("machines", summary.get("machines", []), list[str])
        known = {group["point"]: group for group in summary.get("groups", [])}
        answers = {
            (_point(record.varied, grid), record.seed): record
            for record in Ledger(path / "members").read_all()[0]
            if grid.keys() <= record.varied.keys()
        }
        points: dict[str, _Point] = {}
        failed = []
        for row in rows:
            name = _point(row, grid)
            if name not in points:
                group = known.get(name, {})
                data = files.fit("data", group.get("data", ""), str)
                images = files.fit("test_images", group.get("test_images", 0), Count)
                points[name] = _Point({}, {}, 0, data, images)
            seed = files.fit("seed", row["seed"], Seed)
            accuracy = files.fit("test_accuracy", row["test_accuracy"], Share | None)
            if accuracy is None:
                failed.append(f"{path} {name} seed={seed}".replace("  ", " "))
                points[name] = replace(points[name], diverged=points[name].diverged + 1)
            else:
                points[name].seeds[seed] = accuracy
                record = answers.get((name, seed))
                if record and record.correct and record.test_accuracy == accuracy:
                    points[name].answers[seed] = record.correct
    except FileNotFoundError as error:
        raise RunError(
            f"{path} is not finished: it has no results.json; go on with "
            f"rowrnn sweep --resume {path}"
        ) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(
            f"{file} cannot be read ({error}); make it anew with rowrnn sweep --resume {path}"
        ) from error
    if not rows:
        raise RunError(f"{file} has no members; make it anew with rowrnn sweep --resume {path}")
    if not any(point.seeds for point in points.values()):
        raise RunError(f"{path}: all members have diverged; there is nothing to compare")
    return _Sweep(points, failed, machines)


def _point(row: Mapping[str, Any], grid: Mapping[str, Any]) -> str:
    return point_of({name: row[name] for name in grid})
