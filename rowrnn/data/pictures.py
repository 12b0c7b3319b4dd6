"""Pictures of handwritten digits, brought to the form the images of MNIST have.

MNIST's images were made from scans: the digit was scaled, its aspect ratio kept, to fit a box of
20×20 pixels, which left grey levels at its edges, and placed in 28×28 pixels with its centre of
mass in the middle (LeCun, Cortes, Burges, "The MNIST database of handwritten digits",
http://yann.lecun.com/exdb/mnist). `read_picture` does the same to a PNG or JPEG file.
"""

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from rowrnn.errors import DataError

MAX_PIXELS = 64_000_000
"""Larger pictures are refused, by their header, before any pixel is decoded."""

# A larger picture is first reduced to this many pixels a side, which bounds the work and still
# shows a digit that is a fiftieth of the sheet.
_WORKING_SIDE = 1024
# Grey levels, out of 255, by which the ink must differ from the paper.
_LEAST_CONTRAST = 8
# This filter averages over the pixels it merges, and rings less than the sharper ones.
_FILTER = Image.Resampling.HAMMING
# The digit's box within the image, as a share of each side.
_BOX = 20 / 28

_Made = TypeVar("_Made")


@dataclass(frozen=True)
class Picture:
    """One picture, ready for the model."""

    path: str
    """The file it was read from."""
    image: np.ndarray
    """uint8 [T, F]: a light digit on black."""
    inverted: bool
    """True where the file shows dark ink on light paper."""


def read_picture(path: str | os.PathLike[str], shape: tuple[int, int]) -> Picture:
    """Reads the digit in a PNG or JPEG file as an image of `shape` (T, F), as MNIST was made.

    Any size up to `MAX_PIXELS` and any mode will do: transparency shows white paper, an animation
    its first frame, and EXIF orientation is followed. The paper's brightness is taken from the
    border of the picture, as the plane that fits it best, so that it may change across the sheet.
    Ink is what departs from that plane; whether it is dark or light is the sign of the mean cubed
    departure over the whole picture, in which noise cancels and the farthest pixels decide. The
    strongest ink becomes 255. A grey picture of `shape` on black or on white is one already: it is
    only turned to be light on black.

    Raises `DataError` where the file is missing, is not a PNG or JPEG, is damaged or too large,
    or shows no digit.

    >>> import os, tempfile
    >>> from PIL import Image, ImageDraw
    >>> sheet = Image.new("RGB", (300, 200), "white")
    >>> ImageDraw.Draw(sheet).line([(50, 60), (50, 160)], fill="navy", width=10)
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     path = os.path.join(directory, "one.png")
    ...     sheet.save(path)
    ...     picture = read_picture(path, (28, 28))
    >>> picture.image.shape, picture.image.dtype, picture.inverted
    ((28, 28), dtype('uint8'), True)
    >>> (picture.image > 127).sum(axis=0)  # a line of 20 rows, in the middle
    array([ 0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0, 20, 20,  0,  0,
            0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0])
    """
    grey = _read_grey(path)
    ready = _as_ready(grey, shape)
    if ready is not None:
        return Picture(os.fspath(path), *ready)
    ink, noise = _ink_and_noise(grey)
    inverted = bool((ink * ink * ink).mean() < 0)  # ink**3 takes twenty times as long
    if inverted:
        ink = -ink
    digit = np.zeros(shape)
    # Twelve medians are eight standard deviations of Gaussian noise.
    if ink.max() >= max(_LEAST_CONTRAST, 12 * noise):
        digit = _resize(ink, _bounding_box(ink), shape)
    if not digit.any():
        raise DataError(
            f"picture {path}: blank, nothing stands out from the background; "
            "it must show one digit, dark on light or light on dark"
        )
    return Picture(os.fspath(path), _centre(digit * (255 / digit.max()), shape), inverted)


