"""The notebook of 2015 as a distribution, by two implementations that share nothing.

    rowrnn data prepare mnist
    pip install -e '.[peers]'
    python experiments/notebook.py [--seeds 64]
    python experiments/notebook.py --in-order [--seeds 64]

Shows: whether rowrnn is the notebook's network. `notebook_2015.toml` and `torch_seeds.py`, PyTorch
initialised as the notebook was, over as many seeds each: the curve of the training loss, the
accuracy on the first 256 test images, which the notebook printed, and on all 10,000. rowrnn
shuffles every epoch, the notebook did not shuffle its first: PyTorch does the one and the other.
`--in-order` adds rowrnn in the order of the files (`data.first_epoch = "file"`), and packs which
test image each seed had right into `notebook-in-order.npz`. Sweeps are kept in `runs/notebook` and
`runs/notebook-in-order` and go on where they were cut; figures go into
`experiments/results/notebook-agreement.json`, `.md` and `.png`.
Expected before `--in-order` was run (2026-11-27): what PyTorch gave in that order, 11 of 64 seeds
at or below the published figure, and no difference from it that 64 seeds show.
Last result: see the table.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from ablations import answers, environment, machine, sweep
from bench_sweep import arrays
from matplotlib.ticker import PercentFormatter
from torch_seeds import WINDOW

from rowrnn import config
from rowrnn.figures import frame
from rowrnn.lab import evidence, stats

HERE = Path(__file__).parent
RUN, RESULTS = HERE.parent / "runs" / "notebook", HERE / "results" / "notebook-agreement"
# This many of the first 256 test images were right.
PUBLISHED = 241
IN_ORDER = "rowrnn, in order"

HEAD = """\
# The notebook over {seeds} seeds

`python experiments/notebook.py --seeds {seeds}`: rowrnn and a PyTorch script of the same protocol,
whose first epoch is in an order of its own, as rowrnn's is, or in that of the files, as the
notebook's was. Means with their 95 % intervals; differences are rowrnn's from them.
{machine}

| |{names} |
|---|{rules}
"""

TAIL = """
The published {share:.6f} is {right} of the first 256 images. Of the means of the training loss over
ten steps, 5 % would differ by chance.
"""

IN_FILE_ORDER = """
## In the order of the files

`python experiments/notebook.py --in-order`: rowrnn as the notebook's reader took its first epoch.
{where} {below} of {seeds} seeds have at most the published {right} of
256 right ({share}).

| | rowrnn, in order | less PyTorch, in order | less rowrnn, shuffled |
|---|---|---|---|
"""


def main():
    """Runs all and writes what they gave."""
    parser = argparse.ArgumentParser(description="The notebook's protocol in two libraries.")
    parser.add_argument("--seeds", type=int, default=64)
    parser.add_argument("--in-order", action="store_true", help="rowrnn in the order of the files")
    parser.add_argument("--table", action="store_true", help="write table and figure alone")
    given = parser.parse_args()
    seeds, path = given.seeds, HERE / "notebook_2015.toml"
    if seeds < 2:
        parser.error("--seeds: must be at least 2, which have a spread")
    if given.table or given.in_order:
        document = json.loads(RESULTS.with_suffix(".json").read_text())
    else:
        document = {"rowrnn": ours(config.load(path), seeds, RUN)}
        document["PyTorch, shuffled"] = torch(path, seeds, ["--shuffled"])
        document["PyTorch, in order"] = torch(path, seeds, [])
        document["environment"] = environment(RUN)
    if given.in_order:
        run, settings = RUN.with_name("notebook-in-order"), config.load(path)
        settings = config.replace(settings, {"data.first_epoch": "file"})
        document[IN_ORDER] = ours(settings, seeds, run)
        document["environment in order"] = environment(run)
        pack_answers(run, RESULTS.with_name("notebook-in-order.npz"))
    RESULTS.with_suffix(".json").write_text(json.dumps(document) + "\n")
    write(document)


def ours(settings, seeds, run):
    """Loss [S, K] and accuracies [S] of a sweep, rounded to what can be told."""
    swept = sweep(settings, range(seeds), run)
    # The last entry of a curve is of the single step after the last ten.
    steps, losses = swept.curves["train_loss"]
    whole = [at for at, step in enumerate(steps) if step % WINDOW == 0]
    firsts = [member.first256_accuracy for member in swept.members]
    return {
        "train_loss": np.round(losses[:, whole], 6).tolist(),
        "first256_accuracy": firsts,
        "test_accuracy": swept.accuracy.tolist(),
    }


def torch(path, seeds, options):
    """The same of PyTorch: loss [S, K], accuracies [S]."""
    with tempfile.TemporaryDirectory() as directory:
        given, out = Path(directory, "data.npz"), Path(directory, "out.json")
        np.savez(given, **arrays(path))
        command = [sys.executable, HERE / "torch_seeds.py", given, f"0:{seeds}", out, *options]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        results = json.loads(out.read_text())
    names = ("train_loss", "first256_accuracy", "test_accuracy")
    return {name: np.round([result[name] for result in results], 6).tolist() for name in names}


def write(document):
    """The table and the figure."""
    found = {
        who: {name: np.array(values) for name, values in figures_.items()}
        for who, figures_ in document.items()
        if not who.startswith("environment")
    }
    in_order, text = found.pop(IN_ORDER, None), table(found, machine(document["environment"]))
    losses = [
        ("only PyTorch in order" if "in order" in who else "both shuffled",
         found["rowrnn"]["train_loss"], each["train_loss"])
        for who, each in found.items() if who != "rowrnn"
    ]  # fmt: skip
    if in_order is not None:
        theirs = found["PyTorch, in order"]
        where = machine(document["environment in order"])
        text += in_file_order(found["rowrnn"], in_order, theirs, where)
        losses.append(("both in order", in_order["train_loss"], theirs["train_loss"]))
    RESULTS.with_suffix(".md").write_text(text, encoding="utf-8")
    draw(losses, RESULTS.with_suffix(".png"))


def draw(pairs_of_losses, path):
    """How far the mean losses of one are from the other's: name, rowrnn's, PyTorch's [S, K]."""
    count, windows = pairs_of_losses[0][1].shape
    title = f"Training loss, PyTorch's less rowrnn's, over {count} seeds of each"
    figure, axes = frame.begin(title, 8, 4.6, path)
    steps, ends = WINDOW * np.arange(1, windows + 1), {}
    for (who, ours, theirs), colour in zip(pairs_of_losses, frame.COLOURS, strict=False):
        pairs = [stats.compare(a, b, paired=False) for a, b in zip(ours.T, theirs.T, strict=True)]
        ends[who] = (steps, np.array([pair.difference for pair in pairs]) / ours.mean(axis=0))
        band = np.array([pair.interval for pair in pairs]).T / ours.mean(axis=0)
        axes.plot(*ends[who], color=colour, linewidth=1.8)
        axes.fill_between(steps, *band, color=colour, alpha=0.25, linewidth=0)
    axes.axhline(0, color="0.3", linewidth=1)
    axes.margins(x=0)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_xlabel("step")
    axes.set_ylabel("of rowrnn's loss")
    frame.label_ends(axes, ends)
    frame.finish(
        figure, "line: difference of the means; band: its 95 % interval, step by step", path
    )


