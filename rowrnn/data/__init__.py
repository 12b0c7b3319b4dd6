"""Images and labels: uint8 images, int32 labels, splits and fingerprint.

The only part of rowrnn that knows TFDS and IDX files. Images stay uint8, on the device too;
normalisation is the training step's.
"""

import hashlib
import importlib.resources

import numpy as np

from rowrnn.config import DataConfig
from rowrnn.core.dataset import Dataset, Split
from rowrnn.data import idx, tfds_sets
from rowrnn.data.arrays import Arrays, check, fingerprint, warn_of_what_teaches_nothing
from rowrnn.data.tfds_sets import prepare
from rowrnn.errors import ConfigError, DataError

__all__ = ["Dataset", "Split", "load", "prepare"]

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
    classes = tfds_sets.CLASSES
    if config.dataset == "idx":
        arrays = idx.read_directory(config.dir)
        classes = 1 + int(arrays.train_labels.max())
        check(arrays, config.dir, classes)
        warn_of_what_teaches_nothing(arrays, config.dir, classes)
        digest = fingerprint(arrays)
    elif config.dataset == "mnist_sample":
        arrays = _read_sample()
        digest = fingerprint(arrays)
    else:
        arrays, digest = tfds_sets.load(config.dataset, config.dir, config.manual_dir)
    images, labels = arrays.train_images, arrays.train_labels.astype(np.int32)
    size = _validation_size(config, len(images))
    return Dataset(
        name=config.dataset,
        train=Split(images[size:], labels[size:]),
        validation=Split(images[:size], labels[:size]),
        test=Split(arrays.test_images, arrays.test_labels.astype(np.int32)),
        classes=classes,
        fingerprint=digest,
    )


def _validation_size(config: DataConfig, train_size: int) -> int:
    """The number of training images that are set apart."""
    size = config.validation_size
    if size is None:
        return _VALIDATION_SIZE if train_size >= _LEAST_TO_SPLIT else 0
    if not 0 <= size < train_size:
        raise ConfigError(
            f"data.validation_size = {size}: must be an integer from 0 to {train_size - 1}, "
            f"since {config.dataset} has {train_size} training images"
        )
    return size


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
