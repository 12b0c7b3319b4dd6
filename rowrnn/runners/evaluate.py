"""How good is a trained network: loss, accuracy with its interval, and where it errs."""

import dataclasses
import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import jax
import numpy as np
from jax.sharding import Mesh

from rowrnn import data, figures, files, parallel, stats, step
from rowrnn.classifier import Classifier, load
from rowrnn.config import ParallelConfig
from rowrnn.data import Split
from rowrnn.errors import DataError, RunError


@dataclass(frozen=True)
class Evaluation:
    """Figures over one part of the data.

    Attributes:
        run_dir: the run.
        dataset: name of the data.
        step: updates done at the checkpoint.
        split: "test", "validation" or "train".
        count: how many images, N.
        accuracy: share classified correctly.
        interval: its 95 % Wilson interval, (low, high).
        loss: mean cross-entropy.
        per_class: accuracy within each true class, [C]; NaN for a class that does not occur.
        confusion: how often a true class (row) was called what (column), int [C, C].
        labels: true classes, [N].
        logits: float32 [N, C].
    """

    run_dir: Path
    dataset: str
    step: int
    split: str
    count: int
    accuracy: float
    interval: tuple[float, float]
    loss: float
    per_class: np.ndarray
    confusion: np.ndarray
    labels: np.ndarray
    logits: np.ndarray

    def summary(self) -> dict:
        """The figures as JSON takes them, without the arrays over images."""
        per_class = [None if np.isnan(share) else float(share) for share in self.per_class]
        return {
            "run_dir": str(self.run_dir),
            "dataset": self.dataset,
            "step": self.step,
            "count": self.count,
            f"{self.split}_accuracy": self.accuracy,
            f"{self.split}_loss": self.loss,
            "interval": list(self.interval),
            "per_class": per_class,
            "confusion": self.confusion.tolist(),
        }


def evaluate(
    run_dir: str | Path,
    *,
    which: str = "last",
    split: Literal["test", "validation", "train"] = "test",
    data_dir: str = "",
    devices: ParallelConfig | None = None,
) -> Evaluation:
    """Evaluates a checkpoint of a run on a part of the data it was trained on.

    Args:
        run_dir: the run directory.
        which: "last", "best" (highest validation accuracy) or a step.
        split: which part of the data.
        data_dir: where the data lies now, where that is not what the run's config says.
        devices: which share the images, of this process or of several; as `train` takes them.

    Raises:
        RunError: no run, no intact checkpoint, or the data is not what it was trained on.
        DataError: the data is missing or damaged, or has no such part.
    """
    devices = devices or ParallelConfig()
    parallel.start(devices)
    with parallel.waiting_for_others():
        parallel.require_same(run=str(run_dir), checkpoint=which, split=split)
        mesh = parallel.make_mesh(devices)
        classifier = load(run_dir, which)
        images, labels = _split_of(classifier, split, data_dir)
        logits = _logits(classifier, mesh, images)
    predicted = logits.argmax(axis=1)
    confusion = np.zeros((classifier.classes, classifier.classes), np.int64)
    np.add.at(confusion, (labels, predicted), 1)
    correct, of_class = confusion.diagonal(), confusion.sum(axis=1)
    with np.errstate(invalid="ignore"):
        per_class = correct / of_class
    return Evaluation(
        run_dir=classifier.run_dir,
        dataset=classifier.dataset,
        step=classifier.step,
        split=split,
        count=len(labels),
        accuracy=float(correct.sum() / len(labels)),
        interval=stats.wilson_interval(int(correct.sum()), len(labels)),
        loss=_mean_cross_entropy(logits, labels),
        per_class=per_class,
        confusion=confusion,
        labels=labels,
        logits=logits,
    )


def save(evaluation: Evaluation) -> tuple[Path, Path]:
    """Writes ``eval-<split>.json`` and the confusion matrix as a PNG into the run directory.

    Returns the two paths; raises `RunError` where they cannot be written.
    """
    json_path = evaluation.run_dir / f"eval-{evaluation.split}.json"
    figure_path = json_path.with_suffix(".png")
    right = int(evaluation.confusion.trace())
    title = (
        f"{evaluation.dataset}, {evaluation.split}: {right:,} of {evaluation.count:,} right "
        f"({evaluation.accuracy:.2%})"
    )
    try:
        files.write_whole(json_path, json.dumps(evaluation.summary(), indent=2) + "\n")
        figures.confusion_matrix(evaluation.confusion, figure_path, title)
    except OSError as error:
        raise RunError(
            f"{evaluation.run_dir}: the evaluation was not written: {error.strerror}"
        ) from error
    return json_path, figure_path


def _split_of(classifier: Classifier, split: str, data_dir: str) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of a part, checked to be those the run knows."""
    config = classifier.config.data
    # Evaluating prepares nothing: a run that came from elsewhere may not say what is written where.
    config = dataclasses.replace(config, dir=data_dir or config.dir, manual_dir="")
    dataset = data.load(config)
    if dataset.fingerprint != classifier.fingerprint:
        raise RunError(
            f"{classifier.run_dir} was trained on {classifier.dataset} with fingerprint "
            f"{classifier.fingerprint[:12]}…, but the data found now has "
            f"{dataset.fingerprint[:12]}…; give the same data with --data.dir"
        )
    part: Split = getattr(dataset, split)
    if len(part.labels) == 0:
        raise DataError(
            f"{classifier.run_dir} was trained without a {split} part; evaluate it on test"
        )
    return part.images, part.labels


def _logits(classifier: Classifier, mesh: Mesh, images: np.ndarray) -> np.ndarray:
    """Logits [N, C] of images [N, T, F], with each batch divided over the devices."""
    config = classifier.config

    def logits(params, images):
        divide = functools.partial(parallel.divide_batches, mesh)
        return step.predict_logits(config, params, images, classifier.classes, divide)

    arguments = parallel.put_replicated(mesh, (classifier.params, images))
    with jax.default_matmul_precision(config.train.precision):
        compiled = parallel.compile_replicated(mesh, logits, *arguments, dtype=config.model.dtype)
    return parallel.fetch(mesh, compiled(*arguments))


def _mean_cross_entropy(logits: np.ndarray, labels: np.ndarray) -> float:
    """In float64, from logits [N, C] and labels [N]."""
    wide = logits.astype(np.float64)
    wide -= wide.max(axis=1, keepdims=True)
    at_label = np.take_along_axis(wide, labels[:, None], axis=1)[:, 0]
    return float((np.log(np.exp(wide).sum(axis=1)) - at_label).mean())
