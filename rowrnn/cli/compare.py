"""``rowrnn compare``."""

import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, arg

from rowrnn.cli.terminal import Common, Flag, parse, plain, say, tell, tell_mixture
from rowrnn.lab.shown import percent

if TYPE_CHECKING:
    from rowrnn.lab.compare import Pair, Side
    from rowrnn.lab.stats import Comparison


@dataclass(frozen=True, kw_only=True)
class CompareArguments(Common):
    """Is one sweep better than another, and by how much? Exits with 1 where it is worse.

    Seeds are compared in pairs where both have most of them. One sweep with a grid alone: its first
    point against each of the others (the exit code is then 0).
    """

    a: Annotated[Positional[Path], arg(metavar="SWEEP")]
    """The sweep to compare with."""
    b: Annotated[Positional[Path | None], arg(metavar="[SWEEP]")] = None
    """The sweep to judge."""
    margin: Annotated[float | None, arg(metavar="SHARE")] = None
    """Ask too whether they are the same within this difference in accuracy, such as 0.002."""
    sequential: Flag = False
    """Seeds are added until the verdict is clear: use a test that may be repeated as they come."""
    baseline: Annotated[str | None, arg(metavar="POINT")] = None
    """Of one sweep, the point to compare the others with, such as learning_rate=0.001."""
    format: Literal["text", "markdown", "latex", "csv"] = "text"
    """How to print it: a table for a paper (LaTeX with booktabs), or all of it in words."""
    groups: Annotated[Path | None, arg(metavar="FILE")] = None
    """An integer a test image, such as its writer (CSV, NPY, QMNIST's labels)."""


def main(arguments: Sequence[str]) -> int:
    """Compares sweeps."""
    given = parse("compare", CompareArguments, arguments)

    from rowrnn.lab.compare import compare

    found = compare(
        given.a,
        given.b,
        margin=given.margin,
        sequential=given.sequential,
        groups=given.groups,
        baseline=given.baseline,
    )
    if given.format == "text":
        for pair in found.pairs:
            for line in _in_words(pair, len(found.pairs), found.margin):
                tell(line, sys.stdout)
    else:
        from rowrnn.show import tables

        for line in tables.render(found, given.format).splitlines():
            print(plain(line))
    if given.b is None:
        say("these are test accuracies: choose a setting by its validation accuracy, not by them")
    for name in found.left_out:
        say(f"left out, diverged: {name}")
    tell_mixture(found.machines)
    given.answer(dataclasses.asdict(found) | {"regressed": found.regressed})
    return 1 if given.b is not None and found.regressed else 0


def _in_words(pair: "Pair", comparisons: int, margin: float | None) -> list[str]:
    c = pair.comparison
    low, high = c.interval
    method = c.interval_method
    if method == "student":
        method = f"{'Student' if c.paired else 'Welch'}'s, assumes normal values"
    several = comparisons > 1
    corrected = (
        f", corrected for {comparisons} comparisons {pair.adjusted_p:.3g}" if several else ""
    )
    lines = [
        f"{plain(pair.b)} against {plain(pair.a)}: {_verdict(pair, comparisons)}",
        f"  test accuracy {pair.mean_b:.4f} against {pair.mean_a:.4f}, {_seeds(pair)}",
        f"  difference {c.difference:+.4f}, 95 % interval {low:+.4f} to {high:+.4f} ({method})",
        *_over_images(pair),
        f"  p = {c.p_value:.3g} ({c.test}){corrected}; better with a probability of "
        f"{_chance(c.probability_of_improvement)}",
    ]
    if margin is not None and pair.adjusted_equivalent_p is not None:
        shown = "" if pair.equivalence == "the same" else "not shown to be "
        lines.append(
            f"  {shown}the same within {100 * margin:g} points "
            f"(two one-sided tests, p = {pair.adjusted_equivalent_p:.3g})"
        )
    if c.seeds_needed is not None:
        lines.append(f"  to see such a difference with 80 % power: {_needed(c)}")
    if pair.side_a.failed or pair.side_b.failed:
        lines += [
            f"  failed seeds: {_failures(pair.side_b)} against {_failures(pair.side_a)}",
            f"  interquartile mean {_iqm(pair.side_b)} against {_iqm(pair.side_a)}",
            "  read these two lines: a mean with failed seeds in it says neither",
        ]
    return lines


def _over_images(pair: "Pair") -> list[str]:
    """Which questions the intervals answer."""
    if pair.over_images is None:
        return ["  another seed, these images"]
    low, high = pair.over_images
    lines = [f"  another seed, these images; on other images too {low:+.4f} to {high:+.4f}"]
    if pair.grouped is not None:
        lines += [f"  {line}" for line in pair.grouped.in_words("another seed", "Difference", "+")]
    return lines


def _verdict(pair: "Pair", comparisons: int) -> str:
    if pair.verdict == "not shown":
        return "not shown to be better or worse"
    if pair.verdict != "cannot tell":
        return pair.verdict
    several = f" for {comparisons} comparisons" if comparisons > 1 else ""
    would = "no number" if pair.seeds_to_tell is None else f"{pair.seeds_to_tell:,} each"
    return f"cannot tell, these seeds cannot reach p = 0.05{several}; {would} would"


def _seeds(pair: "Pair") -> str:
    c = pair.comparison
    unused = pair.side_a.unused + pair.side_b.unused
    if not c.paired:
        return f"{c.count_a:,} and {c.count_b:,} seeds"
    left = f", {unused} without a partner left out" if unused else ""
    how_alike = "" if c.correlation is None else f" (correlation {c.correlation:.2f})"
    return f"{c.count_a:,} seeds in pairs{left}{how_alike}"


def _needed(c: "Comparison") -> str:
    text = f"{c.seeds_needed:,} seeds each"
    if c.seeds_needed_between is None:
        return text
    low, high = c.seeds_needed_between
    return text + (f" ({low:,} or more)" if high is None else f" ({low:,} to {high:,})")


def _failures(side: "Side") -> str:
    low, high = side.failure_interval
    rate = f"{percent(side.failure_rate, 1)}, {percent(low, 1)} to {percent(high, 1)}"
    return f"{side.failed:,} of {side.members:,} ({rate})"


def _chance(probability: float) -> str:
    """A probability that is estimated from seeds, of which none is certain."""
    if 0.01 <= probability <= 0.99:
        return percent(probability)
    return f"more than {percent(0.99)}" if probability > 0.5 else f"less than {percent(0.01)}"


def _iqm(side: "Side") -> str:
    between = side.summary.iqm_interval
    text = f"{side.summary.iqm:.4f}"
    return text if between is None else f"{text} ({between[0]:.4f} to {between[1]:.4f})"
