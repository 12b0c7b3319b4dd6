"""IDX files, the format that MNIST came in (http://yann.lecun.com/exdb/mnist).

Two zero bytes, a type code, the number of dimensions, each dimension as a big-endian uint32, then
the values. Only unsigned bytes (type 0x08) are read here: images [N, T, F] and labels [N].
"""

import gzip
import math
import os
import struct
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np

from rowrnn import files
from rowrnn.data.arrays import Arrays
from rowrnn.errors import DataError

FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
"""The four files of a dataset, in the order of `Arrays`; each may end in ``.gz``."""

_UNSIGNED_BYTE = 0x08
_OTHER_TYPES = {0x09: "int8", 0x0B: "int16", 0x0C: "int32", 0x0D: "float32", 0x0E: "float64"}
# How files begin that are often found in the place of one.
_OTHER_FILES = {
    b"\x1f\x8b": "a gzip file, whose name must end in .gz",
    b"\x89PNG": "a PNG picture",
    b"\xff\xd8": "a JPEG picture",
    b"PK": "a zip or npz file",
    b"\x93NUMPY": "a NumPy file",
    b"<": "a web page",
}
_BLOCK = 2**20


def read_directory(directory: str | os.PathLike[str]) -> Arrays:
    """Reads the four IDX files of a directory; where a file is there twice, ``.gz`` is read.

    Images may have any number of rows and columns. That the four fit each other is for
    `rowrnn.data.arrays.check` to say. Raises `DataError` where a file is missing or damaged.
    """
    if not os.path.isdir(directory):
        raise DataError(
            f"{directory}: no such directory; it must hold {', '.join(FILES)}, each .gz or not"
        )
    paths = [find(Path(directory), name) for name in FILES]
    for path in paths:
        if not os.path.lexists(path):
            try:
                others = ", ".join(sorted(os.listdir(directory))[:5]) or "nothing"
            except OSError as error:
                others = f"what cannot be read ({error.strerror})"
            raise DataError(
                f"{path}: No such file, nor with .gz; the directory holds {others}, and must hold "
                f"{', '.join(FILES)}"
            )
    return Arrays(*(read(path, _dimensions(path.name)) for path in paths))


def read(path: str | os.PathLike[str], dimensions: int) -> np.ndarray:
    """Reads one file as uint8 of the given number of dimensions (3: images, 1: labels).

    A name that ends in ``.gz`` is decompressed. Memory is bounded by what the header claims and
    by what is really there, whichever is less. Raises `DataError`, naming the file, where it is
    missing, is not what it claims to be or holds nothing.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     path = Path(directory, "labels")
    ...     _ = path.write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 3, 7, 2, 1]))
    ...     read(path, 1)
    array([7, 2, 1], dtype=uint8)
    """
    try:
        with files.open_plain(path) as file:
            if not os.fspath(path).endswith(".gz"):
                return _parse(file, path, dimensions)
            with gzip.GzipFile(fileobj=file) as unpacked:
                return _parse(unpacked, path, dimensions)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(
            f"{path}: damaged, cut short or not gzip at all ({error}); "
            "fetch it again, or take .gz off its name if it is not compressed"
        ) from error
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; it must be an IDX file") from error


def find(directory: Path, name: str) -> Path:
    """The path of one of `FILES` in a directory: the compressed one, if there is one."""
    packed = directory / f"{name}.gz"
    return packed if os.path.lexists(packed) else directory / name


def _parse(file: BinaryIO | gzip.GzipFile, path: str | os.PathLike[str], ndim: int) -> np.ndarray:
    """The array in an open file, which must end where the array does."""
    size = 4 + 4 * ndim
    header = _read_at_most(file, size)
    magic = bytes([0, 0, _UNSIGNED_BYTE, ndim])
    if header[:4] != magic:
        raise DataError(
            f"{path}: begins with {header[:4].hex(' ') or 'nothing'}{_looks_like(header)}; an IDX "
            f"file of unsigned bytes in {ndim} dimensions begins with {magic.hex(' ')}"
        )
    if len(header) < size:
        raise DataError(f"{path}: ends within its header of {size} bytes; fetch it again")
    shape = struct.unpack_from(f">{ndim}I", header, 4)
    claim = f"{path}: the header claims {'×'.join(map(str, shape))} bytes"
    if 0 in shape:
        raise DataError(f"{claim}, which is nothing; there must be at least one image of one pixel")
    count = math.prod(shape)
    # One byte more, so that what follows the array is noticed, and gzip's checksum is compared.
    values = _read_at_most(file, count + 1)
    if len(values) != count:
        found = f"only {len(values)}" if len(values) < count else "more"
        raise DataError(f"{claim} but {found} follow; the file is damaged, fetch it again")
    array = np.frombuffer(values, np.uint8).reshape(shape)
    array.flags.writeable = False
    return array


def _looks_like(header: bytes | bytearray) -> str:
    """What begins like this, in words; empty where nobody can tell."""
    if header[:2] == b"\0\0" and len(header) >= 4:
        kind = "unsigned byte" if header[2] == _UNSIGNED_BYTE else _OTHER_TYPES.get(header[2])
        return f", {kind} values in {header[3]} dimensions" if kind else ""
    found = (kind for start, kind in _OTHER_FILES.items() if header.lstrip().startswith(start))
    return next((f", like {kind}" for kind in found), "")


def _read_at_most(file: BinaryIO | gzip.GzipFile, size: int) -> bytearray:
    """Up to `size` bytes, block by block: a large size must not be allocated before it is there."""
    values = bytearray()
    while len(values) < size:
        block = file.read(min(size - len(values), _BLOCK))
        if not block:
            break
        values += block
    return values


def _dimensions(name: str) -> int:
    return 3 if "idx3" in name else 1
