"""``rowrnn eval``."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, arg

from rowrnn import config as configs
from rowrnn.cli.terminal import Common, console, parse, plain, require_text
from rowrnn.config import Config, ParallelConfig

if TYPE_CHECKING:
    from rowrnn.runners.evaluate import Evaluation


@dataclass(frozen=True)
class _DataPlace:
    dir: str = ""
    """Where the data lies now, where that is not what the config of the run says."""


@dataclass(frozen=True, kw_only=True)
class EvalArguments(Common):
    """Loss, accuracy with its 95 % interval, accuracy by class and the confusion matrix of a run.

    Writes eval-SPLIT.json and eval-SPLIT.png into the run directory.
    """

    run: Annotated[Positional[Path], arg(metavar="RUN")]
    """The run directory."""
    checkpoint: str = "last"
    """last, best (on validation) or a step."""
    split: Literal["test", "validation", "train"] = "test"
    """The part of the data."""
    data: _DataPlace = _DataPlace()
    parallel: ParallelConfig = field(default_factory=ParallelConfig)


def main(arguments: Sequence[str]) -> int:
    """Evaluates a run."""
    given = parse("eval", EvalArguments, arguments)
    require_text(given.run)
    configs.check(Config(parallel=given.parallel))

    from rowrnn import parallel
    from rowrnn.runners import evaluate

    evaluation = evaluate.evaluate(
        given.run,
        which=given.checkpoint,
        split=given.split,
        data_dir=given.data.dir,
        devices=given.parallel,
    )
    if not parallel.is_first():
        return 0
    paths = evaluate.save(evaluation)
    _report_evaluation(evaluation, paths)
    if given.json:
        print(json.dumps(evaluation.summary()))
    return 0


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
    for path in paths:
        print(f"Written: {plain(str(path))}")
