"""The list of runs, against directories made by hand; those of real ones are in test_cli."""

import dataclasses
import datetime
import json
import math
import os
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor

import pytest

import rowrnn
from rowrnn import cli
from rowrnn.config import Config, ModelConfig, OptimizerConfig, TrainConfig
from rowrnn.errors import RunError
from rowrnn.store import rundir
from rowrnn.store.rundir import RunDir

RESULT = {"test_accuracy": 0.9776, "wall_s": 41.2, "examples_per_s": 2500.5, "steps": 620}


def make_run(path, config=Config(), *, day=1, result=RESULT, steps=()):
    """A run that was started on a day of January 2020, with the log of these steps."""
    with RunDir.create(path, config) as run:
        time = f"2020-01-{day:02d}T12:00:00+00:00"
        run.write("environment.json", json.dumps({"time": time}))
        for step in steps:
            run.log({"step": step}, {"train_loss": 1.0})
        if result is not None:
            run.write("result.json", json.dumps(result))
    return path


def make_sweep(path, grid=None, config=Config(), *, seeds=4, summary=None, recorded=0, **kept):
    """A sweep; without a summary one that was stopped."""
    make_run(path, config, result=None, **kept)
    start = {"seeds": list(range(seeds)), "grid": grid or {}, "vary": "both", "settings": {}}
    (path / "sweep.json").write_text(json.dumps(start))
    (path / "members").mkdir()
    for member in range(recorded):
        (path / "members" / f"seed-{member}-x.json").write_text("{}")
    if summary is not None:
        (path / "results.json").write_text(json.dumps({"summary": summary, "members": []}))
    return path


def summary(means, seeds=4, failed=0):
    """What ``results.json`` says of a sweep, by point."""
    groups = [
        {"point": point, "members": seeds, "completed": seeds, "mean": mean,
         "interval": [mean - 0.01, mean + 0.01]}
        for point, mean in means.items()
    ]  # fmt: skip
    count = seeds * len(means)
    return {"members": count, "completed": count - failed, "wall_s": 534.1, "sd": 0.1,
            "mean": sum(means.values()) / len(means), "examples_per_s": 99.0,
            "groups": groups}  # fmt: skip


def test_runs_are_listed_by_time_with_what_they_gave(tmp_path):
    make_run(tmp_path / "late", day=3)
    make_run(tmp_path / "early" / "one", day=1)
    make_sweep(tmp_path / "sweep", day=2, summary=summary({"": 0.9}))
    one, sweep, late = rowrnn.runs(tmp_path)
    assert [run.name for run in (one, sweep, late)] == ["early/one", "sweep", "late"]
    assert one.path == str(tmp_path / "early" / "one")
    assert (one.kind, one.state, one.test_accuracy) == ("run", "done", 0.9776)
    assert (one.wall_s, one.examples_per_s, one.step) == (41.2, 2500.5, None)
    assert one.started == datetime.datetime(2020, 1, 1, 12, tzinfo=datetime.UTC)
    assert one.config == Config()
    assert (sweep.kind, sweep.state, sweep.members, sweep.completed) == ("sweep", "done", 4, 4)
    assert (sweep.test_accuracy, sweep.wall_s) == (0.9, 534.1)
    (point,) = sweep.points
    assert (point.point, point.completed, point.mean) == ("", 4, 0.9)
    assert point.interval == (0.9 - 0.01, 0.9 + 0.01)


def test_a_run_is_listed_by_itself_and_what_is_none_is_passed_over(tmp_path):
    make_run(tmp_path / "run")
    make_run(tmp_path / "run" / "states" / "within")
    make_run(tmp_path / ".hidden")
    make_run(tmp_path / "1" / "2" / "3" / "too-deep")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "config.json").write_text("{}")
    (tmp_path / "config.toml.txt").write_text("x")
    assert [run.name for run in rowrnn.runs(tmp_path)] == ["run"]
    assert [run.name for run in rowrnn.runs(tmp_path / "run")] == ["run"]
    assert rowrnn.runs(tmp_path / "notes") == []
    with pytest.raises(RunError, match="nowhere is no directory; give one that holds runs"):
        rowrnn.runs(tmp_path / "nowhere")


def test_links_to_runs_are_listed_and_others_not_followed(tmp_path):
    make_run(tmp_path / "elsewhere" / "run")
    listed = tmp_path / "runs"
    listed.mkdir()
    (listed / "run").symlink_to(tmp_path / "elsewhere" / "run")
    (listed / "up").symlink_to(tmp_path)
    (listed / "nothing").symlink_to(tmp_path / "nothing")
    assert [run.name for run in rowrnn.runs(listed)] == ["run"]


