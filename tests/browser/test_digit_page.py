"""The page of `rowrnn export --web` in a browser: its maths, its pictures, and drawn in by hand."""

import base64
import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
from networks import random_network
from PIL import Image

import rowrnn
from rowrnn import cli, data
from rowrnn import config as configs
from rowrnn.config import Config, DataConfig, ModelConfig, OptimizerConfig, TrainConfig
from rowrnn.data import pictures
from rowrnn.data.pictures import read_picture
from rowrnn.lab.classifier import Classifier
from rowrnn.show import web

TRAINED = Config(
    ModelConfig(0, 8),
    DataConfig("mnist_sample", validation_size=100),
    OptimizerConfig("adamw", 3e-3),
    TrainConfig(batch_size=100, examples=9_000, display="none"),
)
HOSTILE = "</script><img src=x onerror=alert(1)>{{ 7 * 7 }}\u202e'\"&"
# Networks that rowrnn can make: model, shape, classes and name of the data.
RANDOM = {
    "two layers": (ModelConfig(0, 20, layers=2, forget_bias=-0.5), (28, 28), 10, "mnist"),
    "mean": (ModelConfig(12, 24, pooling="mean"), (28, 28), 10, "mnist"),
    "odd": (ModelConfig(3, 9, layers=3, pooling="mean"), (11, 6), 3, HOSTILE),
    "wide": (ModelConfig(0, 70), (5, 40), 40, "idx"),
}


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


# Stroke by stroke, points in shares of the sheet.
THREE = [[(0.3, 0.25), (0.42, 0.17), (0.6, 0.17), (0.66, 0.3), (0.46, 0.47), (0.68, 0.6),
          (0.6, 0.8), (0.3, 0.78)]]  # fmt: skip
FOUR = [[(0.35, 0.2), (0.3, 0.55), (0.7, 0.55)], [(0.62, 0.3), (0.6, 0.85)]]


