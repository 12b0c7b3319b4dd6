"""Loggers: the real ones offline, read back by other means, and ones that fail in all ways."""

import importlib.util
import json
import os
import struct
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path

import pytest

import rowrnn
from rowrnn import config as configs
from rowrnn.config import Config, DataConfig, ModelConfig, TrainConfig
from rowrnn.errors import ConfigError, StoppedError
from rowrnn.store import loggers
from rowrnn.store.rundir import RunDir, WatchedRunDir

# A package named wandb that notes what it is told, and does as FAKE says.
FAKE = """
import json, os, time

def note(**values):
    with open(os.environ["NOTES"], "a") as file:
        file.write(json.dumps(values) + "\\n")

def fail(where):
    if os.environ.get("FAKE", "") == f"raises in {where}":
        raise OSError(f"no {where}\\nas I said")
    if os.environ.get("FAKE", "") == f"hangs in {where}":
        time.sleep(600)
    if os.environ.get("FAKE", "") == f"exits in {where}":
        raise SystemExit(3)
    if os.environ.get("FAKE", "") == f"dies in {where}":
        os.abort()
    if os.environ.get("FAKE", "") == f"raises once in {where}":
        os.environ["FAKE"] = ""
        raise OSError("try again")

class Run:
    def __init__(self, id):
        self.id, self.summary = id, {}
    def log(self, figures, step):
        fail("log")
        note(step=step, **figures)
    def finish(self, exit_code):
        fail("finish")
        note(summary=self.summary, exit_code=exit_code)

def init(project, name, id, resume, config):
    print("wandb: hello")
    fail("init")
    note(project=project, name=name, id=id, config=config)
    return Run(id)

fail("import")
"""


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """Puts the package in place of the real one; gives what it was told."""
    package = tmp_path / "fake" / "wandb"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(FAKE)
    monkeypatch.setenv("PYTHONPATH", str(package.parent), prepend=os.pathsep)
    here = tmp_path / "here"
    here.mkdir()
    (here / "wandb.py").write_text("raise SystemExit('a module from the working directory')")
    monkeypatch.chdir(here)
    monkeypatch.setenv("NOTES", str(tmp_path / "notes"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: loggers.__spec__)
    return lambda: [json.loads(line) for line in (tmp_path / "notes").read_text().splitlines()]


def log(run, step, **values):
    run.log({"step": step, "examples": step * 128}, values)


def write_result(run, **values):
    run.write(
        "result.json", json.dumps({"steps": 30, "dataset": "x", "test_accuracy": 0.5} | values)
    )


@pytest.mark.parametrize(
    ("how", "where"),
    [
        *(("raises", where) for where in ("import", "init", "log", "finish")),
        *(("hangs", "init"), ("hangs", "finish"), ("exits", "init"), ("dies", "log")),
    ],
)
def test_a_logger_that_fails_costs_a_run_one_line(how, where, fake, tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE", f"{how} in {where}")
    monkeypatch.setattr(loggers, "_PATIENCE_S", {"finished": 3.0})
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        with RunDir.create(tmp_path / "run", Config()) as run:
            run.start_logger("wandb")
            for step in range(10, 40, 10):
                log(run, step, train_loss=1.0)
            write_result(run)
            run.finish_logger("finished")
    (warning,) = told
    reason = {
        "raises": f"OSError: no {where}",
        "hangs": "it had not ended after 3 s, and was ended",
        "exits": "SystemExit: 3",
        "dies": "it ended with exit code -6",
    }[how]
    assert str(warning.message) == (
        f"logger wandb: {reason}; the run goes on, and metrics.jsonl has all of it"
    )
    assert (tmp_path / "run" / "metrics.jsonl").read_text().count("\n") == 3


def test_what_could_not_be_told_is_told_later(fake, tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE", "raises once in log")
    with RunDir.create(tmp_path / "run", Config()) as run:
        run.start_logger("wandb")
        log(run, 10, train_loss=2.0)
        wait_for(lambda: run._logger._process.stdout.peek())
        with pytest.warns(UserWarning, match="logger wandb: OSError: try again"):
            log(run, 20, train_loss=1.0)
        write_result(run)
        run.finish_logger("finished")
    assert [note["step"] for note in fake() if "step" in note] == [10, 20]


def wait_for(condition):
    deadline = 200
    while not condition():
        deadline -= 1
        assert deadline, "nothing came"
        subprocess.run(["sleep", "0.05"], check=True)


def test_a_run_is_told_with_name_config_figures_and_result(fake, tmp_path):
    config = Config(
        ModelConfig(0, 8),
        DataConfig("mnist_sample", validation_size=100),
        train=TrainConfig(
            batch_size=100, examples=3_001, log_every_steps=10, display="none", logger="wandb"
        ),
    )
    result = rowrnn.train(config, tmp_path / "run")
    start, *figures, end = fake()
    assert (start["project"], start["name"]) == ("rowrnn", "run")
    assert start["config"]["model.hidden_size"] == 8
    assert start["config"] == flat(configs.to_dict(config))
    entries = map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    assert figures == list(entries)
    assert [note["step"] for note in figures if "train_loss" in note] == [10, 20, 30]
    assert end["exit_code"] == 0
    assert end["summary"]["test_accuracy"] == result.test_accuracy
    assert rowrnn.train(resume=tmp_path / "run") == result
    assert len(fake()) == len(figures) + 2


def flat(tables):
    return {f"{name}.{key}": v for name, table in tables.items() for key, v in table.items()}


def test_a_run_that_goes_on_repeats_no_step(fake, tmp_path):
    with pytest.raises(StoppedError):
        train_to_30(tmp_path / "run", "wandb")
    # From a checkpoint of step 10; of step 30 the logger knows one figure of two.
    with RunDir.reopen(tmp_path / "run") as run:
        run.rewind_log(10)
        run.start_logger("wandb")
        for step in (20, 30, 40):
            log(run, step, train_loss=1.0)
            if step == 30:
                log(run, step, validation_loss=2.0)
        write_result(run)
        run.finish_logger("finished")
    notes = fake()
    starts = [note for note in notes if "id" in note]
    assert len({start["id"] for start in starts}) == 1
    assert len(starts) == 2
    assert [note["exit_code"] for note in notes if "exit_code" in note] == [75, 0]
    told = [(note["step"], *sorted(note)[1:]) for note in notes if "step" in note]
    assert told == [
        (10, "step", "train_loss"), (20, "step", "train_loss"), (30, "step", "train_loss"),
        (30, "step", "validation_loss"), (40, "step", "train_loss"),
    ]  # fmt: skip


def test_a_run_that_is_killed_is_told_to_the_end(fake, tmp_path):
    script = f"""
        import os
        from pathlib import Path
        from rowrnn.config import Config
        from rowrnn.store.rundir import RunDir
        run = RunDir.create(Path({str(tmp_path / "run")!r}), Config())
        run.start_logger("wandb")
        for step in range(1, 301):
            run.log({{"step": step}}, {{"train_loss": 1.0}})
        os.kill(os.getpid(), 9)
    """
    killed = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=False)
    assert killed.returncode == -9
    wait_for(lambda: "exit_code" in (tmp_path / "notes").read_text())
    notes = fake()
    assert [note["step"] for note in notes if "step" in note] == list(range(1, 301))
    assert notes[-1]["exit_code"] == 1


@pytest.mark.parametrize("known", ['{"kind": "mlflow", "id": "x"}', '{"id": "../x"', "[1]",
                                   '{"kind": "wandb", "id": "../x", "step": 99}'])  # fmt: skip
def test_a_damaged_or_foreign_note_of_what_was_told_counts_for_nothing(known, fake, tmp_path):
    with RunDir.create(tmp_path / "run", Config()) as run:
        run.write("logger.json", known)
        run.start_logger("wandb")
        log(run, 10, train_loss=1.0)
        run.finish_logger("stopped")
    start, figures, _ = fake()
    assert "x" not in start["id"]
    assert figures["step"] == 10


def test_of_a_sweep_its_result_is_told(fake, tmp_path):
    points = [{"point": f"learning_rate={rate}", "mean": rate * 100} for rate in (0.001, 0.003)]
    with RunDir.create(tmp_path / "sweep", Config()) as run:
        run.write("sweep.json", json.dumps({"seeds": [0, 1], "grid": {}, "vary": "both"}))
        run.start_logger("wandb")
        run.log_member("seed=0", {"train_loss": [(1, 0.5), (2, 0.4)]})
        run.write("results.json", json.dumps({"summary": {"mean": 0.2, "groups": points}}))
        run.finish_logger("finished")
    start, end = fake()
    assert start["config"]["sweep.seeds"] == "[0, 1]"
    assert end["summary"]["mean"] == 0.2
    assert end["summary"]["learning_rate=0.003/mean"] == pytest.approx(0.3)


def test_of_several_processes_the_first_alone_tells(fake, tmp_path):
    with RunDir.create(tmp_path / "run", Config()):
        other = WatchedRunDir(tmp_path / "run")
        other.start_logger("wandb")
        other.finish_logger("finished")
    assert not (tmp_path / "notes").exists()


@pytest.mark.parametrize("kind", ["wandb", "mlflow"])
def test_a_package_that_is_missing_is_told_at_once(kind, tmp_path):
    script = f"""
        import importlib.util, sys
        real = importlib.util.find_spec
        importlib.util.find_spec = lambda name: None if name == {kind!r} else real(name)
        from rowrnn import cli
        code = cli.run(["train", "--train.logger", {kind!r}])
        assert "jax" not in sys.modules
        sys.exit(code)
    """
    found = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert found.returncode == 2, found.stderr
    assert found.stderr == (
        f"rowrnn: train.logger = '{kind}': the package {kind} is not installed; "
        f"pip install 'rowrnn[{kind}]'\n"
    )
    assert not list(tmp_path.iterdir())


def test_a_directory_of_that_name_is_no_package(tmp_path, monkeypatch):
    (tmp_path / "mlflow").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "mlflow", raising=False)
    with pytest.raises(ConfigError, match=r"pip install 'rowrnn\[mlflow\]'"):
        loggers.require("mlflow")
    loggers.require("none")


def train_to_30(path, kind):
    """A run that is stopped after step 30."""
    with RunDir.create(path, Config(ModelConfig(hidden_size=64))) as run:
        run.start_logger(kind)
        for step in (10, 20, 30):
            log(run, step, train_loss=3.0 / step)
        raise StoppedError("stopped")


def train_in_two_parts(path, kind, monkeypatch):
    """A run that is stopped after step 30, goes on from step 20 and ends at 50."""
    monkeypatch.setattr(loggers, "_PATIENCE_S", {"finished": 60.0, "stopped": 60.0})
    with pytest.raises(StoppedError):
        train_to_30(path, kind)
    with RunDir.reopen(path) as run:
        run.rewind_log(20)
        run.start_logger(kind)
        for step in (30, 40, 50):
            log(run, step, train_loss=3.0 / step)
        log(run, 50, validation_accuracy=0.75)
        write_result(run, steps=50, train_loss=0.06)
        run.finish_logger("finished")
    return json.loads((path / "logger.json").read_text())["id"]


def wandb_records(path):
    """The records of an offline run, as the format (that of LevelDB's log) has them."""
    from wandb.proto import wandb_internal_pb2

    content, at, whole = path.read_bytes(), 7, b""
    assert content[:4] == b":W&B"
    while at + 7 <= len(content):
        left = 2**15 - at % 2**15
        if left < 7:
            at += left
            continue
        _, size, kind = struct.unpack("<IHB", content[at : at + 7])
        whole += content[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # Whole, or the last part.
            yield wandb_internal_pb2.Record.FromString(whole)
            whole = b""


def items(found):
    """Keys and values of the protocol's updates."""
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in found}


def test_wandb_offline_has_the_run_and_goes_on_with_it(tmp_path, monkeypatch):
    if importlib.util.find_spec("wandb") is None:
        pytest.skip("Weights & Biases is not installed: pip install 'rowrnn[wandb]'")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    run_id = train_in_two_parts(tmp_path / "my-run", "wandb", monkeypatch)
    files = sorted(tmp_path.glob("wandb/offline-run-*/*.wandb"), key=os.path.getmtime)
    assert [file.name for file in files] == [f"run-{run_id}.wandb"] * 2
    first, second = (list(wandb_records(file)) for file in files)
    (run,) = (record.run for record in first if record.WhichOneof("record_type") == "run")
    assert (run.project, run.display_name, run.run_id) == ("rowrnn", "my-run", run_id)
    assert items(run.config.update)["model.hidden_size"] == 64
    told = [
        (record.history.step.num, items(record.history.item))
        for record in first + second
        if record.WhichOneof("record_type") == "history"
    ]
    assert [step for step, _ in told] == [10, 20, 30, 40, 50]
    assert [figures["train_loss"] for _, figures in told] == [3.0 / s for s in (10, 20, 30, 40, 50)]
    assert told[-1][1]["validation_accuracy"] == 0.75
    ends = [r.exit.exit_code for r in first + second if r.WhichOneof("record_type") == "exit"]
    assert ends == [75, 0]
    summary = {}
    for record in second:
        if record.WhichOneof("record_type") == "summary":
            summary |= items(record.summary.update)
    assert summary["test_accuracy"] == 0.5
    assert summary["dataset"] == "x"


def test_mlflow_in_files_has_the_run_and_goes_on_with_it(tmp_path, monkeypatch):
    if importlib.util.find_spec("mlflow") is None:
        pytest.skip("MLflow is not installed: pip install 'rowrnn[mlflow]'")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path / 'store'}")
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    run_id = train_in_two_parts(tmp_path / "my-run", "mlflow", monkeypatch)
    (path,) = tmp_path.glob(f"store/*/{run_id}")
    assert "name: rowrnn\n" in (path.parent / "meta.yaml").read_text()
    about = (path / "meta.yaml").read_text()
    assert "run_name: my-run\n" in about
    assert "status: 3\n" in about  # FINISHED
    assert (path / "params" / "model.hidden_size").read_text() == "64"
    assert figures_of(path, "train_loss") == [(s, 3.0 / s) for s in (10, 20, 30, 40, 50)]
    assert figures_of(path, "validation_accuracy") == [(50, 0.75)]
    assert figures_of(path, "test_accuracy") == [(50, 0.5)]
    assert (path / "tags" / "dataset").read_text() == "x"


