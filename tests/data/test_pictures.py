import contextlib
import gzip
import io
import os
import zlib

import numpy as np
import pytest
from data_files import TEST_DATA
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageOps

from rowrnn.data.pictures import read_picture
from rowrnn.errors import DataError

SHAPE = (28, 28)
TEST_IMAGES = TEST_DATA / "mnist" / "t10k-images-idx3-ubyte.gz"


@pytest.fixture(scope="module")
def originals():
    """100 of MNIST's test images, uint8 [100, 28, 28]."""
    if not TEST_IMAGES.is_file():
        pytest.skip(f"no {TEST_IMAGES}; set ROWRNN_TEST_DATA")
    images = np.frombuffer(gzip.decompress(TEST_IMAGES.read_bytes()), np.uint8, offset=16)
    return images.reshape(-1, *SHAPE)[::100]


def sketch(mode="L", size=(280, 280), paper="white", ink="black"):
    """A drawn 7, its box 120 by 180 pixels."""
    picture = Image.new(mode, size, paper)
    ImageDraw.Draw(picture).line([(90, 50), (200, 50), (120, 225)], fill=ink, width=16)
    return picture


def read(picture, directory, name="picture.png", shape=SHAPE, **options):
    picture.save(directory / name, **options)
    return read_picture(directory / name, shape)


def correlation(one, other):
    """Of two images, in float64; an independent measure of how alike they are."""
    return np.corrcoef(one.ravel().astype(float), other.ravel().astype(float))[0, 1]


def closeness(original, image):
    """The correlation at the best of the shifts by up to one pixel.

    A centre of mass near the edge of a pixel may be rounded either way.
    """
    shifts = [(rows, columns) for rows in (-1, 0, 1) for columns in (-1, 0, 1)]
    return max(correlation(original, np.roll(image, shift, (0, 1))) for shift in shifts)


def enlarged(original, factor=10):
    size = (28 * factor, 28 * factor)
    return Image.fromarray(original).resize(size, Image.Resampling.BICUBIC)


def test_mnist_comes_out_as_it_went_in(originals, tmp_path):
    same = 0
    for original in originals:
        light = read(Image.fromarray(original), tmp_path)
        dark = read(Image.fromarray(255 - original), tmp_path)
        assert (light.inverted, dark.inverted) == (False, True)
        np.testing.assert_array_equal(light.image, dark.image)
        same += np.abs(light.image.astype(int) - original).max() <= 1
    # The rest have a speck or a faint end that MNIST counted as part of the digit.
    assert same >= 0.98 * len(originals)


def noisy(original, random):
    levels = 90 + np.asarray(enlarged(original)) * 0.5
    levels += random.normal(0, 10, levels.shape)
    return Image.fromarray(levels.clip(0, 255).astype(np.uint8))


def on_a_sheet(original, random):
    sheet = Image.new("RGBA", (480, 360), "white")
    digit = enlarged(original, 3)
    place = (int(random.integers(0, 396)), int(random.integers(0, 276)))
    sheet.paste(Image.new("RGBA", digit.size, (20, 30, 90, 255)), place, digit)
    return sheet