def test_states_of_runs_that_are_not_done(tmp_path):
    make_run(tmp_path / "began", result=None)
    stopped = make_run(tmp_path / "stopped", result=None, steps=[50, 100, 150])
    for name in ("60", "120", "120.damaged", "tmp"):
        (stopped / "checkpoints" / name).mkdir(parents=True)
    diverged = make_run(tmp_path / "diverged", result=None, steps=[50])
    with RunDir.reopen(diverged) as run:
        run.log({"step": 71}, {"diverged": 1.0})
    make_sweep(tmp_path / "half", recorded=3)
    make_sweep(tmp_path / "more-seeds", seeds=9, recorded=5, summary=summary({"": 0.9}))
    make_run(tmp_path / "running", result=None, steps=[50, 100])
    with RunDir.reopen(tmp_path / "running"):
        found = {run.name: run for run in rowrnn.runs(tmp_path)}
    states = {name: (run.state, run.step, run.completed) for name, run in found.items()}
    assert states == {
        "began": ("stopped", 0, None),
        "stopped": ("stopped", 120, None),
        "diverged": ("diverged", 71, None),
        "half": ("stopped", None, 3),
        "more-seeds": ("stopped", None, 5),
        "running": ("running", 100, None),
    }
    assert found["more-seeds"].test_accuracy is None
    # A killed process leaves its name behind, but not the lock.
    (tmp_path / "began" / "lock.json").write_text(
        json.dumps({"host": "elsewhere", "pid": os.getpid(), "since": "then"})
    )
    assert {run.name: run.state for run in rowrnn.runs(tmp_path)}["began"] == "stopped"
    assert {run.state for run in rowrnn.runs(tmp_path / "running")} == {"stopped"}


def test_values_are_those_in_which_runs_differ(tmp_path):
    def of(name):
        return next(run.values for run in rowrnn.runs(tmp_path) if run.name == name)

    make_run(tmp_path / "a", Config(ModelConfig(hidden_size=64)))
    assert of("a") == {}
    make_run(tmp_path / "b", Config(train=TrainConfig(seed=3, display="none")))
    make_sweep(tmp_path / "c", {"optimizer.learning_rate": [0.1, 0.3]})
    assert of("a") == {
        "model.hidden_size": 64, "optimizer.learning_rate": 0.001, "train.seed": 0
    }  # fmt: skip
    assert of("b") == {
        "model.hidden_size": 128, "optimizer.learning_rate": 0.001, "train.seed": 3
    }  # fmt: skip
    assert of("c") == {
        "model.hidden_size": 128, "optimizer.learning_rate": (0.1, 0.3), "train.seed": 0
    }  # fmt: skip


DAMAGE = {
    "config.toml": [b"\xff", b"[model", b"[model]\nhidden_size = -1", b"[none]", b"#" * 2**21],
    "result.json": [
        *(b"", b"{", b"[]", b"{}", b"[" * 100_000),
        json.dumps(RESULT | {"test_accuracy": 2}).encode(),
        json.dumps(RESULT | {"test_accuracy": math.nan}).encode(),
        json.dumps(RESULT | {"test_accuracy": "1"}).encode(),
        json.dumps(RESULT | {"wall_s": math.inf}).encode(),
        json.dumps(RESULT | {"examples_per_s": -1}).encode(),
    ],
    "sweep.json": [
        *(b"", b"[]", b'{"seeds": "x"}', b'{"seeds": [0], "grid": {"x": [1]}}'),
        b'{"seeds": [0], "grid": {"model.layers": [NaN]}, "vary": "both", "settings": {}}',
    ],
    "results.json": [
        *(b"[]", b"{}", b'{"summary": []}', b'{"summary": {"members": 4}}'),
        json.dumps({"summary": summary({"": 0.9}) | {"mean": 7}}).encode(),
        json.dumps({"summary": summary({"": math.nan}) | {"mean": 0.9}}).encode(),
        json.dumps({"summary": summary({"": 0.9}) | {"groups": [3]}}).encode(),
    ],
}


@pytest.mark.parametrize(
    ("name", "content"), [(name, content) for name in DAMAGE for content in DAMAGE[name]]
)
def test_a_damaged_one_is_named_and_the_others_are_listed(name, content, tmp_path, capsys):
    make_run(tmp_path / "good", day=2)
    if name in ("sweep.json", "results.json"):
        bad = make_sweep(tmp_path / "bad", summary=summary({"": 0.9}))
    else:
        bad = make_run(tmp_path / "bad")
    (bad / name).write_bytes(content)
    damaged, good = rowrnn.runs(tmp_path)
    assert (damaged.state, good.state) == ("damaged", "done")
    assert name in damaged.problem
    assert cli.run(["runs", str(tmp_path), "--json"]) == 0
    out, err = capsys.readouterr()
    assert err.startswith("rowrnn: bad is damaged: ")
    assert err.count("\n") == 1
    assert "NaN" not in out
    assert json.loads(out.splitlines()[-1])[0]["state"] == "damaged"


