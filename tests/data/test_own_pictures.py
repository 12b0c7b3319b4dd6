"""Pictures that are read as they are, and digits that are digits already."""

import numpy as np
import pytest
from PIL import Image

from rowrnn.data import pictures
from rowrnn.errors import DataError

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (9, 14), np.uint8)
COLOUR = RNG.integers(0, 256, (9, 14, 3), np.uint8)


def read(picture, directory, shape, channels, name="picture.png", how="as_is", **options):
    picture.save(directory / name, **options)
    return pictures.read(directory / name, shape, how, channels).image


def luma(colour):
    """ITU-R 601, as every viewer has it."""
    return colour.astype(float) @ [0.299, 0.587, 0.114]


@pytest.mark.parametrize(
    "picture",
    [
        Image.fromarray(GREY),
        Image.fromarray(GREY).convert("RGB"),
        Image.fromarray(GREY).convert("LA"),
        Image.fromarray(GREY).convert("RGBA"),
        Image.fromarray(GREY).convert("P"),
        Image.fromarray(GREY.astype(np.uint16) * 257),
    ],
    ids=["L", "RGB", "LA", "RGBA", "P", "I;16"],
)
def test_grey_pixels_come_in_as_they_are(picture, tmp_path):
    np.testing.assert_array_equal(read(picture, tmp_path, (9, 14), 1), GREY)
    threefold = read(picture, tmp_path, (9, 42), 3)
    np.testing.assert_array_equal(threefold, GREY[..., None].repeat(3, 2).reshape(9, 42))


def test_pixels_in_colour_come_in_row_by_row(tmp_path):
    for mode in ("RGB", "RGBA"):
        found = read(Image.fromarray(COLOUR).convert(mode), tmp_path, (9, 42), 3)
        np.testing.assert_array_equal(found.reshape(9, 14, 3), COLOUR)
    grey = read(Image.fromarray(COLOUR), tmp_path, (9, 14), 1)
    assert np.abs(grey - luma(COLOUR)).max() <= 1


def test_black_and_white_and_print(tmp_path):
    bits = Image.fromarray(GREY > 127)
    np.testing.assert_array_equal(read(bits, tmp_path, (9, 14), 1), 255 * (GREY > 127))
    flat = Image.new("RGB", (14, 9), (200, 30, 60)).convert("CMYK")
    found = read(flat, tmp_path, (9, 42), 3, "print.jpg", quality=95).reshape(9, 14, 3)
    assert np.abs(found.astype(int) - [200, 30, 60]).max() <= 4


def test_what_is_clear_shows_white_paper(tmp_path):
    clear = Image.new("RGBA", (14, 9), (0, 0, 0, 0))
    clear.putpixel((3, 2), (10, 20, 30, 255))
    expected = np.full((9, 14), 255)
    expected[2, 3] = 18
    np.testing.assert_array_equal(read(clear, tmp_path, (9, 14), 1), expected)


def test_light_and_dark_stay_and_the_whole_is_resized(tmp_path):
    halves = np.zeros((40, 60), np.uint8)
    halves[:, :30] = 250
    found = read(Image.fromarray(halves), tmp_path, (4, 6), 1)
    np.testing.assert_array_equal(found[:, [0, 1, 4, 5]], [[250, 250, 0, 0]] * 4)
    np.testing.assert_array_equal(read(Image.fromarray(250 - halves), tmp_path, (4, 6), 1)[:, 0], 0)


def test_a_jpeg_on_its_side_is_turned_first(tmp_path):
    halves = np.zeros((48, 64), np.uint8)
    halves[:, :32] = 250
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn clockwise
    found = read(Image.fromarray(halves), tmp_path, (8, 6), 1, "side.jpg", exif=exif, quality=95)
    assert found[:3].min() > 240
    assert found[-3:].max() < 10


@pytest.mark.parametrize("mode", ["L", "RGB", "P", "I;16"])
def test_a_digit_of_the_size_on_black_is_one_already(mode, tmp_path):
    digit = np.zeros((28, 28), np.uint8)
    digit[3:9, 2:20] = RNG.integers(1, 201, (6, 18))  # neither centred nor as bright as it could be
    picture = Image.fromarray(digit.astype(np.uint16) * 257 if mode == "I;16" else digit)
    if mode != "I;16":
        picture = picture.convert(mode)
    np.testing.assert_array_equal(read(picture, tmp_path, (28, 28), 1, how="digit"), digit)
    # As a picture of any other size it is cut out, centred and brightened.
    larger = Image.fromarray(np.pad(digit, 1))
    assert not np.array_equal(read(larger, tmp_path, (28, 28), 1, how="digit"), digit)


def test_damaged_files_are_named(tmp_path):
    path = tmp_path / "cut.png"
    Image.fromarray(COLOUR).save(path)
    path.write_bytes(path.read_bytes()[:-60])
    with pytest.raises(DataError, match=r"picture .*cut\.png: damaged or cut short"):
        pictures.read(path, (9, 42), "as_is", 3)
