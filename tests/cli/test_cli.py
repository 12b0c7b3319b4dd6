"""The command line as its users meet it: what it prints, exit codes, real processes."""

import contextlib
import importlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import compiler
import numpy as np
import pytest
import tyro
from in_process import here
from PIL import Image

from rowrnn import cli, data, load
from rowrnn import config as configs
from rowrnn.cli import terminal
from rowrnn.config import Config, DataConfig
from rowrnn.errors import ConfigError, RunError
from rowrnn.lab import sweep as lab_sweep
from rowrnn.lab import train as lab_train
from rowrnn.store import log

ROOT = Path(__file__).parents[2]
# A run of a few seconds: 40 steps an epoch.
SHORT = [
    "--model.projection-size=8",
    "--model.hidden-size=16",
    "--train.batch-size=100",
    "--checkpoint.every-steps=50",
]
# Compiles in less time; here it does not matter how fast the program is.
UNOPTIMIZED = {"XLA_FLAGS": compiler.FLAGS}
RESULT_KEYS = {
    *("run_dir", "dataset", "fingerprint", "seed", "steps", "examples", "epochs", "train_loss"),
    *("validation_accuracy", "test_accuracy", "test_loss", "first256_accuracy", "params"),
    *("backend", "devices", "compile_s", "train_s", "examples_per_s", "wall_s", "params_sha256"),
    "machines",
}