@dataclasses.dataclass(frozen=True)
class Page:
    """A page and the network it shows."""

    path: Path
    classifier: Classifier


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The page of a trained run, by the command line, and pages of other networks, by name."""
    directory = tmp_path_factory.mktemp("web")
    run = rowrnn.train(TRAINED, directory / "run").run_dir
    trained = directory / "trained.html"
    assert cli.run(["export", str(run), "--web", str(trained)]) == 0
    pages = {"trained": Page(trained, rowrnn.load(run))}
    for name, wanted in RANDOM.items():
        path, classifier = directory / f"{name}.html", random_network(*wanted)
        path.write_text(web.page(classifier, "It is not trained."))
        pages[name] = Page(path, classifier)
    return pages


def images_for(name, shape, count):
    if name == "trained":
        return data.load(DataConfig()).test.images[:count]
    return np.random.default_rng(1).integers(0, 256, (count, *shape), np.uint8)


def evaluate(opened, function, *arguments):
    return opened.page.evaluate(function, list(arguments))


def encode(images):
    return base64.b64encode(images.tobytes()).decode()


READ_ALL = """([encoded, count]) => {
  const images = decodeBase64(encoded);
  const size = images.length / count;
  const logits = [];
  for (let k = 0; k < count; k++) {
    resetState(state);
    const image = images.subarray(k * size, (k + 1) * size);
    while (state.row < network.rows) readRow(network, state, image);
    logits.push(...state.logits);
  }
  return logits;
}"""


@pytest.mark.parametrize("name", ["trained", "odd", *map(slow, ("two layers", "mean", "wide"))])
def test_logits_are_those_of_jax(made, open_page, name):
    page = made[name]
    images = images_for(name, page.classifier.shape, 1_000)
    expected = page.classifier.logits(images)
    found = evaluate(open_page(page.path), READ_ALL, encode(images), len(images))
    np.testing.assert_allclose(np.reshape(found, expected.shape), expected, atol=1e-3)
    assert np.ptp(expected) > 1  # which a network that knows nothing could not miss


READ_ROWS = """([encoded]) => {
  const image = decodeBase64(encoded);
  const rows = [];
  resetState(state);
  while (state.row < network.rows) {
    readRow(network, state, image);
    const { h, c, gates } = state.layers[state.layers.length - 1];
    rows.push([...state.probabilities, ...h, ...c, ...gates]);
  }
  return rows;
}"""


@pytest.mark.parametrize("name", [slow("trained"), slow("two layers"), "odd"])
def test_what_is_held_after_each_row_is_what_rowrnn_watches(made, open_page, name):
    page = made[name]
    image = images_for(name, page.classifier.shape, 4)[3:]
    watched = page.classifier.watch(image)
    last = watched.layers[-1]
    held = (watched.probabilities, last.h, last.c, last.i, last.j, last.f, last.o)
    expected = np.concatenate([values[:, 0] for values in held], axis=1)
    found = evaluate(open_page(page.path), READ_ROWS, encode(image))
    np.testing.assert_allclose(found, expected, atol=1e-4)


DRAW = """([strokes]) => {
  sheet.ink.fill(0);
  for (const [radius, ...points] of strokes) {
    let [x, y] = points[0];
    for (const [toX, toY] of points) {
      drawLine(sheet, x, y, toX, toY, radius);
      [x, y] = [toX, toY];
    }
  }
  const found = takePicture(picture, sheet);
  const encode = (bytes) => bytes.reduce((text, byte) => text + String.fromCharCode(byte), "");
  return [found, btoa(encode(sheet.ink)), btoa(encode(picture.image))];
}"""


def drawn(opened, strokes, shape):
    """The ink of some strokes and the image that the page makes of it, both uint8."""
    found, ink, image = evaluate(opened, DRAW, strokes)
    side = opened.page.evaluate("sheet.side")
    ink, image = (np.frombuffer(base64.b64decode(text), np.uint8) for text in (ink, image))
    return found, ink.reshape(side, side), image.reshape(shape)


def scribble(random, width):
    """Some strokes on a part of the sheet of 400×400 pixels, with specks beside them."""
    low, high = np.sort(random.uniform(0, 400, (2, 2)), axis=0)
    strokes = [
        [width, *random.uniform(low, high, (random.integers(1, 6), 2)).tolist()]
        for _ in range(random.integers(1, 4))
    ]
    specks = [[0.8, random.uniform(0, 400, 2).tolist()] for _ in range(random.integers(0, 3))]
    return strokes + specks


@pytest.mark.parametrize("name", [slow("trained"), "odd", slow("wide")])
def test_a_drawing_becomes_what_predict_makes_of_it(made, open_page, tmp_path, name):
    page, random = made[name], np.random.default_rng(2)
    opened, shape = open_page(page.path), page.classifier.shape
    to_pixels = np.array([400, 400])
    # Pixels that touch by corners alone hang together; a pen of half a pixel draws one.
    chain = [[0.5, [place + 0.5, 300.5 - place]] for place in range(20, 120)]
    digits = [[[15, *(to_pixels * stroke).tolist()] for stroke in strokes]
              for strokes in (THREE, FOUR)]  # fmt: skip
    same = []
    for strokes in [
        *digits,
        [[8, [300, 60], [300, 160]], *chain],
        *(scribble(random, width) for width in (15, 15, 15, 9, 4, 30, 2)),
    ]:
        found, ink, image = drawn(opened, strokes, shape)
        assert found
        Image.fromarray(ink).save(tmp_path / "drawing.png")
        expected = read_picture(tmp_path / "drawing.png", shape)
        if expected.warning:  # Of a picture `predict` leaves out what a page takes as drawn.
            continue
        off = np.abs(image.astype(int) - expected.image)
        assert off.max() <= 1
        same.append((off == 0).mean())
    assert len(same) >= 6
    assert np.mean(same) > 0.99


def test_a_drawing_is_only_resized_where_pictures_are_read_as_they_are(open_page, tmp_path):
    network = random_network(ModelConfig(0, 9), shape := (11, 6), 3)
    config = configs.replace(network.config, {"data.pictures": "as_is"})
    network = dataclasses.replace(network, config=config, class_names=("ant", "bee", HOSTILE))
    (tmp_path / "page.html").write_text(web.page(network, "It is not trained."))
    opened, random = open_page(tmp_path / "page.html"), np.random.default_rng(2)
    for strokes in [scribble(random, width) for width in (15, 9, 30)]:
        _, ink, image = drawn(opened, strokes, shape)
        Image.fromarray(ink).save(tmp_path / "drawing.png")
        expected = pictures.read(tmp_path / "drawing.png", shape, "as_is").image
        assert np.abs(image.astype(int) - expected).max() <= 1
    listed = opened.page.locator("#classes span:first-child").all_inner_texts()
    assert listed == ["ant", "bee", HOSTILE]


@pytest.mark.slow
def test_the_pen_is_as_wide_as_it_says(made, open_page):
    opened = open_page(made["trained"].path)
    found, ink, image = drawn(opened, [], (28, 28))
    assert (found, ink.any(), image.any()) == (False, False, False)
    _, ink, _ = drawn(opened, [[15, [100, 120], [250, 240]]], (28, 28))
    length = np.hypot(150, 120)
    assert ink.sum() / 255 == pytest.approx(2 * 15 * length + np.pi * 15**2, rel=2e-3)
    rows, columns = np.nonzero(ink)
    assert (columns.min(), columns.max() + 1) == (85, 265)
    assert (rows.min(), rows.max() + 1) == (105, 255)


def draw(opened, strokes=THREE, speed=2):
    """Draws with the mouse; the page then reads, four times as fast as it would."""
    opened.page.evaluate("(speed) => { byId('speed').value = speed; setSpeed(); }", speed)
    left, top, width, height = opened.box(opened.page.locator("#sheet"))
    for stroke in strokes:
        for number, (x, y) in enumerate(stroke):
            opened.page.mouse.move(left + x * width, top + y * height, steps=3 if number else 1)
            if number == 0:
                opened.page.mouse.down()
        opened.page.mouse.up()


def wait_for_the_end(opened):
    # Playwright's own waiting for a function needs eval, which the page forbids.
    opened.page.get_by_text("at the end").wait_for()
    return opened.page.locator("#end").inner_text()


def shown_probabilities(opened):
    """The lengths of the bars, as shares of their tracks."""
    bars, tracks = (opened.page.locator(f"#classes {name}").all() for name in ("rect", "svg"))
    return [opened.box(bar)[2] / opened.box(track)[2]
            for bar, track in zip(bars, tracks, strict=True)]  # fmt: skip


@pytest.mark.parametrize(("width", "height", "dark"), [(390, 844, False), slow(1280, 800, True)])
def test_who_draws_sees_it_read(made, open_page, width, height, dark):
    page = made["trained"]
    opened = open_page(page.path, width=width, height=height, dark=dark)
    draw(opened)
    image = evaluate(opened, "() => [...picture.image]")
    image = np.reshape(image, (1, 28, 28)).astype(np.uint8)
    probabilities = page.classifier.probabilities(image)[:, 0]
    best = probabilities.argmax(axis=1)
    since = int(np.flatnonzero(best != best[-1]).max(initial=-1)) + 2
    words = wait_for_the_end(opened)
    assert words.startswith(f"It has predicted {best[-1]} since row {since} of 28")
    share = re.search(r"\(([\d.]+) % at the end\)", words)
    assert float(share[1]) / 100 == pytest.approx(probabilities[-1].max(), abs=0.0006)

    np.testing.assert_allclose(shown_probabilities(opened), probabilities[-1], atol=0.02)
    for name in ("sheet", "picture", "map-h", "map-i", "map-f", "map-o"):
        assert opened.colours(opened.page.locator(f"#{name}")) > 10
    assert opened.sideways() == 0
    assert opened.page.evaluate("document.documentElement.scrollHeight") <= height
    assert (opened.errors, opened.requests) == ([], [])


@pytest.mark.parametrize("width", [390, slow(1280)])
def test_the_panels_have_one_height_from_the_start(made, open_page, width):
    opened = open_page(made["trained"].path, width=width)
    measure = "all => all.map(e => e.getBoundingClientRect().height)"
    heights = opened.page.locator("#strip canvas").evaluate_all(measure)
    assert len(heights) == 6
    assert np.ptp(heights) < 0.1
    draw(opened, speed=2)
    wait_for_the_end(opened)
    assert opened.page.locator("#strip canvas").evaluate_all(measure) == heights


@pytest.mark.slow
def test_the_line_moves_down_and_the_probabilities_with_it(made, open_page):
    opened = open_page(made["trained"].path)
    draw(opened, speed=0)
    frames = """async () => {
      const seen = [];
      while (reading.isPlaying) {
        await new Promise(requestAnimationFrame);
        seen.push([reading.position, state.row, bars[reading.best[state.row]].width.value]);
      }
      return seen;
    }"""
    position, rows, widths = np.transpose(opened.page.evaluate(frames))
    assert len(position) > 20
    assert (np.diff(position) > 0).all()
    np.testing.assert_array_equal(rows, np.ceil(position))
    assert len(np.unique(widths)) > 20
    assert position[-1] == 28


@pytest.mark.slow
def test_more_strokes_are_read_with_those_before(made, open_page):
    opened = open_page(made["trained"].path)
    draw(opened, FOUR[:1])
    first = opened.page.evaluate("[...picture.image]")
    draw(opened, FOUR[1:])
    assert opened.page.evaluate("reading.isPlaying")
    assert opened.page.evaluate("[...picture.image]") != first
    wait_for_the_end(opened)
    assert opened.errors == []


@pytest.mark.slow
def test_a_finger_draws_and_does_not_scroll(made, open_page):
    opened = open_page(made["trained"].path, width=390, height=500, has_touch=True, is_mobile=True)
    left, top, width, height = opened.box(opened.page.locator("#sheet"))
    touch = opened.page.context.new_cdp_session(opened.page)

    def send(kind, *points):
        points = [{"x": left + x * width, "y": top + y * height} for x, y in points]
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    opened.page.evaluate("byId('speed').value = 2; setSpeed()")
    send("touchStart", THREE[0][0])
    for point in THREE[0][1:]:
        send("touchMove", point)
    send("touchEnd")
    wait_for_the_end(opened)
    assert opened.page.evaluate("scrollY") == 0
    # The line was drawn to where the finger was, within the radius of the pen.
    lit = np.reshape(opened.page.evaluate("[...sheet.ink]"), (400, 400)) > 127
    assert all(lit[int(400 * y), int(400 * x)] for x, y in THREE[0])


@pytest.mark.slow
def test_the_keyboard_reaches_and_works_the_controls(made, open_page):
    opened = open_page(made["trained"].path)
    draw(opened)
    wait_for_the_end(opened)
    keyboard, page = opened.page.keyboard, opened.page
    reached = []
    for _ in range(3):
        keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id"))
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    assert reached == ["clear", "replay", "speed"]
    opened.page.evaluate("byId('speed').value = 0; setSpeed()")
    for key, words in (("ArrowRight", "2×"), ("Home", "¼×"), ("End", "4×")):
        keyboard.press(key)
        assert page.locator("#factor").inner_text() == words
        assert page.locator("#speed").get_attribute("aria-valuetext") == words
    keyboard.press("Shift+Tab")
    keyboard.press("Enter")
    assert page.evaluate("reading.isPlaying")
    wait_for_the_end(opened)
    keyboard.press("Shift+Tab")
    keyboard.press("Space")
    assert page.locator("#end").inner_text() == ""
    assert not page.evaluate("sheet.ink.some(Boolean) || picture.image.some(Boolean)")
    assert page.locator("#replay").is_disabled()
    assert max(shown_probabilities(opened)) == 0


@pytest.mark.slow
def test_nothing_moves_unasked_where_motion_is_unwanted(made, open_page):
    opened = open_page(made["trained"].path, reduced_motion="reduce")
    draw(opened)
    # No frame has to pass.
    assert opened.page.evaluate("[reading.position, reading.isPlaying]") == [28, False]
    assert "at the end" in opened.page.locator("#end").inner_text()
    # Who asks for a replay gets one, row by row.
    assert opened.page.evaluate("byId('replay').click(), reading.isPlaying")
    wait_for_the_end(opened)


@pytest.mark.slow
def test_the_page_changes_colours_with_the_system(made, open_page):
    opened = open_page(made["trained"].path)
    draw(opened)
    wait_for_the_end(opened)
    colour = "[...views.sheet.context.getImageData(120, 100, 1, 1).data]"
    opened.page.evaluate("drawTo(120, 100)")
    light = opened.page.evaluate(colour)
    opened.page.emulate_media(color_scheme="dark")
    dark = opened.page.evaluate(f"new Promise((r) => setTimeout(() => r({colour}), 50))")
    assert max(light[:3]) < 60 < 200 < min(dark[:3])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["odd", "wide"])
def test_any_network_can_be_drawn_for(made, open_page, name):
    opened, page = open_page(made[name].path, width=390, height=844), made[name]
    draw(opened)
    assert re.match(r"It has predicted \d+ since row \d+ of", wait_for_the_end(opened))
    assert opened.page.locator("#classes li").count() == page.classifier.classes
    assert opened.page.locator("#strip").bounding_box()["height"] < 420
    assert opened.sideways() == 0
    # The name of a data set is but text.
    shown = "".join(filter(str.isprintable, page.classifier.dataset))
    assert f"trained on {shown}." in opened.page.locator("footer").inner_text()
    assert opened.page.locator("img").count() == 0
    assert (opened.errors, opened.requests) == ([], [])


def test_the_page_may_not_reach_out(made, open_page):
    opened = open_page(made["trained"].path)
    reach = """async () => {
      const script = document.createElement("script");
      script.textContent = "globalThis.ran = true";
      document.body.append(script);
      const image = new Image();
      const loaded = new Promise((done) => { image.onload = image.onerror = (e) => done(e.type); });
      image.src = "https://example.org/image.png";
      const fetched = fetch("https://example.org/").then(() => "sent", () => "refused");
      return [globalThis.ran ?? "refused", await loaded, await fetched];
    }"""
    assert opened.page.evaluate(reach) == ["refused", "error", "refused"]
    assert len(opened.errors) >= 3
    assert all("Content Security Policy" in error for error in opened.errors[:3])
