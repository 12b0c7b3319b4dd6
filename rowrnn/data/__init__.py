"""Images and labels: uint8 images, int32 labels, splits and fingerprint.

The only part of rowrnn that knows TFDS and IDX files. Images stay uint8, on the device too;
normalisation is the training step's.
"""

import dataclasses
import hashlib
import importlib.resources
from pathlib import Path

import numpy as np

from rowrnn.checks import fingerprint
from rowrnn.config import DataConfig
from rowrnn.core.dataset import Dataset, Split
from rowrnn.data import folder, idx, npz, tfds_sets
from rowrnn.data.arrays import (
    Arrays,
    Loaded,
    channels_of,
    check,
    read_class_names,
    warn_of_what_teaches_nothing,
)
from rowrnn.data.tfds_sets import is_prepared, prepare
from rowrnn.errors import ConfigError, DataError

__all__ = ["Dataset", "Split", "is_prepared", "load", "prepare", "split"]

# The notebook's reader split MNIST so.
_VALIDATION_SIZE = 5_000
_LEAST_TO_SPLIT = 50_000


def load(config: DataConfig) -> Dataset:
    """Loads the dataset that a config names.

    The first `config.validation_size` training images are the validation part, in the order of
    the original files. An ``idx`` dataset has as many classes as its largest training label says.

    Raises:
        DataError: the data is missing, damaged or not prepared.
        ConfigError: `config.validation_size` leaves nothing to train on.

    >>> dataset = load(DataConfig(dataset="mnist_sample", validation_size=500))
    >>> dataset.train.images.shape, dataset.validation.images.shape, dataset.test.images.shape
    ((3500, 28, 28), (500, 28, 28), (1000, 28, 28))
    >>> dataset.train.images.dtype, dataset.train.labels.dtype, dataset.classes
    (dtype('uint8'), dtype('int32'), 10)
    """
    if config.dataset == "arrays":
        raise DataError(
            "data.dataset = 'arrays': arrays come from Python, and no command can load them; give "
            "them again, with dataset=rowrnn.Dataset.from_arrays(...)"
        )
    if config.dataset == "npz":
        return split(npz.load(config.dir), config)
    if config.dataset == "idx":
        arrays = idx.read_directory(config.dir)
        names = read_class_names(Path(config.dir))
        classes = len(names) or 1 + int(arrays.train_labels.max())
        check(arrays, config.dir, classes)
        warn_of_what_teaches_nothing(arrays, config.dir, classes)
        loaded = Loaded(arrays, fingerprint(arrays), classes, names)
    elif config.dataset == "folder":
        loaded = folder.load(config)
    elif config.dataset == "mnist_sample":
        arrays = _read_sample()
        loaded = Loaded(arrays, fingerprint(arrays), tfds_sets.CLASSES)
    else:
        loaded = tfds_sets.load(config)
    arrays = Arrays(*(_by_rows(array) for array in loaded.arrays))
    images, labels = arrays.train_images, arrays.train_labels.astype(np.int32)
    labels_alone = tuple(map(str, range(loaded.classes)))
    size = loaded.validation or 0
    if not size and config.validation_size is None and len(images) >= _LEAST_TO_SPLIT:
        config = dataclasses.replace(config, validation_size=_VALIDATION_SIZE)
    dataset = Dataset(
        name=config.dataset,
        train=Split(images[size:], labels[size:]),
        validation=Split(images[:size], labels[:size]),
        test=Split(arrays.test_images, arrays.test_labels.astype(np.int32)),
        classes=loaded.classes,
        fingerprint=loaded.fingerprint,
        class_names=() if loaded.class_names == labels_alone else loaded.class_names,
        channels=channels_of(loaded.arrays),
    )
    return split(dataset, config)


def _by_rows(array: np.ndarray) -> np.ndarray:
    """Images [N, T, F, 3] as [N, T, 3 F]; other arrays as they are."""
    return array.reshape(*array.shape[:2], -1) if array.ndim == 4 else array


def _require_as_asked(dataset: Dataset, config: DataConfig) -> None:
    """Raises `ConfigError` where images would have to be resized that are not pictures in files."""
    _, rows, pixels = dataset.train.images.shape
    found = {"rows": rows, "columns": pixels // dataset.channels, "channels": dataset.channels}
    for name, value in found.items():
        if getattr(config, name) not in (None, value):
            raise ConfigError(
                f"data.{name} = {getattr(config, name)}: {config.dataset} has {value}, and only "
                "pictures of a folder and of tfds:NAME are changed when they are read"
            )


def split(dataset: Dataset, config: DataConfig) -> Dataset:
    """Arrays as a config wants them split: `config.validation_size` sets training images apart.

    Raises `ConfigError` where there is a validation part already, or nothing would be left.
    """
    if not isinstance(dataset, Dataset):
        raise DataError(
            f"dataset is a {type(dataset).__name__}: must be what Dataset.from_arrays gives"
        )
    _require_as_asked(dataset, config)
    size, train = config.validation_size, dataset.train
    if size is None or len(dataset.validation.labels) == size:
        return dataset
    if len(dataset.validation.labels):
        raise ConfigError(
            f"data.validation_size = {size}: {dataset.name} has a validation part of "
            f"{len(dataset.validation.labels):,} images; leave the value out"
        )
    count = len(train.labels)
    if not 0 <= size < count:
        raise ConfigError(
            f"data.validation_size = {size}: must be an integer from 0 to {count - 1:,}, "
            f"since {config.dataset} has {count:,} training images"
        )
    apart, rest = (
        Split(train.images[part], train.labels[part]) for part in (slice(size), slice(size, None))
    )
    return dataclasses.replace(dataset, train=rest, validation=apart)


def _read_sample() -> Arrays:
    """The digits inside the package, compared with their checksums first."""
    sample = importlib.resources.files(__name__) / "mnist_sample"
    with importlib.resources.as_file(sample) as directory:
        for line in (directory / "SHA256SUMS").read_text(encoding="ascii").splitlines():
            digest, name = line.split()
            path = directory / name
            if hashlib.sha256(path.read_bytes()).hexdigest() != digest:
                raise DataError(
                    f"{path}: checksum mismatch, the file is damaged; install rowrnn again"
                )
        return idx.read_directory(directory)
