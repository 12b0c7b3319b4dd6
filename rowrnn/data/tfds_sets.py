"""MNIST, Fashion-MNIST, KMNIST and EMNIST through TFDS, without TensorFlow.

The stock builders need TensorFlow to prepare a dataset, not to read it. A subclass replaces the
steps that do (unpacking, opening files, writing PNG). Name, version, features and ArrayRecord files
stay the standard ones: other programs can read what was prepared here, and a directory that was
prepared elsewhere as ArrayRecord is read as it is.

TFDS stores examples in the order of a hash of their keys. The order of the original files is
restored, because the split depends on it; that of EMNIST is left, as of all that `tfds_any` reads.

Tests download from a server on loopback, never from the hosts that TFDS registers. They have no
files of KMNIST: its recipe, which is MNIST's, is tested, and its images are compared with TFDS's
checksums when they are prepared, but with no fingerprint when they are read. They have none of
EMNIST either: an archive of the same form takes its place.
"""

import contextlib
import hashlib
import http.client
import io
import shlex
import stat
import tempfile
import urllib.request
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import track, wrap_file

from rowrnn import files
from rowrnn.checks import check_class_names, fingerprint
from rowrnn.config import DataConfig
from rowrnn.data import cache, idx, tfds_any
from rowrnn.data.arrays import Arrays, Loaded, check, read_class_names
from rowrnn.errors import ConfigError, DataError, cut, nearest

CLASSES = 10
VERSION = "3.0.1"
"""TFDS's version of the first three."""

EMNIST_VERSION = "3.1.0"
EMNIST = {
    "emnist/balanced": 47, "emnist/byclass": 62, "emnist/bymerge": 47, "emnist/digits": 10,
    "emnist/letters": 37, "emnist/mnist": 10,
}  # fmt: skip
"""The sets of EMNIST, and how many classes TFDS gives them."""

_STOCK_BUILDERS = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST", "kmnist": "KMNIST"}
_STOCK_BUILDERS |= dict.fromkeys(EMNIST, "EMNIST")
# Fingerprints of the original files.
_FINGERPRINTS = {
    "mnist": "88d991fdc7ccde887ffc4f71beaebdea7f32713839bb7d725186db364a03b513",
    "fashion_mnist": "c3f4cde13deeccf1ae1f818f2defada1d666f122da5659277eaef7c56986cc50",
}
_TIMEOUT_S = 30
_BLOCK = 2**16  # Bytes read from the network at once.


def prepare(name: str, data_dir: str = "", manual_dir: str = "") -> Path:
    """Makes a dataset ready to be loaded, and checks it; one that is ready is only checked.

    Downloads the four original files, or takes them from `manual_dir`, where they lie under their
    ordinary names such as ``train-images-idx3-ubyte.gz``, and compares their SHA-256 with those
    that TFDS registers. Files of MNIST and Fashion-MNIST may also be unpacked or packed anew: then
    their content is compared. Progress goes to stderr.

    Args:
        name: mnist, fashion_mnist, kmnist or one of `EMNIST`, also with tfds: before it.
        data_dir: the TFDS data directory; empty for ``TFDS_DATA_DIR`` or ~/tensorflow_datasets.
        manual_dir: a directory with the original files; empty to download them.

    Returns the directory of the prepared dataset. Raises `DataError` where a file is missing,
    damaged or cannot be fetched or written; nothing half-written is left then.
    """
    name = name.removeprefix("tfds:")
    if name not in _STOCK_BUILDERS:
        raise ConfigError(
            f"dataset {cut(name)}: must be one of {', '.join(_STOCK_BUILDERS)}"
            f"{nearest(name, _STOCK_BUILDERS, '')}; any other set of TFDS is read as tfds:NAME: "
            + tfds_any.how_to_prepare(cut(name))
        )
    directory = _directory(name, data_dir)
    if not _is_there(directory):
        _build(name, directory, _get_originals(name, manual_dir))
    load(DataConfig(f"tfds:{name}", data_dir))
    return directory


def is_prepared(name: str, data_dir: str = "") -> bool:
    """Whether `prepare` has been here before."""
    return _is_there(_directory(name, data_dir))


