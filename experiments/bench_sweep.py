"""How much a sweep saves: against a process for each seed, and against PyTorch, in turns.

    python experiments/bench_sweep.py CONFIG.toml --seeds 16 --rounds 3 --against processes torch
        [--rival-seeds 16] --out FILE.json [FLAGS of rowrnn]

Shows: seconds from the shell to the result for the same seeds: `rowrnn sweep`; `rowrnn train` once
for each seed, as many at a time as there are cores; `experiments/torch_seeds.py` (the notebook's
protocol only). All with a warm compilation cache; the contestants take turns in each round. Rivals
that run fewer seeds (`--rival-seeds`) have their seconds scaled up to those of the sweep.
"""

import argparse
import concurrent.futures
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from rowrnn import config, data

HERE = Path(__file__).parent
ROWRNN = [sys.executable, "-m", "rowrnn.cli"]
# Whatever cluster has started this, its runs are not a job.
QUIET = ["--overwrite", "--train.display", "none", "--parallel.processes", "1"]


def main():
    """Takes turns and prints the ratios."""
    parser = argparse.ArgumentParser(description="How much a sweep saves.")
    parser.add_argument("config")
    parser.add_argument("--seeds", type=int, default=16)
    parser.add_argument("--rival-seeds", type=int, help="of the others; as many where not given")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--against", nargs="+", choices=["processes", "torch"], default=["processes"]
    )
    parser.add_argument("--out", type=Path)
    given, flags = parser.parse_known_args()
    given.flags = flags
    given.rival_seeds = given.rival_seeds or given.seeds
    with tempfile.TemporaryDirectory() as directory:
        result = measure(given, Path(directory))
    print(json.dumps(result, indent=1))
    if given.out:
        given.out.write_text(json.dumps(result, indent=1) + "\n")


def measure(given, directory):
    """Seconds of each contestant in each round, and the ratios to the sweep."""
    contestants = {"sweep": sweep} | {
        name: {"processes": processes, "torch": torch}[name] for name in given.against
    }
    np.savez(directory / "data.npz", **arrays(given.config))
    for contestant in contestants.values():  # fills the compilation cache and the page cache
        contestant(given, directory / "warm", 2)
    seconds = {name: [] for name in contestants}
    for turn in range(given.rounds):
        for name, contestant in contestants.items():
            seeds = given.seeds if name == "sweep" else given.rival_seeds
            began = time.perf_counter()
            contestant(given, directory / f"{name}-{turn}", seeds)
            seconds[name].append((time.perf_counter() - began) * given.seeds / seeds)
            print(f"{name}: {seconds[name][-1]:.1f} s", file=sys.stderr)
    ratios = {
        name: [theirs / ours for theirs, ours in zip(seconds[name], seconds["sweep"], strict=True)]
        for name in given.against
    }
    return {
        "command": sys.argv,
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores",
        "seeds": given.seeds,
        "rival_seeds": given.rival_seeds,
        "seconds": seconds,
        "ratios": ratios,
        "median_ratios": {name: statistics.median(found) for name, found in ratios.items()},
    }


def sweep(given, path, seeds):
    """All seeds in one process."""
    command = ["sweep", given.config, "--seeds", f"0:{seeds}", "--run-dir", f"{path}-sweep"]
    call([*ROWRNN, *command, *QUIET, *given.flags])


def processes(given, path, seeds):
    """A process for each seed, as many at a time as there are cores."""

    def train(seed):
        command = ["train", given.config, "--train.seed", str(seed), "--run-dir", f"{path}-{seed}"]
        call([*ROWRNN, *command, *QUIET, *given.flags])

    with concurrent.futures.ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        list(pool.map(train, range(seeds)))


def torch(given, path, seeds):
    """The script that a PyTorch user would write."""
    data_file = path.parent / "data.npz"
    call([sys.executable, str(HERE / "torch_seeds.py"), str(data_file), f"0:{seeds}"])


def arrays(path):
    """The data of a config, for PyTorch."""
    dataset = data.load(config.load(path).data)
    return {
        f"{part}_{kind}": getattr(getattr(dataset, part), kind)
        for part in ("train", "test")
        for kind in ("images", "labels")
    }


def call(command):
    """Runs a command to its end; raises where it fails."""
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
