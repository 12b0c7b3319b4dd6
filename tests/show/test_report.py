"""Reports, without a browser: the figures in them, what is escaped, what is missing, what fails."""

import base64
import contextlib
import dataclasses
import html
import io
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.stats import binomtest
from stopping import stop_at

import rowrnn
from rowrnn import cli, data, figures, files
from rowrnn.cli import report as command
from rowrnn.cli import sweep as sweep_command
from rowrnn.config import Config, DataConfig, ModelConfig, OptimizerConfig, TrainConfig
from rowrnn.errors import ConfigError, DataError, DivergedError, RunError, StoppedError
from rowrnn.figures import Drawing
from rowrnn.lab.sweep import SweepResult, SweepSettings, outcome
from rowrnn.show import curves
from rowrnn.show import report as runner
from rowrnn.show.report import page, run, strips, sweep
from rowrnn.store import ledger, log, rundir

RESULTS = Path(__file__).parents[2] / "experiments" / "results"
SMALL = Config(
    ModelConfig(0, 8),
    DataConfig("mnist_sample", validation_size=100),
    OptimizerConfig("adamw", 1e-2),
    TrainConfig(batch_size=100, examples=4_000, log_every_steps=5, display="none"),
)
MARKUP = "<script>alert(1)</script><img src=x>"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run, and a sweep of which half has diverged."""
    directory = tmp_path_factory.mktemp("made")
    rowrnn.train(SMALL, directory / "run")
    # Pixels at the border are always zero, and so is their gradient: 0 / (sqrt(0) + 0).
    rowrnn.sweep(
        SMALL, (0, 1, 2), settings=SweepSettings("map", 1, "none"), run_dir=directory / "sweep",
        grid={"optimizer.epsilon": [1e-8, 0.0]},
    )  # fmt: skip
    return directory


@pytest.fixture
def copied(made, tmp_path):
    """A copy of the run, to be spoiled."""
    shutil.copytree(made / "run", tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture(autouse=True)
def _keep_logs(monkeypatch):
    """`cli.run` turns them off for the rest of the process."""
    monkeypatch.setattr(cli.logging, "disable", lambda: None)


def text_of(report):
    """The words of a page."""
    words = re.sub(r"<style>.*?</style>|<[^>]*>", " ", report.path.read_text(), flags=re.DOTALL)
    return re.sub(r"\s+", " ", html.unescape(words)).replace("\u00a0", " ")


def test_the_figures_of_a_run_are_those_of_its_answers(made, tmp_path):
    """Against the answers of the network, counted one by one."""
    classifier = rowrnn.load(made / "run")
    part = data.load(SMALL.data).test
    probabilities = classifier.probabilities(part.images)
    answers = probabilities[-1].argmax(axis=1)
    right = sum(int(a) == int(b) for a, b in zip(answers, part.labels, strict=True))
    tested = run.test(classifier, "", None)
    evaluation = tested.evaluation
    assert (evaluation.right, evaluation.count) == (right, len(part.labels))
    for true in range(10):
        for taken in range(10):
            times = int(np.sum((part.labels == true) & (answers == taken)))
            assert evaluation.confusion[true, taken] == times
    of_truth = probabilities[-1, np.arange(len(answers)), part.labels]
    assert evaluation.loss == pytest.approx(-np.log(of_truth.astype(float)).mean(), rel=1e-4)
    worst = np.argsort(of_truth, kind="stable")[:24]
    assert [strip.index for strip in tested.worst] == worst.tolist()
    for strip in tested.worst:
        np.testing.assert_allclose(strip.probabilities, probabilities[:, strip.index], atol=1e-5)
        assert strip.truth == part.labels[strip.index]
        assert strip.answer == answers[strip.index]
    watched = classifier.watch(part.images[:256]).layers[-1]
    for name, values in (("input i", watched.i), ("forget f", watched.f), ("output o", watched.o)):
        expected = [values[row].mean() for row in range(28)]
        np.testing.assert_allclose(tested.gates[name], expected, atol=1e-5)
    low, high = binomtest(right, len(answers)).proportion_ci(0.95, "wilson")
    text = text_of(rowrnn.report(made / "run", to=tmp_path / "page.html"))
    assert f"{right} of 1,000 test images right, {right / 10:.2f} % (95 % interval" in text
    assert f"interval {100 * low:.2f} to {100 * high:.2f} %" in text
    assert f"of its {1000 - right} mistakes" in text
    true, taken, times = tested.mistakes()[0]
    assert times == evaluation.confusion[~np.eye(10, dtype=bool)].max()
    assert f"{true} taken for {taken}: {times} of {(part.labels == true).sum()}" in text


def test_the_curves_are_those_of_the_log(made, monkeypatch):
    drawn = []
    monkeypatch.setattr(figures, "learning_curves", lambda *given: drawn.append(given))
    assert len(curves.draw(made / "run")) == 2
    entries = list(log.read(made / "run"))
    (loss, *_), (accuracy, *_) = drawn
    for shown, label, name in ((loss, "training", "train_loss"),
                               (accuracy, "validation", "validation_accuracy")):  # fmt: skip
        assert list(shown) == ["training", "validation"]
        steps, values = shown[label]
        expected = [(entry["step"], entry[name]) for entry in entries if name in entry]
        assert list(zip(steps, values[0], strict=True)) == expected


def test_a_strip_says_since_when_and_draws_the_best_of_each_row():
    probabilities = np.array([[0.6, 0.4], [0.3, 0.7], [0.9, 0.1], [0.8, 0.2]])
    strip = strips.Strip(0, np.zeros((4, 4), np.uint8), 1, probabilities)
    assert (strip.answer, strip.since) == (0, 3)
    assert strip.probability == 0.2
    assert strip.dots == "M5 14h0M15 42h0M5 70h0M5 98h0"


def test_large_pictures_are_in_the_page_whole(made):
    content = run.read(made / "run", "last", "")
    noise = np.random.default_rng(0).integers(0, 256, (128, 128), np.uint8)
    probabilities = np.random.default_rng(1).dirichlet(np.ones(10), 1_000)
    content.parts["worst"][0] = large = strips.Strip(0, noise, 1, probabilities)
    text = page.render(content)
    assert f'd="{large.dots}"' in text
    pictures = re.findall(r"data:image/png;base64,([^\"]*)", text)
    sizes = [Image.open(io.BytesIO(base64.b64decode(picture))).size for picture in pictures]
    assert sizes[:2] == [(128, 128), (10, 1_000)]
    assert len(sizes) == 48
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(pictures[0]))))
    assert (shown[..., 1] == noise).all()


def test_another_checkpoint_is_named(copied):
    steps = sorted(int(path.name) for path in (copied / "checkpoints").glob("[0-9]*"))
    first = rowrnn.report(copied, which=str(steps[0]))
    assert first.verdict.startswith(f"As it was at step {steps[0]} of 39: ")
    assert f"mean cross-entropy at step {steps[0]}" in text_of(first)
    before = first.path.read_bytes()
    with pytest.raises(RunError, match="has no checkpoint 9999"):
        rowrnn.report(copied, which="9999")
    assert first.path.read_bytes() == before
    assert "As it was" not in rowrnn.report(copied).verdict


def test_the_figures_of_a_sweep_are_those_of_its_members(made, tmp_path):
    content = sweep.read(made / "sweep")
    rows = json.loads((made / "sweep" / "results.json").read_text())["members"]
    good = np.array([row["test_accuracy"] for row in rows if row["status"] == "completed"])
    assert len(good) == 3
    statistics = {line[0]: line for line in content.parts["statistics"].rows}
    line = statistics["1e-08"]
    assert line[1:3] == ["3", f"{good.mean():.4f}"]
    # Other images add to what other seeds would change.
    (low, high), (least, most) = (map(float, cell.split(" to ")) for cell in line[3:5])
    assert least < low < good.mean() < high < most
    assert line[5:7] == [f"{good.std(ddof=1):.4f}", f"{np.median(good):.4f}"]
    assert line[-1] == "0"
    assert statistics["0.0"][1:] == ["0", *["–"] * 8, "3"]
    failed = content.parts["failed"].rows
    assert [name for name, _ in failed] == [f"epsilon=0.0,seed={seed}" for seed in range(3)]
    text = text_of(rowrnn.report(made / "sweep", to=tmp_path / "page.html"))
    assert f"{100 * good.mean():.2f} % over 3 seeds" in text
    assert "3 of 6 members diverged" in text
    assert "--seeds 0:3 --grid optimizer.epsilon=1e-08,0.0 --strategy map --run-dir AGAIN" in text


def test_the_size_of_the_test_part_is_found_in_the_records(made):
    records, damaged = ledger.Ledger(made / "sweep" / "members").read_all()
    assert not damaged
    assert {sweep._test_size(record) for record in records if record.correct} == {1000}
    (one, *_) = (record for record in records if record.correct)
    for forged in (1e-300, 1.0):
        assert sweep._test_size(dataclasses.replace(one, test_accuracy=forged)) == 0


def test_a_sweep_that_is_not_finished_shows_what_there_is(made, tmp_path):
    path = tmp_path / "sweep"
    shutil.copytree(made / "sweep", path)
    (path / "results.json").unlink()
    one, two, *_ = sorted((path / "members").glob("seed-*.json"))
    one.write_text("{")
    two.unlink()
    before = {file.name for file in (path / "members").iterdir()}
    report = rowrnn.report(path)
    assert {file.name for file in (path / "members").iterdir()} == before
    assert report.missing[0] == f"Record {one.name}: it is damaged."
    assert "2 members of 6: not trained yet" in report.missing[1]
    for file in (path / "members").iterdir():
        file.unlink()
    assert "none has finished yet" in rowrnn.report(path).verdict


def test_records_come_as_they_were_written(made, tmp_path):
    (one, *_), _ = ledger.Ledger(made / "sweep" / "members").read_all()
    book = ledger.Ledger(tmp_path)
    for data_ in ("new", "old"):
        book.write(dataclasses.replace(one, key=one.key | {"data": data_}))
    for path in tmp_path.iterdir():
        os.utime(path, (1, 2 if '"new' in path.read_text().replace("\\", "") else 1))
    assert [record.key["data"] for record in book.read_all()[0]] == ["old", "new"]
    for path in tmp_path.iterdir():
        path.rename(path.with_name(f"seed-{path.name}"))
    assert len(book.read_all()[1]) == 2


def test_the_last_of_several_records_of_a_member_counts(made):
    records, _ = ledger.Ledger(made / "sweep" / "members").read_all()
    spec = sweep.members.read_sweep(made / "sweep").spec(rundir.read_config(made / "sweep"))
    everyone = sweep.members.make_members(spec)
    newer = [dataclasses.replace(record, wall_s=-1.0) for record in records]
    assert {record.wall_s for record in sweep._of_members(everyone, records + newer)} == {-1.0}
    # A rowrnn with other settings has other digests.
    other = [dataclasses.replace(record, key=record.key | {"config": "x"}) for record in newer]
    assert -1.0 not in {r.wall_s for r in sweep._of_members(everyone, records + other)}
    assert len(sweep._of_members(everyone, other)) == 6
    strangers = [dataclasses.replace(record, varied={}) for record in other]
    assert sweep._of_members(everyone, strangers) == []


@pytest.mark.parametrize("changed", ["code", "data"])
def test_records_of_other_code_or_data_do_not_count(made, changed):
    """A sweep that goes on trains these members again, and was stopped before it had."""
    records, _ = ledger.Ledger(made / "sweep" / "members").read_all()
    spec = sweep.members.read_sweep(made / "sweep").spec(rundir.read_config(made / "sweep"))
    older = [
        dataclasses.replace(record, key=record.key | {changed: "0" * 64}) for record in records
    ]
    found = sweep._of_members(sweep.members.make_members(spec), older + records[:2])
    assert {record.name for record in found} == {record.name for record in records[:2]}


def test_members_of_another_grid_have_their_records(made):
    records, _ = ledger.Ledger(made / "sweep" / "members").read_all()
    spec = sweep.members.read_sweep(made / "sweep").spec(rundir.read_config(made / "sweep"))
    # A grid of one point before, and then one of two axes.
    grid = spec.grid | {"optimizer.beta2": (0.999, 0.99)}
    before = [record for record in records if record.varied["optimizer.epsilon"]]
    before = [
        dataclasses.replace(record, name=f"seed={record.seed}", varied={}) for record in before
    ]
    everyone = sweep.members.make_members(dataclasses.replace(spec, grid=grid))
    found = sweep._of_members(everyone, before)
    assert [record.name for record in found] == [
        f"epsilon=1e-08,beta2=0.999,seed={seed}" for seed in (0, 1, 2)
    ]
    assert {record.params_sha256 for record in found} == {r.params_sha256 for r in before}
    assert len({record.params_sha256 for record in found}) == 3


def test_of_a_grid_over_data_no_dataset_is_named(made):
    records, _ = ledger.Ledger(made / "sweep" / "members").read_all()
    spec = sweep.members.read_sweep(made / "sweep").spec(rundir.read_config(made / "sweep"))
    result = SweepResult(made, records, outcome.summarize(records), {})
    assert "on mnist_sample" in sweep._verdict(result, spec)
    over_data = dataclasses.replace(spec, grid={"data.dataset": ("mnist_sample", "mnist")})
    assert "mnist" not in sweep._verdict(result, over_data)


def test_groups_of_images_are_drawn_where_they_are_given(made):
    records, _ = ledger.Ledger(made / "sweep" / "members").read_all()
    sizes, drawings = sweep._test_sizes(records), {}

    def target(name):
        return drawings.setdefault(name, Drawing())

    for groups in (None, np.arange(1000) % 40):
        result = SweepResult(made, records, outcome.summarize(records), sizes, groups)
        assert "groups" not in drawings
        outcome.draw(result, "a sweep", target, notebook=False)
    assert "40 groups of images, design effect" in drawings["groups"].title
    assert drawings["groups"].svg.count("<use") > 40  # a point for each


def test_a_run_whose_data_is_elsewhere_says_so(copied, monkeypatch):
    def load(_):
        raise DataError("mnist_sample is not prepared")

    monkeypatch.setattr(data, "load", load)
    report = rowrnn.report(copied)
    assert report.missing == ["What it does on the test images: mnist_sample is not prepared."]
    assert "by its own account" in report.verdict
    text = text_of(report)
    assert "How it learned" in text
    assert "worst test images" not in text


def test_a_run_whose_checkpoints_are_damaged_says_so(copied):
    for path in copied.rglob("arrays.safetensors"):
        path.unlink()
    with pytest.warns(UserWarning, match="is damaged"):
        report = rowrnn.report(copied)
    assert [line.partition(":")[0] for line in report.missing] == ["The network"]
    assert "by its own account" in report.verdict


def test_a_run_with_next_to_nothing_left_has_a_report(copied):
    for file in copied.iterdir():
        if file.is_dir():
            shutil.rmtree(file)
        elif file.name != "config.toml":
            file.unlink()
    report = rowrnn.report(copied)
    assert (
        report.verdict == "Stopped before its end; there is no saved network that could be judged."
    )
    starts = [line.partition(":")[0] for line in report.missing]
    assert starts == ["The network", "Curves", "The environment"]
    assert "rowrnn train --resume" in text_of(report)


def test_a_run_that_diverged_says_at_which_step(tmp_path):
    config = dataclasses.replace(SMALL, optimizer=OptimizerConfig("adamw", epsilon=0.0))
    with pytest.raises(DivergedError):
        rowrnn.train(config, tmp_path / "run")
    report = rowrnn.report(tmp_path / "run")
    assert report.verdict == "Diverged at step 1; there is no saved network that could be judged."


def test_a_run_that_was_stopped_is_judged_by_what_it_saved(tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        stop_at(patched, 1)
        with pytest.raises(StoppedError):
            rowrnn.train(SMALL, tmp_path / "run")
    step = rowrnn.load(tmp_path / "run").step
    report = rowrnn.report(tmp_path / "run")
    assert report.verdict.startswith(f"Stopped before its end; saved at step {step} of 39: ")
    assert "of 1,000 test images right" in report.verdict


def test_a_run_that_a_sweep_kept_is_no_stopped_one(copied):
    for name in ("result.json", "metrics.jsonl"):
        (copied / name).unlink()
    assert rowrnn.report(copied).verdict.startswith("Trained for all of its 39 steps: ")


def test_a_result_that_its_network_does_not_keep_is_named(copied):
    result = json.loads((copied / "result.json").read_text())
    (copied / "result.json").write_text(json.dumps(result | {"test_accuracy": 0.9999}))
    (line,) = rowrnn.report(copied).missing
    assert line.startswith("Agreement: result.json says 99.9900 %")


def test_markup_is_text_wherever_it_stands(copied, tmp_path):
    hostile = tmp_path / MARKUP.replace("/", "")
    copied.rename(hostile)
    environment = {MARKUP: MARKUP, "list": [MARKUP], "git_commit": f"abcdef0; {MARKUP}",
                   "\x1b[2J": {"\x00": "\ud800\u202e"}}  # fmt: skip
    (hostile / "environment.json").write_text(json.dumps(environment))
    result = json.loads((hostile / "result.json").read_text())
    (hostile / "result.json").write_text(json.dumps(result | {"dataset": MARKUP}))
    page = rowrnn.report(hostile).path.read_text()
    assert "<script" not in page
    assert "<img src=x" not in page
    assert page.count("&lt;script&gt;") > 4
    assert not re.search(r"[\x00-\x09\x0b-\x1f\u202e\ud800]", page)
    assert "git checkout" not in page


def test_claims_that_do_not_fit_the_data_are_refused(made):
    classifier = rowrnn.load(made / "run")
    for forged in ({"classes": 3}, {"shape": (27, 28)}):
        with pytest.raises(RunError, match="which its data does not have"):
            run.test(dataclasses.replace(classifier, **forged), "", None)


@pytest.mark.parametrize("name", ["ceiling", "lstm", "peers", "scaling", "startup", "train"])
def test_a_record_of_each_suite_is_shown(tmp_path, name):
    """All numbers that the terminal shows, and the plots."""
    from rich.console import Console

    from rowrnn import bench

    document = json.loads((RESULTS / f"{name}.json").read_text())
    report = rowrnn.report(RESULTS / f"{name}.json", to=tmp_path / "page.html")
    console = Console(width=500, file=(tmp_path / "terminal").open("w"), color_system=None)
    bench.show(document, console)
    console.file.close()
    terminal = (tmp_path / "terminal").read_text().split("\n", 1)[1]
    words = text_of(report)
    missing = [word for word in terminal.split() if word not in words]
    assert missing == []
    assert report.path.read_text().count("<svg") == len(bench.plots.figures(document))


def test_a_report_lies_beside_its_record(tmp_path, monkeypatch):
    shutil.copy(RESULTS / "peers.json", tmp_path / "peers.json")
    assert rowrnn.report(tmp_path / "peers.json").path == tmp_path / "peers.html"
    with pytest.raises(ConfigError, match="is the record itself"):
        rowrnn.report(tmp_path / "peers.json", to=tmp_path / "peers.json")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="is the record itself"):
        rowrnn.report("peers.json", to=tmp_path / "peers.json")


@pytest.mark.parametrize("seed", range(20))
def test_a_record_from_a_stranger_is_shown_or_refused(tmp_path, seed):
    """Any value in the place of another is a `ConfigError` at worst."""
    rng = np.random.default_rng(seed)
    document = json.loads((RESULTS / f"{['peers', 'lstm', 'train'][seed % 3]}.json").read_text())
    document["figures"] = document["figures"][:6]
    for _ in range(3):
        part = document
        while True:
            key = (
                list(part)[rng.integers(len(part))]
                if isinstance(part, dict)
                else int(rng.integers(len(part)))
            )
            below = part[key]
            if not isinstance(below, dict | list) or not below or rng.random() < 0.2:
                break
            part = below
        part[key] = [None, -1, 1e308, float("nan"), 0, "$x$", MARKUP, [], {}, 10**400][
            rng.integers(10)
        ]
    (tmp_path / "record.json").write_text(json.dumps(document))
    with contextlib.suppress(ConfigError):
        assert "<script" not in rowrnn.report(tmp_path / "record.json").path.read_text()


def test_the_same_run_gives_the_same_page(made, tmp_path):
    pages = [rowrnn.report(made / "run", to=tmp_path / name).path.read_text() for name in "ab"]
    assert pages[0] == pages[1]
    assert "://" not in re.sub(r"data:[^\"]*", "", pages[0])


def test_a_drawing_takes_its_greys_from_the_page():
    from matplotlib.figure import Figure

    figure = Figure()
    axes = figure.add_subplot()
    axes.plot([1, 2], [3, 4], color="black")
    axes.plot([1, 2], [4, 3], color="white")
    axes.set_title("$x$ <b>\x1b", parse_math=False)
    drawn = Drawing()
    drawn.take(figure)
    assert "stroke: var(--ink)" in drawn.svg
    assert "stroke: var(--paper)" in drawn.svg
    assert "$x$ &lt;b&gt;?" in drawn.svg
    axes.imshow(np.eye(2))
    drawn.take(figure)
    assert drawn.own_colours
    assert "var(" not in drawn.svg


def test_several_runs_are_drawn_over_each_other(made, copied, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = text_of(rowrnn.report(copied, made / "sweep", made / "run"))
    assert "2 runs and 1 sweep side by side" in text
    page = (tmp_path / "side_by_side.html").read_text()
    # Two have the same name, and so are told apart by their directories.
    labels = {copied.parent.name + "/run", f"{made.name}/run", f"{made.name}/sweep epsilon=1e-08"}
    for label in labels:
        assert page.count(f">{label}<") >= 3, "one in each figure, and one in the table"
    accuracy = json.loads((copied / "result.json").read_text())["test_accuracy"]
    assert text.count(f"{100 * accuracy:.2f} %") >= 2
    with pytest.raises(RunError, match="holds no run"):
        rowrnn.report(copied, tmp_path)


def test_more_curves_than_can_be_told_apart_are_refused(made, tmp_path):
    for index in range(25):
        (tmp_path / str(index)).mkdir()
        for name in ("config.toml", "metrics.jsonl", "environment.json"):
            shutil.copy(made / "run" / name, tmp_path / str(index))
    with pytest.raises(ConfigError, match="25 curves; at most 24"):
        rowrnn.report(*tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["run", "sweep"])
def test_figures_for_a_paper_are_a_column_wide(made, tmp_path, name):
    made = shutil.copytree(made / name, tmp_path / name)
    report = rowrnn.report(made, figures=("svg", "pdf"))
    assert {path.suffix for path in report.figures} == {".svg", ".pdf"}
    assert len(report.figures) == 8
    for path in report.figures:
        if path.suffix == ".svg":
            width = re.search(rb'width="([\d.]+)pt"', path.read_bytes())
        else:
            width = re.search(rb"/MediaBox \[ 0 0 ([\d.]+)", path.read_bytes())
        # 3.4 inches, and for a confusion matrix and for labels beside the axes a little more.
        assert 240 < float(width[1]) < (600 if path.stem == "confusion" else 380)
    before = {path: path.read_bytes() for path in report.figures}
    rowrnn.report(made, figures=("svg", "pdf"))
    assert before == {path: path.read_bytes() for path in before}
    with pytest.raises(ConfigError, match="figures = 'gif': must be some of svg, pdf"):
        rowrnn.report(made, figures=["gif"])


def test_the_command_tells_and_writes(copied, capsys):
    assert cli.run(["report", str(copied), "--json"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert "test images right" in out[0]
    assert out[1] == f"Written: {copied / 'report.html'}"
    assert set(json.loads(out[-1])) == {"report", "verdict", "missing", "figures"}
    assert (copied / "report.html").read_text().startswith("<!doctype html>")
    (copied / "metrics.jsonl").unlink()
    assert cli.run(["report", str(copied), "--to", str(copied / "x.html")]) == 0
    assert "Not shown: Curves: nothing was logged yet." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("make", "code", "says"),
    [
        (lambda path: path / "none", 4, "does not exist"),
        (lambda path: path, 4, "holds no run"),
        (lambda path: path / "text", 2, "not JSON"),
        (lambda path: path / "other", 2, "not a result of `rowrnn bench`"),
        (lambda path: path / "hollow", 2, "not a whole result of `rowrnn bench`"),
        (lambda path: path / "styled", 2, "not a whole result of `rowrnn bench` (MarkupError"),
        (lambda path: path / "linked", 4, "is a link"),
    ],
)
def test_what_is_nothing_to_report_on_is_refused(tmp_path, made, capsys, make, code, says):
    (tmp_path / "text").write_text("no JSON")
    (tmp_path / "other").write_text("{}")
    (tmp_path / "hollow").write_text(json.dumps({"format": 1, "suite": "lstm", "figures": []}))
    styled = json.loads((RESULTS / "lstm.json").read_text())
    styled["gemm_gflops"] = {"[/x]": 1.0}
    (tmp_path / "styled").write_text(json.dumps(styled))
    shutil.copytree(made / "run", tmp_path / "linked")
    (tmp_path / "linked" / "result.json").unlink()
    (tmp_path / "linked" / "result.json").symlink_to(tmp_path / "text")
    assert cli.run(["report", str(make(tmp_path))]) == code
    assert says in capsys.readouterr().err


def test_a_page_that_cannot_be_written_is_an_error(copied, tmp_path, capsys):
    assert cli.run(["report", str(copied), "--to", str(tmp_path / "none" / "page.html")]) == 4
    assert "was not written: No such file" in capsys.readouterr().err
    assert cli.run(["report", str(copied), "--to", str(tmp_path)]) == 2
    assert f"{tmp_path}: is a directory" in capsys.readouterr().err


@pytest.mark.parametrize("failure", [RunError("no room"), ZeroDivisionError("0"), MemoryError(),
                                     KeyboardInterrupt()])  # fmt: skip
def test_a_report_that_fails_is_no_failure_of_the_run(tmp_path, monkeypatch, capsys, failure):
    def fail(*_):
        raise failure

    monkeypatch.setattr(runner, "report", fail)
    command.report_at_end(tmp_path)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("rowrnn: warning: no report")


def test_train_and_sweep_end_with_a_report(made, copied, tmp_path, capsys):
    assert cli.run(["train", f"--resume={copied}", "--json"]) == 0
    out, err = capsys.readouterr()
    assert err.splitlines()[-1] == f"Look at it: {copied / 'report.html'}"
    # Its result still names where it was; nothing is written there.
    assert json.loads(out.splitlines()[-1])["run_dir"] == str(made / "run")
    assert not (made / "run" / "report.html").exists()
    path = tmp_path / "sweep"
    shutil.copytree(made / "sweep", path)
    assert cli.run(["sweep", f"--resume={path}"]) == 6
    assert capsys.readouterr().err.splitlines()[-1] == f"Look at it: {path / 'report.html'}"
    assert "diverged at step" in (path / "report.html").read_text()


def test_process_0_alone_writes_the_report_of_a_job(tmp_path, monkeypatch):
    from rowrnn import parallel

    calls = []
    monkeypatch.setattr(parallel, "is_process_0", lambda: False)
    monkeypatch.setattr(sweep_command, "report_at_end", calls.append)
    monkeypatch.setattr(cli.importlib.import_module("rowrnn.cli.train"), "report_at_end",
                        calls.append)  # fmt: skip
    monkeypatch.setattr(rowrnn.lab.train, "train", lambda *_, **__: None)
    assert cli.run(["train", "--run-dir", str(tmp_path / "run")]) == 0
    assert calls == []


def test_values_in_words_are_bounded():
    found = page.facts({"long": "x" * 10_000, **{str(n): n for n in range(1000)}})
    assert len(found) == 200
    assert max(len(value) for _, value in found) < 500
    assert len(page.plain("\x00" * files.MOST_BYTES)) < 100_000
