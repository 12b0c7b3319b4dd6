"""A data set in memory: plain arrays in three parts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rowrnn import checks


@dataclass(frozen=True, repr=False)
class Split:
    """One part of a dataset."""

    images: np.ndarray
    """uint8 [N, T, F], read-only; of colour a row holds (red, green, blue) of each column."""
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
    """As `DataConfig.dataset` says, or the name that arrays were given."""
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

    class_names: tuple[str, ...] = ()
    """Names of the classes in the order of their labels; none where the labels say all."""
    channels: int = 1
    """Values of a pixel: 1 of grey, 3 of colour, where F is three times the columns."""

    def __post_init__(self):
        checks.check_dataset(self)

    @classmethod
    def from_arrays(
        cls,
        train: tuple[Any, Any],
        test: tuple[Any, Any],
        validation: tuple[Any, Any] | None = None,
        class_names: Sequence[str] | None = None,
        name: str = "mine",
    ) -> "Dataset":
        """A dataset of one's own arrays, for what takes ``dataset=``.

        Args:
            train: images [N, T, F], or [N, T, F, 1], or [N, T, F, 3] in colour; and labels [N].
                Pixels are uint8, or floats from 0 to 1 or 255; labels integers from 0, or strings.
            test, validation: the same; without validation `data.validation_size` may split train.
            class_names: in the order of the labels; without them strings are sorted.
            name: of the dataset in results and reports.

        Raises `DataError` of anything else.
        >>> images = np.zeros((4, 8, 6, 3))
        >>> Dataset.from_arrays((images, list("abca")), (images, list("abcb"))).class_names
        ('a', 'b', 'c')
        """
        parts, facts = checks.read_arrays(train, validation, test, class_names, name)
        return cls(name, *(Split(*part) for part in parts), **facts)  # type: ignore[arg-type]

    def __repr__(self) -> str:
        parts = ("train", "validation", "test")
        sizes = ", ".join(f"{name}={list(getattr(self, name).images.shape)}" for name in parts)
        return f"Dataset({self.name!r}, {sizes}, classes={self.classes})"