def photographed(original, random):
    """Dark ink on paper with a shadow across it, darker corners and texture."""
    rows, columns = np.mgrid[-1:1:250j, -1:1:300j]
    levels = 190 + 25 * columns + 15 * rows - 20 * (rows**2 + columns**2)
    levels += random.normal(0, 5, levels.shape)
    levels[50:190, 100:240] *= 1 - 0.7 * np.asarray(enlarged(original, 5)) / 255
    return Image.fromarray(levels.clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize(
    ("make", "name", "inverted", "mean", "least"),
    [
        pytest.param(noisy, "noisy.png", False, 0.96, 0.75, marks=pytest.mark.slow),
        pytest.param(on_a_sheet, "sheet.png", True, 0.97, 0.85, marks=pytest.mark.slow),
        (lambda original, _: Image.fromarray(original), "small.jpg", False, 0.99, 0.75),
        pytest.param(photographed, "photograph.jpg", True, 0.96, 0.75, marks=pytest.mark.slow),
    ],
)
def test_mnist_is_recovered(make, name, inverted, mean, least, originals, tmp_path):
    random = np.random.default_rng(0)
    found = []
    for original in originals:
        picture = read(make(original, random), tmp_path, name, quality=80, compress_level=1)
        assert picture.inverted == inverted
        found.append(closeness(original, picture.image))
    assert np.mean(found) > mean
    assert np.min(found) > least


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16", "CMYK"])
def test_every_mode_shows_the_same_digit(mode, tmp_path):
    expected = read(sketch(), tmp_path)
    if mode == "I;16":
        picture = Image.fromarray(np.asarray(sketch()).astype(np.uint16) * 257)
    else:
        picture = sketch("RGB").convert(mode)
    found = read(picture, tmp_path, "mode.jpg" if mode == "CMYK" else "mode.png")
    assert found.inverted
    assert np.abs(found.image.astype(int) - expected.image).max() <= 12


@pytest.mark.parametrize("ink", ["black", "white"])
def test_transparency_is_paper_for_any_ink(ink, tmp_path):
    found = read(sketch("RGBA", paper="#00000000", ink=ink), tmp_path)
    assert found.inverted == (ink == "black")
    assert correlation(found.image, read(sketch(), tmp_path).image) > 0.999


def test_the_first_frame_of_an_animation_counts(tmp_path):
    later = Image.new("L", (280, 280), "black")
    found = read(sketch(), tmp_path, save_all=True, append_images=[later], duration=100)
    assert correlation(found.image, read(sketch(), tmp_path).image) > 0.999


def test_the_orientation_in_the_metadata_is_followed(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn clockwise
    turned = sketch().transpose(Image.Transpose.ROTATE_90)
    found = read(turned, tmp_path, "turned.jpg", exif=exif)
    assert correlation(found.image, read(sketch(), tmp_path).image) > 0.99


def test_size_place_and_aspect_ratio(tmp_path):
    found = read(sketch(size=(900, 400)), tmp_path, shape=(42, 56)).image
    rows, columns = np.nonzero(found > 60)
    assert abs(np.ptp(rows) + 1 - 30) <= 1  # 20/28 of 42
    assert (np.ptp(columns) + 1) / (np.ptp(rows) + 1) == pytest.approx(120 / 180, abs=0.08)
    centre = [
        found.sum(axis=1 - axis) @ np.arange(side) / found.sum()
        for axis, side in enumerate(found.shape)
    ]
    np.testing.assert_allclose(centre, [21, 28], atol=0.51)


@pytest.mark.parametrize("cut", [(90, 42, 215, 225), (85, 42, 205, 140)])
def test_ink_on_the_border_is_no_paper(cut, tmp_path):
    # Cut so closely that the bar of the 7 fills an edge of the picture.
    found = read(sketch().crop(cut), tmp_path)
    assert found.inverted
    whole = Image.new("L", (400, 400), "white")
    whole.paste(sketch().crop(cut), (100, 100))
    assert closeness(found.image, read(whole, tmp_path).image) > 0.98


def test_specks_are_not_part_of_the_digit(tmp_path):
    random = np.random.default_rng(0)
    levels = np.array(sketch())
    levels[random.random(levels.shape) < 0.01] = 0
    found = read(Image.fromarray(levels), tmp_path)
    assert correlation(found.image, read(sketch(), tmp_path).image) > 0.97


def test_noise_is_not_part_of_the_digit(tmp_path):
    noise = np.random.default_rng(0).normal(0, 20, (280, 280))
    levels = (np.asarray(sketch(paper="#e0e0e0", ink="#202020")) + noise).clip(0, 255)
    found = read(Image.fromarray(levels.astype(np.uint8)), tmp_path)
    assert correlation(found.image, read(sketch(), tmp_path).image) > 0.97


def test_a_heavy_end_stays_inside(tmp_path):
    stalk = Image.new("L", (300, 300), "black")
    ImageDraw.Draw(stalk).line([(150, 50), (150, 249)], fill="white", width=10)
    ImageDraw.Draw(stalk).rectangle([100, 50, 200, 90], fill="white")
    rows = np.flatnonzero((read(stalk, tmp_path).image > 60).any(axis=1))
    assert (rows[0], rows[-1]) == (8, 27)  # all 20 of them


def blank(random):
    return Image.new("RGB", (50, 40), "ivory")


def faint(random):
    """16 bits, of which the ink takes nine."""
    return Image.fromarray(np.asarray(sketch()).astype(np.uint16) * 2)


def paper(random):
    levels = np.linspace(150, 220, 300) + random.normal(0, 6, (200, 300))
    return Image.fromarray(levels.astype(np.uint8))


@pytest.mark.parametrize("make", [blank, faint, paper])
def test_a_picture_without_a_digit_is_refused(make, tmp_path):
    with pytest.raises(DataError, match=r"picture .*empty\.png: blank.*; it must show one digit"):
        read(make(np.random.default_rng(0)), tmp_path, "empty.png")


def test_light_ink_with_a_dark_hair_in_it_is_light(tmp_path):
    levels = np.full((400, 600), 128, np.uint8)
    levels[194:207, 100:500] = 168
    levels[200, 100:500] = 0
    found = read(Image.fromarray(levels), tmp_path)
    assert not found.inverted
    assert np.flatnonzero((found.image > 60).any(axis=0)).size == 20


def shadowed(picture):
    levels = np.array(picture, float)
    levels[np.add.outer(np.arange(280), np.arange(280)) > 300] *= 0.5
    return Image.fromarray(levels.astype(np.uint8)), False


def on_a_table(picture):
    return ImageOps.expand(picture, (20, 40, 90, 10), fill=60), True


def punched(picture):
    for row in (60, 200):
        ImageDraw.Draw(picture).ellipse([10, row, 34, row + 24], fill=20)
    return picture, True


def boxed(picture):
    ImageDraw.Draw(picture).rectangle([60, 20, 230, 260], outline=30, width=3)
    return picture, True


def darker_to_the_corners(picture):
    rows, columns = np.mgrid[-1:1:280j, -1:1:280j]
    levels = np.asarray(picture) * (1 - 0.35 * (rows**2 + columns**2))
    return Image.fromarray(levels.astype(np.uint8)), False


def of_another_hue(picture):
    return ImageOps.colorize(picture, (0, 0, 255), (97, 0, 0)), False


def almost_white(picture):
    ink = ImageOps.invert(picture)
    return Image.merge("RGBA", [ink.point(lambda _: 254)] * 3 + [ink]), False


@pytest.mark.parametrize(
    "change",
    [shadowed, on_a_table, punched, boxed, darker_to_the_corners, of_another_hue, almost_white],
)
def test_the_digit_alone_is_read(change, tmp_path):
    clean = sketch(paper="#f0f0f0", ink="#202020")
    expected = read(clean, tmp_path)
    assert not expected.warning
    picture, more = change(clean)
    found = read(picture, tmp_path)
    assert closeness(expected.image, found.image) > 0.98
    assert ("more than one thing" in found.warning) >= more


def test_what_is_cut_or_one_of_two_is_told(tmp_path):
    assert (
        read(sketch().crop((100, 0, 280, 280)), tmp_path).warning == "the digit touches the border"
    )
    pair = Image.new("L", (560, 280), "white")
    for place in (0, 200):
        pair.paste(sketch().crop((80, 0, 280, 280)), (place, 0))
    assert "more than one thing" in read(pair, tmp_path).warning


def test_a_speck_is_told(tmp_path):
    sheet = Image.new("L", (700, 500), "white")
    ImageDraw.Draw(sheet).rectangle([300, 200, 303, 203], fill="black")
    assert "speck" in read(sheet, tmp_path).warning


@pytest.mark.parametrize("light", [False, True])
def test_a_one_cut_to_its_own_box_is_read(light, tmp_path):
    one = Image.new("L", (43, 213), "white")
    ImageDraw.Draw(one).line([(13, 0), (29, 212)], fill="#303030", width=26)
    found = read(ImageOps.invert(one) if light else one, tmp_path).image
    rows = np.flatnonzero((found > 60).any(axis=1))
    assert rows.size >= 19
    assert found[rows].any(axis=0).sum() < 8


def png_header(width, height):
    """A PNG that claims a size; the pixels of an L picture of 1 by 1 follow."""
    buffer = io.BytesIO()
    Image.new("L", (1, 1)).save(buffer, "PNG")
    content = bytearray(buffer.getvalue())
    content[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    return bytes(content)


def encoded(format):
    buffer = io.BytesIO()
    sketch().resize((64, 64)).save(buffer, format)
    return buffer.getvalue()


PNG, JPEG = encoded("PNG"), encoded("JPEG")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "not a readable PNG or JPEG"),
        (b"GIF89a" + bytes(100), "not a readable PNG or JPEG"),
        ("Ångström\n".encode(), "not a readable PNG or JPEG"),
        (PNG[: len(PNG) // 2], "damaged or cut short"),
        (JPEG[: len(JPEG) // 2], "damaged or cut short"),
        # Pillow answers these two with a ValueError and a SyntaxError.
        (PNG[:11] + bytes(1) + PNG[12:], "damaged or cut short"),
        (PNG[:36] + bytes(1) + PNG[37:], "damaged or cut short"),
        (png_header(0, 0), "not a readable PNG or JPEG"),
        (png_header(20_000, 20_000), "too large.* at most 64,000,000 pixels"),
        # Between the sizes that Pillow warns of and those that it refuses.
        (png_header(10_000, 10_000), "too large.* at most 64,000,000 pixels"),
        (png_header(8_000, 8_001), "too large.* at most 64,000,000 pixels"),
    ],
)
def test_a_bad_file_is_refused_in_one_line(content, problem, tmp_path):
    path = tmp_path / "bad.png"
    path.write_bytes(content)
    with pytest.raises(DataError, match=problem) as caught:
        read_picture(path, SHAPE)
    assert str(caught.value).startswith(f"picture {path}: ")
    assert "\n" not in str(caught.value)


def test_what_is_no_file_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"missing\.png: No such file or directory; give a"):
        read_picture(tmp_path / "missing.png", SHAPE)
    with pytest.raises(DataError, match="not a file; give the path of a PNG or JPEG file"):
        read_picture(tmp_path, SHAPE)
    os.mkfifo(tmp_path / "pipe")  # opening it would wait for ever
    with pytest.raises(DataError, match="not a file"):
        read_picture(tmp_path / "pipe", SHAPE)


@st.composite
def damaged(draw):
    """A PNG or JPEG with some bytes overwritten, perhaps cut short."""
    content = bytearray(draw(st.sampled_from([PNG, JPEG])))
    for _ in range(draw(st.integers(0, 4))):
        content[draw(st.integers(0, len(content) - 1))] = draw(st.integers(0, 255))
    return bytes(content[: draw(st.integers(0, len(content)))])


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(content=st.binary(max_size=200) | damaged())
def test_any_bytes_give_a_picture_or_a_data_error(content, tmp_path):
    path = tmp_path / "any"
    path.write_bytes(content)
    try:
        picture = read_picture(path, SHAPE)
    except DataError as error:
        message = str(error)
    else:
        message = ""
        assert picture.image.shape == SHAPE
        assert picture.image.dtype == np.uint8
        assert picture.image.max() == 255
    assert "\n" not in message


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    box=st.tuples(st.integers(1, 120), st.integers(1, 120)),
    border=st.integers(0, 9),
    shape=st.tuples(st.integers(1, 60), st.integers(1, 60)),
)
def test_any_proportions_fit_any_shape(box, border, shape, tmp_path):
    levels = np.pad(np.full(box, 200, np.uint8), border)
    with contextlib.suppress(DataError):  # Without a border it is blank.
        picture = read(Image.fromarray(levels), tmp_path, shape=shape)
        assert picture.image.shape == shape
        assert picture.image.max() > 100


@pytest.mark.parametrize("width", [1, 2, 3])
def test_a_line_as_thin_as_a_pixel_is_read_whole(tmp_path, width):
    def three(width):
        sheet = Image.new("L", (400, 400), "white")
        points = [(120, 90), (200, 60), (270, 110), (200, 180), (280, 250), (200, 330), (110, 300)]
        ImageDraw.Draw(sheet).line(points, fill=0, width=width, joint="curve")
        inked = read(sheet, tmp_path).image > 40
        return np.array([np.flatnonzero(inked.any(axis=axis))[[0, -1]] for axis in (0, 1)])

    assert np.abs(three(width) - three(9)).max() <= 1
