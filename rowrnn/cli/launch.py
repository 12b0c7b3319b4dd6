"""``rowrnn launch``: a job in several processes on this machine."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Annotated

from tyro.conf import arg

from rowrnn.cli.terminal import Flag, parse, say
from rowrnn.errors import ConfigError, JobError, StoppedError, nearest, shown

_COMMANDS = ("train", "sweep", "eval")
_MOST = 1024
_USAGE = "rowrnn launch -n 4 -- train quickstart"
_OWN_OPTION = re.compile(r"--parallel[._-](coordinator|processes|process)(=.*)?", re.DOTALL)

# Seconds that the others have to end by themselves after one has failed, and then after SIGTERM;
# and seconds that lines may take which are on their way when all have ended.
_GRACE_S = 20.0
_TERM_S = 5.0
_LINES_S = 2.0
_POLL_S = 0.05

# One lock for stdout and stderr, which may be the same terminal.
_printing = threading.Lock()

_Child = subprocess.Popen[bytes]


@dataclass(frozen=True, kw_only=True)
class LaunchArguments:
    """Run train, sweep or eval as one job in several processes on this machine, for trial and test.

    rowrnn launch -n 4 -- COMMAND ARGUMENTS starts rowrnn COMMAND ARGUMENTS four times, and each
    process knows of the others; --json and the like belong to that command. Its result goes to
    stdout, all else to stderr with the number of the process before it. Ctrl-C saves and stops;
    again leaves at once. The exit code is the worst of all; 7 where a process was lost.
    """

    processes: Annotated[int, arg(aliases=["-n"], metavar="N")]
    """How many processes, from 1 to 1,024."""
    debug: Flag = False
    """Show a traceback with an error of the launch itself."""


def main(arguments: Sequence[str]) -> int:
    """Starts the processes of a job, and waits for them."""
    own, command = _split(arguments)
    count = parse("launch", LaunchArguments, own).processes
    if not 1 <= count <= _MOST:
        raise ConfigError(f"launch -n {shown(count)}: must be an integer from 1 to {_MOST:,}")
    _check(command)
    address = f"127.0.0.1:{_free_port()}"
    return launch([_command_of(k, count, address, command) for k in range(count)])


def _split(arguments: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
    """What stands before the first ``--``, and what after it."""
    if "--" in arguments:
        at = arguments.index("--")
        return arguments[:at], arguments[at + 1 :]
    if not {"-h", "--help"} & set(arguments):
        raise ConfigError(f"launch needs a command after a --, such as in: {_USAGE}")
    return arguments, ()


def _check(command: Sequence[str]) -> None:
    if not command:
        raise ConfigError(f"launch -- has no command after it; give one, such as in: {_USAGE}")
    if command[0] not in _COMMANDS:
        raise ConfigError(
            f"launch -- {shown(command[0])}: only train, sweep and eval run in several processes"
            f"{nearest(command[0], _COMMANDS, '')}"
        )
    for argument in command:
        if _OWN_OPTION.fullmatch(argument):
            raise ConfigError(
                f"launch -- {command[0]} {shown(argument)}: launch gives each process its own; "
                "leave it out"
            )


def _free_port() -> int:
    """A port that nobody listens on, or did not a moment ago."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def _command_of(index: int, count: int, address: str, command: Sequence[str]) -> list[str]:
    """The command line of a process; its options stand first, since a ``--`` may follow.

    With ``-P``, as in all processes that rowrnn starts, nothing in the current directory is taken
    for a module.
    """
    return [
        *(sys.executable, "-P", "-m", "rowrnn", command[0]),
        *("--parallel.coordinator", address),
        *("--parallel.processes", str(count)),
        *("--parallel.process", str(index)),
        *command[1:],
    ]


