"""Weights & Biases and MLflow, which are told of a run and can never stop it.

A thread reads ``metrics.jsonl`` behind the run: the file is the queue, which holds what a service
has not taken yet. What it has taken is in ``logger.json``, so that a run that is resumed goes on in
the same run of the service and repeats no step, but for what a kill has cut off just then.
"""

import contextlib
import importlib.util
import itertools
import json
import os
import re
import secrets
import threading
import time
import warnings
from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path
from typing import Annotated, Any, Literal

from msgspec import Meta

from rowrnn import config as configs
from rowrnn import files
from rowrnn.errors import ConfigError
from rowrnn.files import Count
from rowrnn.store import log
from rowrnn.store.log import Entry

Outcome = Literal["finished", "stopped", "failed"]

# Seconds that a run waits for its service at its end. A signal leaves it little time.
_PATIENCE_S: dict[Outcome, float] = {"finished": 8.0, "stopped": 5.0, "failed": 5.0}
# Seconds between two looks at the log, and after a failure.
_PAUSE_S, _PAUSE_AFTER_FAILURE_S = 1.0, 30.0
# Entries told at once; MLflow takes 1,000 figures.
_MOST_ENTRIES = 100
# Unless the user says otherwise, a service prints and asks nothing (stdout has the answer of a
# command, stderr the display), and does not tell its makers how it is used.
_ENVIRONMENT = {
    "WANDB_SILENT": "true",
    "WANDB_ERROR_REPORTING": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ALLOW_FILE_STORE": "true",
}


def require(kind: str) -> None:
    """Raises `ConfigError` where the package of a logger, which has its name, is not installed."""
    # A directory of that name, as wandb makes one for its files, is found too, but has no origin.
    if kind != "none" and getattr(importlib.util.find_spec(kind), "origin", None) is None:
        raise ConfigError(
            f"train.logger = {kind!r}: the package {kind} is not installed; "
            f"pip install 'rowrnn[{kind}]'"
        )


