"""What there is to show of a single run."""

import itertools
import math
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rowrnn import config as configs
from rowrnn import figures, files
from rowrnn.config import Config
from rowrnn.data import Split
from rowrnn.errors import RowRNNError, RunError
from rowrnn.figures import Drawing
from rowrnn.lab import stats
from rowrnn.lab.classifier import Classifier, load
from rowrnn.lab.train import TrainResult
from rowrnn.show.report import page
from rowrnn.show.report.page import Content, Figure
from rowrnn.show.report.strips import Strip
from rowrnn.store import checkpoint, logs, rundir

WORST, WATCHED = 24, 256

# Entries of a log that may have been made as long as its maker liked, and points of a curve.
_MOST_ENTRIES, _MOST_POINTS = 1_000_000, 1_500
# A matrix of more classes than this is a carpet; the list of mistakes tells more.
_MOST_CLASSES = 64
# Bytes that watching may take, of which each unit needs six arrays of float32 for each row.
_WATCH_BYTES, _BYTES_PER_UNIT = 2**28, 24


@dataclass(frozen=True)
class Tested:
    """What a checkpoint does on the test part.

    Attributes:
        step: updates done at the checkpoint.
        confusion: how often a true class (row) was called what (column), int [C, C].
        interval: 95 % Wilson interval of the accuracy.
        loss: mean cross-entropy.
        worst: the images whose true class got the lowest probability.
        gates: mean over the units of the last layer and over images, by gate, each [T].
        watched: over how many images that is.
        layers: how many there are.
    """

    step: int
    confusion: np.ndarray
    interval: tuple[float, float]
    loss: float
    worst: list[Strip]
    gates: dict[str, np.ndarray]
    watched: int
    layers: int

    @property
    def count(self) -> int:
        """Of the test images."""
        return int(self.confusion.sum())

    @property
    def right(self) -> int:
        """Of them classified correctly."""
        return int(self.confusion.trace())

    def mistakes(self) -> list[tuple[int, int, int]]:
        """What was taken for what, and how often, the most frequent first."""
        errors = self.confusion.copy()
        np.fill_diagonal(errors, 0)
        order = np.argsort(-errors, axis=None, kind="stable")
        pairs = zip(*np.unravel_index(order, errors.shape), strict=True)
        found = ((int(true), int(taken), int(errors[true, taken])) for true, taken in pairs)
        return list(itertools.takewhile(lambda mistake: mistake[2], found))


def read(path: Path, which: str, data_dir: str) -> Content:
    """All that can be shown of a run; raises `RunError` where there is none."""
    config = rundir.read_config(path)
    missing: list[str] = []
    result = _or_missing(missing, "The result", lambda: rundir.read_result(path, TrainResult))
    state, last = _state(path, result)
    # A checkpoint that was asked for by name must be there; without the last, the rest is shown.
    if which == "last":
        classifier = _or_missing(missing, "The network", lambda: load(path, which))
    else:
        classifier = load(path, which)
    tested = None
    if classifier is not None:
        tested = _or_missing(
            missing, "What it does on the test images", lambda: test(classifier, data_dir)
        )
    if result and tested and which == "last":
        _require_agreement(missing, result, tested)
    curves = _curves(path)
    if not curves:
        missing.append("Curves: nothing was logged yet.")
    environment = _or_missing(missing, "The environment", lambda: read_environment(path))
    steps = result.steps if result else _planned_steps(path)
    return Content(
        template="run.html",
        kind="run",
        title=path.resolve().name,
        verdict=_verdict(state, last, result, tested, classifier, steps, which),
        missing=missing,
        parts={
            "figures": _key_figures(config, result, tested, classifier, which),
            "curves": curves,
            "matrix": _matrix(tested) if tested else None,
            "mistakes": _mistakes(tested) if tested else [],
            "test_count": tested.count if tested else 0,
            "worst": tested.worst if tested else [],
            "gates": _gates(tested) if tested else None,
            "config": config_table(config),
            "environment": page.facts(environment or {}),
            "repeat": _repeat(path, result, environment or {}),
            "digest": result.params_sha256 if result else "",
        },
    )


