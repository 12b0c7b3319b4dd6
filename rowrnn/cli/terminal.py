"""What all commands share: arguments to a dataclass, and words to the terminal."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, TypeVar

import tyro

_Arguments = TypeVar("_Arguments")

Flag = Annotated[bool, tyro.conf.FlagCreatePairsOff]
"""A switch that is off unless given: there is no --no-switch."""


@dataclass(frozen=True, kw_only=True)
class Common:
    """The arguments that every command takes."""

    json: Flag = False
    """Print the result as one JSON value on the last line of stdout."""
    debug: Flag = False
    """Show a traceback with an error."""


def parse(
    command: str,
    kind: type[_Arguments],
    arguments: Sequence[str],
    default: _Arguments | None = None,
) -> _Arguments:
    """Arguments to a dataclass; prints what is wrong and exits with 2 where they are no good."""
    return tyro.cli(
        kind,
        prog=f"rowrnn {command}",
        args=arguments,
        default=default if default is not None else tyro.MISSING_NONPROP,
    )


def say(text: str) -> None:
    """Prints a line of rowrnn's own on stderr."""
    print(f"rowrnn: {plain(text)}", file=sys.stderr)


def plain(text: str) -> str:
    """Text without control characters, which a file name could smuggle to the terminal."""
    return "".join(c if c.isprintable() or c == "\n" else f"\\x{ord(c):02x}" for c in text)
