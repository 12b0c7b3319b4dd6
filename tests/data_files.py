"""Data sets for tests: the original files, where they lie, and small ones that are written."""

import gzip
import hashlib
import os
import struct
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from rowrnn.data import idx

TEST_DATA = Path(
    os.environ.get("ROWRNN_TEST_DATA") or Path(__file__).parents[2] / "shared" / "data"
)


def originals(name):
    if not (TEST_DATA / name).is_dir():
        pytest.skip(f"no original files in {TEST_DATA / name}; set ROWRNN_TEST_DATA")
    return TEST_DATA / name


def encode(array, code=0x08):
    sizes = struct.pack(f">{array.ndim}I", *array.shape)
    return bytes([0, 0, code, array.ndim]) + sizes + array.tobytes()


def random_arrays(train=70, test=30, shape=(28, 28), classes=10):
    rng = np.random.default_rng(0)
    for size in (train, test):
        yield rng.integers(0, 256, (size, *shape), np.uint8)
        labels = rng.integers(0, classes, size, np.uint8)
        labels[0] = classes - 1
        yield labels


def write_set(directory, arrays=None, packed=True):
    directory.mkdir(exist_ok=True)
    for name, array in zip(idx.FILES, arrays or random_arrays(), strict=True):
        content = encode(array)
        if packed:
            (directory / f"{name}.gz").write_bytes(gzip.compress(content, mtime=0))
        else:
            (directory / name).write_bytes(content)
    return directory


def registered(directory, base="http://127.0.0.1:1"):
    """What TFDS would register for these files, were they served at `base`."""
    return {
        f"{base}/{path.name}": SimpleNamespace(
            size=path.stat().st_size,
            checksum=hashlib.sha256(path.read_bytes()).hexdigest(),
            filename=path.name,
        )
        for path in sorted(directory.glob("*.gz"))
    }