def _or_missing(missing: list[str], what: str, find: Any) -> Any:
    """What there is, or None and a line on why it is not there."""
    try:
        return find()
    except RowRNNError as error:
        missing.append(f"{what}: {error}.")
        return None


def test(classifier: Classifier, data_dir: str) -> Tested:
    """What a network does on the test part of the data that it was trained on.

    Raises `DataError` where the data is not at hand and `RunError` where it is other data.
    """
    part = classifier.load_split("test", data_dir)
    _require_fit(classifier, part)
    logits = classifier.logits(part.images)
    losses = stats.cross_entropies(logits, part.labels)
    confusion = stats.confusion_matrix(part.labels, logits.argmax(axis=1), classifier.classes)
    worst = np.argsort(-losses, kind="stable")[:WORST]
    layers, units = classifier.config.model.layers, classifier.config.model.hidden_size
    each = classifier.shape[0] * layers * units * _BYTES_PER_UNIT
    watched = min(WATCHED, len(part.labels), max(1, _WATCH_BYTES // each))
    probabilities, activations = classifier.watch(
        part.images[np.concatenate([worst, np.arange(watched)])]
    )
    last = activations[-1]._asdict()
    return Tested(
        step=classifier.step,
        confusion=confusion,
        interval=stats.wilson_interval(int(confusion.trace()), len(part.labels)),
        loss=float(losses.mean()),
        worst=[
            Strip(
                int(index),
                part.images[index],
                int(part.labels[index]),
                np.asarray(probabilities[:, place]),
            )
            for place, index in enumerate(worst)
        ],
        gates={
            name: last[key][:, len(worst) :].mean(axis=(1, 2), dtype=np.float64)
            for name, key in (("input i", "i"), ("forget f", "f"), ("output o", "o"))
        },
        watched=watched,
        layers=layers,
    )


def _require_fit(classifier: Classifier, part: Split) -> None:
    """Raises `RunError` where a run says other things of its data than the data does."""
    if part.images.shape[1:] != classifier.shape or part.labels.max() >= classifier.classes:
        raise RunError(
            f"{classifier.run_dir} claims {classifier.classes} classes and images of "
            f"{classifier.shape}, which its data does not have"
        )


def _require_agreement(missing: list[str], result: TrainResult, tested: Tested) -> None:
    accuracy = tested.right / tested.count
    if not math.isclose(accuracy, result.test_accuracy, abs_tol=1e-6):
        missing.append(
            f"Agreement: result.json says {page.share(result.test_accuracy, 4)}, and the last "
            f"checkpoint gives {page.share(accuracy, 4)} here."
        )


def _state(path: Path, result: TrainResult | None) -> tuple[str, int]:
    """Whether a run is "done", "running", "diverged" or "stopped", and the last step logged."""
    last = logs.last(path) or {}
    state = "stopped"
    if result:
        state = "done"
    elif rundir.is_being_written(path):
        state = "running"
    elif "diverged" in last:
        state = "diverged"
    return state, last.get("step", 0)


def _verdict(
    state: str,
    last: int,
    result: TrainResult | None,
    tested: Tested | None,
    classifier: Classifier | None,
    steps: int | None,
    which: str,
) -> str:
    """The main thing, in one sentence."""
    found = ""
    if tested:
        low, high = tested.interval
        found = (
            f"{tested.right:,} of {tested.count:,} test images right, "
            f"{page.share(tested.right / tested.count)} (95 % interval {100 * low:.2f} to "
            f"{100 * high:.2f} %); {_about_mistakes(tested)}."
        )
    if result:
        if tested and which != "last":
            return f"As it was at step {tested.step:,} of {result.steps:,}: {found}"
        return found or (
            f"{page.share(result.test_accuracy)} of the test images of {result.dataset} right, by "
            "its own account; its mistakes cannot be shown here."
        )
    length = f" of {steps:,}" if steps else ""
    match state:
        case "diverged":
            began = f"Diverged at step {last:,}{length}"
        case "running":
            began = "Still running"
        case _:
            began = "Stopped before its end"
    if classifier is None:
        return f"{began}; there is no saved network that could be judged."
    began += f"; saved at step {classifier.step:,}{length}"
    if state == "stopped" and classifier.step == steps:  # As a sweep keeps them.
        began = f"Trained for all of its {steps:,} steps"
    return f"{began}: {found}" if found else f"{began}."


def _about_mistakes(tested: Tested) -> str:
    mistakes = tested.mistakes()
    wrong = tested.count - tested.right
    if not mistakes:
        return "no mistakes"
    true, taken, times = mistakes[0]
    if wrong == 1:
        return f"its one mistake takes {true} for {taken}"
    often = "once" if times == 1 else "twice" if times == 2 else f"{times} times"
    return f"of its {wrong:,} mistakes the most frequent takes {true} for {taken}, {often}"


def _key_figures(
    config: Config,
    result: TrainResult | None,
    tested: Tested | None,
    classifier: Classifier | None,
    which: str,
) -> list[tuple[str, str, str]]:
    """The figures at the top: name, value, and a word on it."""
    found = []
    if tested:
        low, high = tested.interval
        between = f"95 % interval {100 * low:.2f} to {100 * high:.2f} %"
        found.append(("Test accuracy", page.share(tested.right / tested.count), between))
        at = "" if which == "last" else f" at step {tested.step:,}"
        found.append(("Test loss", f"{tested.loss:.4f}", f"mean cross-entropy{at}"))
    elif result:
        found.append(("Test accuracy", page.share(result.test_accuracy), "by its own account"))
        found.append(("Test loss", f"{result.test_loss:.4f}", "mean cross-entropy"))
    if result:
        found += [
            ("Trained on", f"{result.examples:,}", f"examples, {result.epochs:.3g} epochs of "
             f"{result.dataset}"),
            ("Training time", page.duration(result.train_s),
             f"and {page.duration(result.compile_s)} of compiling"),
            ("Throughput", f"{result.examples_per_s:,.0f}", "examples/s"),
            ("Parameters", f"{result.params:,}", _network(config)),
        ]  # fmt: skip
    elif classifier:
        found.append(("Last saved", f"{classifier.step:,}", "steps"))
        found.append(("Network", str(config.model.hidden_size), _network(config)))
    return found


def _network(config: Config) -> str:
    layers = config.model.layers
    return f"{page.count(layers, 'layer')} of {page.count(config.model.hidden_size, 'unit')}"


def _curves(path: Path) -> list[Figure]:
    """Loss and accuracy on the way."""
    names = {
        "Loss": ("train_loss", "validation_loss"),
        "Accuracy": ("train_accuracy", "validation_accuracy"),
    }
    found: dict[str, tuple[list[int], list[float]]] = {}
    for entry in itertools.islice(logs.read(path), _MOST_ENTRIES):
        for name in itertools.chain(*names.values()):
            value = entry.get(name)
            if value is not None and 0 <= entry["step"] < 2**53 and _is_number(value):
                steps, values = found.setdefault(name, ([], []))
                steps.append(entry["step"])
                values.append(value)
    drawn = []
    for title, (train, validation) in names.items():
        curves = {}
        if train in found:
            steps, values = found[train]
            curves["training"] = _thinned(*figures.whole_windows(steps, np.array([values])))
        if validation in found:
            steps, values = found[validation]
            curves["validation"] = _thinned(steps, np.array([values]))
        if curves:
            drawing = Drawing()
            figures.learning_curves(curves, drawing, "", title.lower())
            # That it is one seed is said of a sweep.
            caption = drawing.caption.removeprefix("one seed").removeprefix("; ")
            drawn.append(Figure(drawing, f"{title} on the way", caption))
    return drawn


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e30


def _thinned(steps: Sequence[int], values: np.ndarray) -> tuple[list[int], np.ndarray]:
    """Steps [K] and values [1, K] of a curve, of a long one some points and the last."""
    apart = math.ceil(len(steps) / _MOST_POINTS)
    places = sorted({*range(0, len(steps), apart), len(steps) - 1})
    return [steps[place] for place in places], values[:, places]


def _matrix(tested: Tested) -> dict[str, Any] | None:
    """The confusion matrix as the template sets it; None of more classes than one can look at."""
    confusion = tested.confusion
    if len(confusion) > _MOST_CLASSES:
        return None
    totals = confusion.sum(axis=1)
    shares = confusion / np.maximum(totals, 1)[:, None]
    np.fill_diagonal(shares, 0)
    worst = float(shares.max())
    return {
        "rows": [
            {
                "label": label,
                "cells": [
                    {
                        "count": int(count),
                        "right": taken == label,
                        # Of the colour; the largest error is not so dark that it hides its number.
                        "strength": round(70 * shares[label, taken] / worst) if worst else 0,
                    }
                    for taken, count in enumerate(row)
                ],
                "accuracy": page.share(row[label] / totals[label], 1) if totals[label] else "none",
            }
            for label, row in enumerate(confusion)
        ],
        "worst": page.share(worst),
    }


def _mistakes(tested: Tested) -> list[str]:
    """The most frequent mistakes in words."""
    totals = tested.confusion.sum(axis=1)
    return [
        f"{true} taken for {taken}: {times:,} of {totals[true]:,}"
        for true, taken, times in tested.mistakes()[:8]
    ]


def _gates(tested: Tested) -> Figure:
    which = f"of the last of {tested.layers} layers" if tested.layers > 1 else "of the layer"
    caption = (
        f"mean over the units {which} and the first {tested.watched:,} test images; 0 closed, "
        "1 open"
    )
    drawing = Drawing()
    figures.gate_activity(tested.gates, drawing, "", caption)
    return Figure(drawing, "Gates, row by row", caption)


def config_table(config: Config) -> list[dict[str, Any]]:
    """All values by section; those that are not the defaults are marked."""
    changed = {name for name, _, _ in configs.differences(Config(), config)}
    sections: dict[str, list[dict[str, Any]]] = {}
    for name in configs.fields():
        section, key = name.split(".")
        value = getattr(getattr(config, section), key)
        sections.setdefault(section, []).append(
            {"name": key, "value": "unset" if value is None else str(value),
             "changed": name in changed}
        )  # fmt: skip
    return [{"name": name, "values": values} for name, values in sections.items()]


def read_environment(path: Path) -> dict[str, Any]:
    """``environment.json``; raises `RunError` where it is no object of JSON."""
    try:
        found = files.read_json(path / "environment.json")
        if not isinstance(found, dict):
            raise ValueError("it is no JSON object")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise RunError(f"{path / 'environment.json'} cannot be read: {reason}") from error
    return found


def _planned_steps(path: Path) -> int | None:
    """The length of a run that is not finished, as its newest checkpoint says it."""
    facts = checkpoint.newest_facts(path / "checkpoints")
    try:
        return facts.steps if facts else None
    except ValueError:
        return None


def _repeat(path: Path, result: TrainResult | None, environment: dict[str, Any]) -> list[str]:
    """The commands that repeat a run, or go on with it."""
    commit = str(environment.get("git_commit"))
    commands = []
    # What is shown here is typed into a shell.
    if re.fullmatch(r"[0-9a-f]{7,40}", commit):
        commands.append(f"git checkout {commit}")
    directory = shlex.quote(str(path))
    if result is None:
        commands.append(f"rowrnn train --resume {directory}")
    commands.append(f"rowrnn train {shlex.quote(str(path / 'config.toml'))} --run-dir AGAIN")
    return commands
