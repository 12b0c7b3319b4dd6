"""``rowrnn runs``."""

import dataclasses
import datetime
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

from rowrnn.cli.terminal import Common, console, duration, parse, plain, say
from rowrnn.errors import cut
from rowrnn.store.members import short

if TYPE_CHECKING:
    from rowrnn.lab.runs import RunSummary

_HEADINGS = ("name", "state", "started", "test", "seeds", "time")
_RIGHT = {"test", "seeds", "time"}
_GAP = "  "
# A longer name has a line of its own.
_LONGEST_NAME = 26


@dataclass(frozen=True, kw_only=True)
class RunsArguments(Common):
    """List the runs and sweeps under a directory, the newest last.

    For each: whether it is done, its test accuracy (of a sweep the mean over its seeds; of one with
    a grid, from the worst point to the best) and the time it took; below it, the values in which it
    differs from most of the others. What is no run is passed over, and one that is damaged is
    named.
    """

    directory: Annotated[Positional[Path], arg(metavar="[DIR]")] = Path("runs")
    """Where to look, three levels deep."""


def main(arguments: Sequence[str]) -> int:
    """Lists runs."""
    given = parse("runs", RunsArguments, arguments)

    from rowrnn.lab.runs import runs

    found = runs(given.directory)
    if found:
        _show(found)
    else:
        say(f"no runs in {given.directory}; make one: rowrnn train quickstart")
    for run in found:
        if run.problem is not None:
            say(f"{run.name} is damaged: {run.problem}")
    given.answer([_plain_values(run) for run in found])
    return 0


def _plain_values(run: "RunSummary") -> dict[str, Any]:
    """A run as JSON takes it."""
    return dataclasses.asdict(run) | {"started": run.started.isoformat(timespec="seconds")}


def _show(found: Sequence["RunSummary"]) -> None:
    """A line for each run, and below it in what it differs from most."""
    from rich.padding import Padding
    from rich.text import Text

    screen = console()
    common = _most_common(found)
    rows = [_HEADINGS, *map(_cells, found)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    others = sum(widths[1:]) + len(_GAP) * len(widths[1:])
    widths[0] = min(widths[0], _LONGEST_NAME, max(len(_HEADINGS[0]), screen.width - others))
    screen.print(Text(_line(_HEADINGS, widths), style="bold"), soft_wrap=True)
    for run, cells in zip(found, rows[1:], strict=True):
        # The terminal breaks what is too long for it, so that nothing is cut.
        screen.print(Text(_line(cells, widths)), soft_wrap=True)
        own = {name: value for name, value in run.values.items() if value != common[name]}
        if own:
            screen.print(Padding(Text(_words(own), style="dim"), (0, 0, 0, 2), expand=False))
    if common:
        screen.print(Text(f"\nMost have {_words(common)}"))


def _most_common(found: Sequence["RunSummary"]) -> dict[str, Any]:
    """The value that most runs have, or the first of those, for each field that differs."""
    names = dict.fromkeys(name for run in found for name in run.values)
    return {
        name: Counter(run.values[name] for run in found if name in run.values).most_common(1)[0][0]
        for name in names
    }


def _cells(run: "RunSummary") -> tuple[str, ...]:
    return (
        plain(run.name),
        run.state + (f" at {run.step}" if run.step is not None else ""),
        _when(run.started),
        _accuracy(run),
        _seeds(run),
        "" if run.wall_s is None else duration(run.wall_s),
    )


def _when(started: datetime.datetime) -> str:
    """Day and time, or the date where it was in another year."""
    try:
        local = started.astimezone()
    except OverflowError:  # At the ends of the calendar, which a forged run may claim.
        return started.date().isoformat()
    this_year = local.year == datetime.datetime.now().year
    return local.strftime("%m-%d %H:%M") if this_year else local.date().isoformat()


def _accuracy(run: "RunSummary") -> str:
    means = sorted(point.mean for point in run.points if point.mean is not None)
    if len(means) > 1:
        return f"{means[0]:.4f}-{means[-1]:.4f}"
    return "" if run.test_accuracy is None else f"{run.test_accuracy:.4f}"


def _seeds(run: "RunSummary") -> str:
    """Members of a sweep; how many have ended (well, where it is done) if not all have."""
    if run.members is None:
        return ""
    return f"{run.members}" if run.completed == run.members else f"{run.completed}/{run.members}"


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    name, *others = cells
    first = f"{name}\n{'':{widths[0]}}" if len(name) > widths[0] else f"{name:{widths[0]}}"
    aligned = (
        f"{cell:>{width}}" if heading in _RIGHT else f"{cell:{width}}"
        for heading, cell, width in zip(_HEADINGS[1:], others, widths[1:], strict=True)
    )
    return _GAP.join([first, *aligned]).rstrip()


def _words(values: Mapping[str, Any]) -> str:
    """Values by the last part of their names; those of a grid with commas between."""
    return ", ".join(
        f"{short(name)}="
        + plain(cut(",".join(map(str, value)) if isinstance(value, tuple) else str(value)))
        for name, value in values.items()
    )