def read(
    path: str | os.PathLike[str], shape: tuple[int, int], how: str = "digit", channels: int = 1
) -> Picture:
    """Reads a PNG or JPEG file as a network wants it: [T, F], F being columns × channels.

    `how` is "digit", as `read_picture` does it, or "as_is", as `as_is` does; see
    `rowrnn.config.DataConfig.pictures`. Raises `DataError` as `read_picture` does.
    """
    if how == "digit":
        return read_picture(path, shape)
    rows, pixels = shape
    size = (rows, pixels // channels)
    image = decode(path, lambda image: as_is(image, size, channels))
    return Picture(os.fspath(path), image.reshape(shape), inverted=False)


def as_is(image: Image.Image, shape: tuple[int, int], channels: int) -> np.ndarray:
    """An opened picture as uint8 [T, columns], or of colour [T, columns, 3]: resized, no more.

    One of `shape` (T, columns) keeps its pixels. Transparency shows white paper.
    """
    # A JPEG decoder can give a large picture at a fraction of its size.
    image.draft(None, (4 * max(shape), 4 * max(shape)))
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16 bits
        image = Image.fromarray(np.rint(np.asarray(image) / 257).clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("RGB" if channels == 3 else "L")
    rows, columns = shape
    if image.size != (columns, rows):
        image = image.resize((columns, rows), _FILTER)
    return np.asarray(image)


def _read_grey(path: str | os.PathLike[str]) -> np.ndarray:
    """The picture in grey levels 0 to 255, float32 [height, width], reduced where it is large."""

    def grey(image: Image.Image) -> np.ndarray:
        # A JPEG decoder can give a large picture at a fraction of its size.
        image.draft(None, (_WORKING_SIDE, _WORKING_SIDE))
        ImageOps.exif_transpose(image, in_place=True)
        return _to_grey(image)

    return decode(path, grey)


def decode(path: str | os.PathLike[str], make: Callable[[Image.Image], _Made]) -> _Made:
    """What `make` makes of the opened picture in a file; `DataError` says why there is none."""
    if os.path.exists(path) and not os.path.isfile(path):
        raise DataError(f"picture {path}: not a file; give the path of a PNG or JPEG file")
    try:
        # Pillow warns of odd metadata, which does no harm, and of many pixels, refused below.
        with (
            warnings.catch_warnings(action="ignore"),
            Image.open(path, formats=("PNG", "JPEG")) as image,
        ):
            if image.width * image.height > MAX_PIXELS:
                raise Image.DecompressionBombError
            return make(image)
    except Image.DecompressionBombError as error:
        problem, cause = f"too large; it must have at most {MAX_PIXELS:,} pixels", error
    except UnidentifiedImageError as error:
        problem, cause = "not a readable PNG or JPEG; convert the picture to PNG", error
    except Exception as error:
        # Damaged files raise whatever the decoder stumbles over: OSError, SyntaxError,
        # struct.error, ValueError, ... Only errors of the file system explain themselves.
        reason = isinstance(error, OSError) and error.strerror
        problem = f"{reason or 'damaged or cut short'}; give a complete PNG or JPEG file"
        cause = error
    raise DataError(f"picture {path}: {problem}") from cause


def _as_ready(grey: np.ndarray, shape: tuple[int, int]) -> tuple[np.ndarray, bool] | None:
    """A picture that is made as MNIST's are, light on black, and whether it was dark on white."""
    border = np.concatenate([grey[0], grey[-1], grey[1:-1, 0], grey[1:-1, -1]])
    paper = np.median(border)
    if grey.shape != shape or paper not in (0, 255) or np.ptp(grey) < _LEAST_CONTRAST:
        return None
    return np.abs(grey - paper).round().astype(np.uint8), bool(paper)


def _to_grey(image: Image.Image) -> np.ndarray:
    """Grey levels of an opened picture, float32 [height, width]."""
    size = (_WORKING_SIDE, _WORKING_SIDE)
    if image.mode.startswith("I"):  # 16 bits
        image = image.convert("F")
        image.thumbnail(size)
        return np.asarray(image) / 257
    mode = "RGBA" if image.has_transparency_data else "L"
    if image.mode != mode:  # Conversion to the same mode would copy.
        image = image.convert(mode)
    image.thumbnail(size)
    if image.mode == "L":
        return np.asarray(image, np.float32)
    # The paper is white, as any viewer shows it, unless the ink itself is white.
    for paper in ("white", "black"):
        grey = Image.alpha_composite(Image.new("RGBA", image.size, paper), image).convert("L")
        if len(set(grey.getextrema())) > 1:
            break
    return np.asarray(grey, np.float32)


def _ink_and_noise(grey: np.ndarray) -> tuple[np.ndarray, float]:
    """The departure of each pixel from the paper's brightness, and its median on the border.

    The paper is a plane through the border's pixels by least absolute differences, so that ink on
    up to half of them does not move it. Iteratively reweighted least squares finds it.
    """
    height, width = grey.shape
    rows, columns = np.linspace(-1, 1, height)[:, None], np.linspace(-1, 1, width)
    border = np.ones(grey.shape, bool)
    border[1:-1, 1:-1] = False
    levels = grey[border]
    planes = (1.0, rows, columns)
    points = np.stack([np.broadcast_to(plane, grey.shape)[border] for plane in planes], axis=1)
    slopes = np.array([np.median(levels), 0.0, 0.0])
    for _ in range(20):
        distance = np.abs(levels - points @ slopes)
        weight = 1 / np.sqrt(np.maximum(distance, 1))
        slopes = np.linalg.lstsq(points * weight[:, None], levels * weight)[0]
    paper = slopes[0] + slopes[1] * rows + slopes[2] * columns
    return grey - paper, float(np.median(np.abs(levels - points @ slopes)))


def _bounding_box(ink: np.ndarray) -> tuple[slice, slice]:
    """The box of everything inked, specks of dust left out."""
    from scipy import ndimage

    # Fainter are the traces that JPEG compression leaves around a stroke, and most of the noise.
    inked = ink > 0.15 * ink.max()
    parts = np.zeros(ink.shape, np.int32)
    ndimage.label(inked, structure=np.ones((3, 3)), output=parts)
    sizes = np.bincount(parts[inked])
    digit = np.isin(parts, np.flatnonzero(sizes > 0.05 * sizes.max()))
    rows, columns = np.flatnonzero(digit.any(axis=1)), np.flatnonzero(digit.any(axis=0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def _resize(ink: np.ndarray, box: tuple[slice, slice], shape: tuple[int, int]) -> np.ndarray:
    """The ink, float64 >= 0, scaled so that `box` fits the middle of an image of `shape`."""
    sizes = [part.stop - part.start for part in box]
    scale = min(_BOX * side / size for side, size in zip(shape, sizes, strict=True))
    # The faint outer edge of the strokes, just below the threshold of the box, comes along.
    margins = [round(_BOX * side / scale / 20) for side in shape]
    digit = ink[
        tuple(
            slice(max(0, part.start - margin), part.stop + margin)
            for part, margin in zip(box, margins, strict=True)
        )
    ]
    height, width = (max(1, round(scale * size)) for size in digit.shape)
    resized = Image.fromarray(digit.astype(np.float32)).resize((width, height), _FILTER)
    # Departures the other way are cut after noise has averaged out, not before.
    return np.maximum(np.asarray(resized, np.float64), 0)


def _centre(digit: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The digit on black, uint8, with its centre of mass on the pixel [T // 2, F // 2].

    All of MNIST's 10,000 test images have it there. A digit that this would push out stays at the
    edge; only the margin around it may be cut.
    """
    margins = [round(_BOX * side / 20) for side in shape]
    canvas = np.zeros([side + 2 * margin for side, margin in zip(shape, margins, strict=True)])
    place = []
    for axis, length in enumerate(digit.shape):
        profile = digit.sum(axis=1 - axis)
        centre = profile @ np.arange(length) / profile.sum()
        start = round(shape[axis] // 2 - centre) + margins[axis]
        start = min(max(start, 0), canvas.shape[axis] - length)
        place.append(slice(start, start + length))
    canvas[tuple(place)] = digit
    inner = tuple(slice(margin, margin + side) for side, margin in zip(shape, margins, strict=True))
    return canvas[inner].round().astype(np.uint8)
