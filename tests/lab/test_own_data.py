"""Own data from arrays to a prediction: names, colour and pictures go along with a network."""

import csv
import dataclasses
import html
import json
import re
import shutil

import numpy as np
import pytest
from in_process import command, last_json
from PIL import Image

import rowrnn
from rowrnn import Dataset
from rowrnn.config import Config, DataConfig, ModelConfig, OptimizerConfig, TrainConfig
from rowrnn.errors import ConfigError, DataError, RunError

NAMES = ("red", "green", "blue & <b>")
CONFIG = Config(
    ModelConfig(0, 8),
    DataConfig(shift=1, rotation=0.1, validation_size=100),
    OptimizerConfig("adamw", 1e-2),
    TrainConfig(batch_size=100, epochs=12, display="none"),
)


def hues(count, seed):
    """Noise, to which one of three colours is added."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, count)
    images = rng.integers(0, 60, (count, 6, 7, 3)).astype(np.uint8)
    images[np.arange(count), :, :, labels] += 120
    return images, labels


@pytest.fixture(scope="module")
def dataset():
    return Dataset.from_arrays(hues(600, 0), hues(60, 1), class_names=NAMES, name="hues")


@pytest.fixture(scope="module")
def run(dataset, tmp_path_factory):
    path = tmp_path_factory.mktemp("own") / "run"
    result = rowrnn.train(CONFIG, path, dataset=dataset)
    assert (result.dataset, result.fingerprint) == ("hues", dataset.fingerprint)
    assert result.test_accuracy > 0.9
    assert (result.validation_accuracy or 0) > 0.9
    return path


@pytest.fixture(scope="module")
def exported(run, dataset, tmp_path_factory):
    evaluation = rowrnn.evaluate(run, dataset=dataset).summary()
    path = tmp_path_factory.mktemp("own") / "network"
    return rowrnn.export(run, path, evaluation=evaluation)


def test_what_was_learned_is_found_again(run, dataset):
    evaluation = rowrnn.evaluate(run, dataset=dataset, rows=True)
    assert evaluation.summary()["class_names"] == list(NAMES)
    images, labels = hues(60, 1)
    logits = rowrnn.load(run).logits(images)
    np.testing.assert_array_equal(evaluation.logits.argmax(axis=1), logits.argmax(axis=1))
    assert evaluation.accuracy == (logits.argmax(axis=1) == labels).mean()
    # A finished run gives its result again, and only to whom has its data.
    assert rowrnn.train(resume=run, dataset=dataset).dataset == "hues"


def test_other_arrays_are_refused(run, dataset):
    other = Dataset.from_arrays(hues(600, 2), hues(60, 1), name="hues")
    with pytest.raises(RunError, match="was trained on hues with fingerprint"):
        rowrnn.evaluate(run, dataset=other)
    with pytest.raises(DataError, match=r"no command can load them.*dataset=rowrnn\.Dataset"):
        rowrnn.evaluate(run)
    with pytest.raises(DataError, match=r"must be what Dataset\.from_arrays gives"):
        rowrnn.train(CONFIG, dataset=hues(600, 0))  # type: ignore[arg-type]
    digits = dataclasses.replace(CONFIG, data=DataConfig(pictures="digit"))
    with pytest.raises(ConfigError, match="hues is in colour, and a digit is read in grey"):
        rowrnn.train(digits, dataset=dataset)


@pytest.mark.slow
def test_a_run_that_was_stopped_needs_the_same_arrays(run, dataset, tmp_path):
    path = tmp_path / "run"
    shutil.copytree(run, path)
    (path / "result.json").unlink()
    other = Dataset.from_arrays(hues(600, 2), hues(60, 1), name="hues")
    with pytest.raises(RunError, match="give the same data, or start a new run"):
        rowrnn.train(resume=path, dataset=other)
    again = rowrnn.train(resume=path, dataset=dataset)
    before = json.loads((run / "result.json").read_text())
    assert again.params_sha256 == before["params_sha256"]


def test_the_network_keeps_what_is_done_to_pictures(run, exported):
    for place in (run, exported):
        network = rowrnn.load(place)
        assert (network.pictures, network.channels, network.names) == ("as_is", 3, NAMES)
    document = json.loads((exported / "config.json").read_text())
    assert document["id2label"] == {str(label): name for label, name in enumerate(NAMES)}
    assert document["label2id"] == {name: label for label, name in enumerate(NAMES)}
    assert (document["image_size"], document["num_channels"]) == ([6, 7], 3)
    assert document["pictures"] == "as_is"
    card = (exported / "README.md").read_text()
    assert "6×7 pixels in colour" in card
    assert "`red`, `green`, `blue & <b>`" in card


def write_pictures(directory, images, **how):
    directory.mkdir()
    for index, image in enumerate(images):
        Image.fromarray(image).save(directory / f"{index:02d}.png", **how)


def test_pictures_and_arrays_give_the_same_logits_to_the_bit(run, exported, tmp_path):
    images, _ = hues(30, 3)
    write_pictures(tmp_path / "pictures", images)
    for place in (run, exported):
        predictions, problems = rowrnn.predict(place, tmp_path / "pictures")
        assert not problems
        network = rowrnn.load(place)
        read = np.stack([prediction.image for prediction in predictions])
        np.testing.assert_array_equal(network.logits(read), network.logits(images))
        labels = network.logits(images).argmax(axis=1)
        assert [prediction.label for prediction in predictions] == labels.tolist()
        assert [prediction.name for prediction in predictions] == [NAMES[k] for k in labels]


def test_directories_and_patterns_are_written_as_tables(run, tmp_path):
    write_pictures(tmp_path / "pictures", hues(12, 4)[0])
    (tmp_path / "pictures" / "broken.png").write_bytes(b"")
    predictions, _ = rowrnn.predict(run, tmp_path / "pictures")
    pattern = f"{tmp_path}/pict*/*.png"
    for given, name in ((tmp_path / "pictures", "all.csv"), (pattern, "all.jsonl")):
        out = tmp_path / name
        code, printed, err = command("predict", run, given, "--out", out, "--json")
        assert code == 3  # of the picture that is broken
        assert "broken.png: not a readable PNG" in err
        assert last_json(printed) == {"out": str(out), "pictures": 12, "failed": 1}
        with open(out, encoding="utf-8", newline="") as file:
            if out.suffix == ".csv":
                lines = list(csv.DictReader(file))
            else:
                lines = [json.loads(line) for line in file]
                assert all(
                    sum(line["probabilities"]) == pytest.approx(1, abs=1e-4) for line in lines
                )
        for line, prediction in zip(lines, predictions, strict=True):
            assert line["path"] == prediction.path
            assert int(line["label"]) == prediction.label
            assert line["name"] == prediction.name
            assert float(line["probability"]) == pytest.approx(prediction.probability)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nothing/*.png"], 3, "nothing/*.png: there is no PNG or JPEG file"),
        (["one.png", "--out=table.txt"], 2, "must end in .csv or .jsonl"),
        (["one.png", "--out=nowhere/table.csv"], 4, "nowhere/table.csv was not written: No such"),
        (["one.png", "--pictures=digits"], 2, "digits"),
    ],
)
def test_what_predict_cannot_do_is_said(run, tmp_path, arguments, code, message, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(hues(1, 5)[0][0]).save("one.png")
    found, _, err = command("predict", run, *arguments)
    assert (found, message in err) == (code, True), err


def test_how_pictures_are_read_may_be_said_for_once(run, tmp_path):
    sheet = Image.new("L", (70, 60), 255)
    sheet.paste(0, (30, 10, 36, 50))
    sheet.save(tmp_path / "sheet.png")
    ((as_it_is,), _) = rowrnn.predict(run, tmp_path / "sheet.png")
    assert as_it_is.image.min() < 255
    assert not as_it_is.inverted
    with pytest.raises(ConfigError, match=r"data\.pictures = 'other': must be one of digit, as_is"):
        rowrnn.predict(run, tmp_path / "sheet.png", pictures="other")


def test_reading_and_reports_speak_of_names(run, dataset, tmp_path):
    images, labels = hues(1, 6)
    Image.fromarray(images[0]).save(tmp_path / "one.png")
    code, out, _ = command("read", run, tmp_path / "one.png", "--to", tmp_path / "one.gif")
    assert code == 0
    assert f"It has predicted {NAMES[labels[0]]} since row" in out
    assert re.search(r"pixels +red +green +blue", out)
    reading = rowrnn.read(run, images[0].reshape(6, 21))
    assert reading.summary()["class_names"] == list(NAMES)
    code, _, err = command("eval", run)
    assert (code, "no command can load them" in err) == (3, True)
    report = rowrnn.report(run, dataset=dataset)
    assert not report.missing
    page = report.path.read_text()
    assert all(html.escape(name) in page for name in NAMES)
    (line,) = rowrnn.report(run).missing
    assert line.startswith("What it does on the test images: ")


@pytest.mark.slow
def test_the_small_digits_of_scikit_learn(tmp_path):
    digits = pytest.importorskip("sklearn.datasets").load_digits()
    with pytest.raises(DataError, match=r"from 0 to 16.*take np\.round\(255 / 16"):
        Dataset.from_arrays((digits.images, digits.target), (digits.images, digits.target))
    images = digits.images / 16
    train, test = (images[:1400], digits.target[:1400]), (images[1400:], digits.target[1400:])
    dataset = Dataset.from_arrays(train, test, name="digits")
    train = TrainConfig(batch_size=50, epochs=30, display="none")
    config = dataclasses.replace(CONFIG, data=DataConfig(validation_size=100), train=train)
    result = rowrnn.train(config, tmp_path / "run", dataset=dataset)
    assert result.test_accuracy > 0.8
    assert not rowrnn.report(tmp_path / "run", dataset=dataset).missing
    swept = rowrnn.sweep(config, range(2), run_dir=tmp_path / "sweep", dataset=dataset)
    assert swept.accuracy[0] == result.test_accuracy
    assert rowrnn.report(tmp_path / "sweep").path.is_file()
    rowrnn.export(tmp_path / "run", tmp_path / "network")
    write_pictures(tmp_path / "pictures", dataset.test.images[:50])
    predictions, _ = rowrnn.predict(tmp_path / "network", tmp_path / "pictures")
    logits = rowrnn.load(tmp_path / "run").logits(dataset.test.images[:50])
    assert [prediction.label for prediction in predictions] == logits.argmax(axis=1).tolist()


@pytest.mark.slow
def test_a_file_of_ones_own_is_called_by_its_name(tmp_path):
    images, labels = hues(600, 0)
    others, of_others = hues(60, 1)
    np.savez(
        tmp_path / "hues.npz",
        train_images=images, train_labels=labels, test_images=others, test_labels=of_others,
    )  # fmt: skip
    given = [
        "--model.projection-size=0", "--model.hidden-size=8", "--train.batch-size=100",
        "--train.epochs=1", "--train.display=none", "--data.validation-size=100",
        "--data.dataset=npz", f"--data.dir={tmp_path / 'hues.npz'}",
    ]  # fmt: skip
    run, sweep = tmp_path / "run", tmp_path / "sweep"
    assert command("sweep", *given, "--seeds=0:2", "--keep=all", f"--run-dir={sweep}")[0] == 0
    for words in (
        ["train", *given, f"--run-dir={run}"], ["eval", run], ["eval", sweep, "--rows"],
    ):  # fmt: skip
        code, out, err = command(*words)
        assert code == 0, err
        assert re.search(r"(on|of) hues\.npz", out + err), words
    rows = json.loads((sweep / "eval-test.json").read_text())["rows"]
    assert [(row["dataset"], "called" in row) for row in rows] == [("npz", False)]


@pytest.mark.slow
def test_arrays_are_swept_over_and_gone_on_with(dataset, tmp_path):
    config = dataclasses.replace(CONFIG, train=TrainConfig(batch_size=100, epochs=1))
    first = rowrnn.sweep(config, range(2), run_dir=tmp_path / "sweep", dataset=dataset)
    again = rowrnn.sweep(seeds=range(3), resume=tmp_path / "sweep", dataset=dataset)
    assert (len(first.members), len(again.members)) == (2, 3)
    alone = rowrnn.train(config, tmp_path / "alone", dataset=dataset)
    rows = {row.name: row for row in again.members}
    assert rows["seed=0"].params_sha256 == alone.params_sha256
    report = rowrnn.report(tmp_path / "sweep")
    assert report.path.is_file()
