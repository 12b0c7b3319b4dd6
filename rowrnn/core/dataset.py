"""A data set in memory: plain arrays in three parts."""

from dataclasses import dataclass

import numpy as np

from rowrnn.checks import check_dataset


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
        check_dataset(self)

    def __repr__(self) -> str:
        parts = ("train", "validation", "test")
        sizes = ", ".join(f"{name}={list(getattr(self, name).images.shape)}" for name in parts)
        return f"Dataset({self.name!r}, {sizes}, classes={self.classes})"
