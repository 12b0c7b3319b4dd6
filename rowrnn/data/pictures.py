"""Pictures of handwritten digits, brought to the form the images of MNIST have.

MNIST's images were made from scans: the digit was scaled, its aspect ratio kept, to fit a box of
20×20 pixels, which left grey levels at its edges, and placed in 28×28 pixels with its centre of
mass in the middle (LeCun, Cortes, Burges, "The MNIST database of handwritten digits",
http://yann.lecun.com/exdb/mnist). `read_picture` does the same to a PNG or JPEG file.
"""

import math
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
# Share of the strongest ink below which ink is no part of the digit.
_FAINT = 0.15
# Most parts of a picture that can be a drawing without noise or specks.
_MOST_PARTS = 30
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
    warning: str = ""
    """What may make the reading wrong; empty where nothing does."""


def read_picture(path: str | os.PathLike[str], shape: tuple[int, int]) -> Picture:
    """Reads the digit in a PNG or JPEG file as an image of `shape` (T, F), as MNIST was made.

    Any size up to `MAX_PIXELS` and any mode will do: transparency shows white paper, an animation
    its first frame, and EXIF orientation is followed. The paper's brightness may change across the
    sheet, also at the edge of a shadow. The strongest ink becomes 255. Where something else is in
    the picture, or the digit touches its border, the `warning` of the picture says so.
    A grey picture of `shape` on black or on white is one already: it is only turned to be light on
    black.

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
    ink, where, inverted, warning = _find(grey)
    digit = _resize(ink, where, shape) if where.any() else np.zeros(shape)
    if not digit.any():
        raise DataError(
            f"picture {path}: blank, nothing stands out from the background; "
            "it must show one digit, dark on light or light on dark"
        )
    return Picture(os.fspath(path), _centre(digit * (255 / digit.max()), shape), inverted, warning)


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
    plain = "L" if image.mode in ("1", "L") else "RGB"
    mode = "RGBA" if image.has_transparency_data else plain
    if image.mode != mode:  # Conversion to the same mode would copy.
        image = image.convert(mode)
    image.thumbnail(size)
    if image.mode == "L":
        return np.asarray(image, np.float32)
    if image.mode == "RGBA":
        # The paper is white, as any viewer shows it, unless the ink itself is white.
        for paper in ("white", "black"):
            sheet = Image.alpha_composite(Image.new("RGBA", image.size, paper), image)
            if np.ptp(sheet.convert("L").getextrema()) > 2 * _LEAST_CONTRAST:
                break
        image = sheet.convert("RGB")
    return _one_channel(np.asarray(image, np.float32))


def _one_channel(colours: np.ndarray) -> np.ndarray:
    """The mixture, 0 to 255, of the three colours [height, width, 3] that differs most locally.

    Ink and paper may be of one brightness and another hue.
    """
    from scipy import ndimage

    window = max(colours.shape) // 8 | 1
    around = ndimage.uniform_filter1d(ndimage.uniform_filter1d(colours, window, 0), window, 1)
    local = (colours - around).reshape(-1, 3)
    axis = np.linalg.eigh(local.T @ local)[1][:, -1]
    axis /= np.abs(axis).sum() * (1 if axis.sum() >= 0 else -1)
    return colours @ axis - 255 * axis[axis < 0].sum()


def _find(levels: np.ndarray) -> tuple[np.ndarray, np.ndarray, bool, str]:
    """The ink of each pixel, where the digit is, whether it is dark, and a warning or nothing.

    Ink is what stands out from the paper around it, as a share of the paper's level: the paper is
    the closing of the levels where the ink is dark, and their opening where it is light. Both
    follow the edge of a shadow or of a sheet, and fill what is narrower than their window. The
    second window fits the strokes that the first one shows.
    """
    from scipy import ndimage

    side = math.sqrt(levels.size)
    # Specks go and noise averages out; the strokes of a small picture, a few pixels wide, stay.
    smooth = ndimage.median_filter(levels, 3) if side > 100 else levels
    smooth = ndimage.gaussian_filter(smooth, max(levels.shape) / 600)
    # A hair in a stroke says nothing of the ink, unless there are but hairs.
    dark = _is_dark(smooth if np.ptp(smooth) > _LEAST_CONTRAST else levels, side)
    other = levels != np.median(levels)
    if other.mean() < 0.5 and _label(other).max() < _MOST_PARTS:
        smooth = levels  # It is clean, as drawn on a screen, and a line may be as thin as a pixel.
    window = max(11, int(side / 3) | 1)
    ink, digit, warning = levels, np.zeros(levels.shape, bool), ""
    for _ in range(2):
        paper = (ndimage.grey_closing if dark else ndimage.grey_opening)(smooth, (window, window))
        ink, seen = ((paper - each) * (1 if dark else -1) for each in (levels, smooth))
        noise = np.median(seen[seen <= seen.max() / 2])
        # Noise alone reaches four and a half times its median, a digit in strong noise ten times.
        if seen.max() - noise < max(_LEAST_CONTRAST, 5 * noise):
            return ink, np.zeros(ink.shape, bool), dark, ""
        # Paper is never quite black, in which noise would count as much as ink.
        ink, seen = ((each - noise) / (paper + 32) for each in (ink, seen))
        digit, warning = _choose(seen)
        stroke = 2 * np.asarray(ndimage.distance_transform_edt(np.pad(digit, 1))).max()
        window = min(window, int(3 * stroke) | 1)
    return ink, digit, dark, warning


def _is_dark(levels: np.ndarray, side: float) -> bool:
    """Whether the ink is darker than the paper.

    The levels differ much within a window around the strokes. What lies around them is
    paper. A wide window is needed where the strokes fill the picture, a narrow one does elsewhere.
    """
    from scipy import ndimage

    for part in (4, 6):
        size = (max(7, int(side / part) | 1),) * 2
        light, dark = ndimage.grey_closing(levels, size), ndimage.grey_opening(levels, size)
        places = _label(light - dark > 0.4 * (light - dark).max())
        if (places > 0).mean() > 0.3:
            break
    inked = np.logical_not(np.isin(places, _on_border(places))) & (places > 0)
    if not inked.any():
        inked = places > 0
    # The soft edge of a stroke is neither ink nor paper.
    soft = 1 + max(levels.shape) // 100
    middle = ndimage.maximum_filter(np.where(inked, (light + dark) / 2, 0), 4 * soft + 1)
    around = (middle > 0) & (ndimage.maximum_filter(places, 2 * soft + 1) == 0)
    if not around.any():  # The digit fills the picture: it hangs together, and the paper does not.
        return bool(_label(light - levels < levels - dark).max() > 1)
    return bool((levels > middle)[around].mean() > 0.5)


def _choose(ink: np.ndarray) -> tuple[np.ndarray, str]:
    """Where the digit is, and a warning where that is not sure.

    It is the part with the most ink, if possible one that frames no other, leaves the picture
    nowhere and is no disc, with what lies close to it.
    """
    from scipy import ndimage

    # Fainter are the traces that JPEG compression leaves around a stroke, and most of the noise.
    parts = _label(ink > _FAINT * ink.max())
    count = int(parts.max())
    numbers = np.arange(1, count + 1)
    weight, peak = (f(ink, parts, numbers) for f in (ndimage.sum_labels, ndimage.maximum))
    boxes = ndimage.find_objects(parts)
    sizes = np.array([[along.stop - along.start for along in box] for box in boxes])
    span = sizes.max(axis=1)
    solid = np.bincount(parts.ravel())[1:] > 0.7 * sizes.prod(axis=1)
    disc = solid & (sizes.min(axis=1) > 0.7 * span)
    cut = np.isin(numbers, _on_border(np.where(ink > 0.5 * ink.max(), parts, 0)))
    large = np.flatnonzero(
        (span > 0.1 * span[weight > 0.05 * weight.max()].max())
        & (peak > 0.3 * peak.max())
        & (weight > 0.002 * weight.max())
    )
    frame = np.zeros(count, bool)
    for i in large:
        frame[i] = any(
            j != i and span[j] > 0.25 * span[i] and _contains(boxes[i], boxes[j]) for j in large
        )
    main = max(large, key=lambda i: (not frame[i], not cut[i], not disc[i], weight[i]))
    away = ndimage.minimum(ndimage.distance_transform_edt(parts != main + 1), parts, numbers)
    digit = (
        (away < 0.2 * span[main])
        & (span <= 1.2 * span[main])
        & (peak > 0.3 * peak[main])
        & (weight > 0.05 * weight[main])
        & ~frame
        & (~cut | cut[main])
    )
    digit[main] = True
    warning = ""
    if not digit[large].all():
        warning = "there is more than one thing in it"
    elif cut[digit].any():
        warning = "the digit touches the border"
    elif 100 * span[digit].max() < max(ink.shape):
        warning = "it is so small that it may be a speck"
    return np.isin(parts, numbers[digit]), warning


def _label(inked: np.ndarray) -> np.ndarray:
    """The connected parts, numbered from 1, int32 [height, width]."""
    from scipy import ndimage

    parts = np.zeros(inked.shape, np.int32)
    ndimage.label(inked, structure=np.ones((3, 3)), output=parts)
    return parts


def _contains(outer: tuple[slice, ...], inner: tuple[slice, ...]) -> bool:
    """Whether a box lies within another."""
    return all(a.start <= b.start and b.stop <= a.stop for a, b in zip(outer, inner, strict=True))


def _on_border(parts: np.ndarray) -> np.ndarray:
    """The numbers that stand along the four sides."""
    return np.concatenate([parts[0], parts[-1], parts[:, 0], parts[:, -1]])


def _resize(ink: np.ndarray, where: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The ink, float64 >= 0, scaled so that `where` fits the middle of an image of `shape`."""
    from scipy import ndimage

    (box,) = ndimage.find_objects(where.astype(np.uint8))
    sizes = [part.stop - part.start for part in box]
    scale = min(_BOX * side / size for side, size in zip(shape, sizes, strict=True))
    # The faint outer edge of the strokes, just below the threshold of the box, comes along.
    margins = [round(_BOX * side / scale / 20) for side in shape]
    # Other things in the picture do not.
    ink = np.where(ndimage.distance_transform_edt(~where) <= max(margins) + 1, ink, 0)
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
