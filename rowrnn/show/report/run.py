"""What there is to show of a single run."""

import functools
import itertools
import math
import shlex
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from rowrnn import config as configs
from rowrnn import figures
from rowrnn.config import Config
from rowrnn.data import Dataset, Split
from rowrnn.errors import RowRNNError, RunError, count
from rowrnn.figures import Drawing
from rowrnn.figures.drawing import WIDTH
from rowrnn.lab import evaluate, runs, stats
from rowrnn.lab.classifier import Classifier, load
from rowrnn.lab.evaluate import Evaluation
from rowrnn.lab.over_images import THIS_NETWORK
from rowrnn.lab.shown import percent
from rowrnn.lab.train import TrainResult
from rowrnn.show import curves
from rowrnn.show.report import page
from rowrnn.show.report.page import Content
from rowrnn.show.report.strips import Strip
from rowrnn.store import checkpoint, rundir

WORST, WATCHED = 24, 256

# A matrix of more classes than this is a carpet; the list of mistakes tells more.
_MOST_CLASSES = 64
# Most bytes that watching takes; each unit needs six arrays of float32 for each row.
_WATCH_BYTES, _BYTES_PER_UNIT = 2**28, 24

_Thing = TypeVar("_Thing")


@dataclass(frozen=True)
class Tested:
    """What a checkpoint does on the test part.

    Attributes:
        evaluation: accuracy, loss and confusion matrix.
        worst: the images whose true class got the lowest probability.
        gates: mean over the units of the last layer and over images, by gate, each [T].
        watched: how many images that is.
    """

    evaluation: Evaluation
    worst: list[Strip]
    gates: dict[str, np.ndarray]
    watched: int

    def mistakes(self) -> list[tuple[int, int, int]]:
        """What was taken for what, and how often, the most frequent first."""
        errors = self.evaluation.confusion.copy()
        np.fill_diagonal(errors, 0)
        order = np.argsort(-errors, axis=None, kind="stable")
        pairs = zip(*np.unravel_index(order, errors.shape), strict=True)
        found = ((int(true), int(taken), int(errors[true, taken])) for true, taken in pairs)
        return list(itertools.takewhile(lambda mistake: mistake[2], found))


@dataclass
class _Run:
    """What was found of a run: a checkpoint, its result, what it does; None where it is missing."""

    path: Path
    which: str
    config: Config
    missing: list[str] = field(default_factory=list)
    result: TrainResult | None = None
    classifier: Classifier | None = None
    tested: Tested | None = None

    def or_missing(self, what: str, find: Callable[[], _Thing]) -> _Thing | None:
        """What there is, or None and a line on why it is not there."""
        try:
            return find()
        except RowRNNError as error:
            self.missing.append(f"{what}: {error}.")
            return None


def read(path: Path, which: str, data_dir: str, dataset: Dataset | None = None) -> Content:
    """All that can be shown of a run; raises `RunError` where there is none."""
    return _content(_find(path, which, data_dir, dataset))


def _find(path: Path, which: str, data_dir: str, dataset: Dataset | None) -> _Run:
    run = _Run(path, which, rundir.read_config(path))
    run.result = run.or_missing("The result", lambda: rundir.read_result(path, TrainResult))
    # A checkpoint that was asked for by name must be there; without the last, the rest is shown.
    if which == "last":
        run.classifier = run.or_missing("The network", lambda: load(path, which))
    else:
        run.classifier = load(path, which)
    if (classifier := run.classifier) is not None:
        run.tested = run.or_missing(
            "What it does on the test images", lambda: test(classifier, data_dir, dataset)
        )
    if run.result and run.tested and which == "last":
        said, found = run.result.test_accuracy, run.tested.evaluation.accuracy
        if not math.isclose(found, said, abs_tol=1e-6):
            run.missing.append(
                f"Agreement: result.json says {percent(said, 4)}, and the last checkpoint "
                f"gives {percent(found, 4)} here."
            )
    return run


