"""``rowrnn bench``."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from rowrnn import config as configs
from rowrnn.cli.terminal import Common, Flag, parse, say, show_shipped
from rowrnn.errors import ConfigError, cut


@dataclass(frozen=True, kw_only=True)
class BenchArguments(Common):
    """Measure how fast this device, this jax and this rowrnn are.

    The suites: ceiling (matrix products and copies: what the device can do at most), lstm (the
    recurrence alone), train (the step, evaluation and the whole program), peers (the same step in
    other libraries, in turns), startup (from the shell to the first step), scaling (devices and
    processes), aot (what a TPU or GPU that is not there would run).

    rowrnn bench compare OLD.json NEW.json holds two results of one machine against each other.
    """

    suite: Annotated[Positional[str | None], arg(metavar="SUITE")] = None
    """One of these, another name that --list shows, or a TOML file."""
    list_: Annotated[Flag, arg(name="list")] = False
    """Show the suites that come with rowrnn, and measure nothing."""
    quick: Flag = False
    """A first look, in less than a minute for most."""
    target: Annotated[tuple[str, ...], arg(metavar="DEVICE")] = ()
    """aot: the devices to compile for, such as v5e:2x4, v6e:2x4, h100, h200, a100, l4."""
    out: Annotated[Path | None, arg(metavar="FILE.json")] = None
    """Where to keep the result; plots go beside it."""


@dataclass(frozen=True, kw_only=True)
class CompareArguments(Common):
    """Is the new result slower than the old one, and is that more than noise?

    Exits with 1 where it is.
    """

    old: Annotated[Positional[Path], arg(metavar="OLD.json")]
    """The result to compare with."""
    new: Annotated[Positional[Path], arg(metavar="NEW.json")]
    """The result to judge."""
    fail_above: Annotated[str, arg(metavar="PERCENT")] = "10%"
    """The slowdown that is allowed."""


def main(arguments: Sequence[str]) -> int:
    """Runs a suite, or compares two results."""
    if arguments and arguments[0] == "compare":
        return _compare(arguments[1:])
    given = parse("bench", BenchArguments, arguments)
    if given.list_:
        from rowrnn.bench import suites

        found = suites.shipped()
        show_shipped(found)
        given.answer({name: configs.summary(path) for name, path in found.items()})
        return 0
    if given.suite is None:
        raise ConfigError("bench needs a suite: rowrnn bench train; rowrnn bench --list shows all")

    from rowrnn import bench

    document = bench.run(given.suite, quick=given.quick, out=given.out, targets=given.target)
    bench.show(document)
    if given.out:
        say(f"kept in {given.out}")
    given.answer(document)
    return 130 if document.get("stopped") else 0


def _compare(arguments: Sequence[str]) -> int:
    given = parse("bench compare", CompareArguments, arguments)
    allowed = _share(given.fail_above)

    from rowrnn import bench

    comparison = bench.compare(given.old, given.new, allowed)
    bench.show_comparison(comparison)
    given.answer(dataclasses.asdict(comparison) | {"regressed": comparison.regressed})
    return 1 if comparison.regressed else 0


def _share(percent: str) -> float:
    """10% or 10 as 0.1."""
    try:
        share = float(percent.removesuffix("%")) / 100
    except ValueError:
        share = -1.0
    if not 0 <= share < 100:
        raise ConfigError(f"--fail-above {cut(percent)}: must be a percentage from 0, such as 10%")
    return share
