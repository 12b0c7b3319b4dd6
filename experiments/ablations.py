"""Arguments about row-wise LSTMs, settled over 16 seeds each.

    rowrnn data prepare mnist
    python experiments/ablations.py [--seeds 16] [--epochs 5] [--table]

Shows: what each choice is worth, seed by seed against `lstm128.toml` cut to 5 epochs: the
projection joined into the gates or apart, forget bias, initialisation and read-out, rows or
columns, float32 or bfloat16. Each arm is a sweep in `runs/ablations`, which goes on where it was
cut; the figures go into `experiments/results/ablations.json` and `ablations.md`, which `--table`
makes of the former.
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
from rowrnn.lab.compare import judge, side_of
from rowrnn.store import ledger

ROOT = Path(__file__).parents[1]
RUNS, RESULTS = ROOT / "runs" / "ablations", ROOT / "experiments" / "results"
BASE = "base"
IMAGES = 10_000
ONE_IMAGE = 1 / IMAGES

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
10,000 images, differences with their 95 % intervals by sign flips, p by sign flips, corrected for
the number of lines (Holm). {machine}

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
    parser.add_argument("--table", action="store_true", help="write the table alone")
    given = parser.parse_args()
    if given.table:
        write_table(json.loads((RESULTS / "ablations.json").read_text()))
        return
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
    document = {
        "seeds": len(results[BASE].seeds),
        "epochs": epochs,
        "environment": environment(RUNS / BASE),
        "accuracy": {name: result.accuracy.tolist() for name, result in results.items()},
    }
    if "apart" in results:
        steps, joined = results[BASE].curves["train_loss"]
        away = np.abs(results["apart"].curves["train_loss"][1] - joined).max(axis=0)
        document["apart"] = {"step": steps[0], "first": float(away[0]), "last": float(away[-1])}
    (RESULTS / "ablations.json").write_text(json.dumps(document, indent=1) + "\n")
    write_table(document)


def write_table(document):
    """All arms against the base, in Markdown."""
    table = HEAD.format(**document, machine=machine(document["environment"]))
    accuracy = {name: np.array(values) for name, values in document["accuracy"].items()}
    base = accuracy.pop(BASE)
    table += f"| {ARMS[BASE][1]} | {base.mean():.4f} | | | |\n"
    found = [
        (
            side_of(BASE, base, resolution=ONE_IMAGE),
            side_of(name, values, resolution=ONE_IMAGE),
            stats.compare(
                base, values, paired=True, comparisons=len(accuracy), resolution=ONE_IMAGE
            ),
        )
        for name, values in accuracy.items()
    ]
    for pair in judge(found):
        low, high = pair.comparison.interval
        difference = f"{pair.comparison.difference:+.4f} ({low:+.4f} to {high:+.4f})"
        table += f"| {ARMS[pair.b][1]} | {pair.mean_b:.4f} | {difference} "
        table += f"| {pair.adjusted_p:.2g} | {pair.verdict} |\n"
    if "apart" in document:
        table += SAME.format(**document["apart"], seeds=document["seeds"])
    (RESULTS / "ablations.md").write_text(table, encoding="utf-8")


def environment(run):
    """What a sweep ran on."""
    found = json.loads((run / "environment.json").read_text())
    del found["command"]
    return found


def answers(run):
    """Which test image each seed of a sweep had right, [S, N], and these seeds, in their order."""
    records, _ = ledger.Ledger(run / "members").read_all()
    records = sorted(records, key=lambda record: record.seed)
    seeds = [record.seed for record in records]
    return np.array([ledger.unpack(record.correct, IMAGES) for record in records]), seeds


def machine(environment):
    """Where and when, in words."""
    where = f"{environment['cores']} cores, {environment['processor']}"
    return f"{where}, jax {environment['versions']['jax']}, {environment['time'][:10]}."


if __name__ == "__main__":
    main()
