"""What a sweep says at its end: summary, table, figures."""

import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from rowrnn import config as configs
from rowrnn import figures, files
from rowrnn.config import Config
from rowrnn.errors import ConfigError
from rowrnn.figures import Target
from rowrnn.lab import evaluate, stats
from rowrnn.lab.classifier import Classifier, load
from rowrnn.lab.over_images import ANOTHER_SEED, BOTH, Grouped, grouped, interval_over_images
from rowrnn.lab.shown import Shown, percent
from rowrnn.lab.stats import Interval, Summary, VarianceParts
from rowrnn.store import ledger, rundir
from rowrnn.store.ledger import Record
from rowrnn.store.members import point_of, short
from rowrnn.store.rundir import RunDir

# The notebook of 2015 printed this, 241 right of the first 256 test images.
_NOTEBOOK = ("the notebook of 2015, on 256 images", 0.941406)

_CURVES = {"train_loss": "training loss", "validation_accuracy": "validation accuracy"}

_COLUMNS = ("status", "steps", "train_loss", "validation_accuracy", "test_accuracy",
            "first256_accuracy", "params_sha256", "wall_s")  # fmt: skip


@dataclass(frozen=True, repr=False)
class SweepResult(Shown):
    """The members of a sweep and what they say together.

    Arrays have an entry for each member, in the order of `members`; one that has diverged has NaN.

    Attributes:
        run_dir: where the sweep is kept.
        members: the records.
        summary: the figures of ``results.json``; `statistics` has those of each point.
        test_size: images in the test part, by point of the grid.
        groups: an integer for each image of the test part, [N]; None where none were given.
    """

    run_dir: Path
    members: list[Record]
    summary: dict[str, Any]
    test_size: dict[str, int]
    groups: np.ndarray | None = None

    def _facts(self) -> dict[str, Any]:
        found, names = summarize(self.members), ("members", "completed")
        several = {"points": len(by_point(self.members)), "selected": self.selected}
        if several["points"] == 1:
            names, several = (*names, "mean", "interval", "sd", "min", "max"), {}
        return {"run_dir": str(self.run_dir)} | {name: found[name] for name in names} | several

    @property
    def seeds(self) -> np.ndarray:
        """Seed of each member, [members]."""
        return np.array([record.seed for record in self.members])

    @property
    def accuracy(self) -> np.ndarray:
        """Test accuracy of each member, [members]."""
        return _column(self.members, "test_accuracy")

    @property
    def failed(self) -> list[Record]:
        """The members that have diverged."""
        return [record for record in self.members if record.status == ledger.DIVERGED]

    @property
    def curves(self) -> dict[str, tuple[list[int], np.ndarray]]:
        """By figure, such as ``train_loss``: steps [K] and values [members, K]."""
        names = dict.fromkeys(name for record in self.members for name in record.curve)
        return {name: _curve(self.members, name) for name in names}

    @property
    def table(self) -> list[dict[str, Any]]:
        """A row for each member, as in ``results.csv``; only of the notebook's with its figure."""
        rows = [_row(record) for record in self.members]
        if all(row["first256_accuracy"] is None for row in rows):
            for row in rows:
                del row["first256_accuracy"]
        return rows

    @property
    def points(self) -> list[dict[str, Any]]:
        """A row for each point of the grid, as in ``points.csv``; None where a figure is not known.

        `low` and `high` are the ends of the interval over seeds, those of `images_` over images
        too.
        """
        rows = []
        for point, records in by_point(self.members).items():
            found = summarize(records, self.test_size.get(point, 0))
            (low, high), over = found["interval"] or (None, None), self.over_images.get(point)
            images_low, images_high = over or (None, None)
            validation = self.validation[point].mean if point in self.validation else None
            rows.append(
                {
                    **records[0].varied,
                    "seeds": found["completed"],
                    "failed": found["failed"],
                    "validation_mean": validation,
                    **{name: found[name] for name in ("mean", "sd", "median", "iqm")},
                    "low": low,
                    "high": high,
                    "min": found["min"],
                    "max": found["max"],
                    "images_low": images_low,
                    "images_high": images_high,
                }
            )
        return rows

    def to_dataframe(self, *, points: bool = False) -> Any:
        """The members, or the points, as a table of pandas, or else of pyarrow.

        Raises `ConfigError` where neither is installed.
        """
        rows = self.points if points else self.table
        try:
            import pandas as pd  # pyright: ignore

            return pd.DataFrame(rows)
        except ImportError:
            pass
        try:
            import pyarrow as pa  # pyright: ignore

            return pa.Table.from_pylist(rows)
        except ImportError as error:
            raise ConfigError(
                "to_dataframe: neither pandas nor pyarrow is installed; pip install "
                "'rowrnn[dataframe]', or read results.csv and points.csv"
            ) from error

    @cached_property
    def statistics(self) -> dict[str, Summary]:
        """Of the test accuracy, by point of the grid (one, named "", without a grid)."""
        return {
            point: _summary(_completed(records), self.test_size.get(point, 0))
            for point, records in by_point(self.members).items()
            if len(_completed(records))
        }

    @cached_property
    def validation(self) -> dict[str, Summary]:
        """Of the validation accuracy, by point; empty where a member that finished has none."""
        found = {
            point: _finite(_column(records, "validation_accuracy"))
            for point, records in by_point(self.members).items()
            if len(_completed(records))
        }
        finished = len(self.members) - len(self.failed)
        if sum(map(len, found.values())) < finished:
            return {}
        return {
            point: stats.summarize(values, within=stats.SHARE) for point, values in found.items()
        }

    @property
    def selected(self) -> str | None:
        """The point of a grid with the highest mean validation accuracy.

        None without a grid or without a validation part: on test images nothing may be selected.
        """
        means = {point: summary.mean for point, summary in self.validation.items()}
        return max(means, key=means.__getitem__) if len(means) > 1 else None

    @cached_property
    def variance(self) -> dict[str, VarianceParts]:
        """Of the test accuracy: the parts of seeds and of the finite test set, by point."""
        return {point: stats.variance_parts(correct) for point, correct in self._correct()}

    @cached_property
    def over_images(self) -> dict[str, Interval]:
        """95 % interval of the accuracy of another seed on other images, by point."""
        return {point: interval_over_images(correct) for point, correct in self._correct()}

    @cached_property
    def grouped(self) -> dict[str, Grouped]:
        """What groups of the test images say, by point; empty where none were given."""
        if self.groups is None:
            return {}
        return {point: grouped(correct, self.groups) for point, correct in self._correct()}

    def images_of(self, point: str) -> dict[str, Any]:
        """What other images would give at a point, and its groups of images, as JSON takes it."""
        found = {"interval_over_images": self.over_images.get(point)}
        return found | (self.grouped[point].summary() if point in self.grouped else {})

    def _correct(self) -> Iterator[tuple[str, np.ndarray]]:
        """Each point of which several members have an accuracy, and who answered what, [S, N]."""
        for point, records in by_point(self.members).items():
            if len(_completed(records)) > 1 and self.test_size.get(point, 0) > 1:
                yield point, _correct(records, self.test_size[point])

    @cached_property
    def states(self) -> dict[str, Classifier]:
        """The networks that were kept, by name of the member."""
        # A sweep that went on with another config may still have states of the one before.
        trained = {record.key["config"] for record in self.members}
        return {
            path.name: load(path)
            for path in sorted((self.run_dir / "states").glob("*"))
            if rundir.is_marked(path) and configs.digest(rundir.read_config(path)) in trained
        }


