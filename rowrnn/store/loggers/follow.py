"""What the process of a logger does: it follows the log of a run, and tells a service of it."""

import dataclasses
import json
import os
import re
import select
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Protocol

from msgspec import Meta

from rowrnn import config as configs
from rowrnn import files
from rowrnn.store.loggers import Outcome

_STATE = "logger.json"
# Between two looks at the log.
_PAUSE_S = 1.0
# That are told at once; MLflow takes 1,000 figures.
_MOST_ENTRIES = 100
_LONGEST_PROBLEM = 200

Entry = dict[str, Any]
"""A line of ``metrics.jsonl``."""


class Service(Protocol):
    """A run at a service.

    Attributes:
        id: by which it can be gone on with.
        resumed: whether it was there before, with what it was told then.
    """

    id: str
    resumed: bool

    def log(self, entries: list[Entry]) -> None:
        """Tells figures on the way."""
        ...

    def finish(self, outcome: Outcome, result: dict[str, Any]) -> None:
        """Tells what came out and ends the run; returns when all has arrived."""
        ...


@dataclass
class _Told:
    """What a service knows; ``logger.json`` holds it.

    Attributes:
        kind: of the logger.
        id: of the run at the service.
        step: of the last entry that it was told.
        names: of the figures that it was told at this step.
    """

    kind: str
    id: str = ""
    step: Annotated[int, Meta(ge=-1, le=2**53)] = -1
    names: list[str] = field(default_factory=list)

    def has(self, entry: Entry) -> bool:
        """Whether an entry was told already."""
        at = entry["step"]
        return at < self.step or (at == self.step and set(entry) <= set(self.names))

    def take(self, entry: Entry) -> None:
        """Notes that an entry was told."""
        names = self.names if entry["step"] == self.step else []
        self.step, self.names = entry["step"], sorted({*names, *entry})


def main() -> None:
    """Follows a run until stdin says how it has ended, or is closed since the run is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # Whatever a service prints stays here; the run reads of problems alone.
    problems = os.fdopen(os.dup(1), "w", errors="backslashreplace")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    kind, directory = sys.argv[1], Path(sys.argv[2])
    try:
        _follow(kind, directory, lambda error: print(_in_words(error), file=problems, flush=True))
    except (Exception, SystemExit) as error:
        print(_in_words(error), file=problems, flush=True)
        # A thread of a service may wait for what has just failed.
        os._exit(1)


def _in_words(error: BaseException) -> str:
    """The first line of an error."""
    line = next(iter(str(error).strip().splitlines()), "")[:_LONGEST_PROBLEM].rstrip(".")
    return f"{type(error).__name__}: {line}" if line else type(error).__name__


def _follow(kind: str, directory: Path, complain: Callable[[Exception], None]) -> None:
    told = _read_told(kind, directory)
    service = _start(kind, directory, told.id)
    if not service.resumed:
        told = _Told(kind, service.id)
    _write_told(told, directory)
    read, complained = 0, False
    while True:
        ended = bool(select.select([sys.stdin], [], [], _PAUSE_S)[0])
        try:
            for entries, end in _entries(directory / "metrics.jsonl", read):
                _tell(service, [entry for entry in entries if not told.has(entry)], told)
                _write_told(told, directory)
                read = end
        except Exception as error:
            # It may go better at the next look: a server that is started anew, say.
            if ended:
                raise
            if not complained:
                complain(error)
            complained = True
        if ended:
            outcome = _outcome(sys.stdin.read(), directory)
            service.finish(outcome, _read_result(directory) if outcome == "finished" else {})
            return


def _tell(service: Service, entries: list[Entry], told: _Told) -> None:
    if entries:
        service.log(entries)
    for entry in entries:
        told.take(entry)


def _entries(path: Path, start: int) -> Iterator[tuple[list[Entry], int]]:
    """The entries from byte `start` on, some at a time, each time with where they end.

    Curves of the members of a sweep are left out, and a line that is not whole yet.
    """
    try:
        file = files.open_plain(path, follow=False)
    except FileNotFoundError:
        return
    with file:
        end = file.seek(start)
        entries: list[Entry] = []
        while (line := file.readline(files.MOST_BYTES)).endswith(b"\n"):
            end += len(line)
            entry = files.parse_json(line.decode())
            if "member" not in entry:
                entries.append(entry)
            if len(entries) == _MOST_ENTRIES:
                yield entries, end
                entries = []
        yield entries, end


def _outcome(message: str, directory: Path) -> Outcome:
    """How the run has ended; where it does not say, it was killed, maybe after its end."""
    if message:
        return json.loads(message)
    return "finished" if (directory / "result.json").exists() else "failed"


def _start(kind: str, directory: Path, known: str) -> Service:
    """A run at a service, with name and config; `known` is the id of one to go on with."""
    name, config = directory.resolve().name, _read_config(directory)
    if kind == "wandb":
        from rowrnn.store.loggers.weights_and_biases import WandbRun

        return WandbRun(name, config, known)
    from rowrnn.store.loggers.mlflow_tracking import MLflowRun

    return MLflowRun(name, config, known)


def _read_config(directory: Path) -> dict[str, Any]:
    """The values of a run by dotted name, for a sweep with those that tell its members."""
    tables = configs.to_dict(configs.load(directory / "config.toml"))
    values = {f"{name}.{key}": v for name, table in tables.items() for key, v in table.items()}
    try:
        start = files.read_json(directory / "sweep.json")
    except FileNotFoundError:
        return values
    return values | {f"sweep.{name}": json.dumps(start[name]) for name in ("seeds", "grid", "vary")}


def _read_result(directory: Path) -> dict[str, Any]:
    """The figures of ``result.json``, or of a sweep those of its summary, by point of its grid."""
    try:
        summary = files.read_json(directory / "results.json")["summary"]
    except FileNotFoundError:
        return files.read_json(directory / "result.json")
    points = summary["groups"] if len(summary["groups"]) > 1 else []
    return summary | {
        f"{point['point']}/{name}": value for point in points for name, value in point.items()
    }


def _read_told(kind: str, directory: Path) -> _Told:
    """What the run has told before; nothing where it was another logger, or is damaged."""
    try:
        told = files.build(_Told, files.read_json(directory / _STATE))
    except (OSError, ValueError):
        return _Told(kind)
    if told.kind != kind or re.fullmatch(r"[\w-]{1,64}", told.id, re.ASCII) is None:
        return _Told(kind)
    return told


def _write_told(told: _Told, directory: Path) -> None:
    files.write_whole(directory / _STATE, json.dumps(dataclasses.asdict(told)))
