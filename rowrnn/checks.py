"""Images and labels as they come in: kind, shape and range are looked at once, at the door."""

import hashlib
import math
import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from rowrnn.errors import NAME, DataError, cut, say, shown

_MOST_CLASSES = 65_536
_CLASS_NAME = r"[^\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]{1,100}"


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
        kind = getattr(images.dtype, "kind", "")  # A key of jax has none.
        hint = "; of floats from 0 to 1 take np.round(255 * images).astype(np.uint8)"
        raise DataError(
            f"{what} are {images.dtype}, and must be uint8 from 0 (paper) to 255 (ink)"
            + (hint if kind == "f" else "")
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
    if getattr(labels.dtype, "kind", "") not in ("i", "u"):
        raise DataError(f"{what} are {labels.dtype}, and must be integers, such as int32")
    if len(labels) != count:
        raise DataError(f"{what}: {len(labels):,} of {count:,} images; each image needs one")
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
    if dataset.channels not in (1, 3) or shape[1] % dataset.channels:
        raise DataError(f"channels = {shown(dataset.channels)}: must be 1, or 3 of a third of F")
    try:
        check_class_names(dataset.class_names, int(dataset.classes))
    except ValueError as error:
        raise DataError(str(error)) from error


def check_class_names(names: Sequence[Any], classes: int) -> None:
    """Raises `ValueError` unless there is a name for each class, or none at all."""
    for name in names:
        if not isinstance(name, str) or not re.fullmatch(_CLASS_NAME, name):
            raise ValueError(f"class name {shown(name)}: must be a line of 1 to 100 characters")
    if len(names) not in (0, classes) or len(set(names)) < len(names):
        raise ValueError(
            f"class names: {len(set(names))} different ones, and there are {classes} classes; "
            "each class needs one, in the order of the labels"
        )


def fingerprint(arrays: Iterable[np.ndarray]) -> str:
    """SHA-256, in hex, of type, shape and bytes of arrays in their order.

    >>> images, labels = np.zeros((1, 2, 2), np.uint8), np.zeros(1, np.uint8)
    >>> fingerprint([images, labels, images, labels])[:16]
    'ebe89514c01bd0d4'
    """
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype} {array.shape}\n".encode())
        digest.update(array.data)
    return digest.hexdigest()


def read_arrays(
    train: Any, validation: Any, test: Any, class_names: Sequence[str] | None, name: str
) -> tuple[list[tuple[np.ndarray, np.ndarray]], dict[str, Any]]:
    """The three parts, as images uint8 [N, T, F] and labels int32 [N], and what else a dataset has.

    See `rowrnn.Dataset.from_arrays`; raises `DataError` of what it does not take.
    """
    if not isinstance(name, str) or not re.fullmatch(NAME, name):
        raise DataError(f"name = {shown(name)}: must be up to 60 letters, digits and any of _ .+-")
    given = {"train": train, "validation": validation, "test": test}
    parts = {what: _pair(part, what) for what, part in given.items() if part is not None}
    scale = _scale(*(images for images, _ in parts.values()))
    made = [_as_uint8(images, scale) for images, _ in parts.values()]
    labels, names = _numbered([labels for _, labels in parts.values()], class_names)
    shapes = {images.shape[1:] for images in made}
    if len(shapes) > 1:
        raise DataError(f"images are {' and '.join(map(str, shapes))}; all parts must be alike")
    (shape,) = shapes
    classes = len(names) or 1 + max(int(each.max()) for each in labels)
    small = np.uint8 if classes <= 256 else np.int32
    digest = fingerprint(
        array for images, each in zip(made, labels, strict=True)
        for array in (images, each.astype(small))
    )  # fmt: skip
    flat = [images.reshape(len(images), shape[0], -1) for images in made]
    for images in flat:
        images.flags.writeable = False
    found = list(zip(flat, labels, strict=True))
    if validation is None:
        found.insert(1, (flat[0][:0], labels[0][:0]))
    facts = {"classes": classes, "fingerprint": digest, "class_names": names}
    return found, facts | {"channels": shape[2] if len(shape) == 3 else 1}


