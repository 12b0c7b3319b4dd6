"""Which runs and sweeps lie under a directory, what they gave, and in what they differ.

Only small files are read, and jax is not loaded: hundreds of runs take a second.
"""

import contextlib
import dataclasses
import datetime
import importlib
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from msgspec import Meta

from rowrnn import config as configs
from rowrnn import files
from rowrnn.config import Config
from rowrnn.errors import RowRNNError, RunError
from rowrnn.files import Count, Rate, Seconds, Share
from rowrnn.lab.shown import Shown
from rowrnn.store import log, rundir
from rowrnn.store.members import read_sweep

State = Literal["done", "running", "stopped", "diverged", "damaged"]
"""running: another process writes to it now. stopped: `--resume` goes on with it."""

_End = Annotated[float, Meta(ge=-100.0, le=100.0)]

# Levels that are searched below a directory; runs themselves are not searched.
_DEEPEST = 3


@dataclass(frozen=True, repr=False)
class PointSummary(Shown):
    """The seeds of one point of a sweep's grid.

    Attributes:
        point: the values of the grid in words; empty without a grid.
        completed: how many members have not diverged.
        mean: the mean of their test accuracies; None where there are none.
        interval: 95 % interval of the mean; None of fewer than two.
    """

    point: str
    completed: Count
    mean: Share | None
    interval: tuple[_End, _End] | None


@dataclass(frozen=True, repr=False)
class RunSummary(Shown):
    """A run or sweep as its directory tells of it.

    Attributes:
        name: its path below the directory that was asked for.
        path: the directory.
        kind: "run" or "sweep".
        state: see `State`.
        started: when it was started.
        step: the last step logged or saved, for a run that is not done.
        members: how many members a sweep has; `completed` is how many of them have ended, and in a
            sweep that is done, have not diverged.
        test_accuracy: its test accuracy; for a sweep the mean over its completed members.
        points: the points of the grid, for a sweep that is done.
        wall_s: seconds it took in all sessions, compiling and evaluating included.
        examples_per_s: throughput of training.
        config: its config; for a sweep what its members have in common.
        values: the values, by dotted name, in which the runs listed together differ; a sweep's grid
            has tuples. Fields that do not change what is computed are left out.
        problem: what is wrong with a damaged one.
    """

    name: str
    path: str
    kind: Literal["run", "sweep"]
    state: State
    started: datetime.datetime
    step: int | None = None
    members: int | None = None
    completed: int | None = None
    test_accuracy: float | None = None
    points: list[PointSummary] = field(default_factory=list)
    wall_s: float | None = None
    examples_per_s: float | None = None
    config: Config | None = None
    values: dict[str, Any] = field(default_factory=dict)
    problem: str | None = None

    def _facts(self) -> dict[str, Any]:
        names = ("name", "kind", "state", "step", "members", "test_accuracy", "problem")
        facts = {name: getattr(self, name) for name in names}
        return {name: value for name, value in facts.items() if value is not None}


class Runs(list[RunSummary]):
    """A list that shows a line for each, and in a notebook a table."""

    def __repr__(self) -> str:
        return "[" + ",\n ".join(map(repr, self)) + "]"

    def _repr_html_(self) -> str:
        return importlib.import_module("rowrnn.show.notebook").table_of(self)


def runs(path: str | Path = "runs") -> list[RunSummary]:
    """The runs and sweeps under a directory, the newest last; or the one that it is itself.

    Nothing is written. What is no run is passed over, likewise what is hidden and what lies
    within a run; one that is damaged, or holds a link, is listed as such.

    Args:
        path: the directory; it is searched three levels deep.

    Raises `RunError` where there is no such directory.
    """
    directory = files.as_path(path)
    if not os.path.isdir(directory):
        raise RunError(
            f"{directory} is no directory; give one that holds runs (rowrnn train keeps them in "
            "runs/ unless --run-dir says otherwise)"
        )
    found = [_summarize(run, directory) for run in _search(directory, _DEEPEST)]
    found.sort(key=lambda run: (run.started, run.name))
    return Runs(_with_values(found))


def side_by_side(paths: Sequence[str | Path]) -> list[RunSummary]:
    """The runs and sweeps of some directories, in this order, by names that tell them apart."""
    places = [Path(path).resolve() for path in paths]
    names = [place.name for place in places]
    if len(set(names)) < len(names):
        common = os.path.commonpath([place.parent for place in places])
        names = [os.path.relpath(place, common) for place in places]
    found = [_summarize(Path(path), Path(path)) for path in paths]
    named = [dataclasses.replace(run, name=name) for run, name in zip(found, names, strict=True)]
    return _with_values(named)