def is_notebook(config: Config) -> bool:
    """Whether the members are those of the notebook of 2015, which published its accuracy."""
    return config.model.init == "notebook" and config.data.dataset == "mnist"


def by_point(records: Sequence[Record]) -> dict[str, list[Record]]:
    """The records of each point of the grid."""
    found: dict[str, list[Record]] = {}
    for record in records:
        found.setdefault(point_of(record.varied), []).append(record)
    return found


def summarize(records: Sequence[Record], test_images: int = 0) -> dict[str, Any]:
    """The figures of some members: how many, and the distribution of their test accuracy.

    `test_images` is the size of the test part, where it is known. `failure_rate` counts those that
    diverged and those that are far below the others. Over several points of a grid there is no
    distribution: its figures are None.
    """
    accuracies, points = _completed(records), by_point(records)
    if len(points) > 1:
        summary = None
        far_below = sum(
            summarize(of_point, test_images)["far_below"] for of_point in points.values()
        )
    else:
        summary = _summary(accuracies, test_images) if len(accuracies) else None
        far_below = summary.far_below if summary else 0
    failed = len(records) - len(accuracies)
    failing = failed + far_below
    counts = {
        "members": len(records),
        "completed": len(accuracies),
        "failed": failed,
        "far_below": far_below,
        "failure_rate": failing / len(records) if records else None,
        "failure_rate_interval": stats.wilson_interval(failing, len(records)) if records else None,
    }
    names = ("mean", "sd", "median", "iqm", "interval", "iqm_interval", "min", "max")
    if summary is None:
        return counts | dict.fromkeys(names)
    completed = [record for record in records if record.status == ledger.COMPLETED]
    return counts | {name: getattr(summary, name) for name in (*names, "method")} | {
        "min_seed": completed[summary.argmin].seed,
        "max_seed": completed[summary.argmax].seed,
    } | _first256(completed)  # fmt: skip


