"""Files of a run directory, which a kill may have cut off and a stranger may have made.

What is written appears complete or not at all. What is read is a plain file of bounded size, lies
where it seems to lie, and is text, TOML or JSON: nothing found in a run directory is ever run.

`build` makes a dataclass of it, whose annotations say which values are let in. Every number has a
range (`msgspec.Meta`), so that no forged one (0 s, 1e400, a count of -2**40) comes any further.
"""

import contextlib
import dataclasses
import errno
import functools
import io
import json
import os
import stat
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from rowrnn.errors import ConfigError, RunError, cut, nearest, shown

MOST_BYTES = 64 * 2**20
"""Largest file that is read whole; the records and results of a run are far smaller."""

Count = Annotated[int, Meta(ge=0, le=2**53)]
"""How many there are, or a step."""
Size = Annotated[int, Meta(ge=1, le=2**31 - 1)]
"""Length of an axis, or how many there are of what cannot be missing."""
Share = Annotated[float, Meta(ge=0.0, le=1.0)]
"""An accuracy or another part of a whole."""
Seconds = Annotated[float, Meta(ge=0.0, le=1e10)]
"""A time, which may be too short to be measured."""
PositiveSeconds = Annotated[float, Meta(gt=0.0, le=1e10)]
"""A time that something is divided by."""
Rate = Annotated[float, Meta(ge=0.0, le=1e15)]
"""How many there are in a second."""
Loss = Annotated[float, Meta(ge=0.0, le=3.4e38)]
"""A loss, or another figure that float32 can hold."""

Sha256 = Annotated[
    str, Meta(pattern=r"\A[0-9a-f]{64}\Z", description="a SHA-256, as 64 hexadecimal digits")
]
"""A digest of content."""

_Kind = TypeVar("_Kind")


def require_plain(directory: Path) -> None:
    """Raises `RunError` where anything but plain files and directories lies below a directory.

    A link would be read from, or written to, outside of it; a pipe or a device may never end. The
    directory itself may be a link.
    """
    pending = [os.fspath(directory)]
    while pending:
        try:
            with os.scandir(pending.pop()) as entries:
                found = list(entries)
        except FileNotFoundError:
            continue  # A run that is being written has things that come and go.
        except OSError as error:
            raise RunError(f"{error.filename} cannot be read: {error.strerror}") from error
        for entry in found:
            if entry.is_dir(follow_symlinks=False):
                pending.append(entry.path)
            elif not entry.is_file(follow_symlinks=False) and os.path.lexists(entry.path):
                kind = "a link" if entry.is_symlink() else "not a plain file"
                raise RunError(
                    f"{entry.path} is {kind}, and a run directory holds plain files and "
                    "directories alone; put the file itself there, or remove it"
                )


def as_path(value: Any, name: str = "path") -> Path:
    """The path that a caller from Python gave; raises `ConfigError` where it can be none.

    >>> as_path(None, "run_dir")
    Traceback (most recent call last):
    rowrnn.errors.ConfigError: run_dir = None: must be a path, as text or pathlib.Path
    """
    try:
        path = Path(value)
    except TypeError:
        path = None
    if path is None or "\0" in str(path):
        raise ConfigError(f"{name} = {shown(value)}: must be a path, as text or pathlib.Path")
    return path


def open_plain(path: str | os.PathLike[str], *, follow: bool = True) -> io.BufferedReader:
    """Opens a file to read, and never waits.

    Raises `OSError` where there is none or it is not a plain one: a pipe may never be written to,
    and a device never end. Without `follow`, a link is none either.
    """

    def open_at_once(path: str, flags: int) -> int:
        flags |= os.O_NONBLOCK | (0 if follow else os.O_NOFOLLOW)
        descriptor = os.open(path, flags)
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISREG(mode) or stat.S_ISDIR(mode):  # `open` itself refuses directories.
            return descriptor
        os.close(descriptor)
        raise OSError(errno.EINVAL, "Not a plain file", path)

    try:
        return open(path, "rb", opener=open_at_once)
    except ValueError as error:  # A NUL in the name.
        raise OSError(errno.EINVAL, "No name of a file", path) from error


