"""What all commands share: arguments to a dataclass, and words to the terminal."""

import contextlib
import dataclasses
import io
import itertools
import sys
import typing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import tyro

from rowrnn import config as configs
from rowrnn.config import Config, cut, nearest
from rowrnn.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console

_Arguments = TypeVar("_Arguments")

Flag = Annotated[bool, tyro.conf.FlagCreatePairsOff]
"""A switch that is off unless given: there is no --no-switch."""


@dataclass(frozen=True, kw_only=True)
class Common:
    """The arguments of every command that has a result."""

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
    _check_options(command, kind, arguments)
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(
                kind,
                prog=f"rowrnn {command}",
                args=arguments,
                default=default if default is not None else tyro.MISSING_NONPROP,
            )
    except SystemExit:
        text = complaint.getvalue()
        # tyro repeats what it was given; otherwise its own colours are all that is not plain.
        if not "".join(arguments).isprintable():
            text = "\n".join(map(plain, text.split("\n")))
        print(text, end="", file=sys.stderr)
        raise


def _check_options(command: str, kind: type, arguments: Sequence[str]) -> None:
    """Raises `ConfigError` for the first option that is none, with the nearest that is one, and for
    the first that gives a value of the config which it cannot have.

    tyro would say so too, but only after a third of a second.
    """
    options = dict(options_of(kind))
    given = itertools.takewhile(lambda argument: argument != "--", arguments)
    for argument, after in itertools.pairwise([*given, "--"]):
        name, equals, value = argument.partition("=")
        if not name.startswith("--"):
            continue
        option = name.replace("_", "-")
        if option not in options:
            hint = nearest(name, sorted(options), f"; rowrnn {command} --help shows all")
            raise ConfigError(f"{command} has no option {cut(name)}{hint}")
        field, text = options[option], value if equals else after
        if field and text != "None" and (equals or not text.startswith("--")):
            configs.check_value(field, configs.parse_value(field, text))


def options_of(kind: type, section: str = "") -> Iterator[tuple[str, str]]:
    """Each option of a dataclass of arguments, such as --model.layers, with the dotted name of the
    value of the config that it takes; "" where it takes none, as a switch does."""
    hints = typing.get_type_hints(kind, include_extras=True)
    sections = {each.type for each in dataclasses.fields(Config)}
    for field in dataclasses.fields(kind):
        marks = getattr(hints[field.name], "__metadata__", ())
        bare = typing.get_args(hints[field.name])[0] if marks else hints[field.name]
        if tyro.conf.Positional in marks:
            continue
        if dataclasses.is_dataclass(bare):
            # The sections of a config stand beside the other options, without a name of its own.
            yield from options_of(typing.cast(type, bare), "" if bare is Config else field.name)
            continue
        names = [field.name]
        for mark in marks:
            names[0] = getattr(mark, "name", None) or names[0]
            aliases = getattr(mark, "aliases", None) or ()
            names += [alias[2:] for alias in aliases if alias.startswith("--")]
        if bare is bool and tyro.conf.FlagCreatePairsOff not in marks:
            names.append(f"no-{field.name}")
        takes = f"{section}.{field.name}" if kind in sections and bare is not bool else ""
        for name in names:
            yield f"--{section}.{name}".replace("--.", "--").replace("_", "-"), takes
    if not section:
        yield "--help", ""


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


def duration(seconds: float) -> str:
    """A time in words.

    >>> duration(41.2), duration(1620), duration(9000)
    ('41 s', '27 min', '2.5 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"


def say(text: str) -> None:
    """Prints a line of rowrnn's own on stderr."""
    print(f"rowrnn: {plain(text)}", file=sys.stderr)


def plain(text: str) -> str:
    """Text without control characters, which a file name could smuggle to the terminal.

    >>> plain("one\\x1b[2J\\ntwo")
    'one\\\\x1b[2J\\\\ntwo'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
