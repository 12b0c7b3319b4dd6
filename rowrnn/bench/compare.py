"""Two results of one machine: what became slower, and is it more than noise?

Figures are paired by name. Of each pair the slowdown is judged by an interval from the raw samples
of both: Yuen's, for means of log seconds from which the fastest and slowest fifth are cut, so that
a sample in which another program got in the way does not hide a regression (K. K. Yuen, "The
two-sample trimmed t for unequal population variances", Biometrika 61 (1974), 165-170). It is wide
enough that all figures together hold with 95 % (Bonferroni). The geometric mean over all pairs has
a paired interval of its own, which finds what is slower everywhere by too little to be seen
anywhere.
"""

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rowrnn.bench import record
from rowrnn.errors import ConfigError

_LEVEL = 0.95
_TRIM = 0.2
# Longest interval that is told, as the logarithm of a ratio.
_WIDEST = math.log(1e6)
# Figures are of two machines where one of these differs.
_SAME = ("suite", "platform", "device_kind", "devices", "processor", "cores")
# Figures are of other work where one of these differs and is no list of cases.
_SETTINGS = ("hidden", "projection", "config")
# A difference in one of these is worth a line: it may be why.
_WORTH_A_NOTE = ("quick", "git_commit", "python", "versions", "flags")


@dataclass(frozen=True)
class Change:
    """How a figure changed.

    Attributes:
        name: of the figure; of the overall change "all figures".
        slowdown: time new / time old - 1; 0.1 is 10 % slower, negative is faster.
        low: lower end of its interval, likewise `high`.
        regressed: whether it is slower by more than allowed, and not by chance.
    """

    name: str
    slowdown: float
    low: float
    high: float
    regressed: bool


@dataclass(frozen=True)
class Comparison:
    """What `compare` found.

    Attributes:
        changes: of each figure that is in both files.
        overall: their geometric mean.
        newly_wrong: figures that agreed with the oracle before and do not any more.
        notes: what differs between the two files beside the figures.
        fail_above: the slowdown that was allowed.
    """

    changes: list[Change]
    overall: Change
    newly_wrong: list[str]
    notes: list[str]
    fail_above: float

    @property
    def regressed(self) -> bool:
        """Whether anything became slower than allowed, or wrong."""
        any_slower = any(change.regressed for change in (*self.changes, self.overall))
        return any_slower or bool(self.newly_wrong)


def compare(old: str | Path, new: str | Path, fail_above: float) -> Comparison:
    """Compares two files that `rowrnn bench --out` wrote.

    Args:
        old: the file to compare with.
        new: the file to judge.
        fail_above: the slowdown that is allowed; 0.1 is 10 %.

    Raises `ConfigError` where a file cannot be read, the two were measured on different machines
    or by different suites, or no figure is in both.
    """
    before, after = record.read(Path(old)), record.read(Path(new))
    for key in _SAME:
        if before.get(key) != after.get(key):
            raise ConfigError(
                f"{key} is {before.get(key)!r} in {old} and {after.get(key)!r} in {new}; "
                "only results of the same suite on the same machine can be compared"
            )
    for key in _SETTINGS:
        one, other = (document.get("settings", {}).get(key) for document in (before, after))
        if one != other and not isinstance(one, list):
            raise ConfigError(
                f"{key} is {one!r} in {old} and {other!r} in {new}; only results of the same "
                "settings can be compared"
            )
    notes = [
        f"{key} differs: {_difference(before.get(key), after.get(key))}"
        for key in _WORTH_A_NOTE
        if before.get(key) != after.get(key)
    ]
    pairs = _pairs(before, after, notes)
    timed = {entry["name"] for entry in record.timed(before)}
    # A peer is wrong as a whole, and is timed at several things.
    timed |= {name.partition(", ")[0] for name in timed}
    wrong = set(after["wrong"]) - set(before["wrong"])
    newly_wrong = sorted(wrong & timed)
    notes += [f"{name}: wrong now, and not measured before" for name in sorted(wrong - timed)]
    if not pairs and not newly_wrong:
        raise ConfigError(f"{old} and {new} have no figure in common; measure the same grid twice")
    level = 1 - (1 - _LEVEL) / (len(pairs) + 1)
    changes = [
        _change(name, *samples, level=level, fail_above=fail_above)
        for name, samples in pairs.items()
    ]
    overall = _overall(changes, level, fail_above)
    return Comparison(changes, overall, newly_wrong, notes, fail_above)


