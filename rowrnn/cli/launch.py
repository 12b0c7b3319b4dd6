"""``rowrnn launch``."""

import re
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from tyro.conf import arg

from rowrnn.cli.terminal import Flag, parse, say
from rowrnn.config import nearest, shown
from rowrnn.errors import ConfigError
from rowrnn.parallel.launch import launch

_COMMANDS = ("train", "sweep", "eval")
_MOST = 1024
_USAGE = "rowrnn launch -n 4 -- train experiments/quickstart.toml"
_OWN_OPTION = re.compile(r"--parallel[._-](coordinator|processes|process)(=.*)?", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class LaunchArguments:
    """Run train, sweep or eval as one job in several processes on this machine, for trial and test.

    rowrnn launch -n 4 -- COMMAND ARGUMENTS starts rowrnn COMMAND ARGUMENTS four times, and each
    process knows of the others; --json and the like belong to that command. Its result goes to
    stdout, all else to stderr with the number of the process before it. Ctrl-C saves and stops;
    again leaves at once. The exit code is the worst of all.
    """

    processes: Annotated[int, arg(aliases=["-n"], metavar="N")]
    """How many processes, from 1 to 1024."""
    debug: Flag = False
    """Show a traceback with an error of the launch itself."""


def main(arguments: Sequence[str]) -> int:
    """Starts the processes of a job, and waits for them."""
    own, command = _split(arguments)
    count = parse("launch", LaunchArguments, own).processes
    if not 1 <= count <= _MOST:
        raise ConfigError(f"launch -n {shown(count)}: must be an integer from 1 to {_MOST}")
    _check(command)
    address = f"127.0.0.1:{_free_port()}"
    return launch([_command_of(k, count, address, command) for k in range(count)], say)


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
