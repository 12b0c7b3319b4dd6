"""Files of a run directory, which a kill may have cut off and a stranger may have made.

What is written appears complete or not at all. What is read is a plain file of bounded size, lies
where it seems to lie, and is text, TOML or JSON: nothing found in a run directory is ever run.
"""

import errno
import io
import json
import os
import reprlib
import stat
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from rowrnn.errors import RunError

MOST_BYTES = 64 * 2**20
"""Of a file that is read whole; the records and results of a run are far smaller."""

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

    return open(path, "rb", opener=open_at_once)


def read_text(path: Path) -> str:
    """The text of a plain file, and no link, of at most `MOST_BYTES`.

    Raises `OSError` where it cannot be read, `ValueError` where it is too large or not UTF-8.
    """
    with open_plain(path, follow=False) as file:
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise ValueError(f"it has more than {MOST_BYTES:,} bytes")
    return content.decode("utf-8")


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


def build(kind: type[_Kind], values: Any) -> _Kind:
    """A dataclass from what JSON gave; raises `ValueError` unless it has its fields and types.

    >>> import dataclasses
    >>> @dataclasses.dataclass
    ... class Point:
    ...     x: float
    ...     name: str | None = None
    >>> build(Point, {"x": 1})
    Point(x=1, name=None)
    >>> build(Point, {"x": "1"})
    Traceback (most recent call last):
    ValueError: x is '1', which is no float
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"{reprlib.repr(values)} is no {kind.__name__}")
    hints = typing.get_type_hints(kind)
    for name, value in values.items():
        if name not in hints:
            raise ValueError(f"{reprlib.repr(name)} is no field of a {kind.__name__}")
        if not _fits(value, hints[name]):
            words = hints[name].__name__ if isinstance(hints[name], type) else hints[name]
            raise ValueError(f"{name} is {reprlib.repr(value)}, which is no {words}")
    try:
        return kind(**values)
    except TypeError as error:
        raise ValueError(str(error).partition("() ")[2] or str(error)) from error


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value from JSON is of a type; a list may stand for a tuple."""
    if hint is Any:
        return True
    if isinstance(hint, types.UnionType):
        return any(_fits(value, option) for option in typing.get_args(hint))
    origin, inner = typing.get_origin(hint) or hint, typing.get_args(hint)
    if origin is typing.Literal:
        return isinstance(value, str) and value in inner
    if origin is dict:
        return isinstance(value, dict) and (
            not inner or all(_fits(part, inner[1]) for part in value.values())
        )
    if origin is list or (origin is tuple and inner[1:] == (...,)):
        return isinstance(value, list) and (
            not inner or all(_fits(part, inner[0]) for part in value)
        )
    if origin is tuple:
        return (
            isinstance(value, list) and len(value) == len(inner) and all(map(_fits, value, inner))
        )
    if origin is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if origin is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint is None:
        return value is None
    return isinstance(value, origin)
