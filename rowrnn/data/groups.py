"""Groups of images, such as their writers: an integer for each image, from a file.

Three formats are read, each also compressed by gzip, and told apart by how they begin: an array of
NumPy (``.npy``), IDX of int32 as QMNIST's labels are, of which column 2 is the writer and column 0
the class, and text with one integer a line, the first of which may be a heading.
"""

import codecs
import gzip
import io
import os
import struct
import zlib

import numpy as np

from rowrnn import files
from rowrnn.errors import DataError, shown

_RIGHT = (
    "it must hold one integer an image: a line each in a CSV file, an integer array [N] in an NPY "
    "file, or QMNIST's idx2-int labels"
)
# Columns of QMNIST's labels, and how many there are.
_CLASS, _WRITER, _COLUMNS = 0, 2, 8


def read(path: str | os.PathLike[str], labels: np.ndarray) -> np.ndarray:
    """The groups [N], integers, of the images of a part of the data whose labels [N] are these.

    QMNIST's file may have more images, since MNIST's are the first of its test part, and those
    for training begin with the validation part: its classes say which are meant.

    Raises `DataError` where the file is missing, damaged, or of another type or length.

    >>> import tempfile
    >>> from pathlib import Path
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     path = Path(directory, "writers.csv")
    ...     _ = path.write_text("writer\\n7\\n7\\n12\\n")
    ...     read(path, np.array([3, 1, 4]))
    array([ 7,  7, 12])
    """
    raw, count = _content(files.as_path(path, "groups")), len(labels)
    try:
        if raw[:2] == b"\0\0":
            table = _idx(raw)
        elif raw[:6] == b"\x93NUMPY":
            table = np.load(io.BytesIO(raw), allow_pickle=False)
        else:
            table = _text(raw)
    except (ValueError, OverflowError, EOFError, MemoryError, struct.error) as error:
        raise DataError(f"{path}: {str(error)[:100]}; {_RIGHT}") from error
    if table.dtype.kind not in "iu" or table.shape[1:] not in ((), (_COLUMNS,)):
        raise DataError(f"{path} is an array of {table.dtype}, shape {table.shape}; {_RIGHT}")
    if table.ndim > 1:
        parts = [
            part
            for part in (table[:count], table[-count:])
            if np.array_equal(part[:, _CLASS], labels)
        ]
        if not parts:
            raise DataError(
                f"{path}: its column {_CLASS} does not have the classes of the {count:,} images; "
                "it must be of these images, in their order"
            )
        table = parts[0][:, _WRITER]
    if len(table) != count:
        raise DataError(f"{path} has {len(table):,} entries for {count:,} images; {_RIGHT}")
    if (table == table[0]).all():
        raise DataError(f"{path}: all images are of group {table[0]}; there must be at least two")
    return table.astype(np.int64)


def _content(path: str | os.PathLike[str]) -> bytes:
    """What the file holds, decompressed, where it is not larger than groups can be."""
    try:
        with files.open_plain(path) as file:
            packed = file.peek(2)[:2] == b"\x1f\x8b"
            with gzip.GzipFile(fileobj=file) if packed else file as content:
                raw = content.read(files.MOST_BYTES + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path}: damaged or cut short ({error}); fetch it again") from error
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; {_RIGHT}") from error
    if len(raw) > files.MOST_BYTES:
        raise DataError(f"{path} has more than {files.MOST_BYTES:,} bytes; {_RIGHT}")
    return raw


def _idx(raw: bytes) -> np.ndarray:
    """The array of an IDX file of bytes or int32."""
    kinds = {0x08: np.dtype("u1"), 0x0C: np.dtype(">i4")}
    kind, dimensions = kinds.get(raw[2] if len(raw) > 3 else 0), raw[3] if len(raw) > 3 else 0
    if kind is None or dimensions not in (1, 2):
        raise ValueError(f"begins with {raw[:4].hex(' ')}, as no labels in IDX do")
    shape = struct.unpack_from(f">{dimensions}I", raw, 4)
    return np.frombuffer(raw, kind, offset=4 + 4 * dimensions).reshape(shape)


def _text(raw: bytes) -> np.ndarray:
    """The integers of a text, one a line."""
    lines = raw.removeprefix(codecs.BOM_UTF8).decode("ascii").rstrip().split("\n")
    found = []
    for number, line in enumerate(lines):
        try:
            found.append(int(line))
        except ValueError:
            if number:
                raise ValueError(f"line {number + 1} is {shown(line)}, and no integer") from None
    return np.array(found, np.int64)
