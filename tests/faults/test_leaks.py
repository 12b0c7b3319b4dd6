"""A long run and a long sweep in one process hold no more at their end than in their middle."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

SMALL = ["--model.projection-size=0", "--model.hidden-size=8", "--train.batch-size=100",
         "--train.display=none", "--data.validation-size=100", "--optimizer.name=adamw",
         "--optimizer.learning-rate=3e-3"]  # fmt: skip
# By unit of the count; a hundred are 20,000 steps with 200 saves, and 100 stacks of as many steps.
STEPS, SAVES = 200, 2


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
# A short run says nothing about memory, and little about the rest.
@pytest.mark.soak
@pytest.mark.row(13, 3, 100)
def test_memory_files_and_threads_stay_as_they_are(tmp_path, count, record):
    """20,000 steps with 200 saves and 100 stacks of a sweep in one process: memory grows by less
    than 1 MiB per 1,000 steps, open files and threads do not."""
    train = [
        "train", *SMALL, f"--train.examples={count * STEPS * 100 + 1}", "--run-dir=run",
        f"--checkpoint.every-steps={STEPS // SAVES}", "--train.log-every-steps=25",
        "--train.eval-every-steps=100",
    ]  # fmt: skip
    sweep = [
        "sweep", *SMALL, f"--train.examples={STEPS * 100 + 1}", f"--seeds=0:{count}",
        "--parallel.devices=1", "--keep=all", "--checkpoint.every-steps=100", "--run-dir=sweep",
    ]  # fmt: skip
    here = Path(__file__).parent
    process = subprocess.run(
        [sys.executable, here / "watched.py", "watch.txt", *train, "--", *sweep],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=3600,
    )
    assert process.returncode == 0, process.stderr
    table = np.loadtxt(tmp_path / "watch.txt", dtype=int)
    for number, name in ((1, "run"), (2, "sweep")):
        rows = table[table[:, 0] == number]
        # The first third fills caches and pools.
        rows = rows[len(rows) // 3 :]
        _, steps, _, _, memory, files, threads = rows.T
        slope = np.polyfit(steps / 1000, memory / 1024, 1)[0]
        seen = {
            "steps": int(np.ptp(steps)),
            "mib_per_1000_steps": round(float(slope), 3),
            "mib": [round(int(end) / 1024, 1) for end in (memory[0], memory[-1])],
            "open_files": [int(files.min()), int(files.max())],
            "threads": [int(threads.min()), int(threads.max())],
        }
        record[name] = seen
        # A short run says nothing about memory: the allocator keeps more than it has used.
        assert count < 100 or slope < 1, seen
        for held in (files, threads):
            half = len(held) // 2
            # Pools of threads grow late; one for each save or stack would be many more.
            assert held[half:].max() <= held[:half].max() + 2, (name, seen)
    done = dict(zip(("steps", "saves", "stacks"), table[-1, 1:4].tolist(), strict=True))
    record.update(done)
    assert done["saves"] >= count * SAVES
    assert done["stacks"] == count