def _content(run: _Run) -> Content:
    path, result, tested = run.path, run.result, run.tested
    drawn = _figures(run)
    learned = [drawn[name] for name in ("loss", "accuracy") if name in drawn]
    if result and len(result.machines) > 1:
        run.missing.append(
            f"The bits of a run on one machine: it was trained on {'; '.join(result.machines)}."
        )
    if not learned:
        run.missing.append("Curves: nothing was logged yet.")
    environment = page.read_environment(path, run.missing)
    repeat = page.checkout(environment)
    if result is None:
        repeat.append(f"rowrnn train --resume {shlex.quote(str(path))}")
    repeat.append(f"rowrnn train {shlex.quote(str(path / 'config.toml'))} --run-dir AGAIN")
    return Content(
        template="run.html",
        kind="run",
        title=path.resolve().name,
        verdict=_verdict(run),
        missing=run.missing,
        parts={
            "figures": _key_figures(run),
            "curves": learned,
            "matrix": _matrix(tested.evaluation) if tested else None,
            "mistakes": _mistakes(tested) if tested else [],
            "test_count": tested.evaluation.count if tested else 0,
            "worst": tested.worst if tested else [],
            "gates": drawn.get("gates"),
            "config": page.config_table(run.config),
            "environment": page.facts(environment),
            "repeat": repeat,
            "digest": result.params_sha256 if result else "",
        },
        draw=functools.partial(_figures, run),
    )


def _figures(run: _Run, inches: float = WIDTH) -> dict[str, Drawing]:
    """The figures of the run by name; the page sets its confusion matrix as a table."""
    found = curves.draw(run.path, inches)
    if run.tested:
        confusion = run.tested.evaluation.confusion
        found["gates"] = _gates(run.tested, run.config.model.layers, inches)
        if inches != WIDTH and len(confusion) <= _MOST_CLASSES:
            found["confusion"] = matrix = Drawing(inches=inches)
            names = run.tested.evaluation.class_names
            figures.confusion_matrix(confusion, matrix, "What is taken for what", names)
    return found


