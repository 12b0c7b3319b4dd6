"""What all commands share: arguments to a dataclass, and words to the terminal."""

import contextlib
import dataclasses
import io
import itertools
import json
import re
import shutil
import sys
import textwrap
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import tyro

from rowrnn import config as configs
from rowrnn.config import Config
from rowrnn.errors import ConfigError, cut, fold, nearest, plain, say, tell

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_Arguments = TypeVar("_Arguments")

Flag = Annotated[bool, tyro.conf.FlagCreatePairsOff, tyro.conf.arg(help_behavior_hint="")]
"""A switch that is off unless given: there is no --no-switch."""


@dataclass(frozen=True, kw_only=True)
class Common:
    """The arguments of every command that has a result."""

    json: Flag = False
    """Print the result as one JSON value on the last line of stdout."""
    debug: Flag = False
    """Show a traceback with an error."""

    def answer(self, result: Any) -> None:
        """Prints the result of the command as JSON, where it is asked for."""
        if self.json:
            print(json.dumps(result))


# Arguments that several commands have.
Run = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN", help="The run directory.")]
Checkpoint = Annotated[str, tyro.conf.arg(help="last, best (on validation) or a step.")]


@dataclass(frozen=True)
class DataPlace:
    """The data that the run was trained on."""

    dir: str = ""
    """Where the data lies now, where that is not what the config of the run says."""


def parse(command: str, kind: type[_Arguments], arguments: Sequence[str]) -> _Arguments:
    """Arguments to a dataclass.

    Raises `ConfigError` where they are no good: for an option that the command does not have, with
    the nearest that it has, and for a value that the config cannot have, before tyro is asked,
    which takes a third of a second.
    """
    options = dict(options_of(kind))
    for option, text in given_options(arguments):
        if option not in options:
            hint = nearest(option, sorted(options), f"; rowrnn {command} --help shows all")
            raise ConfigError(f"{command} has no option {cut(option)}{hint}")
        field = options[option]
        if field and text not in (None, "None") and configs.fields()[field] is not bool:
            configs.parse_value(field, text)
    complaint, printed = io.StringIO(), _Captured(sys.stdout.isatty())
    try:
        with contextlib.redirect_stderr(complaint), contextlib.redirect_stdout(printed):
            return tyro.cli(kind, prog=f"rowrnn {command}", args=arguments)
    except SystemExit as left:
        if left.code:
            raise ConfigError(_in_a_sentence(command, complaint.getvalue())) from left
        # tyro folds the boxes of its help alone, not the usage and the description.
        lines = map(_fold_long, _without_empty_defaults(printed.getvalue()).split("\n"))
        print("\n".join(lines if printed.isatty() else map(str.rstrip, lines)), end="")
        raise


# Patterns of tyro's complaints, each with the sentence that replaces it.
_COMPLAINTS = {
    r"[Ii]nvalid choice '(.*)' for argument '(.+?)'\. Expected one of \((.*?),?\)":
        "{1} {0}: must be one of {2}",
    # Python leaves the end of a long text out, and with it the quote.
    r"Error parsing (\S+): .*invalid literal for int.*?: '([^']*)": "{0} {1}: must be an integer",
    r"Error parsing (\S+): .*Exceeds the limit": "{0}: must be a smaller integer",
    r"Error parsing (\S+): .*could not convert .* float: '(.*?)'": "{0} {1}: must be a number",
    r"Missing value for argument '(.+?)'": "{0} needs a value",
    r"Unrecognized options: (.*)": "unknown argument {0}",
}  # fmt: skip


def _in_a_sentence(command: str, complaint: str) -> str:
    """What tyro says is wrong, as other errors are told."""
    complaint, _, _ = complaint.partition("For full helptext")
    words = " ".join(re.sub(r"-{3,}", " ", complaint).split())
    text = textwrap.shorten(words.partition(" Argument helptext:")[0], 300, placeholder=" …")
    if words.startswith("Required options"):
        names = re.findall(r"^ {6}(\S.*?) *$", complaint, re.MULTILINE)
        text = f"{command} needs {', '.join(names)}"
    for pattern, sentence in _COMPLAINTS.items():
        if found := re.search(pattern, words):
            text = sentence.format(*map(cut, found.groups())).replace("'", "")
    return f"{text}; rowrnn {command} --help shows all"


