"""``rowrnn eval``."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, arg

from rowrnn import config as configs
from rowrnn.cli.terminal import (
    Common,
    DataPlace,
    Flag,
    can_print,
    console,
    parse,
    plain,
    require_text,
)
from rowrnn.config import Config, ParallelConfig

if TYPE_CHECKING:
    import numpy as np

    from rowrnn.lab.evaluate import Evaluation, SweepRows


@dataclass(frozen=True, kw_only=True)
class EvalArguments(Common):
    """Loss, accuracy with its 95 % interval, accuracy by class and the confusion matrix of a run.

    Writes eval-SPLIT.json and eval-SPLIT.png into the run directory. With --rows RUN may be a
    sweep: accuracy after each row, over the members whose states were kept.
    """

    run: Annotated[Positional[Path], arg(metavar="RUN")]
    """The run directory."""
    checkpoint: str = "last"
    """last, best (on validation) or a step."""
    split: Literal["test", "validation", "train"] = "test"
    """The part of the data."""
    rows: Flag = False
    """Accuracy after each row too, with a plot, eval-SPLIT-rows.png."""
    data: DataPlace = field(default_factory=DataPlace)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)


def main(arguments: Sequence[str]) -> int:
    """Evaluates a run."""
    given = parse("eval", EvalArguments, arguments)
    require_text(given.run)
    configs.check(Config(parallel=given.parallel))

    from rowrnn.store import rundir

    if given.rows and rundir.is_sweep(given.run):
        return _evaluate_sweep(given)

    from rowrnn import parallel
    from rowrnn.lab import evaluate

    evaluation = evaluate.evaluate(
        given.run,
        which=given.checkpoint,
        split=given.split,
        data_dir=given.data.dir,
        devices=given.parallel,
        rows=given.rows,
    )
    if not parallel.is_process_0():
        return 0
    paths = evaluate.save(evaluation)
    _report_evaluation(evaluation, paths)
    if given.json:
        print(json.dumps(evaluation.summary()))
    return 0


def _evaluate_sweep(given: EvalArguments) -> int:
    """Accuracy after each row over the members of a sweep."""
    from rowrnn import parallel
    from rowrnn.lab import evaluate

    found = evaluate.evaluate_rows(
        given.run,
        which=given.checkpoint,
        split=given.split,
        data_dir=given.data.dir,
        devices=given.parallel,
    )
    if not parallel.is_process_0():
        return 0
    paths = evaluate.save(found)
    _report_sweep(found)
    for path in paths:
        print(f"Written: {plain(str(path))}")
    if given.json:
        print(json.dumps(found.summary()))
    return 0


def _report_sweep(found: "SweepRows") -> None:
    for point in found.points:
        count = len(point.members)
        place = f"{plain(point.point)}: " if point.point else ""
        print(
            f"{place}{found.split} accuracy of {count:,} network{'s' if count > 1 else ''} on "
            f"{point.count:,} images of {plain(point.dataset)}"
        )
        _report_rows(point.mean, point.interval)
        print()


def _report_rows(accuracy: "np.ndarray", interval: "np.ndarray | None" = None) -> None:
    """A line for each row: accuracy [T], its interval [T, 2] and a bar; and one in words."""
    from rich.table import Table

    from rowrnn.lab import stats

    block = "■" if can_print("■") else "="
    table = Table(box=None)
    for heading in ("row", "accuracy", *(["95 % interval"] if interval is not None else [])):
        table.add_column(heading, justify="right")
    table.add_column("")
    for row, value in enumerate(accuracy):
        between = [] if interval is None else ["{:.4f} to {:.4f}".format(*interval[row])]
        table.add_row(str(row + 1), f"{value:.4f}", *between, block * round(30 * value))
    console().print(table)
    print(
        f"From row {stats.settled_row(accuracy)} of {len(accuracy)} on it stays within one point "
        "of its last value"
    )


def _report_evaluation(evaluation: "Evaluation", paths: Sequence[Path]) -> None:
    from rich.table import Table

    low, high = evaluation.interval
    print(
        f"{evaluation.split} accuracy {evaluation.accuracy:.4f}, "
        f"95 % interval {low:.4f} to {high:.4f}, loss {evaluation.loss:.4f}\n"
        f"{evaluation.count:,} images of {plain(evaluation.dataset)}, checkpoint of step "
        f"{evaluation.step}\n"
    )
    table = Table(box=None)
    for heading in ("class", "images", "accuracy"):
        table.add_column(heading, justify="right")
    table.add_column("most often taken for")
    for label, row in enumerate(evaluation.confusion):
        errors = row.copy()
        errors[label] = 0
        worst = int(errors.argmax())
        mistake = f"{worst}  ({errors[worst]} times)" if errors[worst] else ""
        table.add_row(str(label), f"{row.sum():,}", f"{evaluation.per_class[label]:.4f}", mistake)
    console().print(table)
    if evaluation.rows is not None:
        print()
        _report_rows(evaluation.rows)
        print()
    for path in paths:
        print(f"Written: {plain(str(path))}")
