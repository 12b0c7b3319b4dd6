"""Processes that measure: started, asked one thing at a time, and ended with their parent.

What is timed runs in a process of its own, so that a peer brings its own threads, flags and
allocator, and so that rowrnn can be held to some cores. Parent and child speak in lines of JSON
over stdin and stdout. A child that is not asked anything waits for its stdin and leaves the cores
to the others.

An accelerator is held by one process: there all that take turns are roles of the same process.
"""

import contextlib
import functools
import itertools
import json
import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rowrnn.errors import RowRNNError

# Seconds for which a process may do nothing before it is given up; one that computes may take as
# long as the machine needs. Between two looks at whether it does.
_PATIENCE_S, _LOOK_S = 300.0, 5.0


class ChildError(RowRNNError):
    """A process that measures has failed, ended or taken too long."""

    exit_code = 7


class NotInstalledError(ChildError):
    """What the child needs is not installed."""


class Child:
    """A role in a process that runs `rowrnn.bench.worker`; one of its own, as a rule.

    Attributes:
        role: the module that does the work.
    """

    _numbers = itertools.count()

    def __init__(
        self,
        role: str,
        options: Mapping[str, Any],
        *,
        cpus: list[int] | None = None,
        env: Mapping[str, str] | None = None,
        within: "Child | None" = None,
    ):
        """Starts the process; `facts` waits until it is ready.

        Args:
            role: name of a module with a function `start`.
            options: keyword arguments of that function, as JSON can hold them.
            cpus: the cores that the process is held to; all where not given.
            env: environment variables on top of this process's own.
            within: whose process takes this role too; it must outlive this one.
        """
        self.role, self._number, self._is_owner = role, next(self._numbers), within is None
        if within is not None:
            self._log, self._process = within._log, within._process
            self._request(role=role, options=options)
            assert self.facts is not None  # Answers come in the order of the questions.
            return
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (closed in `__exit__`)
        orders = {"role": role, "options": options, "cpus": cpus, "to": self._number}
        # Several libraries share an accelerator: none may take all of its memory.
        share = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "TF_FORCE_GPU_ALLOW_GROWTH": "true"}
        environment = os.environ | share | dict(env or {})
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "rowrnn.bench.worker", json.dumps(orders)],
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

    def ask(self, do: str, *arguments: Any, patience: float = _PATIENCE_S) -> Any:
        """Has the child do something and returns its answer."""
        assert self.facts is not None
        self.send(do, *arguments)
        return self.receive(patience)

    def send(self, do: str, *arguments: Any) -> None:
        """Has the child begin; `receive` gives the answer, and must come before the next `send`."""
        self._request(do=do, arguments=arguments)

    def _request(self, **request: Any) -> None:
        assert self._process.stdin is not None
        # A child that has ended says why when its answer is read.
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps({"to": self._number, **request}) + "\n")
            self._process.stdin.flush()

    def receive(self, patience: float = _PATIENCE_S) -> Any:
        """The answer to what was sent; a child that does nothing for so many seconds is killed."""
        stdout = self._process.stdout
        assert stdout is not None
        for seconds in _while_busy(self._process.pid, patience):
            if select.select([stdout], [], [], seconds)[0]:
                break
        else:
            self._process.kill()
            raise ChildError(f"{self.role} failed: it has done nothing for {patience:g} s")
        line = stdout.readline()
        if not line:
            raise ChildError(f"{self.role} failed: {self._last_words()}")
        answer = json.loads(line)
        if "missing" in answer:
            raise NotInstalledError(answer["missing"])
        if "error" in answer:
            raise ChildError(f"{self.role} failed: {answer['error']}")
        return answer["answer"]

    def __enter__(self) -> "Child":
        return self

    def __exit__(self, *_: object) -> None:
        if not self._is_owner:
            self._request(end=True)  # Makes room on the device.
            return
        # Closing flushes what is left to write, which fails where the child is dead.
        with self._log, contextlib.suppress(BrokenPipeError), self._process:
            self._process.kill()

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
    """Whether there are several cores and the system lets a process be held to some of them."""
    return hasattr(os, "sched_setaffinity") and len(cores()) > 1


def taken_by_others() -> float | None:
    """Seconds of all cores that other programs have used so far; None where nobody can tell.

    Children count as own once they have ended.
    """
    try:
        fields = Path("/proc/stat").read_text(encoding="utf-8").split()
    except OSError:
        return None
    times = os.times()
    own = times.user + times.system + times.children_user + times.children_system
    # user, nice and system, in ticks.
    return sum(map(int, fields[1:4])) / os.sysconf("SC_CLK_TCK") - own


def run_program(
    command: list[str], *, env: Mapping[str, str], patience: float = _PATIENCE_S
) -> str:
    """Runs a whole program and returns its stdout.

    Raises `ChildError` where it fails, or does nothing for so many seconds.
    """
    name = " ".join(command[1:4])
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=os.environ | dict(env), **pipes) as process:
        try:
            for seconds in _while_busy(process.pid, patience):
                with contextlib.suppress(subprocess.TimeoutExpired):
                    stdout, stderr = process.communicate(timeout=seconds)
                    break
            else:
                raise ChildError(f"{name}: it has done nothing for {patience:g} s")
        finally:
            process.kill()  # Where it has not ended: on Ctrl-C too.
    if process.returncode:
        last = (stderr.strip().splitlines() or ["nothing on stderr"])[-1]
        raise ChildError(f"{name}: status {process.returncode}: {last}")
    return stdout


def _while_busy(pid: int, patience: float) -> Iterator[float]:
    """Seconds to wait, again and again, until a process has done nothing for so long.

    Where the system does not say what a process does, that is to wait at all.
    """
    idle, before = 0.0, _processor_s(pid)
    while idle < patience:
        seconds = min(_LOOK_S, patience - idle)
        yield seconds
        now = _processor_s(pid)
        # A process that waits for ever still wakes up now and then.
        is_busy = now is not None and before is not None and now - before > 0.01 * seconds
        idle, before = 0.0 if is_busy else idle + seconds, now


def _processor_s(pid: int) -> float | None:
    """Seconds of all cores that a process has used; None where nobody can tell."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return None
    # The name of the program may hold anything; user and system, in ticks, come after it.
    fields = status.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
