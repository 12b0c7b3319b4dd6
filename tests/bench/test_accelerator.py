"""experiments/accelerator.py, which runs on a CPU too, smaller."""

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(out, *parts):
    """What the script writes for some parts."""
    script = ROOT / "experiments" / "accelerator.py"
    subprocess.run(
        [sys.executable, script, "--small", "--out", out, "--parts", *parts],
        check=True,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
    )
    return json.loads((out / "accelerator.json").read_text())["parts"]


@pytest.mark.slow
def test_every_backend_is_judged_and_a_resumed_run_compared(tmp_path):
    parts = run(tmp_path, "device", "backends", "sweeps", "resume")
    assert not [part["error"] for part in parts.values() if "error" in part]
    assert parts["device"]["devices"][0].startswith("cpu")
    judged = parts["backends"]["errors"]
    assert {entry["backend"] for entry in judged} == {"scan", "fast", "split", "pallas"}
    assert all(entry["right"] for entry in judged)
    assert [entry["members"] for entry in parts["sweeps"]["sweeps"]] == [2, 4]
    assert parts["resume"]["stopped_with"] == 75
    assert parts["resume"]["same_bits"]
    with tarfile.open(tmp_path / "accelerator.tar.gz") as archive:
        assert {"backends.log", "resume.log"} <= set(archive.getnames())


def test_a_part_that_fails_is_told_and_the_next_one_run(tmp_path):
    # There is no such directory of data, which `profile` reads and `device` does not.
    script = ROOT / "experiments" / "accelerator.py"
    data = ["--data", tmp_path / "none", "--out", tmp_path / "out"]
    subprocess.run(
        [sys.executable, script, "--small", *data, "--parts", "profile", "device"],
        check=True,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
    )
    parts = json.loads((tmp_path / "out" / "accelerator.json").read_text())["parts"]
    assert "none" in parts["profile"]["error"]
    assert "error" not in parts["device"]


def test_a_part_takes_no_time_from_the_next(tmp_path):
    # Neither so much as imports jax in this time.
    script = ROOT / "experiments" / "accelerator.py"
    command = [sys.executable, script, "--out", tmp_path, "--seconds", "0.4"]
    subprocess.run([*command, "--parts", "profile", "device"], check=True)
    parts = json.loads((tmp_path / "accelerator.json").read_text())["parts"]
    assert list(parts) == ["profile", "device"]
    for part in parts.values():
        assert part["error"].startswith("took too long")