def load(config: DataConfig) -> Loaded:
    """A prepared dataset, in the order of the original files.

    Decodes the dataset the first time and keeps the result (`rowrnn.data.cache`). A dataset that
    is not prepared is prepared first where `manual_dir` has its original files; nothing is ever
    downloaded unasked.

    Raises `DataError` where the dataset is not prepared, or damaged.
    """
    name, data_dir, manual_dir = config.dataset.removeprefix("tfds:"), config.dir, config.manual_dir
    if name not in _STOCK_BUILDERS:
        return tfds_any.load(config)
    directory = _directory(name, data_dir)
    command = _command(name, data_dir)
    if not _is_there(directory):
        if not manual_dir:
            raise DataError(
                f"dataset {name} is not prepared in {directory}; run: {command} "
                "(without a network: --manual-dir DIR with the four files)"
            )
        _build(name, directory, _get_originals(name, manual_dir))
    if name in EMNIST:
        return tfds_any.load(config)
    if not any(directory.glob("*.array_record*")):
        raise DataError(
            f"{directory} holds no ArrayRecord files, which is what can be read without "
            f"TensorFlow; delete it or choose another data directory, then run: {command}"
        )
    cached = cache.load(directory)
    arrays, digest = cached or _decode(name, directory, command)
    if digest != _FINGERPRINTS.get(name, digest):
        raise DataError(
            f"{directory}: the images are not those of {name} (fingerprint {digest[:16]}…, must "
            f"be {_FINGERPRINTS[name][:16]}…); delete the directory and run: {command}"
        )
    if not cached:
        cache.save(directory, arrays, digest)
    try:
        names = read_class_names(directory, "label.labels.txt")
        check_class_names(names, CLASSES)
    except (DataError, ValueError) as error:
        raise DataError(
            f"{directory}: dataset {name} is damaged ({error}); delete the directory and run: "
            f"{command}"
        ) from error
    return Loaded(arrays, digest, CLASSES, names)


def _command(name: str, data_dir: str) -> str:
    """The command that prepares a dataset."""
    where = ["--data.dir", data_dir] if data_dir else []
    return shlex.join(["rowrnn", "data", "prepare", name, *where])


def _directory(name: str, data_dir: str) -> Path:
    """Where TFDS keeps this dataset."""
    version = EMNIST_VERSION if name in EMNIST else VERSION
    return tfds_any.root(data_dir) / name / version


def _originals(name: str) -> Mapping[str, Any]:
    """TFDS's record of the original files: `size`, `checksum` and `filename` by URL."""
    return _stock_builder(name).url_infos


def _get_originals(name: str, manual_dir: str) -> Arrays:
    """The arrays in the original files, downloaded unless they lie in `manual_dir`."""
    originals = _originals(name)
    with tempfile.TemporaryDirectory(prefix="rowrnn-") as scratch:
        if not manual_dir:
            _download(name, originals, Path(scratch))
        if name in EMNIST:
            return _read_archive(name, originals, Path(manual_dir or scratch))
        return _read_originals(name, originals, Path(manual_dir or scratch))


def _stock_builder(name: str) -> Any:
    from tensorflow_datasets.image_classification import mnist

    return getattr(mnist, _STOCK_BUILDERS[name])


def _download(name: str, originals: Mapping[str, Any], directory: Path) -> None:
    """Fetches the original files into a directory."""
    for url, info in originals.items():
        try:
            with (
                urllib.request.urlopen(url, timeout=_TIMEOUT_S) as response,
                wrap_file(
                    response, info.size, description=info.filename, console=Console(stderr=True)
                ) as body,
                open(directory / info.filename, "wb") as file,
            ):
                # A body that does not end is refused one block after its size.
                while file.tell() <= info.size and (block := body.read(_BLOCK)):
                    file.write(block)
        except (OSError, http.client.HTTPException) as error:
            raise DataError(
                f"{url}: download failed ({error}); try again, or fetch the four files by other "
                f"means and run: rowrnn data prepare {name} --manual-dir DIR"
            ) from error


def _read_originals(name: str, originals: Mapping[str, Any], directory: Path) -> Arrays:
    """The arrays in the original files; raises `DataError` unless they are the original ones.

    A file that was packed anew has another checksum and the same content, as in Debian's
    dataset-fashion-mnist. The content decides where its fingerprint is known.
    """
    mismatch = ""
    for url, info in originals.items():
        path = idx.find(directory, info.filename.removesuffix(".gz"))
        mismatch = mismatch or _mismatch(path, url, info.checksum)
    arrays = idx.read_directory(directory)
    if mismatch and fingerprint(arrays) != _FINGERPRINTS.get(name):
        raise DataError(mismatch)
    check(arrays, str(directory), CLASSES)
    return arrays


def _read_archive(name: str, originals: Mapping[str, Any], directory: Path) -> Arrays:
    """The arrays of a set of EMNIST in the one archive that all its sets come in.

    Raises `DataError` unless it is the original one.
    """
    ((url, info),) = originals.items()
    path = directory / info.filename
    if mismatch := _mismatch(path, url, info.checksum):
        raise DataError(mismatch)
    kind = name.partition("/")[2]
    with tempfile.TemporaryDirectory(prefix="rowrnn-") as scratch, zipfile.ZipFile(path) as packed:
        found = []
        for part in ("train", "test"):
            for what, dimensions in (("images-idx3", 3), ("labels-idx1", 1)):
                member = f"gzip/emnist-{kind}-{part}-{what}-ubyte.gz"
                found.append(idx.read(packed.extract(member, scratch), dimensions))
    arrays = Arrays(*found)
    check(arrays, str(path), EMNIST[name])
    return arrays


