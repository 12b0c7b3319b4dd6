"""Jobs of several processes: what they compute, and what happens when one of them fails."""

import contextlib
import json
import os
import random
import re
import signal
import socket
import time
from pathlib import Path

import hangs
import jax
import numpy as np
import pytest
from started import RUN, ended, flags, free_port, open_mpi, slurm, wait_for_step

import rowrnn
from rowrnn import config as configs
from rowrnn.config import ParallelConfig
from rowrnn.store import rundir

# Of the processes that are left when one has died, and of a job that is started again.
EXIT_S = 15


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


# Without processes: test_many_devices; launching: tests/test_launch.py.
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


@pytest.mark.parametrize("count", [1, pytest.param(10, marks=pytest.mark.soak)])
def test_a_process_that_dies_is_named_and_the_run_goes_on_elsewhere(start, tmp_path, whole, count):
    for number in range(count):
        draw, run = random.Random(number), f"run-{number}"
        processes = start(2, ["train", *RUN, f"--run-dir={run}"], slurm)
        wait_for_step(tmp_path / run, draw.randint(4, 10) * 5)
        time.sleep(draw.uniform(0, 0.1))
        victim, survivor = draw.sample(processes, 2)
        victim.kill()
        code, _, err = ended(survivor, EXIT_S)
        assert code == 7, err
        assert re.search(
            rf"process {processes.index(victim)} \(pid {victim.pid} on .*--resume", err
        )
        assert rowrnn.load(tmp_path / run).step >= 10
        result = rowrnn.train(config_of(tmp_path / run, devices=1), resume=tmp_path / run)
        assert result.steps == 60
        assert difference(tmp_path / run, whole[0]) < 1e-5


# Without processes: tests/test_watchdog.py.
@pytest.mark.soak
@pytest.mark.parametrize("count", [10])
def test_a_process_that_hangs_is_named(start, tmp_path, count):
    for number in range(count):
        draw, run = random.Random(number), f"run-{number}"
        index = draw.randint(0, 1)
        program = (str(Path(hangs.__file__)), str(draw.randint(15, 40)), str(index))
        arguments = ["train", *RUN, f"--run-dir={run}", "--parallel.stall-seconds=8"]
        processes = start(2, arguments, program=program)
        for process in processes:
            code, _, err = ended(process)
            assert code == 7
            assert f"no progress for 8 s: process {index} (pid {processes[index].pid}" in err
            assert "hangs in __main__.handle_events" in err
            assert f"process {1 - index} " not in err


@pytest.mark.soak
@pytest.mark.parametrize("count", [10])
def test_a_process_that_is_stopped_is_named(start, tmp_path, count):
    for number in range(count):
        draw, run = random.Random(number), f"run-{number}"
        processes = start(2, ["train", *RUN, f"--run-dir={run}", "--parallel.stall-seconds=5"])
        wait_for_step(tmp_path / run, draw.randint(3, 10) * 5)
        victim, survivor = draw.sample(processes, 2)
        victim.send_signal(signal.SIGSTOP)
        code, _, err = ended(survivor, EXIT_S)
        assert code == 7, err
        assert f"process {processes.index(victim)} (pid {victim.pid}" in err
        assert f"process {processes.index(survivor)} " not in err
        victim.kill()


@pytest.mark.soak
@pytest.mark.parametrize("count", [10])
def test_a_signal_to_one_process_makes_all_save_the_same_step(start, tmp_path, whole, count):
    for number in range(count):
        draw, run = random.Random(number), f"run-{number}"
        processes = start(2, ["train", *RUN, f"--run-dir={run}"], open_mpi)
        wait_for_step(tmp_path / run, draw.randint(3, 9) * 5)
        name = draw.choice(("SIGTERM", "SIGINT"))
        draw.choice(processes).send_signal(getattr(signal, name))
        both = [ended(process, EXIT_S) for process in processes]
        assert [code for code, _, _ in both] == [75, 75], both
        found = re.search(rf"stopped by {name} after step (\d+) of 60", both[0][2])
        assert found, both
        assert rowrnn.load(tmp_path / run).step == int(found[1])
        result = rowrnn.train(config_of(tmp_path / run, devices=2), resume=tmp_path / run)
        assert result.params_sha256 == whole[1].params_sha256


@pytest.mark.soak
def test_a_process_whose_launcher_is_killed_is_no_orphan(start, tmp_path):
    # It waits for another process, which never comes.
    port = free_port()
    child = ["-m", "rowrnn.cli", "train", *RUN, *flags(2, 0, port)[0]]
    launcher = (
        "import os, subprocess, sys, time\n"
        "os.environ['ROWRNN_LAUNCHER'] = str(os.getpid())\n"
        f"print(subprocess.Popen([sys.executable, *{child}]).pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    (process,) = start(1, [], lambda *_: ([], {}), ("-c", launcher))
    pid = int(process.stdout.readline())
    with contextlib.suppress(ProcessLookupError):
        for _ in range(300):
            if port_is_taken(port):
                break
            time.sleep(0.1)
        process.kill()
        for _ in range(100):
            os.kill(pid, 0)
            time.sleep(0.1)
        pytest.fail(f"process {pid} goes on without its launcher")


def port_is_taken(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_what_one_process_cannot_do_ends_all_with_its_reason(start, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    refused = [ended(p) for p in start(2, ["train", *RUN, "--run-dir=run"])]
    assert [code for code, _, _ in refused] == [4, 4]
    # Said once, by the one that has seen it.
    assert "run directory run is not empty" in refused[0][2]
    assert refused[1][1:] == ("", "")


@pytest.mark.soak
def test_processes_that_were_given_different_things_say_so(start, tmp_path):
    def told(count, index, port):
        arguments, env = flags(count, index, port)
        return [*arguments, f"--train.seed={index}"], env

    confused = [ended(p) for p in start(2, ["train", *RUN, "--run-dir=other"], told)]
    assert [code for code, _, _ in confused] == [2, 2]
    assert "config: process 1 of the job was given another than process 0" in confused[0][2]
