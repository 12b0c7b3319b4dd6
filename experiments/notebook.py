"""The notebook of 2015 as a distribution, by two implementations that share nothing.

    rowrnn data prepare mnist
    pip install -e '.[peers]'
    python experiments/notebook.py [--seeds 64]

Shows: whether rowrnn is the notebook's network. `notebook_2015.toml` and `torch_seeds.py`, PyTorch
initialised and fed as the notebook was, over as many seeds each: the curve of the training loss,
the accuracy on the first 256 test images, which the notebook printed, and on all 10,000. The sweep
is kept in `runs/notebook` and goes on where it was cut; figures go into
`experiments/results/notebook-agreement.json`, `.md` and `.png`.
Last result: see the table.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from ablations import machine, sweep
from bench_sweep import arrays
from torch_seeds import WINDOW

from rowrnn import config, figures, stats

HERE = Path(__file__).parent
RUN, RESULTS = HERE.parent / "runs" / "notebook", HERE / "results" / "notebook-agreement"
PUBLISHED = 241 / 256

HEAD = """\
# The notebook over {seeds} seeds

`python experiments/notebook.py --seeds {seeds}`: rowrnn and a PyTorch script of the same protocol.
Means with their 95 % intervals. {machine}

| | rowrnn | PyTorch | difference |
|---|---|---|---|
"""

TAIL = """
Of {windows} means over ten steps of the training loss, {clear} differ at 5 % (two-sided), where
5 % would by chance; the largest difference is {largest:.3f} at step {step}, where the loss is
{loss:.3f}. The published {published:.6f} on the first 256 images has {below} of {seeds} seeds of
rowrnn below it and {above} above, and {below_torch} and {above_torch} of PyTorch.
"""


def main():
    """Runs both and writes what they gave."""
    parser = argparse.ArgumentParser(description="The notebook's protocol, twice.")
    parser.add_argument("--seeds", type=int, default=64)
    seeds = parser.parse_args().seeds
    if seeds < 2:
        parser.error("--seeds: must be at least 2, which have a spread")
    path = HERE / "notebook_2015.toml"
    swept = sweep(config.load(path), range(seeds), RUN)
    # The last entry of a curve is of the single step after the last ten.
    steps, losses = swept.curves["train_loss"]
    whole = [at for at, step in enumerate(steps) if step % WINDOW == 0]
    ours = {
        "train_loss": losses[:, whole],
        "first256_accuracy": np.array([member.first256_accuracy for member in swept.members]),
        "test_accuracy": swept.accuracy,
    }
    theirs = torch(path, seeds)
    environment = json.loads((RUN / "environment.json").read_text())
    del environment["command"]
    both = {"rowrnn": ours, "PyTorch": theirs}
    document = {"environment": environment} | {
        who: {name: np.round(values, 6).tolist() for name, values in found.items()}
        for who, found in both.items()
    }
    RESULTS.with_suffix(".json").write_text(json.dumps(document) + "\n")
    RESULTS.with_suffix(".md").write_text(table(ours, theirs, environment), encoding="utf-8")
    times = WINDOW * np.arange(1, len(whole) + 1)
    curves = {who: (times.tolist(), found["train_loss"]) for who, found in both.items()}
    title = f"The notebook's protocol, {seeds} seeds each"
    figures.learning_curves(curves, str(RESULTS.with_suffix(".png")), title, "training loss")


def torch(path, seeds):
    """The same of PyTorch: loss [S, K], accuracies [S]."""
    with tempfile.TemporaryDirectory() as directory:
        given, out = Path(directory, "data.npz"), Path(directory, "out.json")
        np.savez(given, **arrays(path))
        command = [sys.executable, HERE / "torch_seeds.py", given, f"0:{seeds}", out]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        results = json.loads(out.read_text())
    names = ("train_loss", "first256_accuracy", "test_accuracy")
    return {name: np.array([result[name] for result in results]) for name in names}


def table(ours, theirs, environment):
    """Both side by side, in Markdown."""
    text = HEAD.format(seeds=len(ours["test_accuracy"]), machine=machine(environment))
    for title, part in (("first 256 test images", "first256"), ("all test images", "test")):
        name = f"{part}_accuracy"
        text += f"| {title} | {words(ours[name])} | {words(theirs[name])} | "
        found = stats.compare(theirs[name], ours[name], paired=False)
        low, high = found.interval
        text += f"{found.difference:+.4f} ({low:+.4f} to {high:+.4f}), p = {found.p_value:.2g} |\n"
    left, right = ours["train_loss"], theirs["train_loss"]
    away = left.mean(axis=0) - right.mean(axis=0)
    p = [stats.compare(b, a, paired=False).p_value for a, b in zip(left.T, right.T, strict=True)]
    at = int(np.abs(away).argmax())
    first, firsts = ours["first256_accuracy"], theirs["first256_accuracy"]
    return text + TAIL.format(
        windows=len(p),
        clear=sum(value < 0.05 for value in p),
        largest=abs(away[at]),
        step=WINDOW * (at + 1),
        loss=right[:, at].mean(),
        published=PUBLISHED,
        seeds=len(first),
        below=(first < PUBLISHED).sum(),
        above=(first > PUBLISHED).sum(),
        below_torch=(firsts < PUBLISHED).sum(),
        above_torch=(firsts > PUBLISHED).sum(),
    )


def words(accuracies):
    """Mean, interval and spread over seeds."""
    summary = stats.summarize(accuracies)
    low, high = summary.interval
    return f"{summary.mean:.4f} ({low:.4f} to {high:.4f}), sd {summary.sd:.4f}"


if __name__ == "__main__":
    main()