def _mismatch(path: Path, url: str, checksum: str) -> str:
    """Says so where a file is not the original one; raises `DataError` where it is not there."""
    try:
        with files.open_plain(path) as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; it must be the file from {url}") from error
    return (
        ""
        if digest == checksum
        else (
            f"{path}: checksum mismatch, SHA-256 is {digest[:16]}…, must be {checksum[:16]}…; "
            f"fetch the file again from {url}"
        )
    )


def _is_there(directory: Path) -> bool:
    """Whether there is a directory; raises `DataError` where that cannot be known."""
    try:
        return stat.S_ISDIR(directory.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise DataError(f"{directory} cannot be read: {error.strerror}") from error


def _build(name: str, directory: Path, arrays: Arrays) -> None:
    """Writes the standard TFDS dataset."""
    import tensorflow_datasets as tfds

    kind, _, config = name.partition("/")
    builder_class: Any = type(
        kind,
        (_Recipe, _stock_builder(name)),
        {"name": kind, "VERSION": tfds.core.Version(directory.name), "arrays": arrays},
        skip_registration=True,
    )
    root = directory.parents[2 if config else 1]
    tfds.disable_progress_bar()
    # TFDS tells what it does on stdout, where only results belong.
    with contextlib.redirect_stdout(io.StringIO()), tempfile.TemporaryDirectory() as scratch:
        try:
            builder = builder_class(
                data_dir=root, config=config or None, file_format="array_record"
            )
            builder.download_and_prepare(
                download_dir=scratch,
                download_config=tfds.download.DownloadConfig(try_download_gcs=False),
            )
        except (OSError, RuntimeError) as error:  # ArrayRecord's writer raises RuntimeError.
            if not _is_there(directory):  # Another process may have been faster.
                raise DataError(
                    f"{directory}: dataset {name} cannot be written ({error}); "
                    "check the disk, or choose another data directory"
                ) from error


class _Recipe:
    """The steps of a stock builder that would use TensorFlow."""

    arrays: Arrays

    def _split_generators(self, _: Any) -> dict[str, Iterator[tuple[int, dict]]]:
        train_images, train_labels, test_images, test_labels = self.arrays
        return {
            "train": self._generate_examples(train_images, train_labels),
            "test": self._generate_examples(test_images, test_labels),
        }

    def _generate_examples(
        self, images: np.ndarray, labels: np.ndarray
    ) -> Iterator[tuple[int, dict]]:
        for key in track(range(len(labels)), "Writing", console=Console(stderr=True)):
            png = io.BytesIO()
            Image.fromarray(images[key]).save(png, "PNG")
            png.seek(0)
            yield key, {"image": png, "label": int(labels[key])}


def _decode(name: str, directory: Path, command: str) -> tuple[Arrays, str]:
    """Reads every example of a prepared dataset."""
    import tensorflow_datasets as tfds

    parts, path = [], directory
    try:
        for path in sorted(directory.iterdir()):
            files.open_plain(path).close()  # TFDS would wait for a pipe to be written to.
        path = directory / "dataset_info.json"
        builder: Any = tfds.builder_from_directory(directory)
        undecoded = {"image": tfds.decode.SkipDecoding()}
        for split in ("train", "test"):
            path = directory / f"{name}-{split}.array_record-00000-of-00001"
            source = builder.as_data_source(split, decoders=undecoded)
            tfds_any.check_length(source, directory.glob(f"{name}-{split}.array_record*"))
            parts += _decode_split(source, split)
    except Exception as error:
        # Damaged files raise whatever ArrayRecord, protobuf or Pillow stumble over.
        raise DataError(
            f"{path}: dataset {name} is damaged ({type(error).__name__}); "
            f"delete the directory and run: {command}"
        ) from error
    arrays = Arrays(*parts)
    check(arrays, str(directory), CLASSES)
    return arrays, fingerprint(arrays)


def _decode_split(source: Any, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of one split, in the order of the original file."""
    images = np.empty((len(source), *_unpack(source[0]).shape), np.uint8)
    labels = np.empty(len(source), np.uint8)
    order = _stored_order(split, len(source))
    for start in track(range(0, len(order), 1000), "Reading", console=Console(stderr=True)):
        keys = order[start : start + 1000]
        records = source.__getitems__(range(start, start + len(keys)))
        for key, record in zip(keys, records, strict=True):
            images[key] = _unpack(record)
            labels[key] = record["label"]
    images.flags.writeable = labels.flags.writeable = False
    return images, labels


def _unpack(record: Mapping[str, Any]) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(record["image"])))


def _stored_order(split: str, size: int) -> list[int]:
    """The keys 0 to size - 1 in the order in which TFDS stores their examples.

    TFDS sorts by the MD5 of split name and key (tensorflow_datasets/core/hashing.py, shuffle.py).
    """

    def md5(key: int) -> bytes:
        return hashlib.md5(f"{split}{key}".encode(), usedforsecurity=False).digest()

    return sorted(range(size), key=md5)
