"""A whole dataset as it lies in its files, before it is split."""

import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rowrnn import files
from rowrnn.errors import DataError


class Arrays(NamedTuple):
    """Images and labels in the order of the files, all uint8; labels of many classes int32."""

    train_images: np.ndarray
    """[N, T, F], or of colour [N, T, F, 3]"""
    train_labels: np.ndarray
    """[N]"""
    test_images: np.ndarray
    """[M, T, F]"""
    test_labels: np.ndarray
    """[M]"""


def channels_of(arrays: Arrays) -> int:
    """Values of a pixel: 1 of grey, 3 of colour."""
    return 3 if arrays.train_images.ndim == 4 else 1


class Loaded(NamedTuple):
    """A whole dataset and what is known of it."""

    arrays: Arrays
    fingerprint: str
    classes: int
    class_names: tuple[str, ...] = ()
    validation: int | None = None
    """How many of the first training images are a validation part of their own."""


def check(arrays: Arrays, where: str, classes: int) -> None:
    """Raises `DataError` naming `where` unless the four arrays fit each other and the classes."""
    train_images, train_labels, test_images, test_labels = arrays
    parts = {"train": (train_images, train_labels), "test": (test_images, test_labels)}
    for part, (images, labels) in parts.items():
        if len(images) != len(labels):
            raise DataError(
                f"{where}: {len(images):,} {part} images but {len(labels):,} {part} labels; "
                "each image needs one label, take both files from the same source"
            )
        if labels.max() >= classes:
            raise DataError(
                f"{where}: {part} label {labels.max()} of image {labels.argmax()}: must be "
                f"from 0 to {classes - 1}; take training and test files from the same source"
            )
    if train_images.shape[1:] != test_images.shape[1:]:
        train_shape, test_shape = (
            "×".join(map(str, images.shape[1:])) for images in (train_images, test_images)
        )
        raise DataError(
            f"{where}: training images are {train_shape} but test images {test_shape}; "
            "take both from the same source"
        )


def read_class_names(directory: Path, name: str = "classes.txt") -> tuple[str, ...]:
    """The names of classes in a text file, one a line in the order of the labels.

    Empty where there is no such file. Raises `DataError` where it cannot be read.
    """
    path = directory / name
    try:
        return tuple(line.strip() for line in files.read_text(path).strip().splitlines())
    except FileNotFoundError:
        return ()
    except (OSError, ValueError) as error:
        problem = getattr(error, "strerror", None) or error
        raise DataError(f"{path}: {problem}; it must name a class in each line") from error


def warn_of_what_teaches_nothing(arrays: Arrays, where: str, classes: int) -> None:
    """Warns where a class has no training image, or all of these are alike."""
    there = set(np.unique(arrays.train_labels).tolist())
    missing = [label for label in range(classes) if label not in there]
    problems = []
    if missing == [0]:
        problems.append(
            f"no training image has the label 0: are labels from 1 to {classes - 1}, as in "
            "EMNIST's letters? Subtract 1 from all"
        )
    elif missing:
        few = ", ".join(map(str, missing[:5])) + (", …" if len(missing) > 5 else "")
        problems.append(f"no training image has the label{'s' * (len(missing) > 1)} {few}")
    if classes == 1:
        problems.append("all labels are 0, and there is nothing to tell apart")
    if (arrays.train_images == arrays.train_images[0]).all():
        problems.append("all training images are alike, and there is nothing to learn from")
    for problem in problems:
        warnings.warn(f"data {where}: {problem}", stacklevel=3)
