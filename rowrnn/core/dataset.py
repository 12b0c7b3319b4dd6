"""A data set in memory: plain arrays in three parts."""

from dataclasses import dataclass

import numpy as np

from rowrnn.checks import check_images, check_labels
from rowrnn.errors import DataError, shown


@dataclass(frozen=True, repr=False)
class Split:
    """One part of a dataset."""

    images: np.ndarray
    """uint8 [N, T, F], read-only."""
    labels: np.ndarray
    """int32 [N]."""

    def __repr__(self) -> str:
        return f"Split(images={list(self.images.shape)}, labels={list(self.labels.shape)})"


@dataclass(frozen=True, repr=False)
class Dataset:
    """A dataset in memory, in three parts; the validation part may be empty.

    Raises `DataError` where images or labels are of another kind, shape or range than is said here.
    """

    name: str
    """As `DataConfig.dataset` says."""
    train: Split
    """The training file without its first images, which are the validation part."""
    validation: Split
    """The first images of the training file."""
    test: Split
    """The test file."""
    classes: int
    """Labels are from 0 to classes - 1."""
    fingerprint: str
    """SHA-256, in hex, of all images and labels; it does not depend on the validation part."""

    def __post_init__(self):
        if isinstance(self.classes, bool) or not isinstance(self.classes, int | np.integer):
            raise DataError(f"classes = {shown(self.classes)}: must be an integer")
        shape = None
        for name in ("train", "validation", "test"):
            split, what = getattr(self, name), f"{name} images"
            images = check_images(split.images, shape, what, may_be_empty=name == "validation")
            shape = images.shape[1:]
            check_labels(split.labels, len(images), self.classes, f"{name} labels")

    def __repr__(self) -> str:
        parts = {"train": self.train, "validation": self.validation, "test": self.test}
        sizes = ", ".join(f"{name}={list(part.images.shape)}" for name, part in parts.items())
        return f"Dataset({self.name!r}, {sizes}, classes={self.classes})"