def _summary(accuracies: np.ndarray, test_images: int) -> Summary:
    resolution = 1 / test_images if test_images else 0.0
    return stats.summarize(accuracies, resolution=resolution, within=stats.SHARE)


def _first256(completed: Sequence[Record]) -> dict[str, float]:
    """The mean of the notebook's figure, where the members have it."""
    first = _finite(_column(completed, "first256_accuracy"))
    return {"first256_mean": float(first.mean())} if len(first) else {}


def write(run: RunDir, result: SweepResult, title: str, *, notebook: bool) -> None:
    """``results.json``, ``results.csv`` and the figures."""
    document = {"summary": result.summary, "members": result.table}
    run.write("results.json", json.dumps(document, indent=1, allow_nan=False))
    run.write("results.csv", _csv(result.table))
    run.write("points.csv", _csv(result.points))
    directory = run.path / "figures"
    with files.writing(directory):
        directory.mkdir(exist_ok=True)
        draw(result, title, lambda name: directory / f"{name}.png", notebook=notebook)


def _csv(rows: Sequence[dict[str, Any]]) -> str:
    text = io.StringIO()
    table = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    return text.getvalue()


def draw(
    result: SweepResult, title: str, target: Callable[[str], Target], *, notebook: bool
) -> None:
    """The figures of a sweep.

    Args:
        result: what came out; `summary` must hold what `summarize` gives.
        title: of all of them.
        target: where the figure of a name goes; it is asked for what there is alone.
        notebook: whether the members are those of the notebook of 2015, and stand beside it.
    """
    points = {
        point: records
        for point, records in by_point(result.members).items()
        if len(_completed(records))
    }
    if not points:
        return
    published = _NOTEBOOK if notebook else None
    draw_accuracy(result, f"{title}\n{_verdict(result)}", target("accuracy"), published)
    if len(result.grouped) == 1:
        (found,) = result.grouped.values()
        evaluate.draw_groups(found, target("groups"), title)
    if notebook:
        first = {
            point: _finite(_column(records, "first256_accuracy"))
            for point, records in points.items()
        }
        figures.distribution(
            {_label(point): values for point, values in first.items()},
            {_label(point): _summary(values, 256).interval for point, values in first.items()},
            target("first256"),
            f"{title}\nthe notebook's own figure: the first 256 test images",
            "accuracy on the first 256 test images",
            published,
        )
    finished = [record for records in points.values() for record in records]
    for name, by_point_ in curves(finished).items():
        labelled = {_label(point): curve for point, curve in by_point_.items()}
        figures.learning_curves(labelled, target(name), title, _CURVES[name])
    _draw_grid(result, title, target)


def curves(records: Sequence[Record]) -> dict[str, dict[str, tuple[Sequence[int], np.ndarray]]]:
    """Steps [K] and values [S, K] by name and point; nothing of what was not logged."""
    found: dict[str, dict[str, tuple[Sequence[int], np.ndarray]]] = {}
    for point, of_point in by_point(records).items():
        for name in _CURVES:
            if any(name in record.curve for record in of_point):
                curve = _curve(of_point, name)
                whole = figures.whole_windows(*curve) if name == "train_loss" else curve
                found.setdefault(name, {})[point] = whole
    return found


def draw_accuracy(
    result: SweepResult, title: str, target: Target, published: tuple[str, float] | None = None
) -> None:
    """The distribution of the test accuracy at each point; nothing where all have diverged."""
    statistics, points = result.statistics, by_point(result.members)
    if statistics:
        figures.distribution(
            {_label(point): _completed(points[point]) for point in statistics},
            {_label(point): summary.interval for point, summary in statistics.items()},
            target,
            title,
            "test accuracy",
            published,
        )


def _draw_grid(result: SweepResult, title: str, target: Callable[[str], Target]) -> None:
    names = list(result.members[0].varied)
    axes = {
        name: list(dict.fromkeys(record.varied[name] for record in result.members))
        for name in names
    }
    if not names or max(map(len, axes.values())) < 2:
        return
    shape = tuple(map(len, axes.values()))
    means, intervals = np.full(shape, np.nan), np.full((*shape, 2), np.nan)
    points = by_point(result.members)
    # Nothing may be selected on test images.
    label = "validation" if result.validation else "test"
    judged = result.validation or result.statistics
    for point, summary in judged.items():
        varied = points[point][0].varied
        place = tuple(axes[name].index(varied[name]) for name in names)
        means[place] = summary.mean
        if summary.interval is not None:
            intervals[place] = summary.interval
    named = {short(name): values for name, values in axes.items()}
    drawn = named, means, intervals
    about: dict[str, Any] = {
        "title": title,
        "value_label": f"mean {label} accuracy",
        "marks_best": bool(result.validation),
    }
    figures.grid(*drawn, target("grid"), **about)
    if figures.along(named) is not None:
        figures.grid(*drawn, target("grid_lines"), **about, lines=True)


