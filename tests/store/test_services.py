"""Loggers: the real ones offline, read back by other means, and ones that fail in all ways."""

import contextlib
import http.server
import importlib.util
import json
import os
import re
import signal
import struct
import subprocess
import sys
import textwrap
import threading
import time
import warnings
from pathlib import Path

import pytest

import rowrnn
from rowrnn import config as configs
from rowrnn.config import Config, DataConfig, ModelConfig, OptimizerConfig, TrainConfig
from rowrnn.errors import ConfigError, StoppedError
from rowrnn.store import log, services
from rowrnn.store.rundir import RunDir

# Seconds that a run may take from its result to its end, whatever a service does.
BOUND_S = 15
# A package named wandb that notes what it is told, and does as FAKE says.
FAKE = """
import json, os, time

run = None

def note(**values):
    with open(os.environ["NOTES"], "a") as file:
        file.write(json.dumps(values) + "\\n")

def fail(where):
    if os.environ.get("FAKE", "") == f"raises in {where}":
        raise OSError(f"no {where}\\nas I said")
    if os.environ.get("FAKE", "") == f"hangs in {where}":
        time.sleep(float(os.environ.get("HANGS_S", 600)))
    if os.environ.get("FAKE", "") == f"exits in {where}":
        raise SystemExit(3)
    if os.environ.get("FAKE", "") == f"raises once in {where}":
        os.environ["FAKE"] = ""
        raise OSError("try again")

class Run:
    def __init__(self, id):
        self.id, self.summary = id, {}
        self.url, self.dir = "", "wandb/offline-run-" + id + "/files"
    def log(self, figures, step):
        fail("log")
        note(step=step, **figures)
    def finish(self, exit_code):
        fail("finish")
        note(summary=self.summary, exit_code=exit_code)

def Settings(**values):
    return values

def init(project, name, id, resume, reinit, config, settings):
    fail("init")
    note(project=project, name=name, id=id, config=config)
    return Run(id)

def teardown():
    note(torn_down=True)

fail("import")
"""


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """Puts the package in place of the real one, here and in processes; gives what it was told."""
    package = tmp_path / "fake" / "wandb"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(FAKE)
    monkeypatch.syspath_prepend(package.parent)
    monkeypatch.setenv("PYTHONPATH", str(package.parent), prepend=os.pathsep)
    monkeypatch.setenv("NOTES", str(tmp_path / "notes"))
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    yield lambda: [json.loads(line) for line in (tmp_path / "notes").read_text().splitlines()]
    sys.modules.pop("wandb", None)


def append(run, step, **values):
    run.log({"step": step, "examples": step * 128}, values)


def write_result(run, **values):
    run.write(
        "result.json", json.dumps({"steps": 30, "dataset": "x", "test_accuracy": 0.5} | values)
    )


def python(script, tmp_path, **variables):
    """Starts a process that runs a script, in which these names are known."""
    head = """
        import json, os, sys, time
        from pathlib import Path
        from rowrnn.config import Config, ModelConfig
        from rowrnn.errors import StoppedError
        from rowrnn.store.rundir import RunDir

        def wait_until_told(what):
            while not any(what in noted.read_text() for noted in Path().glob("*/logger.json")):
                time.sleep(0.05)
    """
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(head) + textwrap.dedent(script)],
        cwd=tmp_path, env=os.environ | variables, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def ended(process, code=0):
    """stdout and stderr of a process that has ended as it should."""
    out, err = process.communicate(timeout=120)
    assert process.returncode == code, err
    return out, err