def _pair(part: Any, what: str) -> tuple[np.ndarray, np.ndarray]:
    """Images [N, T, F] or [N, T, F, 3] and labels [N] of a part, not yet converted."""
    if not isinstance(part, tuple | list) or len(part) != 2:
        raise DataError(f"{what} = {shown(part)}: must be (images, labels)")
    images, labels = (_as_array(values, what, on_host=True) for values in part)
    if images.ndim == 4 and images.shape[-1] == 1:
        images = images[..., 0]
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    found = "×".join(map(str, images.shape)) or "a single number"
    if not (images.ndim == 3 or (images.ndim == 4 and images.shape[-1] == 3)) or not images.size:
        raise DataError(
            f"{what} images are {found}, and must be N×T×F or N×T×F×1 (grey) or N×T×F×3 (colour)"
        )
    if labels.ndim != 1 or len(labels) != len(images):
        hint = "; of one-hot labels take labels.argmax(axis=1)" if labels.ndim == 2 else ""
        found = "×".join(map(str, labels.shape))
        raise DataError(
            f"{what} labels are {found} of {len(images):,} images; each needs one{hint}"
        )
    return images, labels


def _scale(*parts: np.ndarray) -> int:
    """What pixels are multiplied by to be from 0 to 255; says so where it is not 1."""
    kinds = sorted({str(images.dtype) for images in parts})
    if any(images.dtype.kind not in "uif" for images in parts):
        raise DataError(f"images are {' and '.join(kinds)}, and must be uint8, or floats")
    low = float(min(images.min() for images in parts))
    high = float(max(images.max() for images in parts))
    found = f"images are {' and '.join(kinds)} from {low:g} to {high:g}"
    if len(kinds) == 1 and low >= 0 and high <= 255:
        if parts[0].dtype.kind != "f" or high >= 128:
            return 1
        if high <= 1:
            say(f"{found}, and are taken times 255")
            return 255
    right = f"{found}, and must be uint8, or in all parts floats from 0 to 1 or from 0 to 255"
    if not math.isfinite(high - low):
        raise DataError(f"{right}; not all are finite: look at where they come from")
    black = min(low, 0)
    above = f"(images - {black:g})" if black else "images"
    raise DataError(
        f"{right}; take np.round(255 / {high - black:g} * {above}).astype(np.uint8) "
        f"where {black:g} is black and {high:g} is white"
    )


def _as_uint8(images: np.ndarray, scale: int) -> np.ndarray:
    """A copy, which nobody else can change."""
    if images.dtype == np.uint8:
        return np.array(images, order="C")
    return np.rint(images * scale).astype(np.uint8, order="C")


def _numbered(
    parts: Sequence[np.ndarray], names: Sequence[str] | None
) -> tuple[list[np.ndarray], tuple[str, ...]]:
    """Labels as numbers, int32, and the names of the classes."""
    try:
        names = () if names is None else tuple(names)
    except TypeError as error:
        raise DataError(f"class_names = {shown(names)}: must be names in a list") from error
    # Those of NumPy are a kind of text of their own.
    given = tuple(str(each) if isinstance(each, str) else each for each in names)
    if all(labels.dtype.kind in "iu" for labels in parts):
        low, high = min(int(each.min()) for each in parts), max(int(each.max()) for each in parts)
        most = len(given) - 1 if given else _MOST_CLASSES - 1
        if low < 0 or high > most:
            raise DataError(f"labels are from {low} to {high}, and must be from 0 to {most}")
        return [labels.astype(np.int32) for labels in parts], given
    texts = [np.array([str(label) for label in labels]) for labels in parts]
    if any(labels.dtype.kind not in "UO" for labels in parts) or any(
        not isinstance(label, str) for labels in parts for label in labels.tolist()
    ):
        raise DataError(
            f"labels are {parts[0].dtype}, and must be integers or strings, in all parts"
        )
    known = np.array(given or sorted(set(texts[0].tolist())))
    for labels in texts:
        if unknown := set(labels.tolist()) - set(known.tolist()):
            where = "class_names" if given else "the training part"
            raise DataError(f"label {shown(min(unknown))}: must be one of those in {where}")
    order = np.argsort(known)
    found = [order[np.searchsorted(known, labels, sorter=order)] for labels in texts]
    return [labels.astype(np.int32) for labels in found], tuple(known.tolist())


def _as_array(values: Any, what: str, *, on_host: bool = False) -> Any:
    """The values as an array of NumPy, or unless they are to be `on_host` of jax."""
    if np.ma.is_masked(values):
        raise DataError(f"{what} are masked here and there; fill what is masked, or leave it out")
    jax = sys.modules.get("jax")  # Without it nobody has arrays of it.
    if not on_host and jax is not None and isinstance(values, jax.Array):
        return values
    try:
        return np.asarray(values)
    # Lists of several lengths, an array that has no values yet, and what others raise of theirs.
    except (ValueError, TypeError, RuntimeError) as error:
        raise DataError(f"{what} are no array: {cut(str(error).splitlines()[0])}") from error
