"""How good is a trained network: loss, accuracy with its interval, and where it errs."""

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import jax
import numpy as np
from jax.sharding import Mesh

from rowrnn import figures, files, parallel
from rowrnn.config import ParallelConfig
from rowrnn.core import step
from rowrnn.errors import RunError
from rowrnn.figures import RowCurve
from rowrnn.lab import stats
from rowrnn.lab.classifier import Classifier, load


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
        rows: accuracy after each row, [T]; None where it was not asked for.
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
    rows: np.ndarray | None = None

    def summary(self) -> dict:
        """The figures as JSON takes them, without the arrays over images."""
        per_class = [None if np.isnan(share) else float(share) for share in self.per_class]
        summary = {
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
        return summary if self.rows is None else summary | {"rows": self.rows.tolist()}


def evaluate(
    run_dir: str | Path,
    *,
    which: str = "last",
    split: Literal["test", "validation", "train"] = "test",
    data_dir: str = "",
    devices: ParallelConfig | None = None,
    rows: bool = False,
) -> Evaluation:
    """Evaluates a checkpoint of a run on a part of the data it was trained on.

    Args:
        run_dir: the run directory.
        which: "last", "best" (highest validation accuracy) or a step.
        split: which part of the data.
        data_dir: where the data lies now, where that is not what the run's config says.
        devices: which share the images, of this process or of several; as `train` takes them.
        rows: whether to give the accuracy after each row too.

    Raises:
        RunError: no run, no intact checkpoint, or the data is not what it was trained on.
        DataError: the data is missing or damaged, or has no such part.
        ConfigError: the devices are not there.
        JobError: the processes of a job do not find each other.
    """
    devices = devices or ParallelConfig()
    parallel.start(devices)
    parallel.require_same(run=str(run_dir), checkpoint=which, split=split)
    mesh = parallel.process_0_first(lambda: parallel.make_mesh(devices))
    classifier = load(run_dir, which)
    part = classifier.load_split(split, data_dir)
    labels = part.labels
    logits = _logits(classifier, mesh, part.images)
    after_rows = classifier.correct_after_rows(part.images, labels) if rows else None
    predicted = logits.argmax(axis=1)
    confusion = stats.confusion_matrix(labels, predicted, classifier.classes)
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
        loss=float(stats.cross_entropies(logits, labels).mean()),
        per_class=per_class,
        confusion=confusion,
        labels=labels,
        logits=logits,
        rows=None if after_rows is None else after_rows / len(labels),
    )


def save(evaluation: Evaluation) -> tuple[Path, ...]:
    """Writes ``eval-<split>.json`` and the confusion matrix as a PNG into the run directory.

    And where it has the accuracy after each row, that as ``eval-<split>-rows.png``. Returns the
    paths; raises `RunError` where they cannot be written.
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
        if evaluation.rows is None:
            return json_path, figure_path
        rows_path = json_path.with_name(f"eval-{evaluation.split}-rows.png")
        _draw_rows(evaluation, evaluation.rows, rows_path)
    except OSError as error:
        raise RunError(
            f"{evaluation.run_dir}: the evaluation was not written: {error.strerror}"
        ) from error
    return json_path, figure_path, rows_path


def _draw_rows(evaluation: Evaluation, accuracy: np.ndarray, path: Path) -> None:
    count = evaluation.count
    correct = np.rint(accuracy * count).astype(int)
    band = np.array([stats.wilson_interval(int(right), count) for right in correct])
    figures.accuracy_by_row(
        {"": RowCurve(accuracy, band)},
        path,
        f"{evaluation.dataset}, {evaluation.split}: accuracy after each row, {count:,} images",
        "band: 95 % interval of what another set of images would give this network",
        stats.settled_row(accuracy),
    )


def _logits(classifier: Classifier, mesh: Mesh, images: np.ndarray) -> np.ndarray:
    """Logits [N, C] of images [N, T, F], with each batch sharded over the devices."""
    config = classifier.config

    def logits(params, images):
        shard = functools.partial(parallel.shard_batches, mesh)
        return step.predict_logits(config, params, images, classifier.classes, shard)

    # A network is a stack of one.
    params = jax.tree.map(lambda leaf: np.asarray(leaf)[None], classifier.params)
    params = parallel.shard_members(mesh, params)
    images = parallel.replicate(mesh, images)
    with jax.default_matmul_precision(config.train.precision):
        compiled = parallel.compile_members(
            mesh, logits, (True, False), params, images, vmap=False, dtype=config.model.dtype
        )
    return parallel.fetch(mesh, compiled(params, images))[0]
