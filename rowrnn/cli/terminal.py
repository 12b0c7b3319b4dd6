"""What all commands share: arguments to a dataclass, and words to the terminal."""

import contextlib
import io
import itertools
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import tyro

from rowrnn.config import cut, nearest
from rowrnn.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console

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


@dataclass(frozen=True)
class DataPlace:
    """The data that the run was trained on."""

    dir: str = ""
    """Where the data lies now, where that is not what the config of the run says."""


def parse(
    command: str,
    kind: type[_Arguments],
    arguments: Sequence[str],
    default: _Arguments | None = None,
) -> _Arguments:
    """Arguments to a dataclass; prints what is wrong and exits with 2 where they are no good.

    Raises `ConfigError` for an option that the command does not have.
    """
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(
                kind,
                prog=f"rowrnn {command}",
                args=arguments,
                default=default if default is not None else tyro.MISSING_NONPROP,
            )
    except SystemExit as left:
        if left.code:
            _check_options(command, kind, arguments)
        text = complaint.getvalue()
        # tyro repeats what it was given; otherwise its own colours are all that is not plain.
        if not "".join(arguments).isprintable():
            text = "\n".join(map(plain, text.split("\n")))
        print(text, end="", file=sys.stderr)
        raise


def _check_options(command: str, kind: type, arguments: Sequence[str]) -> None:
    """Raises `ConfigError` for the first option that is none, with the nearest that is one.

    The options are read out of the command's help.
    """
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        tyro.cli(kind, args=["--help"])
    options = set(re.findall(r"--[a-z][\w.-]*", text.getvalue()))
    for argument in itertools.takewhile(lambda argument: argument != "--", arguments):
        name = argument.partition("=")[0]
        if name.startswith("--") and name.replace("_", "-") not in options:
            hint = nearest(name, sorted(options), f"; rowrnn {command} --help shows all")
            raise ConfigError(f"{command} has no option {cut(name)}{hint}")


def require_text(path: Path) -> None:
    """Raises `ConfigError` for a run directory whose name is not UTF-8; its files tell it."""
    try:
        str(path.absolute()).encode()
    except UnicodeEncodeError as error:
        raise ConfigError(
            f"run directory {path.absolute()}: its name is not UTF-8; rename it, or choose another"
        ) from error


def console(*, stderr: bool = False) -> "Console":
    """A console for tables, which takes nothing in a name for markup."""
    from rich.console import Console

    return Console(stderr=stderr, markup=False, emoji=False, highlight=False)


def can_print(text: str) -> bool:
    """Whether stdout has these characters in its encoding."""
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True


def say(text: str) -> None:
    """Prints a line of rowrnn's own on stderr."""
    print(f"rowrnn: {plain(text)}", file=sys.stderr)


def plain(text: str) -> str:
    """Text without control characters, which a file name could smuggle to the terminal.

    >>> plain("one\\x1b[2J\\ntwo")
    'one\\\\x1b[2J\\\\ntwo'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