def _without_empty_defaults(text: str) -> str:
    """The help without defaults that say nothing, and without lines that had nothing else."""
    gap = r"(?:[\s│]|\x1b\[[\d;]*m)*"

    def blank(found: re.Match[str]) -> str:
        return "\0" * len("(default:") + found[1] + "\0" * len(found[2] + ")")

    text = re.sub(rf"\(default:({gap})(None|''|)\)", blank, text)
    lines = (line for line in text.split("\n") if not re.fullmatch(rf"(?=.*\0)(?:\0|{gap})*", line))
    return "\n".join(lines).replace("\0", " ")


class _Captured(io.StringIO):
    """What is printed, in colours where it would go to a terminal."""

    def __init__(self, isatty: bool):
        super().__init__()
        self.isatty = lambda: isatty


def _fold_long(line: str) -> str:
    """A line that may have colours; folded, and without them, where it is too long."""
    visible = re.sub(r"\x1b\[[\d;]*m", "", line)
    return line if len(visible) <= shutil.get_terminal_size().columns else fold(visible)


def show_shipped(found: Mapping[str, Path]) -> None:
    """A line for each TOML file that comes with rowrnn: its name and what it is."""
    width = max(map(len, found), default=0)
    for name, path in found.items():
        tell(f"{name:{width}}  {configs.summary(path)}", sys.stdout)


def given_options(arguments: Sequence[str]) -> Iterator[tuple[str, str | None]]:
    """Each option that is given, with dashes, and its value, None where it has none."""
    before = itertools.takewhile(lambda argument: argument != "--", arguments)
    for argument, after in itertools.pairwise([*before, "--"]):
        option, equals, value = argument.partition("=")
        if option.startswith("--"):
            next_word = None if after.startswith("--") else after
            yield option.replace("_", "-"), value if equals else next_word


def options_of(kind: type, section: str = "") -> Iterator[tuple[str, str]]:
    """Each option of a dataclass of arguments, such as --model.layers, with the dotted name of the
    field of the config that it sets, "" where it sets none."""
    hints = typing.get_type_hints(kind, include_extras=True)
    sections = {each.type for each in dataclasses.fields(Config)}
    for field in dataclasses.fields(kind):
        notes = getattr(hints[field.name], "__metadata__", ())
        bare = typing.get_args(hints[field.name])[0] if notes else hints[field.name]
        if tyro.conf.Positional in notes:
            continue
        if dataclasses.is_dataclass(bare):
            # The sections of a config stand beside the other options, without a name of its own.
            yield from options_of(typing.cast(type, bare), "" if bare is Config else field.name)
            continue
        names = [field.name]
        for note in notes:
            names[0] = getattr(note, "name", None) or names[0]
            aliases = getattr(note, "aliases", None) or ()
            names += [alias[2:] for alias in aliases if alias.startswith("--")]
        if bare is bool and tyro.conf.FlagCreatePairsOff not in notes:
            names.append(f"no-{field.name}")
        for name in names:
            option = f"--{section}.{name}".replace("--.", "--").replace("_", "-")
            yield option, f"{section}.{field.name}" if kind in sections else ""
    if not section:
        yield "--help", ""


def require_text(path: Path) -> None:
    """Raises `ConfigError` for a run directory whose name is not UTF-8, which its files state."""
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


def table(
    headings: Sequence[str], rows: Iterable[Sequence[str]], last: str | None = None
) -> "Table":
    """A table of figures, and with `last` a column of words with that heading."""
    from rich.table import Table

    made = Table(box=None)
    for heading in headings:
        made.add_column(heading, justify="right", no_wrap=True)
    if last is not None:
        made.add_column(last)
    for row in rows:
        made.add_row(*row)
    return made


@dataclass(frozen=True)
class Marks:
    """Characters for values from 0 to 1: by lightness, by height, and to make bars of."""

    light: str
    height: str
    bar: str


ASCII = Marks(" .:*#", " .:-=+*#@", "=")


def marks() -> Marks:
    """The characters to draw with: blocks, or ASCII where stdout's encoding has no blocks."""
    blocks = Marks(" ░▒▓█", " ▁▂▃▄▅▆▇█", "■")
    try:
        "".join(vars(blocks).values()).encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return ASCII
    return blocks


def duration(seconds: float) -> str:
    """A time in words.

    >>> duration(41.2), duration(1620), duration(9000)
    ('41 s', '27 min', '2.5 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"


def tell_written(path: Path | str) -> None:
    """Prints what was written."""
    tell(f"Written: {plain(str(path))}", sys.stdout)


def tell_mixture(machines: Sequence[str]) -> None:
    """Says so where results come from several machines."""
    if len(machines) > 1:
        say(f"trained on {len(machines)} kinds of machine, whose last digits differ: "
            + "; ".join(machines))  # fmt: skip
