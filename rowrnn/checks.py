"""Images and labels as they come in: kind, shape and range are looked at once, at the door."""

from typing import Any

import numpy as np

from rowrnn.errors import DataError, shown


def check_images(
    images: Any, shape: tuple[int, ...] | None, what: str = "images", *, may_be_empty: bool = False
) -> Any:
    """The images, as an array where they are none; jax's arrays stay what they are.

    Args:
        images: that are to be read, [N, T, F].
        shape: rows and pixels that are read, (T, F); None takes any.
        what: they are, in the message.
        may_be_empty: whether there may be none.

    Raises `DataError` unless they are uint8 and of that shape.

    >>> check_images(np.zeros((5, 28, 28)), (28, 28))
    Traceback (most recent call last):
    rowrnn.errors.DataError: images are float64, and must be uint8 from 0 (paper) to 255 (ink); \
of floats from 0 to 1 take np.round(255 * images).astype(np.uint8)
    """
    images = _as_array(images, what)
    found = "×".join(map(str, images.shape)) or "a single number"
    if images.dtype != np.uint8:
        hint = "; of floats from 0 to 1 take np.round(255 * images).astype(np.uint8)"
        raise DataError(
            f"{what} are {images.dtype}, and must be uint8 from 0 (paper) to 255 (ink)"
            + (hint if images.dtype.kind == "f" else "")
        )
    wanted = "N×T×F" if shape is None else f"N×{'×'.join(map(str, shape))}"
    if images.ndim != 3 or shape not in (None, images.shape[1:]) or 0 in images.shape[1:]:
        hint = "; of a single image take image[None]" if images.ndim == 2 else ""
        raise DataError(f"{what} are {found}, and must be {wanted}: images, rows, pixels{hint}")
    if not len(images) and not may_be_empty:
        raise DataError(f"{what}: there is none; give at least one")
    return images


def check_labels(labels: Any, count: int, classes: int, what: str = "labels") -> Any:
    """The labels, as an array where they are none.

    Raises `DataError` unless they are `count` integers from 0 to `classes` - 1.

    >>> check_labels(np.array([1, 10]), 2, 10)
    Traceback (most recent call last):
    rowrnn.errors.DataError: labels are from 1 to 10, and must be from 0 to 9, as there are 10 \
classes
    """
    labels = _as_array(labels, what)
    if labels.ndim != 1:
        found = "×".join(map(str, labels.shape)) or "a single number"
        hint = "; of one-hot labels take labels.argmax(axis=1)" if labels.ndim == 2 else ""
        raise DataError(f"{what} are {found}, and must be N: one class for each image{hint}")
    if labels.dtype.kind not in "iu":
        raise DataError(f"{what} are {labels.dtype}, and must be integers, such as int32")
    if len(labels) != count:
        raise DataError(f"{what}: {len(labels)} of {count} images; each image needs one")
    low, high = (int(labels.min()), int(labels.max())) if count else (0, 0)
    if low < 0 or high >= classes:
        raise DataError(
            f"{what} are from {low} to {high}, and must be from 0 to {classes - 1}, as there are "
            f"{classes} classes"
        )
    return labels


def check_dataset(dataset: Any) -> None:
    """Raises `DataError` unless the parts of a `core.dataset.Dataset` fit it and each other."""
    if isinstance(dataset.classes, bool) or not isinstance(dataset.classes, int | np.integer):
        raise DataError(f"classes = {shown(dataset.classes)}: must be an integer")
    shape = None
    for name in ("train", "validation", "test"):
        split = getattr(dataset, name)
        empty = name == "validation"
        images = check_images(split.images, shape, f"{name} images", may_be_empty=empty)
        shape = images.shape[1:]
        check_labels(split.labels, len(images), int(dataset.classes), f"{name} labels")


def _as_array(values: Any, what: str) -> Any:
    try:
        return values if hasattr(values, "dtype") else np.asarray(values)
    except ValueError as error:  # Lists of several lengths.
        raise DataError(f"{what} are no array: {error}") from error
