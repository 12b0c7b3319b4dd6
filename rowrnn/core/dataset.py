"""A data set in memory: plain arrays in three parts."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Split:
    """One part of a dataset."""

    images: np.ndarray
    """uint8 [N, T, F], read-only."""
    labels: np.ndarray
    """int32 [N]."""


@dataclass(frozen=True)
class Dataset:
    """A dataset in memory, in three parts; the validation part may be empty."""

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