def in_words(result: SweepResult) -> list[str]:
    """What the intervals over seeds say and do not say, a sentence each."""
    words = []
    if result.over_images:
        words.append(f"95 % interval: {ANOTHER_SEED} (Student's, for normal values)")
    if len(by_point(result.members)) > 1:
        words.append(about_selection(result))
    if len(by_point(result.members)) > 1 or not words:
        return words
    ((low, high),), (parts,) = result.over_images.values(), result.variance.values()
    words.append(f"Another seed, other images: {low:.4f} to {high:.4f}")
    for found in result.grouped.values():
        words += found.in_words("another seed")
    if parts.finite_share is not None and parts.finite_share_interval is not None:
        # Estimates beyond 1 are for whoever averages them.
        share, least, most = (
            min(1.0, x) for x in (parts.finite_share, *parts.finite_share_interval)
        )
        words.append(
            f"Of the variance over seeds, {percent(share)} is what a test part of this size would "
            f"show alone ({percent(least)} to {percent(most)}, if accuracies are normal)"
        )
    return words


def about_selection(result: SweepResult) -> str:
    """Which point of a grid is selected, or why none may be."""
    if not result.validation:
        return (
            "Without a validation part no setting may be selected: these are test images. Give "
            "--data.validation-size"
        )
    point = result.selected
    if point is None:
        return "A single setting has finished: there is nothing to select"
    validation, test = result.validation[point].mean, result.statistics[point].mean
    return (
        f"The highest mean validation accuracy, {validation:.4f}, has {point}: "
        f"test accuracy {test:.4f}"
    )


def _label(point: str) -> str:
    return point or "all seeds"


def _verdict(result: SweepResult) -> str:
    """The main figure in words."""
    failed = len(result.failed)
    if len(result.statistics) > 1:
        return about_selection(result)
    (one,) = result.statistics.values()
    text = f"mean {one.mean:.4f}"
    if one.interval is not None:
        low, high = one.interval
        text += f", sd {one.sd:.4f}, 95 % interval {low:.4f} to {high:.4f} ({ANOTHER_SEED})"
    if len(result.over_images) == 1:
        ((low, high),) = result.over_images.values()
        text += f", {low:.4f} to {high:.4f} ({BOTH})"
    return text + (f"; {failed} of {len(result.members)} failed" if failed else "")


def _row(record: Record) -> dict[str, Any]:
    figures_ = {name: getattr(record, name) for name in _COLUMNS}
    return {"seed": record.seed} | record.varied | figures_


def _column(records: Sequence[Record], name: str) -> np.ndarray:
    values = [getattr(record, name) for record in records]
    return np.array([np.nan if value is None else value for value in values], np.float64)


def _completed(records: Sequence[Record]) -> np.ndarray:
    """Test accuracies of the members that have not diverged."""
    return _finite(_column(records, "test_accuracy"))


def _finite(values: np.ndarray) -> np.ndarray:
    return values[np.isfinite(values)]


def _correct(records: Sequence[Record], count: int) -> np.ndarray:
    return np.array([ledger.unpack(r.correct, count) for r in records if r.correct is not None])


def _curve(records: Sequence[Record], name: str) -> tuple[list[int], np.ndarray]:
    """Steps [K] and values [members, K]; NaN where a member had none, as after it diverged."""
    steps = sorted({step for record in records for step, _ in record.curve.get(name, [])})
    index = {step: k for k, step in enumerate(steps)}
    values = np.full((len(records), len(steps)), np.nan)
    for row, record in zip(values, records, strict=True):
        for step, value in record.curve.get(name, []):
            row[index[step]] = value
    return steps, values


def estimate(records: Sequence[Record]) -> str:
    """What is known so far of the accuracy, in words, for the display."""
    accuracies = _completed(records)
    if len(by_point(records)) > 1:
        return ""
    if len(accuracies) < 2:
        return f"mean {accuracies[0]:.4f}" if len(accuracies) else ""
    low, high = stats.interval_of_mean(accuracies, within=stats.SHARE)
    return f"mean {accuracies.mean():.4f} ± {(high - low) / 2:.4f}"