def _search(directory: Path, levels: int) -> Iterator[Path]:
    """The directories of runs; raises `RunError` where the first cannot be read."""
    if rundir.is_marked(directory):
        yield directory
        return
    try:
        with os.scandir(directory) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        if levels < _DEEPEST:
            return
        raise RunError(f"{directory} cannot be read: {error.strerror}") from error
    for entry in found:
        if entry.name.startswith(".") or levels == 0:
            continue
        # A run may be reached by a link, but a search that follows them may never end.
        below = Path(entry.path)
        if rundir.is_marked(below) if entry.is_symlink() else entry.is_dir():
            yield from _search(below, levels - 1)


def _summarize(path: Path, listed: Path) -> RunSummary:
    name = str(path.relative_to(listed)) if path != listed else path.resolve().name
    kind = "sweep" if rundir.is_sweep(path) else "run"
    summary = RunSummary(name, str(path), kind, "damaged", _started(path))
    try:
        config = rundir.read_config(path)
        known = dataclasses.replace(summary, config=config, values=configs.deciding(config))
        return _of_sweep(path, known) if kind == "sweep" else _of_run(path, known)
    except (RowRNNError, OSError, ValueError) as error:
        return dataclasses.replace(summary, problem=str(error))


def _started(path: Path) -> datetime.datetime:
    """When the run started, as it says; otherwise when its directory was last changed."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, OverflowError):
        text = files.read_json(path / "environment.json")["time"]
        return datetime.datetime.fromisoformat(text).astimezone(datetime.UTC)
    try:
        changed = path.stat().st_mtime
    except OSError:  # It is gone.
        changed = 0.0
    return datetime.datetime.fromtimestamp(changed, datetime.UTC)


@dataclass(frozen=True)
class _RunFigures:
    """What is shown of ``result.json``."""

    test_accuracy: Share
    wall_s: Seconds
    examples_per_s: Rate


def _of_run(path: Path, summary: RunSummary) -> RunSummary:
    found = rundir.read_result(path, _RunFigures)
    if found is not None:
        return dataclasses.replace(summary, state="done", **dataclasses.asdict(found))
    state, step = unfinished(path)
    return dataclasses.replace(summary, state=state, step=step)


def unfinished(path: Path) -> tuple[State, int]:
    """State of a run without a result, and the step last logged, or last saved if it is stopped."""
    last = log.last(path) or {}
    if rundir.is_being_written(path):
        return "running", last.get("step", 0)
    if "diverged" in last:
        return "diverged", last["step"]
    return "stopped", _last_saved(path)


def _last_saved(path: Path) -> int:
    """Step of the newest checkpoint, 0 where there is none."""
    names = _names(path / "checkpoints")
    steps = [int(name) for name in names if name.isascii() and name.isdecimal() and len(name) < 19]
    return max(steps, default=0)


def _names(directory: Path) -> list[str]:
    """What lies in a directory; nothing where there is none."""
    try:
        return os.listdir(directory)
    except OSError:
        return []


@dataclass(frozen=True)
class _SweepFigures:
    """What is shown of the summary in ``results.json``."""

    members: Count
    completed: Count
    mean: Share | None
    wall_s: Seconds
    examples_per_s: Rate | None
    groups: list[PointSummary]


def _of_sweep(path: Path, summary: RunSummary) -> RunSummary:
    start = read_sweep(path)
    grid = {name: tuple(values) for name, values in start.grid.items()}
    members = len(start.seeds) * math.prod(map(len, grid.values()))
    values = summary.values | grid | {"sweep.vary": start.vary}
    summary = dataclasses.replace(summary, members=members, values=values)
    found = rundir.read_result(path, _SweepFigures)
    writing = rundir.is_being_written(path)
    # A result of fewer seeds was left by an older rowrnn, which was told to go on with more.
    if found is None or found.members != members or writing:
        # The ledger may have members of other seeds and settings too.
        recorded = sum(name.endswith(".json") for name in _names(path / "members"))
        state = "running" if writing else "stopped"
        return dataclasses.replace(summary, state=state, completed=min(recorded, members))
    return dataclasses.replace(
        summary,
        state="done",
        completed=found.completed,
        test_accuracy=found.mean,
        points=found.groups,
        wall_s=found.wall_s,
        examples_per_s=found.examples_per_s,
    )


def _with_values(found: list[RunSummary]) -> list[RunSummary]:
    """The runs with those of their values alone in which they differ."""
    known: dict[str, set[Any]] = {}
    for run in found:
        for name, value in run.values.items():
            known.setdefault(name, set()).add(value)
    differing = [name for name, values in known.items() if len(values) > 1]
    return [
        dataclasses.replace(
            run, values={name: run.values[name] for name in differing if name in run.values}
        )
        for run in found
    ]