def start(*arguments, cwd, **environment):
    return subprocess.Popen(
        [sys.executable, "-m", "rowrnn.cli", *map(str, arguments)],
        cwd=cwd,
        env=os.environ | UNOPTIMIZED | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def rowrnn(*arguments, cwd, code=0, **environment):
    """Runs a command to its end; gives stdout and stderr."""
    process = start(*arguments, cwd=cwd, **environment)
    out, err = process.communicate(timeout=240)
    assert process.returncode == code, err
    assert "Traceback" not in err
    return out, err


def last_json(out):
    return json.loads(out.splitlines()[-1])


def test_a_reader_of_the_help_that_leaves_is_nothing_to_complain_of(tmp_path):
    with start("train", "--help", cwd=tmp_path) as process:
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 128 + signal.SIGPIPE


def help_options(kind):
    """The options that tyro's help of a dataclass of arguments names, and takes."""
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        tyro.cli(kind, args=["--help"], console_outputs=True)
    lines = [re.sub(r"[│╭╰]", " ", line) for line in text.getvalue().splitlines()]
    heads = [re.match(r" {1,3}(-\S.*?)(?: {2}|$)", line) for line in lines]
    return {name for head in heads if head for name in re.findall(r"--[a-z][\w.-]*", head[1])}


@pytest.mark.parametrize("module", sorted({*cli._MODULES.values()}))
def test_the_options_that_are_checked_first_are_those_of_the_help(module):
    commands = vars(importlib.import_module(f"rowrnn.cli.{module}"))
    kinds = [kind for name, kind in commands.items() if name.endswith("Arguments")]
    for kind in kinds:
        assert dict(terminal.options_of(kind)).keys() == help_options(kind)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of the quickstart config, shortened and without validation, and what it printed."""
    cwd = tmp_path_factory.mktemp("cli")
    config = ROOT / "experiments" / "quickstart.toml"
    length = ["--train.epochs=3", "--data.validation-size=0"]
    out, err = here("train", config, *SHORT, *length, "--json", cwd=cwd)
    return cwd, last_json(out), err


def test_train_says_what_came_out_and_what_to_do_next(run):
    cwd, result, err = run
    assert set(result) == RESULT_KEYS
    assert re.fullmatch(r"runs/quickstart-\d{8}-\d{6}", result["run_dir"])
    assert result["steps"] == 120
    assert f"Test accuracy {result['test_accuracy']:.4f} on mnist_sample" in err
    assert f"rowrnn eval {result['run_dir']}" in err
    assert (cwd / result["run_dir"] / "result.json").exists()
    assert max(map(len, err.splitlines())) <= 100
    # There is nothing to find a best one by.
    assert result["validation_accuracy"] is None
    with pytest.raises(RunError, match="has no best checkpoint"):
        load(cwd / result["run_dir"], "best")


def test_a_finished_run_that_is_resumed_offers_no_other_data(run, monkeypatch):
    cwd, result, err = run
    assert "rowrnn train lstm128" in err
    monkeypatch.setattr("rowrnn.cli.train.report_at_end", lambda path: None)
    _, err = here("train", "--resume", result["run_dir"], cwd=cwd)
    assert "Try next" in err
    assert "mnist    #" not in err
    assert "lstm128" not in err


def test_who_names_a_directory_of_runs_is_told_of_one(run):
    cwd, result, _ = run
    for command in ("eval runs", "predict runs 7.png", "read runs 3", "report runs",
                    "export runs --to network", "train --resume runs"):  # fmt: skip
        _, err = here(*command.split(), cwd=cwd, code=4)
        assert f"such as {result['run_dir']} (rowrnn runs runs lists them)" in err
    _, err = here("extract", "runs", "seed=1", "--to=one", cwd=cwd, code=4)
    assert "runs holds no run (a run directory" in err, "there is no sweep in it"


def test_runs_lists_the_run(run):
    cwd, result, _ = run
    out, err = here("runs", "--json", cwd=cwd)
    (listed,) = last_json(out)
    assert listed["path"] == result["run_dir"]
    assert listed["state"] == "done"
    for name in ("test_accuracy", "wall_s", "examples_per_s"):
        assert listed[name] == result[name]
    assert re.search(rf"^quickstart-\S+ +done .* {result['test_accuracy']:.4f} .* s$", out, re.M)
    assert err == ""


def test_eval_gives_the_figures_of_the_run(run):
    cwd, result, _ = run
    out, _ = here("eval", result["run_dir"], "--json", cwd=cwd)
    summary = last_json(out)
    assert summary["test_accuracy"] == pytest.approx(result["test_accuracy"], abs=1e-6)
    assert np.sum(summary["confusion"]) == 1000
    assert len(summary["per_class"]) == 10
    low, high = summary["interval"]
    assert low < summary["test_accuracy"] < high
    assert "most often taken for" in out
    assert "\n\nWritten:" in out
    assert not [line for line in out.splitlines() if line.endswith(" ")]
    written = cwd / result["run_dir"]
    assert json.loads((written / "eval-test.json").read_text()) == summary
    with Image.open(written / "eval-test.png") as picture:
        assert picture.size[0] > 500


def test_eval_counts_images_of_a_group_for_less(run):
    cwd, result, _ = run
    test = data.load(DataConfig()).test
    right = load(cwd / result["run_dir"]).logits(test.images).argmax(axis=1) == test.labels
    # The mistakes, like those of one writer, are in two groups of fifty.
    groups = np.argsort(np.argsort(right, kind="stable")) // 20
    np.savetxt(cwd / "writers.csv", groups, fmt="%d", header="writer", comments="")
    out, _ = here("eval", result["run_dir"], "--groups=writers.csv", "--json", cwd=cwd)
    summary = last_json(out)
    assert summary["groups"] == len(summary["by_group"]) == 50
    shares = np.array([right[groups == group].mean() for group in range(50)])
    assert [group["accuracy"] for group in summary["by_group"]] == pytest.approx(shares.tolist())
    # Groups of one size: their accuracies are a sample of their own.
    error = shares.std(ddof=1) / 50**0.5
    assert summary["standard_error_by_group"] == pytest.approx(error)
    alone = right.std(ddof=1) / 1000**0.5
    assert summary["design_effect"] == pytest.approx((error / alone) ** 2)
    assert summary["effective_images"] == pytest.approx(1000 / summary["design_effect"])
    low, high = summary["interval_by_group"]
    assert low < summary["interval"][0] < summary["interval"][1] < high
    assert f"By 50 groups of images: 95 % interval {low:.4f} to {high:.4f}" in out
    assert "this network, other images" in out
    with Image.open(cwd / result["run_dir"] / "eval-test-groups.png") as picture:
        assert picture.size[0] > 500
    (cwd / "short.csv").write_text("1\n2\n")
    _, err = here("eval", result["run_dir"], "--groups=short.csv", cwd=cwd, code=3)
    assert "short.csv has 2 entries for 1,000 images; it must hold one integer an image" in err
    assert len(err.splitlines()) == 1


def test_predict_answers_the_good_and_names_the_bad(run):
    cwd, result, _ = run
    test = data.load(DataConfig()).test
    for i in range(3):
        Image.fromarray(255 - test.images[i]).resize((140, 140)).save(cwd / f"{i}.png")
    (cwd / "letter.txt").write_text("Dear reader")
    out, err = here(
        "predict", result["run_dir"], "0.png", "letter.txt", "1.png", "2.png", "--json", "--rows",
        cwd=cwd, code=3,
    )  # fmt: skip
    predictions = last_json(out)
    assert [p["path"] for p in predictions] == ["0.png", "1.png", "2.png"]
    for prediction in predictions:
        assert prediction["inverted"] is True
        final = prediction["rows"][-1]
        assert len(prediction["rows"]) == 28
        assert prediction["label"] == int(np.argmax(final))
        assert prediction["probability"] == pytest.approx(max(final), abs=1e-5)
        assert prediction["runner_up"] == int(np.argsort(final)[-2])
    assert "letter.txt: " in err
    assert re.search(r"^0\.png: \d \(\d+\.\d %\), then \d", out, re.MULTILINE)
    assert re.search(r"^  28 .{28} \d +\d+\.\d % ", out, re.MULTILINE)


def test_predict_takes_idx_files_as_they_are(run, tmp_path):
    cwd, result, _ = run
    test = data.load(DataConfig()).test
    header = bytes([0, 0, 8, 3]) + b"".join(n.to_bytes(4, "big") for n in (20, 28, 28))
    (tmp_path / "digits").write_bytes(header + test.images[:20].tobytes())
    out, _ = here("predict", result["run_dir"], tmp_path / "digits", "--json", cwd=cwd)
    predictions = last_json(out)
    assert predictions[7]["path"] == f"{tmp_path / 'digits'}[7]"
    classifier = load(cwd / result["run_dir"])
    expected = classifier.logits(test.images[:20]).argmax(axis=1)
    assert [p["label"] for p in predictions] == expected.tolist()


def test_the_notebook_display_prints_the_lines_of_2015(tmp_path):
    config = ROOT / "experiments" / "notebook_2015.toml"
    out, _ = here(
        "train", config, "--data.dataset=mnist_sample", "--data.validation-size=500",
        "--model.projection-size=8", "--model.hidden-size=16", "--train.examples=5000", "--json",
        cwd=tmp_path,
    )  # fmt: skip
    *lines, finished, testing, result = out.splitlines()
    pattern = r"Iter (\d+), Minibatch Loss= \d+\.\d{6}, Training Accuracy= \d\.\d{5}"
    assert [int(re.fullmatch(pattern, line)[1]) for line in lines] == [1280, 2560, 3840]
    assert finished == "Optimization Finished!"
    first256 = json.loads(result)["first256_accuracy"]
    assert testing == f"Testing Accuracy: {first256:.6g}"
    assert json.loads(result)["steps"] == 39


def wait_for_checkpoint(run_dir, process):
    """Waits until a run has saved, so that what comes next falls into the loop."""
    deadline = time.monotonic() + 120
    while not any((run_dir / "checkpoints").glob("[0-9]*")):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.01)


LONG = [*SHORT, "--train.epochs=20"]


@pytest.fixture(scope="module")
def long_result(tmp_path_factory):
    """The result of the run that the next tests cut."""
    cwd = tmp_path_factory.mktemp("long")
    return last_json(rowrnn("train", *LONG, "--run-dir=run", "--json", cwd=cwd)[0])


# Every signal in every phase of a run, and its end after a kill: tests/faults/.
@pytest.mark.soak
def test_a_run_goes_on_after_a_signal_as_if_nothing_had_been(tmp_path, long_result):
    process = start("train", *LONG, "--run-dir=run", cwd=tmp_path)
    wait_for_checkpoint(tmp_path / "run", process)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 75, err
    assert "go on with: rowrnn train --resume run" in err
    out, _ = rowrnn("train", "--resume", "run", "--json", cwd=tmp_path)
    result = last_json(out)
    assert result["params_sha256"] == long_result["params_sha256"]
    steps = [entry["step"] for entry in log.read(tmp_path / "run")]
    assert steps == sorted(set(steps))


FLAGS = [
    ("[train]\nexamples = 100_000", "--train.epochs=1", {"train.epochs": 1}),
    ("[train]\nepochs = 1000", "--train.examples=300", {"train.examples": 300}),
    ("[train]\nepochs = 7", "--train.examples None", {"train.epochs": 7}),
    ("[train]\nepochs = 7", "--train.epochs None", {}),
    ("[train]\nseed = 3", "--train.seed 0", {}),
    ("[train]\nseed = 3", "--train.seed=4 --train.seed=5", {"train.seed": 5}),
    ("[model]\nlayers = 2", "--model.hidden_size 8", {"model.layers": 2, "model.hidden_size": 8}),
    ("[parallel]\ncompilation_cache = false", "", {"parallel.compilation_cache": False}),
    ("[parallel]\ncompilation_cache = false", "--parallel.compilation-cache", {}),
    ("", "--parallel.no-compilation-cache", {"parallel.compilation_cache": False}),
    ("[model]\nforget_bias = 2", "--model.forget-bias -1", {"model.forget_bias": -1.0}),
]


@pytest.mark.parametrize("command", ["train", "sweep --seeds 0:2"])
@pytest.mark.parametrize(("in_file", "flags", "differs"), FLAGS)
def test_a_flag_beats_the_file_and_the_file_the_defaults(
    tmp_path, monkeypatch, command, in_file, flags, differs
):
    given = []

    def take(config, *_, **__):
        given.append(config)
        raise ConfigError("taken")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli.logging, "disable", lambda: None)
    monkeypatch.setattr(lab_train, "train", take)
    monkeypatch.setattr(lab_sweep, "sweep", take)
    (tmp_path / "config.toml").write_text(in_file)
    name, *rest = command.split()
    assert cli.run([name, "config.toml", *rest, *flags.split()]) == 2
    found = {name: new for name, _, new in configs.differences(Config(), given[0])}
    assert found == differs


BAD = [
    (["tran"], 2, "did you mean train"),
    (["train", "none.toml"], 2, "config none.toml: No such file"),
    (["train", "bad.toml"], 2, "unknown name model.hiden_size; did you mean hidden_size?"),
    (["train", "--train.batch-size=0"], 2, "train.batch_size = 0: must be an integer from 1"),
    (["train", "--train.batch-size=x"], 2, "train.batch_size = 'x': must be an integer"),
    (["train", "--model.hiden-size=3"], 2, "--model.hidden-size"),
    (["train", "--optimizer.learning-rate=nan"], 2, "optimizer.learning_rate = nan"),
    (["train", "--train.epochs=1", "--train.examples=1"], 2, "only one of the two"),
    (["train", "--resume=none"], 4, "none does not exist"),
    (["train", "--resume=."], 4, "holds no run"),
    (["data", "perpare"], 2, "rowrnn data prepare mnist"),
    (["data", "prepare", "cifar"], 2, "mnist"),
]


@pytest.mark.parametrize(("arguments", "code", "says"), BAD, ids=lambda value: str(value)[:40])
def test_a_mistake_is_named_before_jax_is_imported(tmp_path, arguments, code, says):
    (tmp_path / "bad.toml").write_text("[model]\nhiden_size = 3\n")
    # A jax that cannot be imported shows that none is.
    (tmp_path / "jax.py").write_text("raise SystemExit('jax was imported')")
    _, err = rowrnn(*arguments, cwd=tmp_path, code=code, PYTHONPATH=str(tmp_path))
    assert says in err
    assert "jax was imported" not in err


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["train", f"--run-dir={'a' * 300}"], 4),
        (["train", f"--resume={'a' * 300}"], 4),
        (["sweep", "--seeds=0:2", f"--run-dir={'a' * 300}"], 4),
        (["eval", "a" * 300], 4),
        (["report", "a" * 300], 4),
        (["train", "--data.dataset=mnist", f"--data.dir={'a' * 300}"], 3),
    ],
)
def test_a_name_that_the_system_does_not_take(tmp_path, monkeypatch, capsys, arguments, code):
    monkeypatch.chdir(tmp_path)
    assert cli.run(arguments) == code
    assert "File name too long" in capsys.readouterr().err


def test_mistakes_that_need_the_data(tmp_path):
    _, err = here("train", "--train.batch-size=5000", cwd=tmp_path, code=2)
    assert "train.batch_size = 5000: must be at most 4,000" in err
    _, err = here("train", "--data.dataset=mnist", f"--data.dir={tmp_path}", cwd=tmp_path, code=3)
    assert "rowrnn data prepare mnist" in err
    # Nothing is left of a run that could not begin.
    assert not (tmp_path / "runs").exists()


def test_help_needs_no_jax(tmp_path):
    (tmp_path / "jax.py").write_text("raise SystemExit('jax was imported')")
    for arguments in (["--help"], ["train", "--help"], ["eval", "--help"], ["--version"]):
        out, _ = rowrnn(*arguments, cwd=tmp_path, PYTHONPATH=str(tmp_path), COLUMNS="80")
        assert "rowrnn" in out


def test_debug_shows_where_an_error_came_from(tmp_path):
    process = start("train", "none.toml", "--debug", cwd=tmp_path)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "Traceback" in err


def test_control_characters_in_a_name_do_not_reach_the_terminal(tmp_path):
    _, err = rowrnn("train", "\x1b[31mred.toml", cwd=tmp_path, code=2)
    assert "\x1b" not in err
    assert r"\x1b[31mred.toml" in err
