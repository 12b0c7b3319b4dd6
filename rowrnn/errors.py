"""Errors that a user can act on, each with the exit code the command line gives it.

Every message names the thing, its value, what would be right and what to do next. The command
line prints the message without a traceback (``--debug`` shows it) and exits with ``exit_code``.
`shown`, `cut`, `nearest` and `count` are the words that all messages share, and `say` and `tell`
print a line as a terminal takes it.
"""

import difflib
import shutil
import sys
import textwrap
from collections.abc import Iterable
from typing import IO, Any

NAME = r"\w[\w .+-]{0,59}"
"""What data that was given as arrays may be called."""
# Most characters of a value or a name in a message.
_MOST_SHOWN = 60


class RowRNNError(Exception):
    """Base of every error rowrnn raises on purpose.

    Attributes:
        exit_code: of the command line.
        on_all: whether all processes of a job raise it, of which process 0 says it.
    """

    exit_code = 1
    on_all = False


class ConfigError(RowRNNError):
    """A flag, a config file or a combination of values is wrong."""

    exit_code = 2


class DataError(RowRNNError):
    """A dataset or picture is missing, damaged or not what it claims to be."""

    exit_code = 3


class RunError(RowRNNError):
    """A run directory or checkpoint is missing, in use, damaged or does not fit."""

    exit_code = 4


class DamagedError(RunError):
    """Nothing that was saved is intact: it does not match its digest or cannot be parsed."""


class DivergedError(RowRNNError):
    """The loss or a gradient stopped being finite."""

    exit_code = 5
    on_all = True


class JobError(RowRNNError):
    """A process of a job was lost, or could not join it."""

    exit_code = 7


UNEXPECTED = 70
"""Exit code of an error that nobody expected, of which the traceback is kept."""


class StoppedError(RowRNNError):
    """A signal ended the run after it was saved; ``--resume`` goes on from there."""

    exit_code = 75
    on_all = True


def shown(value: Any) -> str:
    """A value in a message, as Python writes it, cut where it is long.

    >>> shown("cosine"), shown(10**10_000)
    ("'cosine'", 'a huge int')
    """
    try:
        return cut(repr(value))
    except (ValueError, RecursionError):  # An integer of thousands of digits, or tables in tables.
        return f"a huge {type(value).__name__}"


def cut(text: str) -> str:
    """A text, cut where it is too long for a message."""
    return text if len(text) <= _MOST_SHOWN else text[: _MOST_SHOWN - 1] + "…"


def nearest(name: Any, valid: Iterable[str], otherwise: str | None = None) -> str:
    """A hint at the nearest valid name; where none is near, all of them, or `otherwise`."""
    valid = list(valid)
    close = difflib.get_close_matches(name if isinstance(name, str) else "", valid, n=1)
    if close:
        return f"; did you mean {close[0]}?"
    return f"; valid names: {', '.join(valid)}" if otherwise is None else otherwise


def count(number: int, noun: str) -> str:
    """A number of things.

    >>> count(1, "seed"), count(1200, "seed"), count(2, "class")
    ('1 seed', '1,200 seeds', '2 classes')
    """
    plural = "es" if noun.endswith("s") else "s"
    return f"{number:,} {noun}{'' if number == 1 else plural}"


def say(text: str) -> None:
    """Prints a line of rowrnn's own on stderr."""
    tell(f"rowrnn: {plain(text)}", sys.stderr)


def tell(line: str, stream: IO[str]) -> None:
    """Prints a line, on a terminal as several where it is too long for it."""
    print(fold(line) if stream.isatty() else line, file=stream)


def fold(text: str) -> str:
    """Text without lines longer than the terminal, broken between words alone.

    A blank line stays where it is; lines that follow each other are one paragraph, and all are
    indented as the first.
    """
    wrapper = textwrap.TextWrapper(
        shutil.get_terminal_size().columns,
        subsequent_indent=" " * (len(text) - len(text.lstrip(" "))),
        break_long_words=False,
        break_on_hyphens=False,
    )
    return "\n\n".join(map(wrapper.fill, text.split("\n\n")))


def plain(text: str) -> str:
    """Text without control characters, which a file name could smuggle to the terminal.

    >>> plain("one\\x1b[2J\\ntwo")
    'one\\\\x1b[2J\\\\ntwo'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
