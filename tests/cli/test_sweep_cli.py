"""A sweep as its users meet it: what it prints, exit codes, a process that is killed."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import compiler
import numpy as np
import pytest
from data_files import TEST_DATA
from in_process import here

import rowrnn
from rowrnn.cli import sweep as cli_sweep
from rowrnn.cli import terminal
from rowrnn.config import Config, DataConfig, ModelConfig, OptimizerConfig, TrainConfig
from rowrnn.lab.sweep import SweepSettings
from rowrnn.store import rundir

SMALL = Config(
    ModelConfig(0, 8),
    DataConfig("mnist_sample", validation_size=100),
    OptimizerConfig("adamw", 3e-3),
    TrainConfig(batch_size=100, examples=1001, log_every_steps=5),
)
FLAGS = ["--model.projection-size=0", "--model.hidden-size=8", "--data.validation-size=100",
         "--optimizer.name=adamw", "--optimizer.learning-rate=3e-3", "--train.batch-size=100",
         "--train.log-every-steps=5"]  # fmt: skip
SHORT = [*FLAGS, "--train.examples=1001"]
PLAN = {"members", "points", "strategy", "devices", "compilations", "examples", "seconds", "groups",
        "reused"}  # fmt: skip


def start(*arguments, cwd, **environment):
    return subprocess.Popen(
        [sys.executable, "-m", "rowrnn.cli", *map(str, arguments)],
        cwd=cwd,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def command(*arguments, cwd, code=0, timeout=120, **environment):
    """Runs a command to its end; gives stdout and stderr."""
    process = start(*arguments, cwd=cwd, **environment)
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    assert process.returncode == code, err
    assert "Traceback" not in err
    return out, err


def not_json(constant):
    raise AssertionError(f"{constant} is not JSON")


def last_json(out):
    return json.loads(out.splitlines()[-1], parse_constant=not_json)


def members_of(path):
    document = json.loads((path / "results.json").read_text(), parse_constant=not_json)
    return document["members"]


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    """A sweep of which one half diverges: its directory and what it printed."""
    cwd = tmp_path_factory.mktemp("grid")
    out, err = here(
        "sweep", *SHORT, "--seeds=0:2", "--grid", "optimizer.epsilon=1e-8,0.0",
        "--run-dir=sweep", "--parallel.devices=2", "--keep=all", "--json", cwd=cwd, code=6,
    )  # fmt: skip
    return cwd, out, err


def test_members_that_diverge_have_a_line_each_and_a_code(grid):
    cwd, out, err = grid
    for seed in (0, 1):
        assert f"rowrnn: epsilon=0.0,seed={seed} diverged at step 1; it is in no statistic" in err
    assert err.count(" diverged at step ") == 2
    summary = last_json(out)
    assert (summary["members"], summary["completed"], summary["failed"]) == (4, 2, 2)
    members = members_of(cwd / "sweep")
    assert [member["status"] for member in members] == ["completed", "diverged"] * 2
    assert [member["test_accuracy"] is None for member in members] == [False, True] * 2
    alike, gone = summary["groups"]
    assert (alike["failure_rate"], gone["failure_rate"]) == (0, 1)
    assert "Sweep of 4 members at 2 points" in err
    assert "map on 2 devices, 1 compilation, 4,000 examples" in err
    assert "The sweep is kept in sweep: results.csv, points.csv, results.json, figures/" in err
    assert (cwd / "sweep" / "figures" / "accuracy.png").exists()


@pytest.mark.slow
def test_seeds_that_are_added_once_the_results_are_known_are_said(grid, tmp_path):
    shutil.copytree(grid[0] / "sweep", tmp_path / "sweep")
    _, err = here("sweep", "--resume=sweep", cwd=tmp_path, code=6)
    assert "seeds were added" not in err
    _, err = here("sweep", "--resume=sweep", "--seeds=0:3", cwd=tmp_path, code=6)
    assert "seeds were added to 2 whose results were known" in err
    assert "rowrnn compare --sequential" in err


def test_runs_lists_the_sweep(grid):
    cwd, out, _ = grid
    (listed,) = rowrnn.runs(cwd)
    members = members_of(cwd / "sweep")
    good = [member["test_accuracy"] for member in members if member["test_accuracy"]]
    assert (listed.name, listed.kind, listed.state) == ("sweep", "sweep", "done")
    assert (listed.members, listed.completed) == (4, 2)
    assert listed.test_accuracy is None, "nothing is averaged over two settings"
    assert listed.points[0].mean == pytest.approx(np.mean(good))
    assert [point.completed for point in listed.points] == [2, 0]
    assert listed.points[1].mean is None
    assert listed.wall_s == last_json(out)["wall_s"]


def test_the_states_that_were_kept_are_runs(grid):
    cwd = grid[0]
    assert len(list((cwd / "sweep" / "states").iterdir())) == 2
    out, _ = here("eval", "sweep/states/epsilon=1e-08,seed=1", "--json", cwd=cwd)
    accuracy = members_of(cwd / "sweep")[2]["test_accuracy"]
    assert last_json(out)["test_accuracy"] == pytest.approx(accuracy, abs=1e-7)


def test_a_sweep_is_no_run_and_a_run_no_sweep(grid, tmp_path):
    cwd = grid[0]
    for arguments in (["eval", "sweep"], ["train", "--resume=sweep"]):
        _, err = here(*arguments, cwd=cwd, code=4)
        assert "sweep is a sweep, not a single run" in err
        assert "sweep/states" in err
        assert "rowrnn sweep --resume sweep goes on with it" in err
    with rundir.RunDir.create(tmp_path / "run", SMALL):
        pass
    _, err = here("sweep", "--resume=run", cwd=tmp_path, code=4)
    assert "run is a single run, not a sweep; go on with it by rowrnn train --resume run" in err


# In this process: test_sweep.
@pytest.mark.slow
def test_vmap_on_two_devices(tmp_path):
    (tmp_path / "config.toml").write_text("[train]\nexamples = 1001\n")
    out, err = command(
        "sweep", "config.toml", *FLAGS, "--seeds", "0:4", "--strategy", "vmap", "--chunk", "2",
        "--parallel.devices", "2", "--json", cwd=tmp_path,
        # Compiles in less time; it is about the threads that it runs in.
        XLA_FLAGS=compiler.FLAGS,
    )  # fmt: skip
    summary = last_json(out)
    assert (summary["strategy"], summary["devices"], summary["completed"]) == ("vmap", 2, 4)
    assert summary["run_dir"].startswith("runs/config-sweep-")
    assert "vmap on 2 devices" in err


# 60 steps of a member, saved every 5, so that a signal falls between two saves.
LONG = [*FLAGS, "--train.examples=6001", "--checkpoint.every-steps=5", "--parallel.devices=1",
        "--train.eval-every-steps=30", "--seeds=0:3", "--chunk=1", "--strategy=map",
        "--keep=none"]  # fmt: skip


@pytest.fixture(scope="module")
def uncut(tmp_path_factory):
    """Rows and records of the sweep that the next test cuts, without a save on the way."""
    path = tmp_path_factory.mktemp("uncut") / "sweep"
    here(
        "sweep", *LONG, "--checkpoint.every-steps=0", "--run-dir", path, cwd=path.parent,
    )  # fmt: skip
    return path


def without_seconds(rows):
    return [row | {"wall_s": 0} for row in rows]


def curves_of(path):
    lines = (path / "metrics.jsonl").read_text().splitlines()
    return sorted(lines)


def saved_steps(path):
    names = [entry.name for entry in path.glob("partial/*")]
    return [int(name) for name in names if name.isdecimal()]


# SIGTERM and SIGINT: tests/faults/test_signals.py.
@pytest.mark.slow
def test_a_sweep_goes_on_after_a_kill_as_if_nothing_had_been(tmp_path, uncut):
    process = start("sweep", *LONG, "--run-dir=sweep", cwd=tmp_path)
    path = tmp_path / "sweep"
    deadline = time.monotonic() + 120
    # One member is recorded, and the next one saved in the middle.
    # What lies there of the first one is at the last steps.
    while not (any(path.glob("members/*.json")) and any(0 < at < 45 for at in saved_steps(path))):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.communicate(timeout=60)
    recorded = {file: file.read_bytes() for file in path.glob("members/*.json")}
    assert len(recorded) == 1
    assert 0 < max(saved_steps(path)) < 60
    out, err = here("sweep", "--resume=sweep", "--json", cwd=tmp_path)
    assert last_json(out)["reused"] == 1
    assert "Sweep of 3 members, 1 of them recorded already" in err
    for file, content in recorded.items():
        assert file.read_bytes() == content
    assert without_seconds(members_of(path)) == without_seconds(members_of(uncut))
    assert curves_of(path) == curves_of(uncut)
    assert not (path / "partial").exists()


def test_the_sweep_of_the_command_line_is_that_of_python(grid, tmp_path):
    result = rowrnn.sweep(
        SMALL, (0, 1), settings=SweepSettings("map", 1, "none"), run_dir=tmp_path / "sweep"
    )
    completed = [m for m in members_of(grid[0] / "sweep") if m["status"] == "completed"]
    assert [record.params_sha256 for record in result.members] == [
        member["params_sha256"] for member in completed
    ]


def test_a_plan_is_shown_and_nothing_is_trained(tmp_path):
    out, err = here(
        "sweep", *SHORT, "--seeds=0:4", "--grid", "model.hidden_size=8,16", "--plan", "--json",
        cwd=tmp_path,
    )  # fmt: skip
    plan = last_json(out)
    assert set(plan) == PLAN
    assert (plan["members"], plan["points"], plan["reused"], plan["compilations"]) == (8, 2, 0, 2)
    assert plan["examples"] == 8_000
    assert plan["seconds"] > 0
    assert [group["label"] for group in plan["groups"]] == ["hidden_size=8", "hidden_size=16"]
    assert "Sweep of 8 members at 2 points" in err
    assert "hidden_size=16: 4 to run" in err
    assert not list(tmp_path.iterdir())


BAD = [
    ([], "a sweep needs seeds: --seeds 0:64"),
    (["--seeds=x"], "'x' is neither a seed nor a range"),
    (["--seeds=0,0"], "seeds: 0 is given 2 times"),
    (["--seeds=0:2", "--grid", "model.hiden_size=1,2"], "did you mean model.hidden_size"),
    (["--seeds=0:2", "--grid", "train.seed=1,2"], "give the seeds with --seeds"),
    (["--seeds=0:2", "--grid", "model.hidden_size=8,0"], "model.hidden_size = 0: must be"),
    (["--seeds=0:2", "--strategy=pmap"], "--strategy"),
    (["--seeds=0:2", "--train.batch-size=0"], "train.batch_size = 0"),
    (["--resume=a", "--run-dir=b"], "leave --run-dir out"),
    (["--resume=a", "--vary=init"], "a resumed sweep varies what it was started with"),
]


def test_a_setting_given_with_resume_leaves_the_others():
    saved = SweepSettings("map", 2, "all")

    def settings(*arguments):
        given = terminal.parse("sweep", cli_sweep.SweepArguments, ["--resume=S", *arguments])
        return cli_sweep._settings(given, arguments, saved)

    assert settings() == saved
    assert settings("--chunk=4") == SweepSettings("map", 4, "all")
    # Also one that is the default of a new sweep.
    assert settings("--keep", "best") == SweepSettings("map", 2, "best")
    assert settings("--strategy=auto") == SweepSettings("auto", 2, "all")


def test_a_mistake_is_named_before_jax_is_imported(tmp_path):
    # A jax that cannot be imported shows that none is.
    (tmp_path / "jax.py").write_text("raise SystemExit('jax was imported')")
    started = [
        (start("sweep", *arguments, cwd=tmp_path, PYTHONPATH=str(tmp_path)), says)
        for arguments, says in BAD
    ]
    for process, says in started:
        _, err = process.communicate(timeout=120)
        assert process.returncode == 2, err
        assert says in err
        assert "jax was imported" not in err
    assert [entry.name for entry in tmp_path.iterdir()] == ["jax.py"]


@pytest.mark.soak
def test_a_long_sweep_survives_five_kills(tmp_path):
    """`lstm128.toml` over 16 seeds, cut to 2 epochs, on full MNIST; about 12 minutes."""
    root = Path(__file__).parents[2]
    files = TEST_DATA / "mnist"
    if not files.is_dir():
        pytest.skip(f"no original files in {files}; set ROWRNN_TEST_DATA")
    data = {"TFDS_DATA_DIR": str(tmp_path / "data")}
    command("data", "prepare", "mnist", f"--manual-dir={files}", cwd=tmp_path, **data)
    sweep = ["sweep", root / "experiments" / "lstm128.toml", "--train.epochs=2", "--seeds=0:16"]
    command(*sweep, "--run-dir=whole", cwd=tmp_path, timeout=1800, **data)
    # Saved every hundred steps, so that a kill can fall into a save as well.
    often = ["--checkpoint.every-steps=100"]
    random, began = np.random.default_rng(0), ["--run-dir=cut"]
    for _ in range(5):
        process = start(*(sweep if "--run-dir=cut" in began else ["sweep"]), *began, *often,
                        cwd=tmp_path, **data)  # fmt: skip
        time.sleep(float(random.uniform(15, 60)))
        assert process.poll() is None
        process.kill()
        process.communicate()
        began = ["--resume=cut"]
    command("sweep", "--resume=cut", *often, cwd=tmp_path, timeout=1800, **data)
    whole, cut = (
        [{k: v for k, v in row.items() if k != "wall_s"} for row in members_of(tmp_path / name)]
        for name in ("whole", "cut")
    )
    assert len(whole) == 16
    assert cut == whole
