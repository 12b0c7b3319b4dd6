"""How good is a trained network: loss, accuracy with its interval, and where it errs.

`evaluate` says so of a run, `evaluate_rows` of a sweep: the accuracy after each row over the
members whose states were kept.
"""

import dataclasses
import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from jax.sharding import Mesh

from rowrnn import config as configs
from rowrnn import figures, files, parallel
from rowrnn.config import Config, DataConfig, ParallelConfig
from rowrnn.core import step
from rowrnn.data import Dataset, Split
from rowrnn.data.groups import read as read_groups
from rowrnn.errors import RunError, count
from rowrnn.figures import RowCurve
from rowrnn.jax_settings import pinned
from rowrnn.lab import stats
from rowrnn.lab.classifier import Classifier, load
from rowrnn.lab.over_images import Grouped, grouped
from rowrnn.lab.shown import Shown, percent
from rowrnn.store import members, rundir
from rowrnn.store.members import Member

SplitName = Literal["test", "validation", "train"]


@dataclass(frozen=True, repr=False)
class Evaluation(Shown):
    """Figures over one part of the data.

    Attributes:
        run_dir: the run.
        dataset: name of the data.
        step: updates done at the checkpoint.
        split: "test", "validation" or "train".
        count: how many images, N.
        accuracy: share classified correctly.
        interval: its 95 % Wilson interval, (low, high): of this network on other images.
        loss: mean cross-entropy.
        per_class: accuracy within each true class, [C]; NaN for a class that does not occur.
        confusion: how often a true class (row) was called what (column), int [C, C].
        labels: true classes, [N].
        logits: float32 [N, C].
        rows: accuracy after each row, [T]; None where it was not asked for.
        grouped: what groups of the images say; None where none were given.
        class_names: in the order of the labels; none where there are no other names than these.
        called: what people call the data: of their own files the name of the directory or file.
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
    grouped: Grouped | None = None
    class_names: tuple[str, ...] = ()
    called: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """A name for each class: its label as text where it has no other."""
        return self.class_names or tuple(map(str, range(len(self.confusion))))

    @property
    def right(self) -> int:
        """How many images were classified correctly."""
        return int(self.confusion.trace())

    def _facts(self) -> dict[str, Any]:
        names = ("run_dir", "step", "dataset", "split", "count", "accuracy", "interval", "loss")
        return {name: getattr(self, name) for name in names} | {"run_dir": str(self.run_dir)}

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
        if self.grouped is not None:
            summary |= self.grouped.summary()
        if self.class_names:
            summary["class_names"] = list(self.class_names)
        return summary if self.rows is None else summary | {"rows": self.rows.tolist()}


@pinned
def evaluate(
    run_dir: str | Path,
    *,
    which: str = "last",
    split: SplitName = "test",
    data_dir: str = "",
    devices: ParallelConfig | None = None,
    rows: bool = False,
    groups: str | Path | None = None,
    dataset: Dataset | None = None,
) -> Evaluation:
    """Evaluates a checkpoint of a run on a part of the data it was trained on.

    Args:
        run_dir: the run directory.
        which: "last", "best" (highest validation accuracy) or a step.
        split: which part of the data.
        data_dir: where the data lies now, where that is not what the run's config says.
        devices: which share the images, of this process or of several; as `train` takes them.
        rows: whether to give the accuracy after each row too.
        groups: a file with an integer for each image, such as its writer: NPY, CSV or
            QMNIST's labels. What the images of one group share then counts.
        dataset: the data of a run that was trained on arrays.

    Raises:
        RunError: no run, no intact checkpoint, or the data is not what it was trained on.
        DataError: the data or the groups are missing or damaged, or there is no such part.
        ConfigError: the devices are not there.
        JobError: the processes of a job do not find each other.
    """
    devices = _started(devices)
    parallel.require_same(run=str(run_dir), checkpoint=which, split=split)
    mesh = parallel.process_0_first(lambda: parallel.make_mesh(devices))
    classifier = load(run_dir, which)
    part = classifier.load_split(split, data_dir, dataset)
    of = None if groups is None else read_groups(groups, part.labels)
    logits = _logits(classifier, mesh, part.images)
    after_rows = _accuracy_after_rows(classifier, part) if rows else None
    found = judge(classifier, split, part.labels, logits, after_rows)
    if of is None:
        return found
    right = logits.argmax(axis=1) == part.labels
    return dataclasses.replace(found, grouped=grouped(right[None], of))


def judge(
    classifier: Classifier,
    split: str,
    labels: np.ndarray,
    logits: np.ndarray,
    rows: np.ndarray | None = None,
) -> Evaluation:
    """What logits [N, C] of a part of the data say, given its labels [N]."""
    confusion = np.zeros((classifier.classes, classifier.classes), np.int64)
    np.add.at(confusion, (labels, logits.argmax(axis=1)), 1)
    right = int(confusion.trace())
    with np.errstate(invalid="ignore"):
        per_class = confusion.diagonal() / confusion.sum(axis=1)
    return Evaluation(
        run_dir=classifier.run_dir,
        dataset=classifier.dataset,
        step=classifier.step,
        split=split,
        count=len(labels),
        accuracy=right / len(labels),
        interval=stats.wilson_interval(right, len(labels)),
        loss=float(stats.cross_entropies(logits, labels).mean()),
        per_class=per_class,
        confusion=confusion,
        labels=labels,
        logits=logits,
        rows=rows,
        class_names=classifier.class_names,
        called=_called(classifier),
    )


def _called(classifier: Classifier) -> str:
    return configs.data_name(classifier.dataset, classifier.config.data.dir)


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


def _accuracy_after_rows(classifier: Classifier, part: Split) -> np.ndarray:
    """Accuracy after each row, [T]."""
    return classifier.correct_after_rows(part.images, part.labels) / len(part.labels)


@dataclass(frozen=True)
class PointRows:
    """Accuracy after each row, of the members of one point of a sweep's grid.

    Attributes:
        point: the values of the grid in words; empty without a grid.
        dataset: name of the data, which a grid may vary.
        called: what people call it: files of one's own by their name.
        count: how many images, N.
        members: the names of the members whose states were kept, S of them.
        mean: the mean over the members, [T].
        interval: 95 % interval of that mean, [T, 2]: another seed, these images; None of a single
            member.
        accuracy: the accuracy of each member after each row, [S, T].
    """

    point: str
    dataset: str
    called: str
    count: int
    members: list[str]
    mean: np.ndarray
    interval: np.ndarray | None
    accuracy: np.ndarray


@dataclass(frozen=True)
class SweepRows:
    """Accuracy after each row over the members of a sweep whose states were kept.

    Attributes:
        run_dir: the sweep.
        split: "test", "validation" or "train".
        points: one for each point of the grid of which a member was kept.
    """

    run_dir: Path
    split: str
    points: list[PointRows]

    def summary(self) -> dict:
        """The figures as JSON takes them."""
        rows = [
            {name: value.tolist() if isinstance(value, np.ndarray) else value
             for name, value in vars(point).items() if name != "called"}
            for point in self.points
        ]  # fmt: skip
        return {"run_dir": str(self.run_dir), "split": self.split, "rows": rows}


@pinned
def evaluate_rows(
    run_dir: str | Path,
    *,
    which: str = "last",
    split: SplitName = "test",
    data_dir: str = "",
    devices: ParallelConfig | None = None,
    dataset: Dataset | None = None,
) -> SweepRows:
    """Accuracy after each row, of every member of a sweep whose state was kept.

    Args:
        run_dir: the directory of the sweep.
        which: checkpoint of each member: "last", "best" or a step.
        split: which part of the data.
        data_dir: where the data lies now, where that is not what the config says.
        devices: the devices of the job; where it has several processes, each does the same.
        dataset: the data of a sweep that was trained on arrays.

    Raises:
        RunError: no sweep, no state was kept, or the data is not what it was trained on.
        DataError: the data is missing or damaged, or has no such part.
    """
    path = files.as_path(run_dir, "run_dir")
    _started(devices)
    found: dict[tuple[str, str, str, int], dict[str, np.ndarray]] = {}
    splits: dict[tuple[DataConfig, str], Split] = {}
    for member in _kept(path):
        classifier = load(path / "states" / member.directory, which)
        # Read once, and not for each member; but a grid may vary the data itself.
        place = classifier.config.data, classifier.fingerprint
        part = splits.get(place) or classifier.load_split(split, data_dir, dataset)
        splits[place] = part
        point = member.point, classifier.dataset, _called(classifier), len(part.labels)
        found.setdefault(point, {})[member.name] = _accuracy_after_rows(classifier, part)
    return SweepRows(path, split, [_summarize(*point, each) for point, each in found.items()])


def _started(devices: ParallelConfig | None) -> ParallelConfig:
    """The devices of a job, once jax is started with them."""
    devices = ParallelConfig() if devices is None else devices
    configs.check(Config(parallel=devices))
    parallel.start(devices)
    return devices


def _kept(path: Path) -> list[Member]:
    """The members whose states a sweep has kept; raises `RunError` where there is none."""
    spec = members.read_sweep(path).spec(rundir.read_config(path))
    # They are looked up by member, since a directory's name need not tell the point of the grid.
    kept = [member for member in members.make_members(spec) if members.kept_state(path, member)]
    if not kept:
        raise RunError(
            f"{path} kept the state of no member, so there is nothing to evaluate; run it again "
            "with rowrnn sweep --keep all (in Python SweepSettings(keep='all'))"
        )
    return kept


def _summarize(
    point: str, dataset: str, called: str, count: int, of_each: dict[str, np.ndarray]
) -> PointRows:
    """Mean and interval over the members of a point, from the accuracies [T] of each."""
    accuracy = np.stack(list(of_each.values()))
    interval = None
    if len(accuracy) > 1:
        interval = np.array(
            [
                stats.interval_of_mean(values, resolution=1 / count, within=stats.SHARE)
                for values in accuracy.T
            ]
        )
    mean = accuracy.mean(axis=0)
    return PointRows(point, dataset, called, count, list(of_each), mean, interval, accuracy)


def save(found: Evaluation | SweepRows) -> tuple[Path, ...]:
    """Writes ``eval-<split>.json`` and the figures beside it into the directory.

    ``eval-<split>.png`` is the confusion matrix of a run, ``eval-<split>-rows.png`` the accuracy
    after each row and ``eval-<split>-groups.png`` that of each group, where these were asked for.
    Returns the paths; raises `RunError` where they cannot be written.
    """
    json_path = found.run_dir / f"eval-{found.split}.json"
    figure_path = json_path.with_suffix(".png")
    rows_path = json_path.with_name(f"{json_path.stem}-rows.png")
    with files.writing(f"{found.run_dir}: the evaluation"):
        files.write_whole(json_path, json.dumps(found.summary(), indent=2) + "\n")
        if isinstance(found, SweepRows):
            _draw_sweep(found, rows_path)
            return json_path, rows_path
        title = (
            f"{found.called}, {found.split}: {found.right:,} of {found.count:,} right "
            f"({percent(found.accuracy, 2)})"
        )
        figures.confusion_matrix(found.confusion, figure_path, title, found.class_names)
        paths = [json_path, figure_path]
        if found.rows is not None:
            _draw_run(found, found.rows, rows_path)
            paths.append(rows_path)
        if found.grouped is not None:
            paths.append(json_path.with_name(f"{json_path.stem}-groups.png"))
            draw_groups(found.grouped, paths[-1], title)
    return tuple(paths)


def draw_groups(found: Grouped, path: figures.Target, title: str) -> None:
    """Draws the accuracy of each group of images."""
    about = f"{title}\n{count(len(found.names), 'group')} of images"
    if found.design_effect is not None:
        about += f", design effect {found.design_effect:.2f}"
    figures.accuracy_by_group(found.counts, found.accuracy, found.spread, path, about)


def _draw_run(found: Evaluation, accuracy: np.ndarray, path: Path) -> None:
    """Draws the accuracy after each row, [T], of a run."""
    correct = np.rint(accuracy * found.count).astype(int)
    band = np.array([stats.wilson_interval(int(right), found.count) for right in correct])
    title = f"{found.called}, {found.split}: accuracy after each row, {count(found.count, 'image')}"
    caption = "band: 95 % interval of what another set of images would give this network"
    curves = {"": RowCurve(accuracy, band)}
    figures.accuracy_by_row(curves, path, title, caption, stats.settled_row(accuracy))


def _draw_sweep(found: SweepRows, path: Path) -> None:
    """Draws the accuracy after each row of the points of a sweep."""
    points = found.points
    seeds = sum(len(point.members) for point in points)
    names = ", ".join(dict.fromkeys(point.called for point in points))
    images = " or ".join(f"{count:,}" for count in dict.fromkeys(point.count for point in points))
    title = (
        f"{names}, {found.split}: accuracy after each row, {images} images, "
        f"{count(seeds, 'network')}"
    )
    known = any(point.interval is not None for point in points)
    about = "line: mean over seeds; band: its 95 % interval over seeds, for these images"
    caption = about if known else ""
    curves = {point.point: RowCurve(point.mean, point.interval) for point in points}
    figures.accuracy_by_row(curves, path, title, caption, stats.settled_row(points[0].mean))