def wait_for(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "nothing came"
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("how", "where"),
    [*(("raises", where) for where in ("import", "init", "log", "finish")), ("exits", "init")],
)
def test_a_service_that_fails_costs_a_run_one_line(how, where, fake, tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE", f"{how} in {where}")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        with RunDir.create(tmp_path / "run", Config()) as run:
            run.start_logger("wandb")
            for step in range(10, 40, 10):
                append(run, step, train_loss=1.0)
            write_result(run)
            run.finish_logger("finished")
    (warning,) = told
    reason = {"raises": f"OSError: no {where}", "exits": "SystemExit: 3"}[how]
    assert str(warning.message) == (
        f"logger wandb: {reason}; the run goes on, and metrics.jsonl has all of it"
    )
    assert (tmp_path / "run" / "metrics.jsonl").read_text().count("\n") == 3


@pytest.mark.parametrize(
    ("where", "patience"), [pytest.param("import", 8, marks=pytest.mark.slow), ("log", 2)]
)
def test_a_service_that_hangs_costs_a_run_one_line_and_some_seconds(
    where, patience, fake, tmp_path
):
    script = f"""
        from rowrnn.store import services

        assert services._PATIENCE_S["finished"] == 8
        services._PATIENCE_S["finished"] = {patience}
        with RunDir.create(Path("run"), Config()) as run:
            run.start_logger("wandb")
            for step in range(10, 40, 10):
                run.log({{"step": step}}, {{"train_loss": 1.0}})
            run.write("result.json", '{{"steps": 30}}')
            run.finish_logger("finished")
    """
    _, err = ended(python(script, tmp_path, FAKE=f"hangs in {where}"))
    assert time.time() - (tmp_path / "run" / "result.json").stat().st_mtime < BOUND_S
    assert [line for line in err.splitlines() if "UserWarning" in line] == [
        line for line in err.splitlines() if "logger wandb" in line
    ]
    assert (
        f"logger wandb: it had not ended after {patience} s; the run goes on, and metrics.jsonl"
        in err
    )
    assert "Traceback" not in err
    assert [entry["step"] for entry in log.read(tmp_path / "run")] == [10, 20, 30]


@pytest.mark.slow
def test_a_service_that_answers_too_late_writes_nothing_into_the_directory(
    fake, tmp_path, monkeypatch
):
    monkeypatch.setenv("FAKE", "hangs in log")
    monkeypatch.setenv("HANGS_S", "6")
    with RunDir.create(tmp_path / "run", Config()) as run:
        run.start_logger("wandb")
        append(run, 10, train_loss=1.0)
        with pytest.warns(UserWarning, match="it had not ended after 5 s"):
            run.finish_logger("stopped")
    before = (tmp_path / "run" / "logger.json").read_bytes()
    wait_for(lambda: "step" in (tmp_path / "notes").read_text())
    wait_for(lambda: "logger" not in {thread.name for thread in threading.enumerate()})
    assert (tmp_path / "run" / "logger.json").read_bytes() == before


def test_what_could_not_be_told_is_told_later(fake, tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE", "raises once in log")
    with RunDir.create(tmp_path / "run", Config()) as run:
        append(run, 10, train_loss=2.0)
        run.start_logger("wandb")
        wait_for(lambda: not os.environ["FAKE"])
        time.sleep(0.2)
        with pytest.warns(UserWarning, match="logger wandb: OSError: try again"):
            append(run, 20, train_loss=1.0)
        write_result(run)
        run.finish_logger("finished")
    assert [note["step"] for note in fake() if "step" in note] == [10, 20]


def test_a_run_is_told_with_name_config_figures_and_result(fake, tmp_path):
    config = Config(
        ModelConfig(0, 8),
        DataConfig("mnist_sample", validation_size=100),
        OptimizerConfig("adamw"),
        TrainConfig(
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


def train_to_30(path):
    """A run that is stopped after step 30."""
    with RunDir.create(path, Config()) as run:
        run.start_logger("wandb")
        for step in (10, 20, 30):
            append(run, step, train_loss=1.0)
        raise StoppedError("stopped")


def test_a_run_that_goes_on_repeats_no_step(fake, tmp_path):
    with pytest.raises(StoppedError):
        train_to_30(tmp_path / "run")
    # From a checkpoint of step 10; of step 30 the service knows one figure of two.
    with RunDir.reopen(tmp_path / "run") as run:
        run.rewind_log(10)
        run.start_logger("wandb")
        for step in (20, 30, 40):
            append(run, step, train_loss=1.0)
            if step == 30:
                append(run, step, validation_loss=2.0)
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


def test_of_a_run_that_was_killed_all_is_told_when_it_goes_on(fake, tmp_path):
    script = """
        run = RunDir.create(Path("run"), Config())
        run.start_logger("wandb")
        for step in range(1, 501):
            run.log({"step": step}, {"train_loss": 1.0})
            if step == 150:
                wait_until_told('"train_loss": 150')
        os.kill(os.getpid(), 9)
    """
    ended(python(script, tmp_path), -signal.SIGKILL)
    with RunDir.reopen(tmp_path / "run") as run:
        run.rewind_log(480)
        run.start_logger("wandb")
        for step in range(481, 521):
            append(run, step, train_loss=1.0)
        write_result(run)
        run.finish_logger("finished")
    notes = fake()
    told = [note["step"] for note in notes if "step" in note]
    # What was told by the last call before the kill may not have been noted: 100 entries at most.
    assert told[:150] == [*range(1, 151)]
    assert sorted(set(told)) == [*range(1, 521)]
    assert len(told) <= 520 + 100
    assert len({note["id"] for note in notes if "id" in note}) == 1
    assert notes[-1]["exit_code"] == 0


@pytest.mark.parametrize(
    "known",
    [
        "[1]",
        '{"id": "../x"',
        '{"kind": "mlflow", "id": "x"}',
        '{"kind": "wandb", "id": "../x", "steps": {"step": 99}}',
        '{"kind": "wandb", "id": "x", "steps": {"step": "a"}}',
    ],
)
def test_a_damaged_or_foreign_note_of_what_was_told_counts_for_nothing(known, fake, tmp_path):
    with RunDir.create(tmp_path / "run", Config()) as run:
        run.write("logger.json", known)
        run.start_logger("wandb")
        append(run, 10, train_loss=1.0)
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
        other = RunDir(tmp_path / "run", writes=False)
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
    _, err = ended(python(script, tmp_path), 2)
    assert err == (
        f"rowrnn: train.logger = '{kind}': the package {kind} is not installed; "
        f"pip install 'rowrnn[{kind}]'\n"
    )
    assert not list(tmp_path.iterdir())


def test_a_directory_of_that_name_is_no_package(tmp_path, monkeypatch):
    (tmp_path / "mlflow").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "mlflow", raising=False)
    with pytest.raises(ConfigError, match=r"pip install 'rowrnn\[mlflow\]'"):
        services.require("mlflow")
    services.require("none")


# The real packages are used in processes of their own: they leave much behind in one.


@pytest.fixture(params=["wandb", "mlflow"])
def kind(request, tmp_path, monkeypatch):
    """A real service that keeps its runs below `tmp_path`."""
    if importlib.util.find_spec(request.param) is None:
        pytest.skip(f"it is not installed: pip install 'rowrnn[{request.param}]'")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path / 'store'}")
    for name in ("WANDB_PROJECT", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    return request.param


def steps_told(kind, tmp_path):
    """Step and loss of all entries that a service was told, in their order."""
    if kind == "mlflow":
        return [
            entry
            for path in tmp_path.glob("store/*/*/metrics/train_loss")
            for entry in figures_of(path.parent.parent, "train_loss")
        ]
    return [
        (record.history.step.num, figures["train_loss"])
        for path in offline_files(tmp_path)
        for record in wandb_records(path)
        if record.WhichOneof("record_type") == "history"
        for figures in [items(record.history.item)]
        if "train_loss" in figures
    ]


def offline_files(tmp_path):
    return sorted(tmp_path.glob("wandb/offline-run-*/*.wandb"), key=os.path.getmtime)


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


def figures_of(path: Path, name: str):
    """Step and value of each line of a metric of MLflow: time, value, step."""
    lines = (path / "metrics" / name).read_text().splitlines()
    return [(int(line.split()[2]), float(line.split()[1])) for line in lines]


FIRST_PART = """
    with RunDir.create(Path("my-run"), Config(ModelConfig(hidden_size=64))) as run:
        run.start_logger(os.environ["KIND"])
        for step in (10, 20, 30):
            run.log({"step": step}, {"train_loss": 3.0 / step})
        wait_until_told('"train_loss": 30')
        raise StoppedError("stopped")
"""
# From a checkpoint of step 20.
SECOND_PART = """
    with RunDir.reopen(Path("my-run")) as run:
        run.rewind_log(20)
        run.start_logger(os.environ["KIND"])
        for step in (30, 40, 50):
            run.log({"step": step}, {"train_loss": 3.0 / step})
        run.log({"step": 50}, {"validation_accuracy": 0.75})
        wait_until_told('"validation_accuracy": 50')
        run.write("result.json", json.dumps(
            {"steps": 50, "train_loss": 0.06, "dataset": "x", "test_accuracy": 0.5}))
        run.finish_logger("finished")
"""


@pytest.mark.slow
def test_the_real_service_has_the_run_and_goes_on_with_it(kind, tmp_path):
    _, err = ended(python(FIRST_PART, tmp_path, KIND=kind), 1)
    assert "logger" not in err
    out, err = ended(python(SECOND_PART, tmp_path, KIND=kind))
    assert out == err == ""
    assert steps_told(kind, tmp_path) == [(step, 3.0 / step) for step in (10, 20, 30, 40, 50)]
    run_id = json.loads((tmp_path / "my-run" / "logger.json").read_text())["id"]
    (check_wandb if kind == "wandb" else check_mlflow)(tmp_path, run_id)


def check_wandb(tmp_path, run_id):
    files = offline_files(tmp_path)
    assert [file.name for file in files] == [f"run-{run_id}.wandb"] * 2
    first, second = (list(wandb_records(file)) for file in files)
    (run,) = (record.run for record in first if record.WhichOneof("record_type") == "run")
    assert (run.project, run.display_name, run.run_id) == ("rowrnn", "my-run", run_id)
    assert items(run.config.update)["model.hidden_size"] == 64
    (last,) = (r.history for r in second if r.history.step.num == 50)
    assert items(last.item)["validation_accuracy"] == 0.75
    ends = [r.exit.exit_code for r in first + second if r.WhichOneof("record_type") == "exit"]
    assert ends == [75, 0]
    summary = {}
    for record in second:
        if record.WhichOneof("record_type") == "summary":
            summary |= items(record.summary.update)
    assert summary["test_accuracy"] == 0.5
    assert summary["dataset"] == "x"


def check_mlflow(tmp_path, run_id):
    (path,) = tmp_path.glob(f"store/*/{run_id}")
    assert "name: rowrnn\n" in (path.parent / "meta.yaml").read_text()
    about = (path / "meta.yaml").read_text()
    assert "run_name: my-run\n" in about
    assert "status: 3\n" in about  # FINISHED
    assert (path / "params" / "model.hidden_size").read_text() == "64"
    assert figures_of(path, "validation_accuracy") == [(50, 0.75)]
    assert figures_of(path, "test_accuracy") == [(50, 0.5)]
    assert (path / "tags" / "dataset").read_text() == "x"


class Server(http.server.BaseHTTPRequestHandler):
    """Answers as MLflow, or as wandb at the start of a run, but not what `server.ignores` matches.

    `server.told` has what was told as MLflow.
    """

    def do_POST(self):
        content = self.rfile.read(int(self.headers["Content-Length"])).decode(errors="replace")
        if re.search(self.server.ignores, f"{self.path} {content}"):
            self.server.ended.wait()
        elif self.path == "/graphql":
            self.answer({"data": {"upsertBucket": {"bucket": BUCKET, "inserted": True}}})
        else:
            call = self.path.partition("/api/2.0/mlflow/")[2]
            self.server.told.append((call, json.loads(content)))
            self.answer({"run": RUN} if call == "runs/create" else {"run_info": RUN["info"]})

    def do_GET(self):
        experiment = {"experiment_id": "5", "name": "rowrnn", "lifecycle_stage": "active"}
        known = "experiments" in self.path
        self.answer({"experiment": experiment} if known else {"run": RUN})

    def answer(self, words):
        content = json.dumps(words).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format, *arguments):
        pass


RUN = {"info": {"run_id": "r1", "run_uuid": "r1", "experiment_id": "5", "lifecycle_stage": "active",
                "status": "RUNNING", "artifact_uri": "mlflow-artifacts:/5/r1"},
       "data": {}}  # fmt: skip
BUCKET = {
    "id": "b",
    "name": "x",
    "project": {"id": "p", "name": "rowrnn", "entity": {"id": "e", "name": "me"}},
}


@contextlib.contextmanager
def serving(ignores):
    """A server, and the variables by which services find it."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        server.told, server.ignores, server.ended = [], ignores, threading.Event()
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        yield server, {"MLFLOW_TRACKING_URI": url, "WANDB_BASE_URL": url, "WANDB_MODE": "online",
                       "WANDB_API_KEY": "a" * 40}  # fmt: skip
        server.ended.set()
        server.shutdown()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["mlflow"], indirect=True)
def test_a_server_of_mlflow_is_told_many_entries_at_once_and_prints_nothing(kind, tmp_path):
    script = """
        with RunDir.create(Path("run"), Config()) as run:
            for step in range(1, 251):
                run.log({"step": step}, {"train_loss": 1.0})
            run.start_logger("mlflow")
            wait_until_told('"train_loss": 250')
            run.write("result.json", '{"steps": 250, "dataset": "x"}')
            run.finish_logger("finished")
    """
    with serving("^$") as (server, variables):
        assert ended(python(script, tmp_path, **variables)) == ("", "")
    *batches, result = [words["metrics"] for _, words in server.told if words.get("metrics")]
    assert [figure["step"] for batch in batches for figure in batch] == [*range(1, 251)]
    assert len(batches) == 3
    assert [(figure["key"], figure["value"]) for figure in result] == [("steps", 250)]
    call, words = server.told[-1]
    assert (call, words["status"]) == ("runs/update", "FINISHED")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["mlflow"], indirect=True)
def test_mlflow_has_the_last_result_of_a_sweep_that_went_on(kind, tmp_path):
    script = """
        for mean, members in ((0.8, 4), (0.9, 8)):
            path = Path("sweep")
            with RunDir.reopen(path) if path.exists() else RunDir.create(path, Config()) as run:
                run.write("sweep.json", json.dumps({"seeds": [0, 1], "grid": {}, "vary": "both"}))
                run.start_logger("mlflow")
                run.log({"step": members}, {})
                wait_until_told(f'"step": {members}')
                summary = {"mean": mean, "members": members, "failed": 0, "groups": []}
                run.write("results.json", json.dumps({"summary": summary}))
                run.finish_logger("finished")
    """
    ended(python(script, tmp_path))
    (stored,) = tmp_path.glob("store/*/*/metrics")
    assert figures_of(stored.parent, "mean") == [(0, 0.8), (0, 0.9)]
    assert figures_of(stored.parent, "members") == [(0, 4), (0, 8)]
    assert figures_of(stored.parent, "failed") == [(0, 0)]


@pytest.mark.parametrize("kind", ["wandb"], indirect=True)
def test_a_run_of_wandb_that_the_caller_has_is_left_alone(kind, tmp_path):
    script = """
        import wandb
        mine = wandb.init(project="mine")
        with RunDir.create(Path("run"), Config()) as run:
            run.start_logger("wandb")
            run.log({"step": 1}, {"train_loss": 1.0})
            wait_until_told("train_loss")
            run.finish_logger("stopped")
        assert wandb.run is mine
        mine.log({"train_loss": 7.0}, step=7)
        mine.finish()
    """
    ended(python(script, tmp_path))
    assert sorted(steps_told(kind, tmp_path)) == [(1, 1.0), (7, 7.0)]


SMALL = ["--data.dataset=mnist_sample", "--data.validation-size=100", "--model.hidden-size=8",
         "--model.projection-size=0", "--train.batch-size=100", "--train.log-every-steps=100",
         "--run-dir=run", "--json"]  # fmt: skip


def train(kind, tmp_path, *arguments, **variables):
    """Starts `rowrnn train` with a logger."""
    return subprocess.Popen(
        [sys.executable, "-m", "rowrnn", "train", *arguments, f"--train.logger={kind}"],
        cwd=tmp_path, env=os.environ | variables, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


@pytest.mark.slow
def test_ctrl_c_stops_a_run_as_ever_and_stdout_has_the_answer_alone(kind, tmp_path):
    process = train(kind, tmp_path, *SMALL, "--train.examples=300000")
    noted = tmp_path / "run" / "logger.json"
    wait_for(lambda: noted.exists() and "train_loss" in noted.read_text())
    process.send_signal(signal.SIGINT)
    out, err = ended(process, 75)
    assert all(line.startswith("{") for line in out.splitlines())
    assert "Ctrl-C again leaves at once" in err
    assert "logger" not in err
    before = steps_told(kind, tmp_path)
    out, err = ended(train(kind, tmp_path, "--resume=run", "--json"))
    (answer,) = out.splitlines()
    assert "logger" not in err
    logged = [
        (entry["step"], entry["train_loss"])
        for entry in log.read(tmp_path / "run")
        if "train_loss" in entry
    ]
    assert logged[-1][0] == json.loads(answer)["steps"]
    assert 0 < len(before) < len(logged)
    assert steps_told(kind, tmp_path) == logged


@pytest.mark.slow
@pytest.mark.parametrize("ignored", ["all", "the result"])
def test_a_run_ends_in_time_where_the_server_does_not_answer(kind, ignored, tmp_path):
    script = """
        with RunDir.create(Path("run"), Config()) as run:
            run.start_logger(os.environ["KIND"])
            run.log({"step": 1}, {"train_loss": 1.0})
            if os.environ["IGNORED"] != "all":
                wait_until_told("train_loss")
            run.write("result.json", '{"steps": 1, "test_accuracy": 0.5}')
            run.finish_logger("finished")
    """
    ignores = "" if ignored == "all" else "test_accuracy|CreateRunFiles|^/files"
    with serving(ignores) as (_, variables):
        process = python(script, tmp_path, KIND=kind, IGNORED=ignored, **variables)
        # Until what wandb has started has let go of stderr too.
        out, err = ended(process)
        seconds = time.time() - (tmp_path / "run" / "result.json").stat().st_mtime
    assert seconds < BOUND_S
    assert out == ""
    (line,) = (line for line in err.splitlines() if "Warning" in line)
    assert f"UserWarning: logger {kind}: " in line
    assert line.endswith("; the run goes on, and metrics.jsonl has all of it")
    assert "Traceback" not in err


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["wandb"], indirect=True)
@pytest.mark.parametrize(
    ("sent", "problem"),
    [("SIGSTOP", "it had not ended after 8 s"), ("SIGKILL", r"\w+(: .*)?")],
)
def test_a_run_ends_in_time_where_the_process_of_wandb_is_gone(kind, sent, problem, tmp_path):
    script = """
        import signal, subprocess
        with RunDir.create(Path("run"), Config()) as run:
            run.start_logger("wandb")
            run.log({"step": 1}, {"train_loss": 1.0})
            wait_until_told("id")
            found = subprocess.run(
                ["ps", "--ppid", str(os.getpid()), "-o", "pid=,comm="],
                capture_output=True, text=True)
            (pid,) = (line.split()[0] for line in found.stdout.splitlines() if "wandb" in line)
            print(pid, flush=True)
            os.kill(int(pid), getattr(signal, os.environ["SENT"]))
            run.log({"step": 2}, {"train_loss": 1.0})
            run.write("result.json", '{"steps": 30}')
            run.finish_logger("finished")
    """
    process = python(script, tmp_path, SENT=sent)
    pid = int(process.stdout.readline())
    try:
        process.wait(timeout=60)
        seconds = time.time() - (tmp_path / "run" / "result.json").stat().st_mtime
    finally:
        if sent == "SIGSTOP":
            os.kill(pid, signal.SIGKILL)
    _, err = ended(process)
    assert seconds < BOUND_S
    (line,) = (line for line in err.splitlines() if "Warning" in line)
    assert re.search(f"UserWarning: logger wandb: {problem}; the run goes on, ", line)
    assert "Traceback" not in err
