"""Decoded arrays kept on disk, so that a prepared dataset is decoded once.

A cache file is a line of JSON (what it was decoded from, fingerprint and shapes) and the bytes of
the four arrays. It is written whole or not at all. It is used while the files it was decoded from
are unchanged and its arrays have its fingerprint; otherwise the dataset is decoded again.
"""

import contextlib
import hashlib
import json
import math
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rowrnn import files
from rowrnn.checks import fingerprint
from rowrnn.data.arrays import Arrays

_MOST_HEADER_BYTES = 2**20


def load(source: Path, known: Any = None) -> tuple[Arrays, str] | None:
    """The arrays decoded earlier from the files in `source` and their fingerprint, or None.

    `known`, as JSON takes it, changes when one of the files does; without it that is what `state`
    gives of the directory `source`.
    """
    for path in _places(source):
        # A damaged header raises whatever its reader stumbles over.
        with contextlib.suppress(Exception):
            return _read(path, known or state(source))
    return None


def save(source: Path, arrays: Arrays, digest: str, known: Any = None) -> Path | None:
    """Keeps arrays decoded from the files in `source`, in the first place that can be written.

    Returns the place, if there is one. `known` is as for `load`.
    """
    header = {
        "source": known or state(source),
        "fingerprint": digest,
        "shapes": [array.shape for array in arrays],
        "types": [array.dtype.str for array in arrays],
    }
    for path in _places(source):
        with contextlib.suppress(OSError):
            _write(path, json.dumps(header).encode() + b"\n", arrays)
            return path
    return None


def _places(source: Path) -> Sequence[Path]:
    """Beside the dataset, and in the user's cache directory for a dataset that is read-only."""
    beside = source.parent / f"rowrnn-{source.name}.arrays"
    directory = files.user_cache()
    if directory is None:
        return (beside,)
    key = hashlib.sha256(os.fsencode(source.resolve())).hexdigest()[:16]
    return beside, directory / f"{source.parent.name}-{source.name}-{key}.arrays"


def state(source: Path) -> list[Any]:
    """Names, sizes and times of the files, which change when a file does."""
    stats = {path.name: path.stat() for path in sorted(source.iterdir())}
    return [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats.items()]


def _read(path: Path, state: list[Any]) -> tuple[Arrays, str]:
    """Raises an error, of any kind, where the file is missing, stale or damaged."""
    with files.open_plain(path) as file:
        header = json.loads(file.readline(_MOST_HEADER_BYTES))
        if header["source"] != state:
            raise ValueError("decoded from other files")
        types = [np.dtype(name) for name in header.get("types", ["u1"] * 4)]
        shapes = header["shapes"]
        sizes = [
            kind.itemsize * math.prod(shape) for kind, shape in zip(types, shapes, strict=True)
        ]
        if os.fstat(file.fileno()).st_size != file.tell() + sum(sizes):
            raise ValueError("of another size than its header says")
        content = np.frombuffer(file.read(), np.uint8)
    parts = np.split(content, np.cumsum(sizes)[:-1])
    described = zip(parts, types, shapes, strict=True)
    arrays = Arrays(*(part.view(kind).reshape(shape) for part, kind, shape in described))
    if fingerprint(arrays) != header["fingerprint"]:
        raise ValueError("damaged")
    return arrays, header["fingerprint"]


def _write(path: Path, header: bytes, arrays: Arrays) -> None:
    """Writes beside the place and renames, so that no reader ever sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=path.name, delete=False) as file:
        try:
            file.write(header)
            for array in arrays:
                file.write(array.data)
            file.close()
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise
