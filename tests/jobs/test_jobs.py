"""Jobs of several processes: what they compute, and what happens when one of them fails."""

import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import agreeing
import data_files
import jax
import numpy as np
import pytest
from started import RUN, ended, flags, free_port, open_mpi, slurm, wait_for_step

import rowrnn
from rowrnn import config as configs
from rowrnn.config import ParallelConfig
from rowrnn.store import rundir

# Seconds after which jax misses a process, and in which the others have ended.
HEARTBEAT = ("--parallel.heartbeat-seconds=5",)
EXIT_S = 10

OTHER = (
    "of the job was given another than process 0; all need the same arguments "
    "(--parallel.processes 1 where they are no job)"
)


def config_of(path, **parallel):
    return configs.replace(
        rundir.read_config(path), {f"parallel.{k}": v for k, v in parallel.items()}
    )


def params_of(path):
    """All parameters of a run, one after the other."""
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(rowrnn.load(path).params)])


def difference(left, right):
    """Of the parameters of two runs, norm-wise and relative."""
    right = params_of(right)
    return np.linalg.norm(params_of(left) - right) / np.linalg.norm(right)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The run of all these tests, never cut, on the two devices of this process."""
    from rowrnn.cli.terminal import parse
    from rowrnn.cli.train import TrainArguments

    config = parse("train", TrainArguments, [*RUN, "--parallel.devices=2"]).config
    path = tmp_path_factory.mktemp("whole") / "run"
    return path, rowrnn.train(config, path)


@pytest.mark.slow
def test_two_processes_end_with_the_bits_of_two_devices(start, tmp_path, whole):
    processes = start(2, ["train", *RUN, "--run-dir=run", "--json"])
    (code, out, err), (other_code, *other_words) = map(ended, processes)
    assert (code, other_code) == (0, 0), (err, other_words)
    assert other_words == ["", ""]
    result = json.loads(out)
    assert result["params_sha256"] == whole[1].params_sha256
    assert (result["devices"], result["test_accuracy"]) == (2, whole[1].test_accuracy)
    run = tmp_path / "run"
    assert json.loads((run / "environment.json").read_text())["processes"] == 2
    assert "of 1,000 test images right" in (run / "report.html").read_text()
    # The job is no part of what is kept, and the run goes on without it.
    assert rundir.read_config(run).parallel == ParallelConfig()


@pytest.mark.soak
def test_two_processes_evaluate_as_one(start, whole):
    both = [ended(process) for process in start(2, ["eval", str(whole[0]), "--json"])]
    assert [code for code, _, _ in both] == [0, 0], both
    evaluation = json.loads(both[0][1].splitlines()[-1])
    assert evaluation["test_accuracy"] == whole[1].test_accuracy
    assert both[1][1:] == ("", "")


def records(path):
    """The ledger, but for the seconds."""
    found = {}
    for file in (path / "members").iterdir():
        record = json.loads(json.loads(file.read_text())["record"])
        found[file.name] = {**record, "wall_s": 0}
    return found


# Without processes: test_many_devices; launching: tests/cli/test_launch.py.
@pytest.mark.soak
def test_a_launched_sweep_has_the_ledger_of_one_process(start, tmp_path, whole):
    config = configs.replace(rundir.read_config(whole[0]), {"parallel.devices": 0})
    rowrnn.sweep(config, range(2), run_dir=tmp_path / "one")
    arguments = ["sweep", *RUN, "--seeds=0:2", "--run-dir=two", "--keep=all", "--json"]
    (launcher,) = start(1, ["launch", "-n", "2", "--", *arguments], lambda *_: ([], {}))
    code, out, err = ended(launcher)
    assert code == 0, err
    assert json.loads(out.splitlines()[-1])["completed"] == 2
    assert "[0] Sweep of 2 members" in err
    assert len(records(tmp_path / "one")) == 2
    assert records(tmp_path / "one") == records(tmp_path / "two")
    kept = sorted(path.name for path in (tmp_path / "two" / "states").iterdir())
    assert kept == [f"seed={seed}" for seed in range(2)]


def whole_again(run, whole):
    """Goes on with a run, on the two devices of this process, to the bits of one never cut."""
    result = rowrnn.train(config_of(run, devices=2), resume=run)
    assert (result.steps, result.params_sha256) == (60, whole[1].params_sha256)


@pytest.mark.parametrize(
    ("number", "count"),
    [
        pytest.param(signal.SIGSTOP, 1, marks=pytest.mark.slow),
        # Once: the next test.
        pytest.param(signal.SIGKILL, 10, marks=pytest.mark.soak),
        pytest.param(signal.SIGSTOP, 10, marks=pytest.mark.soak),
    ],
)
def test_where_one_is_lost_the_others_end_and_the_run_goes_on(
    start, tmp_path, whole, number, count
):
    """One that dies, and one that does not answer any more."""
    for seed in range(count):
        draw, run = random.Random(seed), f"run-{seed}"
        processes = start(2, ["train", *RUN, *HEARTBEAT, f"--run-dir={run}"], slurm)
        wait_for_step(tmp_path / run, draw.randint(4, 10) * 5)
        time.sleep(draw.uniform(0, 0.1))
        victim, survivor = draw.sample(processes, 2)
        victim.send_signal(number)
        code, _, err = ended(survivor, EXIT_S)
        assert code == -signal.SIGABRT, err
        victim.kill()
        assert rowrnn.load(tmp_path / run).step >= 10
        whole_again(tmp_path / run, whole)


@pytest.mark.slow
def test_launch_ends_with_7_where_one_is_lost(start, tmp_path, whole):
    arguments = ["launch", "-n", "2", "--", "train", *RUN, *HEARTBEAT, "--run-dir=run"]
    (launcher,) = start(1, arguments, lambda *_: ([], {}))
    wait_for_step(tmp_path / "run", 20)
    pids = children_of(launcher.pid)
    assert len(pids) == 2
    os.kill(pids[1], signal.SIGKILL)
    code, _, err = ended(launcher, EXIT_S)
    assert code == 7, err
    assert "rowrnn: process 1 was ended by signal 9 (Killed)" in err
    assert not any(map(is_alive, pids))
    whole_again(tmp_path / "run", whole)


def children_of(pid):
    """The processes that another has started, the first first."""
    return sorted(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


def is_alive(pid):
    """Whether a process runs; a zombie that nobody waits for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.slow
def test_no_process_outlives_a_launcher_that_is_killed(start):
    arguments = ["launch", "-n", "2", "--", "train", *RUN, "--train.examples=100000001"]
    (launcher,) = start(1, arguments, lambda *_: ([], {}))
    deadline = time.monotonic() + 60
    while len(pids := children_of(launcher.pid)) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(random.Random(0).uniform(1, 3))
    launcher.kill()
    deadline = time.monotonic() + EXIT_S
    while (left := [pid for pid in pids if is_alive(pid)]) and time.monotonic() < deadline:
        time.sleep(0.1)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert left == []


@pytest.mark.parametrize(
    "count", [pytest.param(1, marks=pytest.mark.slow), pytest.param(10, marks=pytest.mark.soak)]
)
def test_a_signal_to_one_process_makes_all_save_the_same_step(start, tmp_path, whole, count):
    for number in range(count):
        draw, run = random.Random(number), f"run-{number}"
        processes = start(2, ["train", *RUN, f"--run-dir={run}"], open_mpi)
        wait_for_step(tmp_path / run, draw.randint(3, 9) * 5)
        name = draw.choice(("SIGTERM", "SIGINT"))
        draw.choice(processes).send_signal(getattr(signal, name))
        both = [ended(process, EXIT_S) for process in processes]
        assert [code for code, _, _ in both] == [75, 75], both
        by = {"SIGINT": "Ctrl-C"}.get(name, name)
        found = re.search(rf"stopped by {by} after step (\d+) of 60", both[0][2])
        assert found, both
        assert rowrnn.load(tmp_path / run).step == int(found[1])
        whole_again(tmp_path / run, whole)


def test_what_one_process_cannot_do_ends_all_with_its_reason(start, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    refused = [ended(p) for p in start(2, ["train", *RUN, "--run-dir=run"])]
    assert [code for code, _, _ in refused] == [4, 4]
    # Said once, by the one that has seen it.
    assert "run directory run is not empty" in refused[0][2]
    assert refused[1][1:] == ("", "")


@pytest.mark.slow
def test_processes_that_were_given_different_things_say_so(start, tmp_path):
    def told(count, index, port):
        arguments, env = flags(count, index, port)
        return [*arguments, f"--train.seed={index}"], env

    confused = [ended(p) for p in start(2, ["train", *RUN, "--run-dir=other"], told)]
    assert [code for code, _, _ in confused] == [2, 2]
    assert confused[0][2] == f"rowrnn: config: process 1 {OTHER}\n"
    assert confused[1][1:] == ("", "")


@pytest.mark.slow
def test_an_error_of_one_process_ends_all_and_is_said_by_it(start, tmp_path):
    """Process 0 finds the data and goes on; the other does not."""
    for index in range(2):
        (tmp_path / str(index)).mkdir()
    data_files.write_set(tmp_path / "0" / "digits")
    arguments = ["train", *RUN, *HEARTBEAT, "--data.dataset=idx", "--data.dir=digits"]
    arguments += [
        f"--run-dir={tmp_path / 'run'}",
        "--train.batch-size=10",
        "--data.validation-size=10",
    ]
    processes = start(2, arguments, cwd=str)
    code, _, err = ended(processes[1])
    assert (code, err.count("\n")) == (3, 1)
    assert "digits" in err
    code, _, err = ended(processes[0], EXIT_S)
    assert code != 0, err


@pytest.mark.slow
def test_what_processes_agree_on(start, tmp_path):
    """The functions of `rowrnn.parallel`, in three processes of two devices each."""

    def told(count, index, port):
        return [f"127.0.0.1:{port}", str(count), str(index)], {}

    program = (str(Path(agreeing.__file__)),)
    all_three = [ended(process) for process in start(3, [], told, program)]
    assert [code for code, _, _ in all_three] == [0, 0, 0], all_three
    found = [json.loads(out.splitlines()[-1]) for _, out, _ in all_three]
    assert [each.pop("is_process_0") for each in found] == [True, False, False]
    assert [each.pop("on_process_0") for each in found] == [7, None, None]
    assert [each.pop("process_0_first") for each in found] == [[], ["was-here-0"], ["was-here-0"]]
    same = {
        "count": 3,
        "max": [2, 0, 0.5],
        "broadcast": [agreeing.SHORT, agreeing.LONG],
        "errors": [
            ["RunError", "run directory x is not empty", True],
            ["ConfigError", f"seeds: process 2 {OTHER}", True],
        ],
        "orders": [agreeing.order_of(key, np.int32(0)).tolist() for key in agreeing.keys_of(6)],
    }  # fmt: skip
    assert found == [same] * 3


def test_an_address_that_is_taken_is_said(start, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        (process,) = start(1, ["train", *RUN], lambda *_: flags(2, 0, port))
        code, out, err = ended(process)
    assert (code, out) == (7, "")
    assert f"parallel.coordinator = '127.0.0.1:{port}': process 0 cannot listen there" in err


def test_a_machine_whose_name_leads_nowhere_is_said(tmp_path):
    named = ["unshare", "--map-root-user", "--uts", "sh", "-c"]
    named += ['hostname nowhere.invalid; exec "$@"', "-"]
    if shutil.which("unshare") is None or subprocess.run([*named, "true"]).returncode:
        pytest.skip("unshare cannot give a process another name of the machine here")
    flags_of_0, _ = flags(2, 0, free_port())
    command = [*named, sys.executable, "-m", "rowrnn.cli", "train", *RUN, *flags_of_0]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (7, "", 1)
    assert "'nowhere.invalid', the name of this one, leads to no address" in done.stderr


def test_a_cluster_that_jax_does_not_know_is_said(start):
    """As Open MPI 5, which no longer says where process 0 is."""
    (process,) = start(1, ["train", *RUN], lambda *_: ([], {"OMPI_COMM_WORLD_SIZE": "2"}))
    code, out, err = ended(process)
    assert (code, out) == (7, "")
    assert "started as one of several, but jax does not find the others" in err


@pytest.mark.slow
def test_a_pod_of_a_job_that_jax_does_not_know_is_alone(start, tmp_path):
    """It trains as if nobody had told it anything."""
    (tmp_path / "kubernetes.py").touch()
    package = Path(rowrnn.__file__).parents[1]
    told = [], {"JOB_COMPLETION_INDEX": "0", "PYTHONPATH": f"{package}:{tmp_path}"}
    script = "from rowrnn import parallel, config as c; parallel.start(c.ParallelConfig());"
    script += "print(c.told_processes(c.ParallelConfig()), parallel.process_count())"
    (process,) = start(1, [], lambda *_: told, ("-c", script))
    assert ended(process) == (0, "None 1\n", "")
