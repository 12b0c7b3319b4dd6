"""Rows 1 and 7: ``kill -9`` at any moment."""

import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import phases
import pytest
from in_process import here, last_json

import rowrnn
from rowrnn.store import log

SAVE, LOG = 10, 5
# 400 steps, 40 saves, 20 evaluations: a few seconds, most of them in a save.
RUN = ["--model.projection-size=0", "--model.hidden-size=8", "--data.validation-size=100",
       "--optimizer.name=adamw", "--train.batch-size=100", "--train.examples=40001",
       f"--train.log-every-steps={LOG}", "--train.eval-every-steps=20",
       f"--checkpoint.every-steps={SAVE}", "--train.display=none"]  # fmt: skip


def start(arguments, cwd, file):
    file.unlink(missing_ok=True)  # What the process before it was doing.
    return subprocess.Popen(
        [sys.executable, str(Path(phases.__file__)), str(file), *arguments, "--json"],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finished(process):
    """The result of a process that has ended well."""
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return json.loads(out.splitlines()[-1])


def same(result):
    """What must not depend on kills: all but places and times."""
    kept = ("params_sha256", "test_accuracy", "test_loss", "validation_accuracy", "steps")
    return {name: result[name] for name in kept}


def entries(path):
    return [(e["step"], sorted(set(e) - {"seconds"})) for e in log.read(path)]


def torn_lines(path):
    """Numbers of the lines of the log that are not whole, and how many lines there are."""
    lines = (path / "metrics.jsonl").read_bytes().split(b"\n")
    lines = lines[:-1] if lines[-1] == b"" else lines
    torn = []
    for number, line in enumerate(lines):
        try:
            json.loads(line)
        except ValueError:
            torn.append(number)
    return torn, len(lines)


def saved_step(path):
    """The step that a run would go on from."""
    if not any(entry.name.isdecimal() for entry in (path / "checkpoints").glob("*")):
        return 0
    return rowrnn.load(path).step


@pytest.mark.row(1, 1, 200)
def test_a_killed_run_ends_with_the_bits_of_one_that_was_not(tmp_path, count, record):
    """`kill -9` at a random moment: at most one save interval is repeated, the end is the same."""
    # A single kill needs no run of 400 steps.
    arguments = ["train", *RUN, *(["--train.examples=12001"] if count == 1 else [])]
    whole_result = last_json(here(*arguments, "--run-dir=whole", "--json", cwd=tmp_path)[0])
    seconds = whole_result["wall_s"] - whole_result["compile_s"]
    draw = random.Random(count)
    hit, repeated, runs, unsaved = Counter(), 0, 0, 0
    path = None
    while sum(hit.values()) < count:
        if path is None:
            path = tmp_path / f"run-{runs}"
            runs += 1
            process = start([*arguments, f"--run-dir={path}"], tmp_path, tmp_path / "phase")
        else:
            process = start(["train", f"--resume={path}"], tmp_path, tmp_path / "phase")
        # One kill in ten while it starts and compiles, the others anywhere in what is left to do.
        if draw.random() < 0.1:
            time.sleep(draw.uniform(1, 3))
        else:
            starting = ("start", "compile")
            # One that was killed when its result was there gives it at once.
            while phases.read(tmp_path / "phase") in starting and process.poll() is None:
                time.sleep(0.001)
            time.sleep(draw.uniform(0, seconds / 3))
        if process.poll() is not None:
            assert same(finished(process)) == same(whole_result)
            assert entries(path) == entries(tmp_path / "whole")
            path = None
            continue
        process.send_signal(signal.SIGKILL)
        process.communicate()
        hit[phases.read(tmp_path / "phase")] += 1
        if not (path / "config.toml").exists():
            path = None  # Killed before it had a directory.
            continue
        done = max((e["step"] for e in log.read(path)), default=0)
        if (path / "metrics.jsonl").exists():
            torn, lines = torn_lines(path)
            assert torn in ([], [lines - 1])
        durable = saved_step(path)
        unsaved += durable == 0
        assert done - durable <= SAVE, f"logged step {done}, saved step {durable}"
        repeated = max(repeated, done - durable)
    if path is not None:
        last, _ = here("train", f"--resume={path}", "--json", cwd=tmp_path)
        assert same(last_json(last)) == same(whole_result)
        assert entries(path) == entries(tmp_path / "whole")
    record |= {"hit": dict(hit), "runs": runs, "before the first save": unsaved,
               "most steps repeated": repeated, "save interval": SAVE}  # fmt: skip
    if count >= 100:
        assert hit["save"] >= count / 10
