"""After how many rows does it know? Accuracy after each row, over the members of a sweep."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from rowrnn import figures, files, parallel
from rowrnn.config import DataConfig, ParallelConfig
from rowrnn.data import Split
from rowrnn.errors import RunError
from rowrnn.figures import RowCurve
from rowrnn.lab import stats
from rowrnn.lab.classifier import load
from rowrnn.store import members, rundir
from rowrnn.store.members import Member


@dataclass(frozen=True)
class PointRows:
    """Accuracy after each row, of the members of one point of a sweep's grid.

    Attributes:
        point: the values of the grid in words; empty without a grid.
        dataset: name of the data, which a grid may vary.
        count: how many images, N.
        members: whose states were kept, by name, S of them.
        accuracy: of each after each row, [S, T].
        mean: over the members, [T].
        interval: 95 % interval of that mean, [T, 2]; None of a single member.
    """

    point: str
    dataset: str
    count: int
    members: list[str]
    accuracy: np.ndarray
    mean: np.ndarray
    interval: np.ndarray | None


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
        return {
            "run_dir": str(self.run_dir),
            "split": self.split,
            "rows": [
                {
                    "point": point.point,
                    "dataset": point.dataset,
                    "count": point.count,
                    "members": point.members,
                    "mean": point.mean.tolist(),
                    "interval": None if point.interval is None else point.interval.tolist(),
                    "accuracy": point.accuracy.tolist(),
                }
                for point in self.points
            ],
        }


def evaluate_rows(
    run_dir: str | Path,
    *,
    which: str = "last",
    split: Literal["test", "validation", "train"] = "test",
    data_dir: str = "",
    devices: ParallelConfig | None = None,
) -> SweepRows:
    """Accuracy after each row, of every member of a sweep whose state was kept.

    Args:
        run_dir: the directory of the sweep.
        which: checkpoint of each member: "last", "best" or a step.
        split: which part of the data.
        data_dir: where the data lies now, where that is not what the config says.
        devices: of the job; where it has several processes, each does the same.

    Raises:
        RunError: no sweep, no state was kept, or the data is not what it was trained on.
        DataError: the data is missing or damaged, or has no such part.
    """
    path, devices = Path(run_dir), devices or ParallelConfig()
    parallel.start(devices)
    found: dict[tuple[str, str, int], list[tuple[Member, np.ndarray]]] = {}
    splits: dict[tuple[DataConfig, str], Split] = {}
    for member in _kept(path):
        classifier = load(path / "states" / member.directory, which)
        # Read once, and not for each member; but a grid may vary the data itself.
        place = classifier.config.data, classifier.fingerprint
        part = splits.get(place) or classifier.load_split(split, data_dir)
        splits[place] = part
        count = len(part.labels)
        correct = classifier.correct_after_rows(part.images, part.labels)
        point = member.point, classifier.dataset, count
        found.setdefault(point, []).append((member, correct / count))
    points = [_summarize(*point, group) for point, group in found.items()]
    return SweepRows(path, split, points)


def save(rows: SweepRows) -> tuple[Path, Path]:
    """Writes ``eval-<split>.json`` and ``eval-<split>-rows.png`` into the directory of the sweep.

    Returns the two paths; raises `RunError` where they cannot be written.
    """
    json_path = rows.run_dir / f"eval-{rows.split}.json"
    figure_path = rows.run_dir / f"eval-{rows.split}-rows.png"
    seeds = sum(len(point.members) for point in rows.points)
    names = ", ".join(dict.fromkeys(point.dataset for point in rows.points))
    images = " or ".join(f"{count:,}" for count in dict.fromkeys(p.count for p in rows.points))
    title = (
        f"{names}, {rows.split}: accuracy after each row, {images} images, "
        f"{seeds:,} network{'s' if seeds > 1 else ''}"
    )
    curves = {point.point: RowCurve(point.mean, point.interval) for point in rows.points}
    known = any(point.interval is not None for point in rows.points)
    caption = "line: mean over seeds; band: 95 % interval of that mean" if known else ""
    try:
        files.write_whole(json_path, json.dumps(rows.summary(), indent=2) + "\n")
        figures.accuracy_by_row(
            curves, figure_path, title, caption, stats.settled_row(rows.points[0].mean)
        )
    except OSError as error:
        raise RunError(
            f"{rows.run_dir}: the evaluation was not written: {error.strerror}"
        ) from error
    return json_path, figure_path


def _kept(path: Path) -> list[Member]:
    """The members whose states a sweep has kept; raises `RunError` where there is none."""
    spec = members.read_sweep(path).spec(rundir.read_config(path))
    # By the members and not by what lies there: a directory's name need not tell its point.
    kept = [member for member in members.make_members(spec) if members.kept_state(path, member)]
    if not kept:
        raise RunError(
            f"{path} kept the state of no member, so there is nothing to evaluate; run it again "
            "with rowrnn sweep --keep all"
        )
    return kept


def _summarize(
    point: str, dataset: str, count: int, group: list[tuple[Member, np.ndarray]]
) -> PointRows:
    """Mean and interval over the members of a point, each with its accuracies [T]."""
    accuracy = np.stack([values for _, values in group])
    interval = None
    if len(group) > 1:
        interval = np.array([stats.interval_of_mean(values) for values in accuracy.T])
    names = [member.name for member, _ in group]
    return PointRows(point, dataset, count, names, accuracy, accuracy.mean(axis=0), interval)