def test_mlflow_has_the_last_result_of_a_sweep_that_went_on(tmp_path, monkeypatch):
    if importlib.util.find_spec("mlflow") is None:
        pytest.skip("MLflow is not installed: pip install 'rowrnn[mlflow]'")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path / 'store'}")
    path = tmp_path / "sweep"
    for mean, members in ((0.8, 4), (0.9, 8)):
        with RunDir.reopen(path) if path.exists() else RunDir.create(path, Config()) as run:
            run.write("sweep.json", json.dumps({"seeds": [0, 1], "grid": {}, "vary": "both"}))
            run.start_logger("mlflow")
            summary = {"mean": mean, "members": members, "failed": 0, "groups": []}
            run.write("results.json", json.dumps({"summary": summary}))
            run.finish_logger("finished")
    (stored,) = tmp_path.glob("store/*/*/metrics")
    assert figures_of(stored.parent, "mean") == [(0, 0.8), (0, 0.9)]
    assert figures_of(stored.parent, "members") == [(0, 4), (0, 8)]
    assert figures_of(stored.parent, "failed") == [(0, 0)]


def figures_of(path: Path, name: str):
    """Step and value of each line of a metric: time, value, step."""
    lines = (path / "metrics" / name).read_text().splitlines()
    return [(int(line.split()[2]), float(line.split()[1])) for line in lines]