def table(found, where):
    """All side by side, in Markdown."""
    ours, *theirs = found.values()
    names = " |".join(f" {who}" for who in found)
    seeds = len(ours["test_accuracy"])
    text = HEAD.format(seeds=seeds, machine=where, names=names, rules="---|" * len(found))
    for title, name in (("first 256 test images", "first256_accuracy"), ("all", "test_accuracy")):
        text += row(title, *(words(each[name]) for each in found.values()))
        text += row("difference", "", *(difference(ours[name], each[name]) for each in theirs))
    firsts = (each["first256_accuracy"] for each in found.values())
    text += row(f"seeds below, at and above {PUBLISHED / 256:.6f}", *map(around, firsts))
    losses = [curves(ours["train_loss"], each["train_loss"]) for each in theirs]
    text += row("training loss, what differs at 5 %", "", *losses)
    return text + TAIL.format(share=PUBLISHED / 256, right=PUBLISHED)


def in_file_order(shuffled, ours, theirs, where):
    """rowrnn in the order of the files, beside itself shuffled and PyTorch in that order."""
    below = int((np.round(256 * ours["first256_accuracy"]) <= PUBLISHED).sum())
    seeds = len(ours["test_accuracy"])
    low, high = stats.wilson_interval(below, seeds)
    text = IN_FILE_ORDER.format(
        where=where, below=below, seeds=seeds, right=PUBLISHED,
        share=f"{below / seeds:.0%}, 95 % interval {low:.0%} to {high:.0%}",
    )  # fmt: skip
    for title, name in (("first 256 test images", "first256_accuracy"), ("all", "test_accuracy")):
        others = (difference(ours[name], each[name]) for each in (theirs, shuffled))
        text += row(title, words(ours[name]), *others)
    losses = (curves(ours["train_loss"], each["train_loss"]) for each in (theirs, shuffled))
    return text + row("training loss, what differs at 5 %", "", *losses)


def pack_answers(run, path):
    """Which test image each seed had right, as bits: unpack with `np.unpackbits`, [S, N]."""
    right, seeds = answers(run)
    np.savez_compressed(path, seeds=seeds, right=np.packbits(right, 1))


def row(*cells):
    """A line of a table in Markdown."""
    return f"| {' | '.join(cells)} |\n"


def difference(ours, theirs):
    """Of two means over seeds, with its interval."""
    found = stats.compare(theirs, ours, paired=False)
    low, high = found.interval
    return f"{found.difference:+.4f} ({low:+.4f} to {high:+.4f}), p = {found.p_value:.2g}"


def around(accuracies):
    """How many seeds are below, at and above what the notebook printed."""
    right = np.round(256 * accuracies)
    counts = (right < PUBLISHED, right == PUBLISHED, right > PUBLISHED)
    return ", ".join(str(count.sum()) for count in counts)


def curves(ours, theirs):
    """How far the means of two sets of curves [S, K] are apart."""
    pairs = zip(ours.T, theirs.T, strict=True)
    p = [evidence.relabelling(b, a, 0.0).p_value() for a, b in pairs]
    away = ours.mean(axis=0) - theirs.mean(axis=0)
    at = int(np.abs(away).argmax())
    return (
        f"{sum(value < 0.05 for value in p)} of {len(p)} means; the most {away[at]:+.3f}, at step "
        f"{WINDOW * (at + 1)}, where it is {theirs[:, at].mean():.3f}"
    )


def words(accuracies):
    """Mean, interval and spread over seeds."""
    summary = stats.summarize(accuracies)
    low, high = summary.interval
    return f"{summary.mean:.4f} ({low:.4f} to {high:.4f}), sd {summary.sd:.4f}"


if __name__ == "__main__":
    main()