def user_cache() -> Path | None:
    """Where rowrnn keeps what it can make again, for this user; None where there is no home."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    return home / "rowrnn" if home.is_absolute() else None


def read_text(path: Path) -> str:
    """The text of a plain file, and no link, of at most `MOST_BYTES`, without a byte-order mark.

    Raises `OSError` where it cannot be read, `ValueError` where it is too large or not UTF-8.
    """
    with open_plain(path, follow=False) as file:
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise ValueError(f"it has more than {MOST_BYTES:,} bytes")
    return content.decode("utf-8-sig")


def read_json(path: Path) -> Any:
    """The JSON in a file; raises as `read_text` does, `ValueError` where it is none."""
    return parse_json(read_text(path))


def parse_json(text: str) -> Any:
    """What a JSON text says.

    Raises `ValueError` where it is none, or is nested deeper than Python can follow.

    >>> parse_json("[" * 100_000)
    Traceback (most recent call last):
    ValueError: it is nested too deeply
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def write_whole(path: Path, content: str | bytes) -> None:
    """Writes a file that appears complete or not at all; a file or link of its name is gone.

    Text is written as UTF-8. Raises `OSError`, also where the name is that of a device or a pipe,
    which root could replace: `/dev/null` is no place for a file.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise OSError(errno.EINVAL, "Not a plain file", str(path))
    content = content.encode() if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.partial")
    temporary.unlink(missing_ok=True)
    # Made here and nowhere else: a link that somebody left under this name is not followed.
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def writing(what: object) -> Iterator[None]:
    """Makes an `OSError` within it a `RunError` that says what was not written."""
    try:
        yield
    except OSError as error:
        raise RunError(f"{what} was not written: {error.strerror or error}") from error


def build(kind: type[_Kind], values: Any, place: str = "") -> _Kind:
    """A dataclass from what JSON or TOML gave, with a tuple where its type says so, not a list.

    Raises `ValueError` unless the values are its fields, of their types and ranges. With `place`
    that is what stands in front of their names in its message.

    >>> import dataclasses
    >>> @dataclasses.dataclass
    ... class Point:
    ...     x: Share
    ...     name: str | None = None
    >>> build(Point, {"x": 1})
    Point(x=1.0, name=None)
    >>> build(Point, {"x": 2.0})
    Traceback (most recent call last):
    ValueError: x = 2.0: must be a number from 0.0 to 1.0
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"{shown(values)} is no {kind.__name__}")
    hints = types_of(kind)
    fitting = {}
    for name, value in values.items():
        if name not in hints:
            raise ValueError(f"unknown name {place}{cut(str(name))}{nearest(name, hints)}")
        fitting[name] = fit(f"{place}{name}", value, hints[name])
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        optional = {field.default, field.default_factory} != {dataclasses.MISSING}
        if field.name not in fitting and not optional:
            raise ValueError(f"{place}{field.name} is missing")
    return kind(**fitting)


def pick(kind: type[_Kind], values: Any) -> _Kind:
    """A dataclass from those of the values that are its fields, as `build` makes it."""
    wanted = types_of(kind)
    if isinstance(values, Mapping):
        values = {name: value for name, value in values.items() if name in wanted}
    return build(kind, values)


@functools.cache
def types_of(kind: type) -> Mapping[str, Any]:
    """The type of each field of a dataclass, with its range."""
    hints = typing.get_type_hints(kind, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def fit(name: str, value: Any, hint: Any) -> Any:
    """A value as its type has it: an integer as a float, a list as a tuple.

    Raises `ValueError` where it is of another type or out of the range of `msgspec.Meta`, as NaN
    and infinity are out of every range.

    >>> fit("layers", 0, Annotated[int, Meta(ge=1, le=64)])
    Traceback (most recent call last):
    ValueError: layers = 0: must be an integer from 1 to 64
    """
    # numpy.float64 is a float to Python, and not to msgspec; and msgspec takes one kind of text.
    value = float(value) if isinstance(value, float) else value
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    for kind in typing.get_args(hint) if union else (hint,):
        with contextlib.suppress(ValueError):
            return msgspec.convert(value, kind)
    raise ValueError(f"{name} = {shown(value)}: must be {_in_words(hint, value)}")


def _limit(value: float | None) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def _in_words(hint: Any, value: Any) -> str:
    """What would be right in place of a value that does not fit a type."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        meta = next(mark for mark in parts if isinstance(mark, Meta))
        if parts[0] is str:
            return meta.description or "a string, in quotes, of UTF-8 text without a NUL"
        if meta.gt == 0:
            return f"a positive number up to {_limit(meta.le)}"
        noun = "an integer" if parts[0] is int else "a number"
        high = f"to {_limit(meta.le)}" if meta.lt is None else f"up to but not including {meta.lt}"
        return f"{noun} from {_limit(meta.ge)} {high}"
    if origin is typing.Literal:
        entries = value if isinstance(value, list | tuple) else [value]
        wrong = next((entry for entry in entries if entry not in parts), None)
        return f"one of {', '.join(parts)}{nearest(wrong, parts, '')}"
    if origin is list or parts[1:] == (...,):
        return f"a list, each entry {_in_words(parts[0], value)}"
    if origin in (tuple, typing.Union, types.UnionType):
        # A choice comes last, whose words may end in a hint.
        parts = sorted(parts, key=lambda part: typing.get_origin(part) is typing.Literal)
        words = dict.fromkeys(_in_words(part, value) for part in parts if part is not type(None))
        count = f"a list of {len(parts)} entries, each " if origin is tuple else ""
        return count + " or ".join(words)
    return {bool: "true or false", str: "a string, in quotes"}.get(hint, "a table")
