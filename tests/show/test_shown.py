"""What results say of themselves in a terminal and in a notebook."""

import dataclasses
import re
from xml.etree import ElementTree

import jax
import pytest

import rowrnn
from rowrnn import config as configs
from rowrnn import data
from rowrnn.config import Config, DataConfig, ModelConfig, OptimizerConfig, TrainConfig
from rowrnn.lab.sweep import SweepSettings

SMALL = Config(
    ModelConfig(0, 8),
    DataConfig("mnist_sample", validation_size=100),
    OptimizerConfig("adamw"),
    TrainConfig(batch_size=100, examples=1_001, log_every_steps=5, display="none"),
)
# Lines that a terminal shows at a glance.
MOST = 4 * 80


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """One of each public result."""
    place = tmp_path_factory.mktemp("results")
    trained = rowrnn.train(SMALL, place / "run")
    settings = SweepSettings("map", 1, "none")
    sweep = rowrnn.sweep(SMALL, range(2), settings=settings, run_dir=place / "sweep")
    dataset = data.load(SMALL.data)
    png = place / "digit.png"
    from PIL import Image

    Image.fromarray(dataset.test.images[0]).save(png)
    predictions, _ = rowrnn.predict(place / "run", [png])
    compared = rowrnn.compare(place / "sweep", place / "sweep")
    return {
        "TrainResult": trained,
        "Evaluation": rowrnn.evaluate(place / "run"),
        "Classifier": rowrnn.load(place / "run"),
        "Prediction": predictions[0],
        "Reading": rowrnn.read(place / "run", 0),
        "SweepResult": sweep,
        "SweepComparison": compared,
        "Pair": compared.pairs[0],
        "Comparison": compared.pairs[0].comparison,
        "PointSummary": rowrnn.runs(place / "sweep")[0].points[0],
        "RunSummary": rowrnn.runs(place)[0],
        "Record": sweep.members[0],
        "Summary": sweep.statistics[""],
        "VarianceParts": sweep.variance[""],
        "Config": SMALL,
        "Report": rowrnn.report(place / "run"),
        "Trained": jax.jit(rowrnn.make_train(SMALL, dataset))(0),
        "Dataset": dataset,
    }


# What stands below the line.
BELOW = {
    **dict.fromkeys(("TrainResult", "Evaluation", "Reading", "SweepResult"), "svg"),
    "Report": "iframe",
    "SweepComparison": "table",
    **dict.fromkeys(("Classifier", "Comparison", "Pair", "Prediction", "RunSummary"), None),
}
LINES = {"Config", "Dataset", "PointSummary", "Record", "Summary", "Trained", "VarianceParts"}


def html_of(result):
    """The HTML of a result, which is also XML, and so closes what it opens."""
    return ElementTree.fromstring(result._repr_html_())


@pytest.mark.parametrize("name", sorted(BELOW.keys() | LINES))
def test_a_result_is_a_line_or_some(results, name):
    text = repr(results[name])
    assert text.startswith(name + "(")
    assert len(text) <= MOST
    # No number with more digits than anybody reads.
    assert not re.search(r"\d\.\d{5}", text)


@pytest.mark.parametrize("name", sorted(BELOW))
def test_a_notebook_shows_a_line_and_what_belongs_below_it(results, name):
    page = html_of(results[name])
    found = [part.tag.rpartition("}")[2] for part in page.iter()]
    assert [tag for tag in found if tag in ("svg", "iframe", "table")] == [BELOW[name]] * (
        BELOW[name] is not None
    )
    assert "".join(page.itertext()).startswith(name)


def test_a_report_shows_its_page_and_a_list_of_runs_its_table(results):
    (frame,) = html_of(results["Report"]).iter("iframe")
    # XML takes a line break in an attribute for a blank.
    assert frame.get("srcdoc", "").split() == results["Report"].path.read_text().split()
    runs = rowrnn.runs(results["Report"].path.parents[1])
    named, *others = html_of(runs).iter("tr")
    assert [cell.text for cell in named][:2] == ["name", "state"]
    assert [[cell.text for cell in line][:2] for line in others] == [
        [run.name, "done"] for run in runs
    ]


def test_a_config_shows_what_differs_from_the_default(results):
    assert repr(Config()) == "Config()"
    for name, _, value in configs.differences(Config(), SMALL):
        assert f"{name}={value!r}" in repr(SMALL)
    assert repr(Config(model=3)) == "Config(model=3)"  # type: ignore[arg-type]


def test_the_line_has_what_matters(results):
    trained, sweep = results["TrainResult"], results["SweepResult"]
    assert f"test_accuracy={trained.test_accuracy:.4f}" in repr(trained)
    assert f"mean={sweep.accuracy.mean():.4f}" in repr(sweep)
    assert "cannot tell" in repr(results["SweepComparison"])


def test_text_is_text_and_what_has_gone_is_left_out(results, tmp_path):
    trained = dataclasses.replace(results["TrainResult"], dataset="<script>&")
    assert "<script>&" in "".join(html_of(trained).itertext())
    gone = dataclasses.replace(trained, run_dir=str(tmp_path / "none"))
    assert not [part for part in html_of(gone).iter() if part.tag.endswith("svg")]
