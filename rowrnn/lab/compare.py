"""Is one sweep better than another, or one point of a grid than the first, and by how much?"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rowrnn import files
from rowrnn.config import Seed
from rowrnn.errors import RunError
from rowrnn.files import Share
from rowrnn.lab import stats
from rowrnn.lab.shown import Shown
from rowrnn.lab.stats import Comparison
from rowrnn.store import members
from rowrnn.store.members import short

# Fewest seeds that both sides must share to be compared in pairs.
_FEWEST_PAIRS = 2


@dataclass(frozen=True)
class Pair:
    """Two groups of seeds held against each other.

    Attributes:
        a, b: which groups, in words.
        mean_a, mean_b: mean test accuracies over the seeds that are compared.
        comparison: what the seeds say; `difference` is b minus a.
        adjusted_p: its p-value, corrected for the number of comparisons made at once
            (Benjamini and Hochberg).
        verdict: "better" or "worse" where the interval of the difference leaves 0 out and, of
            several comparisons, the corrected p-value is below 0.05; otherwise "no clear
            difference".
    """

    a: str
    b: str
    mean_a: float
    mean_b: float
    comparison: Comparison
    adjusted_p: float
    verdict: str


@dataclass(frozen=True, repr=False)
class SweepComparison(Shown):
    """All comparisons that were asked for.

    Attributes:
        pairs: the comparisons.
        left_out: the names of the members that take no part, since they have diverged.
        machines: what all members were trained on, as far as it is known; more than one is a
            mixture, whose last digits differ.
    """

    pairs: list[Pair]
    left_out: list[str]
    machines: list[str]

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


def compare(a: str | Path, b: str | Path | None = None) -> SweepComparison:
    """Compares the test accuracies of two sweeps, or of the points of one.

    Where both have the same points of a grid, point is compared with point; where one has a single
    point, that is compared with each of the other's. One sweep alone has its first point compared
    with each of the others. Seeds that both sides have are compared in pairs; where fewer than two
    are shared, all seeds of both sides are compared unpaired.

    Args:
        a: directory of a sweep: what is known.
        b: directory of another: what may be better. None compares the points of `a`.

    Raises `RunError` where a directory holds no finished sweep or there is nothing to compare.
    """
    points_a, failed_a, machines = _read(Path(a))
    if b is None:
        points_b, failed_b = points_a, []
        first, *others = points_a
        if not others:
            raise RunError(f"{a} has a single point; give a second sweep to compare it with")
        matched = [(first, other) for other in others]
    else:
        points_b, failed_b, others = _read(Path(b))
        machines = sorted({*machines, *others})
        matched = _match(points_a, points_b, a, b)
    names = (str(a), str(b if b is not None else a))
    # A point of which all have diverged is among those left out.
    matched = [(at, bt) for at, bt in matched if points_a[at] and points_b[bt]]
    if not matched:
        raise RunError(
            f"{' and '.join(dict.fromkeys(names))}: wherever two points would be compared, all "
            "members of one have diverged; there is nothing to compare"
        )
    found = [(at, bt, *_compare(points_a[at], points_b[bt], at, bt, names)) for at, bt in matched]
    adjusted = stats.adjust([comparison.p_value for *_, comparison in found])
    alone = b is not None and len(points_a) == len(points_b) == 1
    pairs = [
        Pair(
            a=names[0] if alone else _words(names[0], at, b is not None),
            b=names[1] if alone else _words(names[1], bt, b is not None),
            mean_a=mean_a,
            mean_b=mean_b,
            comparison=comparison,
            adjusted_p=p,
            verdict=_verdict(comparison, p if len(found) > 1 else 0.0),
        )
        for (at, bt, mean_a, mean_b, comparison), p in zip(found, adjusted, strict=True)
    ]
    return SweepComparison(pairs, failed_a + failed_b, machines)


Points = dict[str, dict[int, float]]
"""Test accuracy by point of the grid and seed."""


def _match(
    points_a: Points, points_b: Points, a: str | Path, b: str | Path
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
    a: Mapping[int, float],
    b: Mapping[int, float],
    point_a: str,
    point_b: str,
    names: tuple[str, str],
) -> tuple[float, float, Comparison]:
    shared = sorted(set(a) & set(b))
    paired = len(shared) >= _FEWEST_PAIRS
    side_a = [a[seed] for seed in shared] if paired else list(a.values())
    side_b = [b[seed] for seed in shared] if paired else list(b.values())
    for name, point, side in zip(names, (point_a, point_b), (side_a, side_b), strict=True):
        if len(side) < 2:
            raise RunError(
                f"{_words(name, point, True)} has {len(side)} finished seed(s): two or more show "
                f"a spread; run more with rowrnn sweep --resume {name} --seeds 0:16"
            )
    comparison = stats.compare(side_a, side_b, paired=paired)
    return sum(side_a) / len(side_a), sum(side_b) / len(side_b), comparison


def _verdict(comparison: Comparison, adjusted_p: float) -> str:
    low, high = comparison.interval
    if low <= 0 <= high or adjusted_p >= 0.05:
        return "no clear difference"
    return "better" if low > 0 else "worse"


def _words(name: str, point: str, with_name: bool) -> str:
    if not with_name:
        return point
    return f"{name} {point}" if point else name


def _read(path: Path) -> tuple[Points, list[str], list[str]]:
    """The completed members of a sweep, the names of the others, and the machines of all."""
    grid = members.read_sweep(path).grid
    file = path / "results.json"
    try:
        document = files.read_json(file)
        rows, summary = document["members"], document["summary"]
        machines = files.fit("machines", summary.get("machines", []), list[str])
        points: Points = {}
        failed = []
        for row in rows:
            point = _point(row, grid)
            points.setdefault(point, {})
            seed = files.fit("seed", row["seed"], Seed)
            accuracy = files.fit("test_accuracy", row["test_accuracy"], Share | None)
            if accuracy is None:
                failed.append(f"{path} {point} seed={seed}".replace("  ", " "))
            else:
                points[point][seed] = accuracy
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
    if not any(points.values()):
        raise RunError(f"{path}: all members have diverged; there is nothing to compare")
    return points, failed, machines


def _point(row: Mapping[str, Any], grid: Mapping[str, Any]) -> str:
    return ",".join(f"{short(name)}={row[name]}" for name in grid)
