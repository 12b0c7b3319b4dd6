"""Weights & Biases and MLflow, which are told of a run and can never stop it.

A logger is a process of its own, ``python -m rowrnn.store.loggers``, that follows
``metrics.jsonl``. It may fail to start, find no network, raise or hang: the run says so in one
line and goes on. What it has told is in ``logger.json``, so that a run that is resumed goes on in
the same run of the service, and repeats no step.
"""

import importlib.util
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Literal

from rowrnn.errors import ConfigError

Outcome = Literal["finished", "stopped", "failed"]

# How long a run waits for its logger at its end. A signal leaves it little time.
_PATIENCE_S: dict[Outcome, float] = {"finished": 15.0, "stopped": 5.0, "failed": 5.0}


def require(kind: str) -> None:
    """Raises `ConfigError` where the package of a logger, which has its name, is not installed."""
    # A directory of that name, as wandb makes one for its files, is found too, but has no origin.
    if kind != "none" and getattr(importlib.util.find_spec(kind), "origin", None) is None:
        raise ConfigError(
            f"train.logger = {kind!r}: the package {kind} is not installed; "
            f"pip install 'rowrnn[{kind}]'"
        )


class Logger:
    """The logger of a run, in a process that is started here.

    Args:
        kind: "wandb" or "mlflow".
        directory: of the run; what is logged there from now on is only added to.

    No method raises an error, nor takes long but for `finish`. What goes wrong is a warning, once.
    """

    def __init__(self, kind: str, directory: Path):
        self._kind = kind
        self._process: subprocess.Popen[bytes] | None = None
        self._warned = False
        # Nothing that lies where the run was started is taken for a module (-P).
        command = [sys.executable, "-P", "-m", "rowrnn.store.loggers", kind, str(directory)]
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for the run alone.
            )
            assert self._process.stdout is not None
            os.set_blocking(self._process.stdout.fileno(), False)
        except OSError as error:
            self._warn(f"it was not started: {error.strerror}")

    def check(self) -> None:
        """Warns where the logger has told of a problem."""
        if self._process is None or self._warned:
            return
        assert self._process.stdout is not None
        self._hear(self._process.stdout.read(), self._process.poll())

    def finish(self, outcome: Outcome) -> None:
        """Tells how the run has ended, and waits for the logger, but not for ever."""
        process, patience = self._process, _PATIENCE_S[outcome]
        if process is None:
            return
        self._process = None
        with process:
            try:
                told, _ = process.communicate(json.dumps(outcome).encode(), timeout=patience)
                self._hear(told, process.returncode)
            except subprocess.TimeoutExpired:
                self._warn(f"it had not ended after {patience:.0f} s, and was ended")
            finally:
                process.kill()

    def _hear(self, told: bytes | None, code: int | None) -> None:
        """Warns of what the logger says, or of how it has ended."""
        if told:
            self._warn(told.decode(errors="replace").splitlines()[0])
        elif code:
            self._warn(f"it ended with exit code {code}")

    def _warn(self, problem: str) -> None:
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"logger {self._kind}: {problem}; the run goes on, and metrics.jsonl has all of it",
                stacklevel=5,
            )
