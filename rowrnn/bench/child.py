"""Processes that measure: started, asked one thing at a time, and ended with their parent.

What is timed runs in a process of its own, so that a peer brings its own threads, flags and
allocator, and so that rowrnn can be held to some cores. Parent and child speak in lines of JSON
over stdin and stdout. A child that is not asked anything waits for its stdin and leaves the cores
to the others.
"""

import contextlib
import functools
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rowrnn.errors import RowRNNError

# Importing TensorFlow and compiling on a busy machine takes a while; nothing takes as long.
_TIMEOUT_S = 300.0


class ChildError(RowRNNError):
    """A process that measures has failed, ended or taken too long."""

    exit_code = 7


class NotInstalledError(ChildError):
    """What the child needs is not installed."""


class Child:
    """A process that runs `rowrnn.bench.worker` for one role.

    Attributes:
        role: the module that does the work.
    """

    def __init__(
        self,
        role: str,
        options: Mapping[str, Any],
        *,
        cpus: list[int] | None = None,
        env: Mapping[str, str] | None = None,
    ):
        """Starts the process; `facts` waits until it is ready.

        Args:
            role: name of a module with a function `start`.
            options: keyword arguments of that function, as JSON can hold them.
            cpus: the cores that the process is held to; all where not given.
            env: environment variables on top of this process's own.
        """
        self.role = role
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (closed in `close`)
        orders = json.dumps({"role": role, "options": options, "cpus": cpus})
        # Several processes share an accelerator in turn: none may take all of its memory.
        environment = os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"} | dict(env or {})
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "rowrnn.bench.worker", orders],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=environment,
            text=True,
            encoding="utf-8",
        )

    @functools.cached_property
    def facts(self) -> dict[str, Any]:
        """What the child says of itself when it is ready.

        Raises `NotInstalledError` where it lacks a library, `ChildError` where it failed.
        """
        return self.receive()

    def ask(self, do: str, *arguments: Any, timeout: float = _TIMEOUT_S) -> Any:
        """Has the child do something and returns its answer."""
        assert self.facts is not None
        self.send(do, *arguments)
        return self.receive(timeout)

    def send(self, do: str, *arguments: Any) -> None:
        """Has the child begin; `receive` gives the answer."""
        assert self._process.stdin is not None
        # A child that has ended says why when its answer is read.
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps({"do": do, "arguments": arguments}) + "\n")
            self._process.stdin.flush()

    def receive(self, timeout: float = _TIMEOUT_S) -> Any:
        """The next answer; a child that takes longer than `timeout` seconds is killed."""
        assert self._process.stdout is not None
        late = threading.Event()

        def give_up() -> None:
            late.set()
            self._process.kill()

        timer = threading.Timer(timeout, give_up)
        timer.start()
        try:
            line = self._process.stdout.readline()
        finally:
            timer.cancel()
        if not line:
            reason = f"no answer within {timeout:g} s" if late.is_set() else self._last_words()
            raise ChildError(f"{self.role} failed: {reason}")
        answer = json.loads(line)
        if "missing" in answer:
            raise NotInstalledError(answer["missing"])
        if "error" in answer:
            raise ChildError(f"{self.role} failed: {answer['error']}")
        return answer["answer"]

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            # What a dead child has not read cannot be flushed.
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
        self._log.close()

    def __enter__(self) -> "Child":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _last_words(self) -> str:
        """The exit status and the last line that went to stderr."""
        status = self._process.wait()
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        return f"ended with status {status}" + (f": {lines[-1]}" if lines else "")


def cores() -> list[int]:
    """The cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def can_pin() -> bool:
    """Whether the system lets a process be held to some cores."""
    return hasattr(os, "sched_setaffinity")


@dataclass(frozen=True)
class Usage:
    """Seconds up to a moment, to tell what other programs took.

    Attributes:
        wall: of the clock.
        own: of cores, by this process and its children that have ended.
        machine: of cores, by everyone; None where the system does not tell.
    """

    wall: float
    own: float
    machine: float | None

    @classmethod
    def now(cls) -> "Usage":
        """The present moment."""
        times = os.times()
        own = times.user + times.system + times.children_user + times.children_system
        try:
            fields = Path("/proc/stat").read_text(encoding="utf-8").split()
        except OSError:
            return cls(time.perf_counter(), own, None)
        # user, nice and system, in ticks.
        machine = sum(map(int, fields[1:4])) / os.sysconf("SC_CLK_TCK")
        return cls(time.perf_counter(), own, machine)

    def others_since(self, before: "Usage") -> float | None:
        """Cores that other programs kept busy between two moments, on average."""
        if self.machine is None or before.machine is None:
            return None
        others = (self.machine - before.machine) - (self.own - before.own)
        return max(0.0, others / (self.wall - before.wall))


def run_program(command: list[str], *, env: Mapping[str, str], timeout: float) -> str:
    """Runs a whole program and returns its stdout; raises `ChildError` where it fails."""
    name = " ".join(command[1:4])
    try:
        done = subprocess.run(
            command,
            env=os.environ | dict(env),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=True,
        )
    except subprocess.TimeoutExpired as error:
        raise ChildError(f"{name}: not done within {timeout:g} s") from error
    except subprocess.CalledProcessError as error:
        last = (error.stderr.strip().splitlines() or ["nothing on stderr"])[-1]
        raise ChildError(f"{name}: status {error.returncode}: {last}") from error
    return done.stdout
