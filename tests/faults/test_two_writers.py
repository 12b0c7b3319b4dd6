"""Two writers on one run directory: the second is refused and told who holds it."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections import Counter

import pytest
from in_process import steps_in

from rowrnn.config import Config
from rowrnn.errors import RunError
from rowrnn.store import rundir

HOLD = """
import sys
from pathlib import Path
from rowrnn.store.rundir import RunDir
with RunDir.reopen(Path(sys.argv[1])):
    print("holding", flush=True)
    sys.stdin.read()
"""
TRAIN = ["train", "--model.projection-size=0", "--model.hidden-size=8", "--train.batch-size=100",
         "--train.epochs=10000", "--train.display=none", "--checkpoint.every-steps=5",
         "--data.validation-size=100", "--optimizer.name=adamw"]  # fmt: skip
# What a second writer may try; {} is the directory.
SECOND = {
    "train": (
        ["train", "--resume={}"],
        ["train", "--run-dir={}", "--overwrite"],
        ["train", "--run-dir={}"],
    ),
    "sweep": (
        ["sweep", "--resume={}"],
        ["sweep", "--seeds=0:2", "--run-dir={}", "--overwrite"],
        ["sweep", "--seeds=0:2", "--run-dir={}"],
    ),
}


def start(*arguments, cwd, **environment):
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=cwd,
        env=os.environ | environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def make_run(path, kind):
    """The directory of a run that was killed, with something in it that must not be lost."""
    with rundir.RunDir.create(path, Config()) as run:
        run.log({"step": 10}, {"train_loss": 1.0})
        if kind == "sweep":
            started = {"seeds": [0, 1], "grid": {}, "vary": "both", "settings": {}}
            run.write("sweep.json", json.dumps(started))
            (path / "members").mkdir()
            (path / "members" / "seed-0.json").write_text("{}")
    return path


def contents(path):
    """What a second writer must leave as it is."""
    return {
        str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()
    }


def kill(process):
    process.kill()
    process.communicate()


@pytest.mark.row(5, 3, 50)
def test_a_second_writer_is_refused_and_told_who_holds_the_directory(
    tmp_path, without_jax, count, record
):
    """Refused before jax is loaded, with host, process and since when; after `kill -9` of the
    first the directory is free, and all that lay in it is still there."""
    commands, slowest = Counter(), 0.0
    for seed in range(count):
        draw = random.Random(seed)
        kind = draw.choice(["train", "sweep"])
        path = make_run(tmp_path / f"run-{seed}", kind)
        holder = start("-c", HOLD, str(path), cwd=tmp_path)
        assert holder.stdout.readline() == "holding\n"
        held, before = json.loads((path / "lock.json").read_text()), contents(path)
        assert held["pid"] == holder.pid
        words = [word.format(path) for word in draw.choice(SECOND[kind])]
        began = time.perf_counter()
        second = start("-m", "rowrnn.cli", *words, cwd=tmp_path, **without_jax)
        _, err = second.communicate(timeout=120)
        slowest = max(slowest, time.perf_counter() - began)
        assert second.returncode == 4, (seed, words, err)
        said = f"process {holder.pid} on {socket.gethostname()} since {held['since']}"
        assert f"rowrnn: {path} is being written by {said}" in err, (seed, words)
        assert len(err.splitlines()) <= 2, (seed, err)
        assert contents(path) == before, (seed, words)
        kill(holder)
        rundir.RunDir.reopen(path).close()
        del before["lock.json"]
        assert contents(path) == before, (seed, words)
        commands[" ".join(words).replace(str(path), "DIR")] += 1
    record.update(commands=dict(commands), slowest_refusal_s=round(slowest, 2))


@pytest.mark.row(5, 1, 5)
def test_a_run_at_work_is_left_alone_by_a_second_writer(tmp_path, count, record):
    """The same while the first really trains and saves all the time: whatever the second meets in
    the directory, it names the holder; after `kill -9` the run goes on from its last save."""
    slowest = 0.0
    for attempt in range(count):
        path = tmp_path / f"run-{attempt}"
        first = start("-m", "rowrnn.cli", *TRAIN, f"--run-dir={path}", cwd=tmp_path)
        deadline = time.monotonic() + 120
        while not steps_in(path / "checkpoints"):
            assert first.poll() is None, first.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.05)
        for words in SECOND["train"]:
            began = time.perf_counter()
            words = [word.format(path) for word in words]
            second = start("-m", "rowrnn.cli", *words, cwd=tmp_path)
            _, err = second.communicate(timeout=120)
            slowest = max(slowest, time.perf_counter() - began)
            assert second.returncode == 4, (words, err)
            assert f"is being written by process {first.pid} on " in err, (words, err)
        assert first.poll() is None
        first.send_signal(signal.SIGKILL)
        first.communicate()
        assert steps_in(path / "checkpoints")[-1] >= 5
        rundir.RunDir.reopen(path).close()
    record["slowest_refusal_s"] = round(slowest, 2)


# Both are ready before either may start: they wait, at work, for the same moment.
RACE = """
import sys, time
from pathlib import Path
from rowrnn.config import Config
from rowrnn.errors import RunError
from rowrnn.store.rundir import RunDir
for line in sys.stdin:
    path, moment, hold = line.split()
    path = Path(path)
    while time.monotonic() < float(moment):
        pass
    try:
        run = RunDir.create(path, Config())
        run.write("result.json", sys.argv[1])
        if hold == "False":
            run.close()
        print("won", flush=True)
    except RunError as error:
        run = None
        print(str(error).replace(chr(10), " "), flush=True)
    if hold == "True":
        sys.stdin.readline()
        if run:
            run.close()
"""


@pytest.mark.row(5, 40, 2000, slow=True)
def test_of_two_that_start_at_the_same_moment_one_wins(tmp_path, count, record):
    """On a new directory exactly one gets it, also where it is done before the other looks again;
    the other is refused and has touched nothing."""
    racers = [start("-c", RACE, str(number), cwd=tmp_path) for number in (0, 1)]
    wins, reasons = Counter(), Counter()
    for attempt in range(count):
        path, hold = tmp_path / f"run-{attempt}", attempt % 2 == 0
        moment = time.monotonic() + (2.0 if attempt == 0 else 0.005)
        tell(racers, f"{path} {moment} {hold}")
        answers = [racer.stdout.readline().strip() for racer in racers]
        assert answers.count("won") == 1, (attempt, answers)
        winner = answers.index("won")
        refused = answers[1 - winner]
        assert (path / "result.json").read_text() == str(winner), attempt
        assert (path / "config.toml").exists(), attempt
        if hold:
            held = json.loads((path / "lock.json").read_text())
            assert held["pid"] == racers[winner].pid, attempt
            with pytest.raises(RunError, match=f"by process {racers[winner].pid} on "):
                rundir.RunDir.reopen(path)
            tell(racers, "")
        wins[winner] += 1
        holder = f"process {racers[winner].pid} on "
        reason = next((words for words in (holder, "is not empty", "another process")
                       if words in refused), refused)  # fmt: skip
        # Who has ended since is no longer named.
        assert reason in (holder, "is not empty", *["another process"][hold:]), (attempt, refused)
        reasons["the holder" if reason == holder else reason] += 1
    for racer in racers:
        _, err = racer.communicate(timeout=60)
        assert racer.returncode == 0, err
    record.update(wins=dict(wins), refused_for=dict(reasons))


def tell(racers, line):
    for racer in racers:
        racer.stdin.write(f"{line}\n")
        racer.stdin.flush()
