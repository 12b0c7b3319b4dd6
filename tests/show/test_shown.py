"""What results say of themselves in a terminal and in a notebook."""

import dataclasses
from xml.etree import ElementTree

import jax
import pytest

import rowrnn
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
    return {
        "TrainResult": trained,
        "Evaluation": rowrnn.evaluate(place / "run"),
        "Classifier": rowrnn.load(place / "run"),
        "Prediction": predictions[0],
        "Reading": rowrnn.read(place / "run", 0),
        "SweepResult": sweep,
        "SweepComparison": rowrnn.compare(place / "sweep", place / "sweep"),
        "RunSummary": rowrnn.runs(place)[0],
        "Report": rowrnn.report(place / "run"),
        "Trained": jax.jit(rowrnn.make_train(SMALL, dataset))(0),
        "Dataset": dataset,
    }


DRAWN = {"TrainResult", "Evaluation", "Reading", "SweepResult"}
NAMED = {"Classifier", "Prediction", "SweepComparison"}
OTHERS = {"Dataset", "Report", "RunSummary", "Trained"}


def html_of(result):
    """The HTML of a result, which is also XML, and so closes what it opens."""
    return ElementTree.fromstring(result._repr_html_())


@pytest.mark.parametrize(
    "name", [*sorted(DRAWN | NAMED), "Dataset", "Report", "RunSummary", "Trained"]
)
def test_a_result_is_a_line_or_some(results, name):
    text = repr(results[name])
    assert text.startswith(name + "(")
    assert len(text) <= MOST


@pytest.mark.parametrize("name", sorted(DRAWN | NAMED))
def test_a_notebook_shows_a_line_and_a_picture(results, name):
    page = html_of(results[name])
    svg = [part for part in page.iter() if part.tag.endswith("svg")]
    assert len(svg) == (name in DRAWN)
    assert "".join(page.itertext()).startswith(name)


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