def test_hostile_directories_are_named_and_nothing_is_followed(tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("[model]\nhidden_size = 7\n")
    runs = tmp_path / "runs"
    link = make_run(runs / "link")
    (link / "checkpoints").symlink_to(tmp_path)
    (runs / "config").mkdir()
    (runs / "config" / "config.toml").symlink_to(secret)
    (runs / "config" / ".lock").touch()
    pipe = make_run(runs / "pipe")
    os.mkfifo(pipe / "metrics.jsonl")
    gone = runs / "gone"
    gone.mkdir()
    (gone / "sweep.json").write_text("{}")
    time = make_run(runs / "time")
    (time / "environment.json").write_text('{"time": "0001-01-01T00:00:00+23:59"}')
    found = {run.name: run for run in rowrnn.runs(runs)}
    assert found["time"].state == "done"
    assert {name for name, run in found.items() if run.state == "damaged"} == {
        "link", "config", "pipe", "gone"
    }  # fmt: skip
    assert "is a link" in found["link"].problem
    assert "is a link" in found["config"].problem
    assert "not a plain file" in found["pipe"].problem


def test_a_project_with_a_config_is_no_run_and_hides_none(tmp_path):
    (tmp_path / "config.toml").write_text("[tool]\n")
    make_run(tmp_path / "runs" / "one")
    assert [run.name for run in rowrnn.runs(tmp_path)] == ["runs/one"]


@pytest.mark.parametrize(
    ("zone", "time"),
    [
        ("America/New_York", "0001-01-01T00:30:00+00:00"),
        ("Asia/Tokyo", "9999-12-31T23:30:00+00:00"),
    ],
)
def test_a_start_at_an_end_of_the_calendar_is_shown(tmp_path, zone, time):
    run = make_run(tmp_path / "run")
    (run / "environment.json").write_text(json.dumps({"time": time}))
    done = subprocess.run(
        [sys.executable, "-m", "rowrnn.cli", "runs", tmp_path],
        env=os.environ | {"TZ": zone}, capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert time[:10] in done.stdout


def test_nothing_is_written(tmp_path):
    make_run(tmp_path / "run")
    make_sweep(tmp_path / "sweep")
    (tmp_path / "run" / "lock.json").write_text("{")

    def everything():
        return {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}

    before = everything()
    rowrnn.runs(tmp_path)
    assert everything() == before


def test_the_table_is_read_on_80_columns(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TZ", "UTC")
    base = Config(optimizer=OptimizerConfig("adamw", 3e-3))
    make_run(tmp_path / "quickstart-20200101-120000", base)
    make_run(tmp_path / "a-name-that-is-longer-than-others-are", base, day=2)
    make_run(tmp_path / "small", dataclasses.replace(base, model=ModelConfig(hidden_size=64)),
             day=3, result=None)  # fmt: skip
    means = {"hidden_size=64": 0.96, "hidden_size=128": 0.97}
    make_sweep(tmp_path / "grid", {"model.hidden_size": [64, 128]}, base, seeds=8, day=4,
               summary=summary(means, 8, failed=1))  # fmt: skip
    make_run(tmp_path / "\x1b[31mred[bold]\n", base, day=5)
    assert cli.run(["runs", str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out == textwrap.dedent("""\
        name                       state         started              test  seeds   time
        quickstart-20200101-120000
                                   done          2020-01-01         0.9776          41 s
        a-name-that-is-longer-than-others-are
                                   done          2020-01-02         0.9776          41 s
        small                      stopped at 0  2020-01-03
          hidden_size=64
        grid                       done          2020-01-04  0.9600-0.9700  15/16  9 min
          hidden_size=64,128
        \\x1b[31mred[bold]\\n        done          2020-01-05         0.9776          41 s

        Most have hidden_size=128
        """)


def test_where_there_are_none_it_says_how_to_make_one(tmp_path, capsys):
    assert cli.run(["runs", str(tmp_path), "--json"]) == 0
    out, err = capsys.readouterr()
    assert out == "[]\n"
    assert err.startswith(f"rowrnn: no runs in {tmp_path}; make one: rowrnn train ")


def test_jax_is_not_loaded(tmp_path):
    make_run(tmp_path / "run")
    script = "import sys, rowrnn; rowrnn.runs('.'); assert not {'jax', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True)


def test_two_runs_without_a_name_in_the_same_second_have_a_directory_each(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        paths = list(pool.map(lambda _: rundir.default_path("train", take=True), range(40)))
    assert len(set(paths)) == 40
    assert all(path.is_dir() for path in paths)


@pytest.mark.parametrize("command", [["train"], ["sweep", "--seeds=0:2"]])
def test_a_command_that_fails_leaves_no_directory_of_its_own(tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    assert cli.run([*command, "--data.dataset=idx", f"--data.dir={tmp_path / 'none'}"]) == 3
    assert cli.run(["sweep", "--seeds=0:2", "--plan", "--train.batch-size=5000"]) == 2
    assert not list((tmp_path / "runs").glob("*"))
