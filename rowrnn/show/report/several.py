"""What there is to show of several runs and sweeps side by side."""

import functools
from collections.abc import Sequence
from pathlib import Path

from rowrnn import figures
from rowrnn.errors import ConfigError, count, cut
from rowrnn.figures import Drawing
from rowrnn.figures.drawing import WIDTH
from rowrnn.lab import runs
from rowrnn.lab.runs import RunSummary
from rowrnn.lab.shown import percent
from rowrnn.show import curves
from rowrnn.show.curves import Curve
from rowrnn.show.report import page, sweep
from rowrnn.show.report.page import Content, Table
from rowrnn.store import rundir
from rowrnn.store.members import short

# Most curves that can be told apart in a figure.
_MOST_CURVES = 24

_SHOWN = {"train_loss": "Training loss", "validation_accuracy": "Validation accuracy"}

Curves = dict[str, dict[str, Curve]]
"""By what they show, then by label."""


def read(paths: Sequence[Path]) -> Content:
    """Their curves, and a table of what came out and in what they differ.

    Raises `RunError` where one is neither a run nor a sweep, and `ConfigError` where they have more
    curves than can be told apart.
    """
    for path in paths:
        rundir.require_run(path)
    found = runs.side_by_side(paths)
    missing = [f"{run.name}: {run.problem}." for run in found if run.problem is not None]
    drawn = _curves([run for run in found if run.problem is None])
    most = max(map(len, drawn.values()), default=0)
    if most > _MOST_CURVES:
        raise ConfigError(
            f"{len(paths)} runs and sweeps have {most} curves; at most {_MOST_CURVES} can be told "
            "apart, so give fewer"
        )
    if not drawn:
        missing.append("Curves: nothing was logged yet.")
    return Content(
        template="several.html",
        kind="runs side by side",
        title=", ".join(run.name for run in found),
        verdict=_verdict(found),
        missing=missing,
        parts={"curves": list(_figures(drawn).values()), "results": _table(found)},
        draw=functools.partial(_figures, drawn),
    )


def _curves(found: Sequence[RunSummary]) -> Curves:
    drawn: Curves = {name: {} for name in _SHOWN}
    for run in found:
        if run.kind == "run":
            for name, curve in curves.read(Path(run.path)).items():
                if name in drawn:
                    drawn[name][run.name] = curve
            continue
        for name, points in sweep.read_curves(Path(run.path)).items():
            for point, curve in points.items():
                drawn[name][f"{run.name} {point}".strip()] = curve
    return {name: by_label for name, by_label in drawn.items() if by_label}


def _figures(drawn: Curves, inches: float = WIDTH) -> dict[str, Drawing]:
    pictures = {}
    for name, by_label in drawn.items():
        pictures[name] = picture = Drawing(inches=inches)
        figures.learning_curves(by_label, picture, _SHOWN[name], _SHOWN[name].lower())
    return pictures


def _verdict(found: Sequence[RunSummary]) -> str:
    """How many there are, and from where to where their test accuracies reach."""
    kinds = [count(n, kind) for kind in ("run", "sweep") if (n := _how_many(found, kind))]
    accuracies = [a for run in found if (a := run.test_accuracy) is not None]
    reach = ""
    if accuracies:
        low, high = min(accuracies), max(accuracies)
        reach = f"; test accuracy {percent(low, 2)}"
        reach += "" if low == high else f" to {percent(high, 2)}"
    return f"{' and '.join(kinds)} side by side{reach}."


def _how_many(found: Sequence[RunSummary], kind: str) -> int:
    return sum(run.kind == kind for run in found)


def _word(run: RunSummary, name: str) -> str:
    """A value of a run in words."""
    value = run.values.get(name, "–")
    # A sweep has many, of which the rest of its line says which.
    varies = isinstance(value, tuple) or (run.kind == "sweep" and name == "train.seed")
    return "varies" if varies else cut(str(value))


def _table(found: Sequence[RunSummary]) -> Table:
    """A line for each run, and for each point of a sweep."""
    names = list(dict.fromkeys(name for run in found for name in run.values))
    rows = []
    for run in found:
        values = [_word(run, name) for name in names]
        for point in run.points or [None]:
            label, mean, interval, seeds = run.name, run.test_accuracy, None, "1"
            if point is not None:
                label, mean = f"{run.name} {point.point}".strip(), point.mean
                interval, seeds = point.interval, f"{point.completed:,}"
            rows.append(
                [
                    label,
                    run.state,
                    "–" if mean is None else percent(mean, 2),
                    "–" if interval is None else page.interval(interval),
                    seeds if run.kind == "run" or point is not None else f"{run.members or 0:,}",
                    *values,
                ]
            )
    headings = ["name", "state", "test accuracy", "over seeds", "seeds", *map(short, names)]
    return Table(headings, rows, "To tell whether two sweeps differ: rowrnn compare A B.")
