"""``rowrnn compare``."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from rowrnn.cli.terminal import Common, parse, plain, say, tell_mixture

if TYPE_CHECKING:
    from rowrnn.lab.compare import Pair


@dataclass(frozen=True, kw_only=True)
class CompareArguments(Common):
    """Is one sweep better than another, and by how much? Exits with 1 where it is worse.

    Seeds that both have are compared in pairs. One sweep with a grid alone: its first point
    against each of the others (the exit code is then 0).
    """

    a: Annotated[Positional[Path], arg(metavar="SWEEP")]
    """The sweep to compare with."""
    b: Annotated[Positional[Path | None], arg(metavar="SWEEP")] = None
    """The sweep to judge."""


def main(arguments: Sequence[str]) -> int:
    """Compares sweeps."""
    given = parse("compare", CompareArguments, arguments)

    from rowrnn.lab.compare import compare

    found = compare(given.a, given.b)
    for pair in found.pairs:
        print(_in_words(pair, several=len(found.pairs) > 1))
    for name in found.left_out:
        say(f"left out, diverged: {name}")
    tell_mixture(found.machines)
    given.answer(dataclasses.asdict(found) | {"regressed": found.regressed})
    return 1 if given.b is not None and found.regressed else 0


def _in_words(pair: "Pair", *, several: bool) -> str:
    c = pair.comparison
    low, high = c.interval
    seeds = f"{c.count_a} seeds in pairs" if c.paired else f"{c.count_a} and {c.count_b} seeds"
    corrected = f", corrected {pair.adjusted_p:.3g}" if several else ""
    lines = [
        f"{plain(pair.b)} against {plain(pair.a)}: {pair.verdict}",
        f"  test accuracy {pair.mean_b:.4f} against {pair.mean_a:.4f}, {seeds}",
        f"  difference {c.difference:+.4f}, 95 % interval {low:+.4f} to {high:+.4f}",
        f"  p = {c.p_value:.3g} ({c.test}){corrected}; better with a probability of "
        f"{c.probability_of_improvement:.0%}",
    ]
    if c.seeds_needed is not None:
        lines.append(f"  to see such a difference with 80 % power: {c.seeds_needed} seeds each")
    return "\n".join(lines)
