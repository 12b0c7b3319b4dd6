"""Row 4: signals in every phase."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import phases
import pytest
from test_kills import RUN, finished, start

import rowrnn

SWEEP = [*RUN, "--train.examples=4001", "--seeds=0:4", "--chunk=1", "--parallel.devices=1",
         "--keep=none"]  # fmt: skip


def in_phase(process, file, phase, times):
    """Waits until a process has come to a phase for so many times."""
    deadline, seen, before = time.monotonic() + 120, 0, ""
    while seen < times:
        now = phases.read(file)
        seen += now == phase != before
        before = now
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline, f"still in {now}"
        time.sleep(0.0005)


def after_signal(process, number):
    """Exit code, stderr and seconds from the signal to the end of the process."""
    began = time.monotonic()
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    return process.returncode, err, time.monotonic() - began


def test_ctrl_c_while_jax_is_loaded(tmp_path):
    """As an extension of jax: it does not tell that it was interrupted."""
    (tmp_path / "jax.py").write_text(
        "import os, signal\n"
        "try:\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "except KeyboardInterrupt:\n"
        "    raise ImportError('while initializing the extension') from None\n"
    )
    # A job in the background of a shell ignores SIGINT, and hands that down.
    program = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    program += "from rowrnn.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program, "eval", "run"],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{Path(rowrnn.__file__).parents[1]}"},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (130, "rowrnn: stopped by Ctrl-C\n")


def soak(phase):
    return pytest.param(phase, marks=pytest.mark.soak)


@pytest.mark.parametrize(
    "phase", [soak("compile"), soak("warm-up"), soak("train"), soak("evaluate"), "save"]
)
@pytest.mark.row(4, 1, 20)
def test_a_signal_saves_and_leaves(tmp_path, count, record, phase):
    """SIGTERM or SIGINT in a phase of training: saved and out, exit 75."""
    most, hit = 0.0, 0
    for number in range(count):
        draw, path = random.Random(f"{phase} {number}"), tmp_path / f"run-{number}"
        process = start(["train", *RUN, f"--run-dir={path}"], tmp_path, tmp_path / "phase")
        once = phase in ("compile", "warm-up")
        in_phase(process, tmp_path / "phase", phase, 1 if once else draw.randint(1, 10))
        time.sleep(draw.uniform(0, 0.01))
        hit += phases.read(tmp_path / "phase") == phase
        code, err, seconds = after_signal(process, draw.choice((signal.SIGTERM, signal.SIGINT)))
        assert code == 75, err
        assert f"go on with: rowrnn train --resume {path}" in err
        assert f"after step {rowrnn.load(path).step} of 400" in err
        most = max(most, seconds)
    record |= {"most seconds from the signal to the exit": round(most, 2), "still in it": hit}


@pytest.mark.soak
@pytest.mark.row(4, 1, 20)
def test_a_signal_between_two_stacks_of_a_sweep(tmp_path, count, record):
    """SIGTERM or SIGINT between two chunks of seeds: saved and out, exit 75; resumed, the same."""
    command, most, means = ["sweep", *SWEEP], 0.0, set()
    for number in range(count):
        draw, path = random.Random(number), tmp_path / f"sweep-{number}"
        process = start([*command, f"--run-dir={path}"], tmp_path, tmp_path / "phase")
        in_phase(process, tmp_path / "phase", "between", draw.randint(1, 2))
        code, err, seconds = after_signal(process, draw.choice((signal.SIGTERM, signal.SIGINT)))
        assert code == 75, err
        assert f"go on with: rowrnn sweep --resume {path}" in err
        most = max(most, seconds)
        resumed = start(["sweep", f"--resume={path}"], tmp_path, tmp_path / "phase")
        result = finished(resumed)
        assert result["reused"] >= 1
        means.add(result["mean"])
    if count > 1:
        means.add(finished(start([*command, "--run-dir=whole"], tmp_path, tmp_path / "w"))["mean"])
    assert len(means) == 1
    record["most seconds from the signal to the exit"] = round(most, 2)


@pytest.mark.row(4, 1, 20)
def test_a_second_ctrl_c_leaves_at_once_also_while_it_compiles(tmp_path, count, record):
    """A second Ctrl-C, in compilation or a long chunk: out at once, exit 130."""
    most = 0.0
    # Nothing that was compiled before, and chunks of seconds.
    slow = [*RUN, "--model.hidden-size=256", "--train.batch-size=2000", "--train.examples=400000",
            "--parallel.no-compilation-cache"]  # fmt: skip
    for number in range(count):
        phase = ("compile", "train")[number % 2]
        process = start(["train", *slow, f"--run-dir=run-{number}"], tmp_path, tmp_path / "phase")
        in_phase(process, tmp_path / "phase", phase, 1)
        time.sleep(random.Random(number).uniform(0, 0.2))
        process.send_signal(signal.SIGINT)
        while "Ctrl-C again leaves at once" not in (line := process.stderr.readline()):
            assert line, "the first signal was not answered"
        assert phases.read(tmp_path / "phase") == phase
        code, err, seconds = after_signal(process, signal.SIGINT)
        assert code == 130, err
        assert "left at once" in err
        most = max(most, seconds)
    record["most seconds from the second Ctrl-C to the exit"] = round(most, 3)


@pytest.mark.soak
@pytest.mark.row(4, 1, 20)
def test_a_signal_in_the_last_evaluation_lets_it_finish(tmp_path, count, record):
    """A signal when all is trained and saved: the result is written, exit 0."""
    for number in range(count):
        path = tmp_path / f"run-{number}"
        process = start(["train", *RUN, f"--run-dir={path}"], tmp_path, tmp_path / "phase")
        in_phase(process, tmp_path / "phase", "end", 1)
        os.kill(process.pid, signal.SIGTERM)
        finished(process)
        assert (path / "result.json").exists()