def launch(commands: Sequence[Sequence[str]], grace_s: float = _GRACE_S) -> int:
    """Runs a process for each command, until all have ended; returns the worst exit code.

    The stdout of process 0 goes to stdout as it is; every other line goes to stderr, with the
    number of its process before it. SIGINT and SIGTERM are passed on.

    Args:
        commands: program and arguments of each process.
        grace_s: seconds the others have to end by themselves after one has failed.

    Raises `ConfigError` where one cannot be started. However this ends, no process is left; where
    it is killed, those of rowrnn notice.
    """
    children: list[_Child] = []
    readers: list[threading.Thread] = []
    with _signals() as signals:
        try:
            for index, command in enumerate(commands):
                children.append(_start(index, command))
                readers += _readers(index, children[-1])
            first = _supervise(children, signals, grace_s)
        finally:
            for child in children:
                _kill(child)
            deadline = time.monotonic() + _LINES_S
            for reader in readers:
                reader.join(max(0.0, deadline - time.monotonic()))
    for index, child in enumerate(children):
        if child.returncode < 0:
            number = -child.returncode
            say(f"process {index} was ended by signal {number} ({signal.strsignal(number)})")
    return worst(first, [child.returncode for child in children])


def worst(first: int, codes: Iterable[int]) -> int:
    """The exit code of a job.

    From best to worst: 0; 75, saved and stopped; 7, ended by a signal, as jax does it where another
    was lost; all others, by number, which say what has gone wrong; 130, left without saving. But 7
    where the first was lost, since then the others say what comes of that.

    Args:
        first: exit code of the process that was the first to fail, negative where a signal has
            ended it; 0 where none has failed.
        codes: exit codes of all processes.

    >>> worst(75, [0, 75]), worst(75, [75, 7]), worst(3, [-6, 3, 5]), worst(130, [5, 130])
    (75, 7, 5, 130)
    >>> worst(-9, [4, -9])
    7
    """
    lost = JobError.exit_code
    if first < 0:
        return lost
    rank = {0: -3, StoppedError.exit_code: -2, lost: -1, 128 + signal.SIGINT: 256}
    return max(
        (code if code >= 0 else lost for code in codes), key=lambda code: rank.get(code, code)
    )


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
    """Collects the signals that ask this process to end."""
    came: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda number, _: came.append(number)) for number in numbers]
    try:
        yield came
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def _start(index: int, command: Sequence[str]) -> _Child:
    environment = os.environ | {"ROWRNN_LAUNCHER": str(os.getpid()), "PYTHONUNBUFFERED": "1"}
    # One GPU for each; no effect on CPUs.
    environment.setdefault("JAX_LOCAL_DEVICE_IDS", str(index))
    try:
        return subprocess.Popen(
            command,
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


def _readers(index: int, child: _Child) -> Iterator[threading.Thread]:
    """Threads that print what a process says."""
    assert child.stdout is not None
    assert child.stderr is not None
    prefix = f"[{index}] ".encode()
    out, err = sys.stdout.fileno(), sys.stderr.fileno()
    first = (child.stdout, out, b"") if index == 0 else (child.stdout, err, prefix)
    for arguments in (first, (child.stderr, err, prefix)):
        reader = threading.Thread(target=_copy, args=arguments, daemon=True)
        reader.start()
        yield reader


def _copy(source: IO[bytes], sink: int, prefix: bytes) -> None:
    """Copies bytes line by line, each in one piece, until the last writer has gone."""
    with source:
        for line in source:
            text = prefix + line
            if prefix and not line.endswith(b"\n"):
                text += b"\n"
            # A process that writes shall not stop because nobody reads it any more.
            with _printing, contextlib.suppress(OSError):
                while text:
                    text = text[os.write(sink, text) :]


def _supervise(children: Sequence[_Child], signals: list[int], grace_s: float) -> int:
    """Waits until all have ended; passes signals on, and makes an end when one has failed.

    Returns the exit code of the first that has failed.
    """
    first, failed_at = 0, 0.0
    due = [(grace_s, signal.SIGTERM), (grace_s + _TERM_S, signal.SIGKILL)]
    while True:
        running, now = [child for child in children if child.poll() is None], time.monotonic()
        if not first:
            first = next((child.returncode for child in children if child.returncode), 0)
            failed_at = now
        if not running:
            return first
        if first and due and now - failed_at >= due[0][0]:
            signals.append(due.pop(0)[1])
        while signals:
            number = signals.pop(0)
            for child in running:
                child.send_signal(number)
        time.sleep(_POLL_S)


def _kill(child: _Child) -> None:
    """Ends a process, and what it has started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):  # The latter on macOS.
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