def _pairs(
    before: Mapping[str, Any], after: Mapping[str, Any], notes: list[str]
) -> dict[str, tuple[list[float], list[float]]]:
    """Samples of the figures that both files have, as times: more is slower."""
    olds, news = (
        {entry["name"]: entry for entry in record.timed(document)} for document in (before, after)
    )
    pairs = {}
    for name, entry in olds.items():
        if name not in news:
            continue
        if entry["case"] != news[name]["case"]:
            notes.append(f"{name}: left out, measured with other settings")
            continue
        pairs[name] = (_times(entry), _times(news[name]))
    if missing := len(olds) - len(pairs):
        notes.append(f"{missing} of {len(olds)} figures of the old file have no counterpart")
    return pairs


def _times(entry: Mapping[str, Any]) -> list[float]:
    """Samples such that more is slower; a ratio of throughputs is turned round."""
    samples = entry["samples"]
    return [1 / sample for sample in samples] if entry["unit"] == "ratio" else samples


def _change(
    name: str, old: Sequence[float], new: Sequence[float], *, level: float, fail_above: float
) -> Change:
    """The ratio of trimmed geometric means, with Yuen's interval."""
    from scipy.stats import t

    (mean_old, error_old, kept_old), (mean_new, error_new, kept_new) = map(_trimmed, (old, new))
    error = error_old + error_new
    margin = 0.0
    if error > 0:
        degrees = error**2 / (error_old**2 / (kept_old - 1) + error_new**2 / (kept_new - 1))
        margin = float(t.ppf((1 + level) / 2, degrees)) * math.sqrt(error)
    return _judge(name, mean_new - mean_old, margin, fail_above)


def _trimmed(samples: Sequence[float]) -> tuple[float, float, int]:
    """Trimmed mean of the logarithms, its squared standard error, and how many were kept."""
    logs, n = sorted(map(math.log, samples)), len(samples)
    cut = int(_TRIM * n)
    kept = logs[cut : n - cut]
    # Samples that are cut count as the nearest one kept: without them the variance is too small.
    winsorized = [kept[0]] * cut + kept + [kept[-1]] * cut
    squares = (n - 1) * statistics.variance(winsorized)
    return statistics.fmean(kept), squares / (len(kept) * (len(kept) - 1)), len(kept)


def _overall(changes: Sequence[Change], level: float, fail_above: float) -> Change:
    """The geometric mean of all figures, with the paired t interval over them."""
    from scipy.stats import t

    name = "all figures"
    if len(changes) < 2:
        # There is no spread over figures: all that is known is of that one.
        only = changes[0] if changes else Change(name, 0.0, 0.0, 0.0, regressed=False)
        return dataclasses.replace(only, name=name)
    logs = [math.log1p(change.slowdown) for change in changes]
    error = statistics.stdev(logs) / math.sqrt(len(logs))
    margin = float(t.ppf((1 + level) / 2, len(logs) - 1)) * error
    return _judge(name, statistics.fmean(logs), margin, fail_above)


def _judge(name: str, center: float, margin: float, fail_above: float) -> Change:
    # Two samples that are orders apart have an interval that no float could hold.
    low, high = max(center - margin, -_WIDEST), min(center + margin, _WIDEST)
    slowdown, low, high = map(math.expm1, (center, low, high))
    return Change(name, slowdown, low, high, regressed=slowdown > fail_above and low > 0)


def _difference(old: Any, new: Any) -> str:
    """What differs, and of two tables only the entries that do."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
        return ", ".join(f"{key} {old.get(key)} -> {new.get(key)}" for key in keys)
    return f"{old} -> {new}"