def test(classifier: Classifier, data_dir: str, dataset: Dataset | None) -> Tested:
    """What a network does on the test part of the data that it was trained on.

    Raises `DataError` where the data is not at hand and `RunError` where it is other data.
    """
    part = classifier.load_split("test", data_dir, dataset)
    _require_fit(classifier, part)
    found = evaluate.judge(classifier, "test", part.labels, classifier.logits(part.images))
    losses = stats.cross_entropies(found.logits, part.labels)
    worst = np.argsort(-losses, kind="stable")[:WORST]
    layers, units = classifier.config.model.layers, classifier.config.model.hidden_size
    each = classifier.shape[0] * layers * units * _BYTES_PER_UNIT
    watched = min(WATCHED, len(part.labels), max(1, _WATCH_BYTES // each))
    probabilities, activations = classifier.watch(
        part.images[np.concatenate([worst, np.arange(watched)])]
    )
    gates = {"input i": activations[-1].i, "forget f": activations[-1].f,
             "output o": activations[-1].o}  # fmt: skip
    return Tested(
        evaluation=found,
        worst=[
            Strip(
                int(index),
                part.images[index],
                int(part.labels[index]),
                of_image,
                classifier.class_names,
                classifier.channels,
            )
            for index, of_image in zip(
                worst, np.asarray(probabilities).swapaxes(0, 1), strict=False
            )
        ],
        gates={
            name: np.asarray(gate)[:, len(worst) :].mean(axis=(1, 2), dtype=np.float64)
            for name, gate in gates.items()
        },
        watched=watched,
    )


def _require_fit(classifier: Classifier, part: Split) -> None:
    """Raises `RunError` where a run says other things of its data than the data does."""
    if part.images.shape[1:] != classifier.shape or part.labels.max() >= classifier.classes:
        raise RunError(
            f"{classifier.run_dir} claims {classifier.classes} classes and images of "
            f"{classifier.shape}, which its data does not have"
        )


def _verdict(run: _Run) -> str:
    """The main thing, in one sentence."""
    found, result = "", run.result
    if run.tested:
        tested = run.tested.evaluation
        found = (
            f"{tested.right:,} of {tested.count:,} test images right, "
            f"{percent(tested.accuracy, 2)} ({page.interval(tested.interval)} for this network on "
            "other images); "
            f"{_about_mistakes(run.tested)}."
        )
        if result and run.which != "last":
            return f"As it was at step {tested.step:,} of {result.steps:,}: {found}"
    if result:
        data = configs.data_name(result.dataset, run.config.data.dir)
        return found or (
            f"{percent(result.test_accuracy, 2)} of the test images of {data} right, by its own "
            "account; its mistakes cannot be shown here."
        )
    state, step = runs.unfinished(run.path)
    facts = checkpoint.newest_facts(run.path / "checkpoints")
    steps = facts.steps if facts else None
    length = f" of {steps:,}" if steps else ""
    began = {
        "diverged": f"Diverged at step {step:,}{length}",
        "running": "Still running",
        "stopped": "Stopped before its end",
    }[state]
    if run.classifier is None:
        return f"{began}; there is no saved network that could be judged."
    began += f"; saved at step {run.classifier.step:,}{length}"
    if state == "stopped" and run.classifier.step == steps:  # As a sweep keeps them.
        began = f"Trained for all of its {count(run.classifier.step, 'step')}"
    return f"{began}: {found}" if found else f"{began}."


def _about_mistakes(tested: Tested) -> str:
    mistakes = tested.mistakes()
    wrong = tested.evaluation.count - tested.evaluation.right
    if not mistakes:
        return "no mistakes"
    true, taken, times = mistakes[0]
    names = tested.evaluation.names
    if wrong == 1:
        return f"its one mistake takes {names[true]} for {names[taken]}"
    often = "once" if times == 1 else "twice" if times == 2 else f"{times} times"
    frequent = f"the most frequent takes {names[true]} for {names[taken]}, {often}"
    return f"of its {wrong:,} mistakes {frequent}"


def _key_figures(run: _Run) -> list[tuple[str, str, str]]:
    """The figures at the top: name, value, and a word on it."""
    found, result, model = [], run.result, run.config.model
    if run.tested:
        tested = run.tested.evaluation
        at = "" if run.which == "last" else f" at step {tested.step:,}"
        found = [
            (
                "Test accuracy",
                percent(tested.accuracy, 2),
                f"{page.interval(tested.interval)}, {THIS_NETWORK}",
            ),
            ("Test loss", f"{tested.loss:.4f}", f"mean cross-entropy{at}"),
        ]
    elif result:
        found = [
            ("Test accuracy", percent(result.test_accuracy, 2), "by its own account"),
            ("Test loss", f"{result.test_loss:.4f}", "mean cross-entropy"),
        ]
    network = f"{count(model.layers, 'layer')} of {count(model.hidden_size, 'unit')}"
    if result:
        epochs = f"{result.epochs:.3g}"
        data = configs.data_name(result.dataset, run.config.data.dir)
        found += [
            ("Trained on", f"{result.examples:,}", f"examples, {epochs} "
             f"epoch{'s' * (epochs != '1')} of {data}"),
            ("Training time", page.duration(result.train_s),
             f"and {page.duration(result.compile_s)} of compiling"),
            ("Throughput", f"{result.examples_per_s:,.0f}", "examples/s"),
            ("Parameters", f"{result.params:,}", network),
        ]  # fmt: skip
    elif run.classifier:
        found.append(("Last saved", f"{run.classifier.step:,}", "steps"))
        found.append(("Network", str(model.hidden_size), network))
    return found


def _matrix(evaluation: Evaluation) -> dict[str, Any] | None:
    """The confusion matrix as the template sets it; None of more classes than one can look at."""
    confusion = evaluation.confusion
    if len(confusion) > _MOST_CLASSES:
        return None
    totals = confusion.sum(axis=1)
    shares = confusion / np.maximum(totals, 1)[:, None]
    np.fill_diagonal(shares, 0)
    worst = float(shares.max())
    # Percent of the colour: the largest error is not so dark that it hides its number.
    strengths = np.rint(70 * shares / (worst or 1)).astype(int)
    return {
        "rows": [
            {
                "label": evaluation.names[label],
                "cells": [
                    {"count": int(times), "right": taken == label, "strength": strength}
                    for taken, (times, strength) in enumerate(zip(row, strong, strict=True))
                ],
                "accuracy": percent(row[label] / total, 1) if total else "none",
            }
            for label, (row, strong, total) in enumerate(
                zip(confusion, strengths, totals, strict=True)
            )
        ],
        "worst": percent(worst, 2),
    }


def _mistakes(tested: Tested) -> list[str]:
    """The most frequent mistakes in words."""
    totals, names = tested.evaluation.confusion.sum(axis=1), tested.evaluation.names
    return [
        f"{names[true]} taken for {names[taken]}: {times:,} of {totals[true]:,}"
        for true, taken, times in tested.mistakes()[:8]
    ]


def _gates(tested: Tested, layers: int, inches: float) -> Drawing:
    which = f"of the last of {layers} layers" if layers > 1 else "of the layer"
    caption = (
        f"mean over the units {which} and the first {tested.watched:,} test images; 0 closed, "
        "1 open"
    )
    drawing = Drawing(inches=inches)
    figures.gate_activity(tested.gates, drawing, "Gates, row by row", caption)
    return drawing
