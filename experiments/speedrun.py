"""From a cold start to 99.0 %: how long does a program take that knows nothing yet?

    rowrnn data prepare mnist
    python experiments/speedrun.py [--seeds 16]

Shows: seconds from the start of the process to its end, `rowrnn train experiments/speedrun.toml`
once for each seed, one after the other, each compiling everything anew; and where they go. Start
ends when data are read and the run directory stands; what is left after compiling and training is
evaluation on the test part, checkpoint, report and leaving.
Last result: see RESULTS.md.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rowrnn.lab import stats

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "experiments" / "results" / "speedrun.json"
PARTS = ("start", "compile", "train", "end", "total")


def main():
    """Times the seeds and writes what they gave after each."""
    parser = argparse.ArgumentParser(description="Time from a cold start to 99.0 %.")
    parser.add_argument("--seeds", type=int, default=16)
    seeds = parser.parse_args().seeds
    if seeds < 2:
        parser.error("--seeds: must be at least 2, which have a spread")
    runs = []
    for seed in range(seeds):
        run, environment = train(seed)
        runs.append(run)
        print(f"seed {seed}: {run['accuracy']:.4f} after {run['total']:.1f} s", flush=True)
        document = {"environment": environment, "runs": runs}
        RESULTS.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    show(runs)


def train(seed):
    """One run in a new process: its accuracy and seconds, and where it ran."""
    with tempfile.TemporaryDirectory() as directory:
        run = Path(directory, "run")
        command = [sys.executable, "-m", "rowrnn.cli", "train", ROOT / "experiments/speedrun.toml"]
        command += ["--train.seed", str(seed), "--run-dir", run, "--train.display", "none"]
        began = time.time()
        subprocess.run(command, cwd=ROOT, check=True, stderr=subprocess.DEVNULL)
        total = time.time() - began
        result = json.loads((run / "result.json").read_text())
        start = (run / "environment.json").stat().st_mtime - began
        environment = json.loads((run / "environment.json").read_text())
    del environment["command"]
    parts = {"start": start, "compile": result["compile_s"], "train": result["train_s"]}
    parts |= {"end": total - sum(parts.values()), "total": total}
    seconds = {name: round(value, 2) for name, value in parts.items()}
    return {"seed": seed, "accuracy": result["test_accuracy"]} | seconds, environment


def show(runs):
    """Mean, interval and spread of the accuracy and of each part of the time."""
    for name in ("accuracy", *PARTS):
        summary = stats.summarize([run[name] for run in runs])
        low, high = summary.interval
        print(
            f"{name:8}  mean {summary.mean:.4f}, 95 % interval {low:.4f} to {high:.4f}, "
            f"sd {summary.sd:.2g}, {summary.min:g} to {summary.max:g}"
        )


if __name__ == "__main__":
    main()