class Logger:
    """A thread that tells a service of a run, and for which neither run nor interpreter waits.

    Args:
        kind: "wandb" or "mlflow".
        directory: of the run; what is logged there from now on is only added to.

    No method raises an error, nor takes long but for `finish`. What goes wrong is a warning, once.
    """

    def __init__(self, kind: str, directory: Path):
        self._kind, self._directory = kind, directory
        self._problem, self._warned = "", False
        self._outcome: Outcome = "failed"
        self._ended, self._left = threading.Event(), False
        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        self._thread = threading.Thread(target=self._follow, name="logger", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Warns where the service has failed."""
        if self._problem and not self._warned:
            self._warned = True
            warnings.warn(
                f"logger {self._kind}: {self._problem}; the run goes on, "
                "and metrics.jsonl has all of it",
                stacklevel=4,
            )

    def finish(self, outcome: Outcome) -> None:
        """Tells how the run has ended, and waits for the service, but not for ever."""
        self._outcome = outcome
        self._ended.set()
        self._thread.join(_PATIENCE_S[outcome])
        if self._thread.is_alive():
            self._left = True
            self._problem = f"it had not ended after {_PATIENCE_S[outcome]:.0f} s"
        self.check()
        if self._problem and self._kind == "wandb":
            _let_go_of_wandb()

    def _follow(self) -> None:
        """Tells what the log has, and at last the result; what fails is tried again later."""
        told, service, read = _read_told(self._directory), None, 0
        if told.kind != self._kind:
            told = _Told(self._kind)
        ended, pause = False, 0.0
        while not (ended or self._left):
            ended = self._ended.wait(pause)
            try:
                if service is None:
                    service = _start(self._kind, self._directory, told.id)
                    if service.id != told.id:
                        told = _Told(self._kind, service.id)
                    told.place = service.place
                    self._write(told)
                read = self._tell(service, told, read)
                if ended:
                    done = self._outcome == "finished"
                    service.finish(self._outcome, _read_result(self._directory) if done else {})
                pause = _PAUSE_S
            except BaseException as error:  # SystemExit too, which would end a thread in silence.
                line = next(iter(str(error).strip().splitlines()), "")[:200].rstrip(".")
                self._problem = ": ".join(filter(None, (type(error).__name__, line)))
                pause = _PAUSE_AFTER_FAILURE_S

    def _tell(self, service: "_WandbRun | _MLflowRun", told: "_Told", read: int) -> int:
        """Tells what the log has from byte `read` on, and gives the byte where that ends."""
        while found := list(itertools.islice(log.read_from(self._directory, read), _MOST_ENTRIES)):
            # Curves of the members of a sweep are left out.
            entries = [e for e, _ in found if "member" not in e and not told.has(e)]
            if entries:
                service.log(entries)
                told.take(entries)
                self._write(told)
            read = found[-1][1]
        return read

    def _write(self, told: "_Told") -> None:
        if not self._left:  # Otherwise the directory may have another writer by now.
            files.write_whole(self._directory / "logger.json", json.dumps(vars(told)))


@dataclass
class _Told:
    """What a service knows; ``logger.json`` holds it.

    Attributes:
        kind: of the logger.
        id: of the run at the service.
        steps: the last one at which it was told each figure, by name.
        place: where a person finds that run, an address or a directory.
    """

    kind: str
    id: Annotated[str, Meta(pattern=r"\A[A-Za-z0-9_-]{1,64}\Z")] = ""
    steps: dict[str, Count] = field(default_factory=dict)
    place: str = ""

    def has(self, entry: Entry) -> bool:
        """Whether all figures of an entry were told already."""
        return all(self.steps.get(name, -1) >= entry["step"] for name in entry)

    def take(self, entries: list[Entry]) -> None:
        """Notes that entries were told."""
        for entry in entries:
            self.steps |= {name: max(entry["step"], self.steps.get(name, -1)) for name in entry}


def _read_told(directory: Path) -> _Told:
    """What the run has told before; nothing where that is missing or damaged."""
    try:
        return files.build(_Told, files.read_json(directory / "logger.json"))
    except (OSError, ValueError):
        return _Told("none")


def where_told(directory: Path) -> str:
    """Which service was told of a run, and where it is found there; "" where none was."""
    told = _read_told(directory)
    return f"{told.kind}: {told.place}" if told.place else ""


def _start(kind: str, directory: Path, known: str) -> "_WandbRun | _MLflowRun":
    """A run at a service, with its config, for a sweep also with what its members are."""
    tables = configs.to_dict(configs.load(directory / "config.toml"))
    values = {f"{name}.{key}": v for name, table in tables.items() for key, v in table.items()}
    if (directory / "sweep.json").exists():
        sweep = files.read_json(directory / "sweep.json")
        values |= {f"sweep.{name}": json.dumps(sweep[name]) for name in ("seeds", "grid", "vary")}
    make = _WandbRun if kind == "wandb" else _MLflowRun
    return make(directory.resolve().name, values, known)


def _read_result(directory: Path) -> dict[str, Any]:
    """The figures of ``result.json``, or of a sweep those of its summary, by point of its grid."""
    if not (directory / "results.json").exists():
        return files.read_json(directory / "result.json")
    summary = files.read_json(directory / "results.json")["summary"]
    points = summary["groups"] if len(summary["groups"]) > 1 else []
    return summary | {
        f"{point['point']}/{name}": value for point in points for name, value in point.items()
    }


# A run at a service. `known` is the id of one to go on with, or "", and `id` that of the run it is;
# `place` is where a person finds it; `log` tells figures on the way, `finish` what came
# out, and returns when all has arrived.


class _WandbRun:
    """A run of wandb, as the user's WANDB_MODE, WANDB_ENTITY, WANDB_DIR and the like have it.

    Its project is ``rowrnn`` unless WANDB_PROJECT says otherwise.
    """

    def __init__(self, name: str, config: dict[str, Any], known: str):
        import wandb

        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "rowrnn"),
            name=name,
            id=known or secrets.token_hex(8),
            resume="allow",
            reinit="create_new",  # Whoever has called us may have a run too.
            config=config,
            settings=wandb.Settings(
                console="off",
                # A process of wandb may hold our stderr for so long after us; this is tried again.
                init_timeout=float(os.environ.get("WANDB_INIT_TIMEOUT", 10)),
                stop_fn=lambda: None,  # A button of its page would send us a SIGINT.
            ),
        )
        self.id = self._run.id
        # Offline there is no address, but the directory that `wandb sync` takes.
        self.place: str = self._run.url or str(Path(self._run.dir).parent)

    def log(self, entries: list[Entry]) -> None:
        for entry in entries:
            figures = {name: value for name, value in entry.items() if name != "step"}
            self._run.log(figures, step=entry["step"])

    def finish(self, outcome: Outcome, result: dict[str, Any]) -> None:
        self._run.summary.update({k: v for k, v in result.items() if isinstance(v, Real | str)})
        self._run.finish(exit_code={"finished": 0, "stopped": 75, "failed": 1}[outcome])


def _let_go_of_wandb() -> None:
    """Lets the interpreter end although wandb hangs, or its own process has died.

    wandb has the interpreter wait, at its end, until all has arrived. `wandb.teardown` takes that
    back first, and then waits itself: here, in a thread that nobody waits for.
    """

    def tear_down() -> None:
        with contextlib.suppress(BaseException):
            import wandb

            if wandb.run is None:  # Otherwise it would end a run of whoever has called us.
                wandb.teardown()

    thread = threading.Thread(target=tear_down, daemon=True)
    thread.start()
    thread.join(0.5)


class _MLflowRun:
    """A run of MLflow, at MLFLOW_TRACKING_URI.

    Without it MLflow's own default, or ``mlruns`` where mlflow-skinny alone is installed. Its
    experiment is ``rowrnn`` unless MLFLOW_EXPERIMENT_NAME says otherwise.
    """

    def __init__(self, name: str, config: dict[str, Any], known: str):
        import mlflow
        from mlflow.entities import Param
        from mlflow.exceptions import MlflowException

        has_default = mlflow.is_tracking_uri_set() or importlib.util.find_spec("sqlalchemy")
        self._client = client = mlflow.MlflowClient(None if has_default else "mlruns")
        self.place = mlflow.get_tracking_uri() if has_default else "mlruns"
        with contextlib.suppress(MlflowException):  # One that is not there any more is made anew.
            if known and client.get_run(known).info.lifecycle_stage == "active":
                client.update_run(known, status="RUNNING")
                self.id = known
                return
        title = os.environ.get("MLFLOW_EXPERIMENT_NAME", "rowrnn")
        found = client.get_experiment_by_name(title)
        experiment = found.experiment_id if found else client.create_experiment(title)
        self.id = client.create_run(experiment, run_name=name).info.run_id
        # A value may have 6,000 characters, and the list of a sweep's seeds more.
        params = [Param(key, str(value)[:6_000]) for key, value in config.items()]
        client.log_batch(self.id, params=params, synchronous=True)

    def log(self, entries: list[Entry]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [
            Metric(name, value, now, entry["step"])
            for entry in entries
            for name, value in entry.items()
            if name != "step"
        ]
        self._client.log_batch(self.id, metrics=metrics, synchronous=True)

    def finish(self, outcome: Outcome, result: dict[str, Any]) -> None:
        from mlflow.entities import RunTag

        result = {re.sub(r"[^\w\-. /:]", "_", name): value for name, value in result.items()}
        # A figure with a curve, such as train_loss, would only repeat its last step. A sweep that
        # went on has other figures by now.
        known = self._client.get_run(self.id).data.metrics
        figures = {name: float(v) for name, v in result.items() if isinstance(v, Real)}
        new = {name: value for name, value in figures.items() if known.get(name) != value}
        self.log([new | {"step": result.get("steps", 0)}])
        words = [RunTag(name, value) for name, value in result.items() if isinstance(value, str)]
        self._client.log_batch(self.id, tags=words, synchronous=True)
        status = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}[outcome]
        self._client.set_terminated(self.id, status)
