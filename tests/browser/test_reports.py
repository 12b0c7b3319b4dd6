"""Reports in a real browser: nothing fails, nothing leaves the page, and all of it can be seen."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

import rowrnn
from rowrnn.config import Config, DataConfig, ModelConfig, OptimizerConfig, TrainConfig
from rowrnn.lab.sweep import SweepSettings

RESULTS = Path(__file__).parents[2] / "experiments" / "results"
SMALL = Config(
    ModelConfig(0, 8),
    DataConfig("mnist_sample", validation_size=100),
    OptimizerConfig("adamw", 3e-3),
    TrainConfig(batch_size=100, examples=1_000, log_every_steps=5, display="none"),
)
MARKUP = "<img src=x onerror=alert(1)><script>alert(2)</script>\"'&{{ 7*7 }}"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Reports of a run, a sweep of which half failed, bench records, and of what strangers made."""
    directory = tmp_path_factory.mktemp("made")
    rowrnn.train(SMALL, directory / "run")
    rowrnn.sweep(
        SMALL, (0, 1), settings=SweepSettings("map", 1, "none"), run_dir=directory / "sweep",
        # Pixels at the border are always zero, and so is their gradient: 0 / (sqrt(0) + 0).
        grid={"optimizer.epsilon": [1e-8, 0.0], "model.forget_bias": [0.0, 1.0]},
    )  # fmt: skip
    pages = {name: rowrnn.report(directory / name).path for name in ("run", "sweep")}
    for name in ("lstm", "scaling"):
        record, page = RESULTS / f"{name}.json", directory / f"{name}.html"
        pages[name] = rowrnn.report(record, to=page).path
    hostile = directory / MARKUP.replace("/", "")
    shutil.copytree(directory / "run", hostile)
    environment = json.loads((hostile / "environment.json").read_text())
    environment |= {MARKUP: MARKUP, "command": ["rowrnn", MARKUP]}
    (hostile / "environment.json").write_text(json.dumps(environment))
    result = json.loads((hostile / "result.json").read_text())
    (hostile / "result.json").write_text(json.dumps(result | {"dataset": MARKUP}))
    pages["hostile run"] = rowrnn.report(hostile).path
    record = (RESULTS / "peers.json").read_text()
    (directory / "record.json").write_text(record.replace("pytorch", json.dumps(MARKUP)[1:-1]))
    pages["hostile record"] = rowrnn.report(directory / "record.json").path
    return SimpleNamespace(pages=pages, directory=directory)


FIGURES = {"run": 3, "sweep": 4, "lstm": 3, "scaling": 1}


def boxes(opened, selector):
    """Left, width and height of all elements that a selector finds."""
    return opened.page.locator(selector).evaluate_all(
        "all => all.map(e => e.getBoundingClientRect()).map(b => [b.left, b.width, b.height])"
    )


def windows():
    """Each report in a narrow light window and a wide dark one; a run and a sweep have one each."""
    few = {("run", 390, False), ("sweep", 1280, True)}
    for name in FIGURES:
        for case in ((name, 390, False), (name, 1280, True)):
            yield case if case in few else pytest.param(*case, marks=pytest.mark.slow)


@pytest.mark.parametrize(("name", "width", "dark"), [*windows()])
def test_a_report_is_whole_and_keeps_to_itself(open_page, made, name, width, dark):
    opened = open_page(made.pages[name], width=width, dark=dark)
    assert opened.errors == []
    assert opened.requests == []
    assert opened.sideways() == 0
    figures = boxes(opened, "figure")
    assert min(left for left, *_ in figures) >= 0
    assert max(left + wide for left, wide, _ in figures) <= width
    drawn = boxes(opened, "figure.chart svg")
    assert len(drawn) == FIGURES[name]
    assert min(wide for _, wide, _ in drawn) > 250
    assert min(tall for *_, tall in drawn) > 100
    for chart in opened.page.locator("figure.chart svg").all():
        assert opened.colours(chart) > 20
    # Nothing of a figure lies beyond the edge; curves of a grid have long labels beside them.
    beyond = "all => all.filter(e => e.scrollWidth > e.clientWidth).map(e => e.innerText)"
    hidden = opened.page.locator("figure .scroll").evaluate_all(beyond)
    assert [text for text in hidden if "step" not in text] == []


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1280])
def test_the_worst_images_and_their_probabilities_are_seen(open_page, made, width):
    opened = open_page(made.pages["run"], width=width)
    for part in ("img", "svg"):
        found = boxes(opened, f"figure.strip {part}")
        assert len(found) == 24
        assert min(min(wide, tall) for _, wide, tall in found) > 80
        assert max(left + wide for left, wide, _ in found) < width
    assert opened.colours(opened.page.locator("figure.strip img").first) > 5
    assert opened.colours(opened.page.locator("figure.strip svg").first) > 5
    assert opened.page.locator("figure.matrix td.right").count() == 10


@pytest.mark.slow
def test_text_can_be_read_on_both_papers(open_page, made):
    """The lightness of letters, also of those in figures, is far from that of the page."""
    for dark in (False, True):
        opened = open_page(made.pages["run"], dark=dark)
        lightness = opened.page.evaluate(
            """() => {
              const canvas = document.createElement('canvas').getContext('2d');
              const of = colour => {
                canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
                const [r, g, b] = canvas.getImageData(0, 0, 1, 1).data;
                return (0.2126 * r + 0.7152 * g + 0.0722 * b) / 255;
              };
              const paper = of(getComputedStyle(document.body).backgroundColor);
              const inks = [...document.querySelectorAll('p, td, dd, h1, h2, figcaption')]
                .map(e => of(getComputedStyle(e).color));
              const letters = [...document.querySelectorAll('.chart text')]
                .map(e => of(getComputedStyle(e).fill));
              return {paper, inks, letters};
            }"""
        )
        assert (lightness["paper"] < 0.2) == dark
        for ink in (*lightness["inks"], *lightness["letters"]):
            assert abs(ink - lightness["paper"]) > 0.4


@pytest.mark.parametrize(
    "name", ["hostile run", pytest.param("hostile record", marks=pytest.mark.slow)]
)
def test_markup_in_names_is_text(open_page, made, name):
    opened = open_page(made.pages[name])
    dialogs = []
    opened.page.on("dialog", lambda dialog: dialogs.append(dialog.dismiss()))
    assert opened.errors == []
    assert opened.requests == []
    assert not dialogs
    assert opened.page.locator("script, body img:not(.ink)").count() == 0
    shown = opened.page.locator("body").inner_text()
    assert "<script>alert(2)</script>" in shown or "<img src=x" in shown
    assert "{{ 7*7 }}" in shown


def test_nothing_from_elsewhere_is_allowed_even_if_asked_for(open_page, made, tmp_path):
    """The page's own policy stops what a hole in the escaping would let in."""
    page = tmp_path / "page.html"
    hole = "<img src='http://127.0.0.1:9/x.png'><script>document.title = 'run'</script></main>"
    page.write_text(made.pages["run"].read_text().replace("</main>", hole))
    opened = open_page(page)
    assert opened.page.title() != "run"
    assert opened.errors
    assert all("Content Security Policy" in error for error in opened.errors)


@pytest.mark.slow
def test_it_prints(open_page, made):
    opened = open_page(made.pages["run"])
    assert opened.page.pdf(format="A4").count(b"/Type /Page\n") > 2
