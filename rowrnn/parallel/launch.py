"""Starts the processes of one job on this machine and looks after them until all have ended.

What runs in them is not its concern: it knows commands, signals, lines and exit codes.
"""

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import IO

from rowrnn.errors import ConfigError, JobError, StoppedError

_POLL_S = 0.05
# From SIGTERM to SIGKILL.
_TERM_S = 5.0
# For helpers that processes have left behind, and then for the last lines of all.
_HELPERS_S = 1.0
_LINES_S = 2.0

# The one lock for stdout and stderr, which may be the same terminal.
_printing = threading.Lock()

_Child = subprocess.Popen[bytes]


def launch(
    commands: Sequence[Sequence[str]], tell: Callable[[str], object], *, grace_s: float = 20.0
) -> int:
    """Runs a process for each command, until all have ended; returns the worst exit code.

    The stdout of process 0 goes to stdout as it is; every other line goes to stderr, with the
    number of its process before it. Signals that ask this process to end are passed on; outside the
    main thread, where Python accepts no signal handlers, none are.

    Args:
        commands: program and arguments of each process.
        tell: is called at the end with a sentence about each process that a signal has killed.
        grace_s: seconds the others have to end by themselves after one has failed.

    Raises `ConfigError` where one cannot be started. However this ends, no process is left.
    """
    children: list[_Child] = []
    readers: list[_Reader] = []
    with _signals() as signals:
        try:
            for index, command in enumerate(commands):
                children.append(_start(index, command))
                for reader in _readers(index, children[-1]):
                    reader.start()
                    readers.append(reader)
            _supervise(children, signals, grace_s)
            _end_helpers(children)
        finally:
            _kill(children)
            _finish(readers)
    for index, child in enumerate(children):
        if child.returncode < 0:
            tell(f"process {index} was killed by {_name(-child.returncode)}")
    return worst(child.returncode for child in children)


def worst(codes: Iterable[int]) -> int:
    """The exit code of a job whose processes have these, negative where a signal has killed one.

    From best to worst: 0; 75, saved and stopped; 7, lost or a consequence of that; all others, by
    number, which say what has gone wrong; 130, left without saving.

    >>> worst([0, 75, 0]), worst([75, 7, 0]), worst([7, 3, 5]), worst([5, 130]), worst([0, -9])
    (75, 7, 5, 130, 7)
    """
    lost = JobError.exit_code
    rank = {0: -3, StoppedError.exit_code: -2, lost: -1, 128 + signal.SIGINT: 256}
    return max(
        (code if code >= 0 else lost for code in codes), key=lambda code: rank.get(code, code)
    )


@contextlib.contextmanager
def _signals() -> Iterator[queue.SimpleQueue[int]]:
    """Collects the signals that ask this process to end.

    A handler does no more than that, since it can come between any two instructions.
    """
    came: queue.SimpleQueue[int] = queue.SimpleQueue()
    before = {}
    if threading.current_thread() is threading.main_thread():
        # The last two are those of a terminal that closes, and of its Ctrl-\.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # nohup.
                before[number] = signal.signal(number, lambda number, _: came.put(number))
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _start(index: int, command: Sequence[str]) -> _Child:
    environment = os.environ | {"ROWRNN_LAUNCHER": str(os.getpid()), "PYTHONUNBUFFERED": "1"}
    # One GPU for each; no effect on CPUs.
    environment.setdefault("JAX_LOCAL_DEVICE_IDS", str(index))
    try:
        return subprocess.Popen(
            command,
            bufsize=0,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            start_new_session=True,  # The signals of the terminal come by way of this process.
        )
    except OSError as error:
        raise ConfigError(
            f"process {index} of the job could not be started ({error.strerror}: {command[0]}); "
            "what was started is ended; start fewer, or another command"
        ) from error


def _readers(index: int, child: _Child) -> Iterator["_Reader"]:
    assert child.stdout is not None
    assert child.stderr is not None
    prefix = f"[{index}] ".encode()
    if index == 0:
        yield _Reader(child.stdout, sys.stdout.fileno(), b"")
    else:
        yield _Reader(child.stdout, sys.stderr.fileno(), prefix)
    yield _Reader(child.stderr, sys.stderr.fileno(), prefix)


class _Reader(threading.Thread):
    """Copies bytes line by line, each line in one piece, until the last writer has gone."""

    def __init__(self, source: IO[bytes], sink: int, prefix: bytes):
        super().__init__(daemon=True)
        self._source, self._sink, self._prefix = source, sink, prefix
        self._rest = b""

    def run(self) -> None:
        with self._source:
            while chunk := self._source.read(65_536):
                *lines, self._rest = (self._rest + chunk).split(b"\n")
                if lines:
                    _print(self._sink, b"".join(self._prefix + line + b"\n" for line in lines))
        self.print_rest()

    def print_rest(self) -> None:
        """Prints what has come of a line that will not be ended any more."""
        rest, self._rest = self._rest, b""
        if rest:
            _print(self._sink, self._prefix + rest + (b"\n" if self._prefix else b""))


def _print(sink: int, text: bytes) -> None:
    # Where nobody reads it any more, the process that writes it shall not stop for that.
    with _printing, contextlib.suppress(OSError):
        while text:
            text = text[os.write(sink, text) :]


def _supervise(children: Sequence[_Child], signals: queue.SimpleQueue[int], grace_s: float) -> None:
    """Waits until all have ended; passes signals on, and makes an end when one has failed."""
    failed_at = None
    due = [(grace_s, signal.SIGTERM), (grace_s + _TERM_S, signal.SIGKILL)]
    while running := [child for child in children if child.poll() is None]:
        with contextlib.suppress(queue.Empty):
            number = signals.get(timeout=_POLL_S)
            for child in running:
                child.send_signal(number)
        if failed_at is None and any(child.returncode for child in children):
            failed_at = time.monotonic()
        while failed_at is not None and due and time.monotonic() - failed_at >= due[0][0]:
            _, number = due.pop(0)
            for child in running:
                child.send_signal(number)


def _end_helpers(children: Sequence[_Child]) -> None:
    """Asks processes that the children have started to end too, and gives them a moment.

    Only when all children have ended: till then they may serve the others.
    """
    deadline = time.monotonic() + _HELPERS_S
    left = [child for child in children if _signal_group(child, signal.SIGTERM)]
    while any(_signal_group(child, 0) for child in left) and time.monotonic() < deadline:
        time.sleep(_POLL_S)


def _kill(children: Sequence[_Child]) -> None:
    for child in children:
        _signal_group(child, signal.SIGKILL)
    for child in children:
        child.wait()


def _signal_group(child: _Child, number: int) -> bool:
    """Sends a signal to a child and its helpers; whether there are any."""
    try:
        os.killpg(child.pid, number)
    except (ProcessLookupError, PermissionError):  # macOS does not permit it for a zombie.
        return False
    return True


def _finish(readers: Sequence[_Reader]) -> None:
    """Waits for the last lines, but not for ever: a stranger may hold a pipe open."""
    deadline = time.monotonic() + _LINES_S
    for reader in readers:
        reader.join(max(0.0, deadline - time.monotonic()))
        reader.print_rest()


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # Those of real time have none.
        return f"signal {number}"
