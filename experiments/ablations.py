"""Arguments about row-wise LSTMs, settled over 16 seeds each.

    rowrnn data prepare mnist
    python experiments/ablations.py [--seeds 16] [--epochs 5]

Shows: what each choice is worth, seed by seed against `lstm128.toml` cut to 5 epochs: the
projection joined into the gates or apart, forget bias, initialisation and read-out, rows or
columns, float32 or bfloat16. Each arm is a sweep in `runs/ablations`, which goes on where it was
cut; the figures go into `experiments/results/ablations.json` and `ablations.md`.
Last result: see the table.
"""

import argparse
import json
import shutil
from pathlib import Path

import numpy as np

import rowrnn
from rowrnn import config, data
from rowrnn.lab import stats

ROOT = Path(__file__).parents[1]
RUNS, RESULTS = ROOT / "runs" / "ablations", ROOT / "experiments" / "results"
BASE = "base"

# What each arm changes, and what it asks; all are held against the base.
ARMS = {
    BASE: ({}, "projection joined into the gates, forget bias 1, orthogonal, last state, rows"),
    "apart": ({"model.backend": "scan"}, "projection apart from the gates"),
    "forget-0": ({"model.forget_bias": 0.0}, "forget bias 0"),
    "forget-2": ({"model.forget_bias": 2.0}, "forget bias 2"),
    "glorot": ({"model.init": "glorot"}, "Glorot recurrence, not orthogonal"),
    "mean": ({"model.pooling": "mean"}, "mean of all hidden states, not the last"),
    "columns": ({"data.dataset": "idx"}, "columns, not rows"),
    "bfloat16": ({"model.dtype": "bfloat16"}, "bfloat16 products"),
}

HEAD = """\
# Ablations

`python experiments/ablations.py --seeds {seeds} --epochs {epochs}`: `lstm128.toml` cut to {epochs}
epochs, {seeds} seeds for each line, held seed by seed against the first. Mean test accuracy on the
10,000 images, differences with their 95 % intervals, p by Wilcoxon's signed-rank test, corrected
for the number of lines (Benjamini and Hochberg). {machine}

| changed | accuracy | difference | p | verdict |
|---|---|---|---|---|
"""

SAME = """
Joined or apart, the projection is the same function: over {seeds} seeds the training losses of the
two differ by at most {first:.1e} after the first {step} steps and by {last:.1e} at the end, as
rounding grows in training.
"""


def main():
    """Runs what is missing, arm by arm, and writes what there is after each."""
    parser = argparse.ArgumentParser(description="Ablations of the row-wise LSTM.")
    parser.add_argument("--seeds", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=5)
    given = parser.parse_args()
    if given.seeds < 2:
        parser.error("--seeds: must be at least 2, which have a spread")
    results = {}
    for name in ARMS:
        results[name] = run(name, range(given.seeds), given.epochs)
        write(results, given.epochs)


def run(name, seeds, epochs):
    """One arm, from where it was left."""
    base = config.load(ROOT / "experiments" / "lstm128.toml")
    changes = ARMS[name][0] | {"train.epochs": epochs}
    if name == "columns":
        changes |= {"data.dir": str(turned(base, RUNS / "columns-data"))}
    target = RUNS / name
    return sweep(config.replace(base, changes), seeds, target)


def sweep(settings, seeds, target):
    """A sweep in a directory, from where it was left if it was begun."""
    began = target.exists()
    return rowrnn.sweep(
        settings,
        seeds,
        run_dir=None if began else target,
        resume=target if began else None,
    )


def turned(base, target):
    """MNIST with rows and columns exchanged, as IDX files in a directory."""
    if target.exists():
        return target
    dataset, partial = data.load(base.data), target.with_name(f"{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    # The validation part is the beginning of the training part again when it is read.
    train = [dataset.validation, dataset.train]
    for prefix, parts in {"train": train, "t10k": [dataset.test]}.items():
        images = np.concatenate([part.images for part in parts]).transpose(0, 2, 1)
        labels = np.concatenate([part.labels for part in parts])
        write_idx(partial / f"{prefix}-images-idx3-ubyte", images)
        write_idx(partial / f"{prefix}-labels-idx1-ubyte", labels)
    return partial.rename(target)


def write_idx(path, array):
    """An array of bytes in the IDX format."""
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes()
    path.write_bytes(header + np.ascontiguousarray(array, np.uint8).tobytes())


def write(results, epochs):
    """The figures and the table of the arms that are finished."""
    seeds = len(results[BASE].seeds)
    document = {
        "seeds": seeds,
        "epochs": epochs,
        "environment": json.loads((RUNS / BASE / "environment.json").read_text()),
        "accuracy": {name: result.accuracy.tolist() for name, result in results.items()},
    }
    del document["environment"]["command"]
    (RESULTS / "ablations.json").write_text(json.dumps(document, indent=1) + "\n")
    table = HEAD.format(seeds=seeds, epochs=epochs, machine=machine(document["environment"]))
    table += f"| {ARMS[BASE][1]} | {results[BASE].accuracy.mean():.4f} | | | |\n"
    pairs = {name: rowrnn.compare(RUNS / BASE, RUNS / name).pairs[0] for name in results}
    del pairs[BASE]
    adjusted = stats.adjust([pair.comparison.p_value for pair in pairs.values()])
    for (name, pair), p in zip(pairs.items(), adjusted, strict=True):
        low, high = pair.comparison.interval
        verdict = pair.verdict if p < 0.05 else "no clear difference"
        difference = f"{pair.comparison.difference:+.4f} ({low:+.4f} to {high:+.4f})"
        table += f"| {ARMS[name][1]} | {pair.mean_b:.4f} | {difference} | {p:.2g} | {verdict} |\n"
    if "apart" in results:
        steps, joined = results[BASE].curves["train_loss"]
        away = np.abs(results["apart"].curves["train_loss"][1] - joined).max(axis=0)
        table += SAME.format(seeds=seeds, step=steps[0], first=away[0], last=away[-1])
    (RESULTS / "ablations.md").write_text(table, encoding="utf-8")


def machine(environment):
    """Where and when, in words."""
    where = f"{environment['cores']} cores, {environment['processor']}"
    return f"{where}, jax {environment['versions']['jax']}, {environment['time'][:10]}."


if __name__ == "__main__":
    main()
