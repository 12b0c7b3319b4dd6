"""``rowrnn eval``."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import arg

from rowrnn import config as configs
from rowrnn.cli.terminal import (
    Checkpoint,
    Common,
    DataPlace,
    Flag,
    Run,
    console,
    marks,
    parse,
    plain,
    require_text,
    table,
    tell,
    tell_written,
)
from rowrnn.config import Config, ParallelConfig
from rowrnn.errors import ConfigError, count, cut
from rowrnn.jax_settings import require_jax
from rowrnn.lab.shown import show_trimmed

if TYPE_CHECKING:
    import numpy as np

    from rowrnn.lab.evaluate import Evaluation, SweepRows


@dataclass(frozen=True, kw_only=True)
class EvalArguments(Common):
    """Loss, accuracy with its 95 % interval, accuracy by class and the confusion matrix of a run.

    Writes eval-SPLIT.json and eval-SPLIT.png into the run directory. With --rows RUN may be a
    sweep: accuracy after each row, over the members whose states were kept.
    """

    run: Run
    checkpoint: Checkpoint = "last"
    split: Literal["test", "validation", "train"] = "test"
    """The part of the data."""
    rows: Flag = False
    """Accuracy after each row too, with a plot, eval-SPLIT-rows.png."""
    groups: Annotated[Path | None, arg(metavar="FILE")] = None
    """An integer an image, such as its writer (CSV, NPY, QMNIST's labels): accuracy by group."""
    data: DataPlace = field(default_factory=DataPlace)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)


def main(arguments: Sequence[str]) -> int:
    """Evaluates a run."""
    given = parse("eval", EvalArguments, arguments)
    require_text(given.run)
    configs.check(Config(parallel=given.parallel))

    require_jax()
    from rowrnn.lab import evaluate
    from rowrnn.store import rundir

    how: dict[str, Any] = {
        "which": given.checkpoint,
        "split": given.split,
        "data_dir": given.data.dir,
        "devices": given.parallel,
    }
    if given.rows and rundir.is_sweep(given.run):
        if given.groups:
            raise ConfigError(
                f"--groups {given.groups}: not with --rows of a sweep; "
                f"rowrnn sweep --resume {given.run} --groups FILE has them"
            )
        return _finish(given, evaluate.evaluate_rows(given.run, **how), _report_sweep)
    found = evaluate.evaluate(given.run, rows=given.rows, groups=given.groups, **how)
    return _finish(given, found, _report_evaluation)


def _finish(given: EvalArguments, found: Any, report: Callable[[Any], None]) -> int:
    """Keeps what was found and shows it, in one process of a job."""
    from rowrnn import parallel
    from rowrnn.lab import evaluate

    if parallel.is_process_0():
        paths = evaluate.save(found)
        report(found)
        for path in paths:
            tell_written(path)
        given.answer(found.summary())
    return 0


def _report_sweep(found: "SweepRows") -> None:
    from rowrnn.lab.over_images import ANOTHER_SEED

    for point in found.points:
        place = f"{plain(point.point)}: " if point.point else ""
        tell(
            f"{place}{found.split} accuracy of {count(len(point.members), 'network')} on "
            f"{count(point.count, 'image')} of {plain(point.called)}",
            sys.stdout,
        )
        print()
        _report_rows(point.mean, point.interval)
        if point.interval is not None:
            tell(f"The intervals say: {ANOTHER_SEED}", sys.stdout)
        print()


def _report_rows(accuracy: "np.ndarray", interval: "np.ndarray | None" = None) -> None:
    """A line for each row: accuracy [T], its interval [T, 2] and a bar; and one in words."""
    from rowrnn.lab import stats

    lines, bar = [], marks().bar
    for row, value in enumerate(accuracy):
        between = [] if interval is None else ["{:.4f} to {:.4f}".format(*interval[row])]
        lines.append([str(row + 1), f"{value:.4f}", *between, bar * round(30 * value)])
    headings = ["row", "accuracy", *(["95 % interval"] if interval is not None else [])]
    show_trimmed(console(), table(headings, lines, ""))
    tell(
        f"From row {stats.settled_row(accuracy)} of {len(accuracy)} on it stays within one point "
        "of its last value",
        sys.stdout,
    )


def _report_evaluation(evaluation: "Evaluation") -> None:
    from rowrnn.lab.over_images import THIS_NETWORK

    low, high = evaluation.interval
    print(
        f"{evaluation.split} accuracy {evaluation.accuracy:.4f}, "
        f"95 % interval {low:.4f} to {high:.4f}, loss {evaluation.loss:.4f}\n"
        f"{count(evaluation.count, 'image')} of {plain(evaluation.called)}, checkpoint of step "
        f"{evaluation.step}"
    )
    print(f"The interval says: {THIS_NETWORK}")
    for line in evaluation.grouped.in_words("this network") if evaluation.grouped else ():
        tell(line, sys.stdout)
    print()
    lines, names = [], [plain(cut(name)) for name in evaluation.names]
    for label, row in enumerate(evaluation.confusion):
        errors = row.copy()
        errors[label] = 0
        worst = int(errors.argmax())
        mistake = f"{names[worst]}  ({count(errors[worst], 'time')})" if errors[worst] else ""
        share = f"{evaluation.per_class[label]:.4f}" if row.sum() else "-"
        lines.append((names[label], f"{row.sum():,}", share, mistake))
    headings = ("class", "images", "accuracy")
    show_trimmed(console(), table(headings, lines, "most often taken for"))
    if absent := [names[label] for label, row in enumerate(evaluation.confusion) if not row.sum()]:
        tell(f"No {evaluation.split} image is of class {', '.join(absent)}", sys.stdout)
    print()
    if evaluation.rows is not None:
        _report_rows(evaluation.rows)
        print()
