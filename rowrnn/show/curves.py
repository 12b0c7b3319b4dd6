"""Loss and accuracy of a run on the way, as its log has them."""

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rowrnn import figures
from rowrnn.figures import Drawing, drawing
from rowrnn.store import log

# Most entries that are read of a log, which a stranger may have made, and most points of a curve.
_MOST_ENTRIES, _MOST_POINTS = 1_000_000, 1_500
Curve = tuple[Sequence[int], np.ndarray]
"""Steps [K] and values [S, K], one row a seed."""

_PARTS = {"train": "training", "validation": "validation"}


def draw(path: Path, inches: float = drawing.WIDTH) -> dict[str, Drawing]:
    """A figure of the loss and one of the accuracy of a run; nothing where nothing was logged."""
    found, drawn = read(path), {}
    for name in ("loss", "accuracy"):
        curves = {
            label: found[f"{part}_{name}"]
            for part, label in _PARTS.items()
            if f"{part}_{name}" in found
        }
        if curves:
            drawn[name] = _draw(curves, name, inches)
    return drawn


def read(path: Path) -> dict[str, Curve]:
    """What a run has logged, by name such as ``train_loss``; nothing of what was not logged."""
    found = {f"{part}_{name}": [] for part in _PARTS for name in ("loss", "accuracy")}
    for entry in itertools.islice(log.read(path), _MOST_ENTRIES):
        for name, points in found.items():
            value = entry.get(name)
            if value is not None and 0 <= entry["step"] < 2**53 and _is_number(value):
                points.append((entry["step"], value))
    curves = {}
    for name, points in found.items():
        if points:
            steps, values = zip(*points, strict=True)
            curve = steps, np.array([values])
            curves[name] = _thin(
                *(figures.whole_windows(*curve) if name.startswith("train") else curve)
            )
    return curves


def _draw(curves: dict[str, Curve], name: str, inches: float) -> Drawing:
    drawn = Drawing(inches=inches)
    # One curve alone has no label beside it.
    of = f" of the {next(iter(curves))} images" if len(curves) == 1 else ""
    figures.learning_curves(curves, drawn, f"{name.capitalize()}{of} on the way", name)
    # Only of a sweep is it worth saying that a curve is of one seed.
    drawn.caption = drawn.caption.removeprefix("one seed").removeprefix("; ")
    return drawn


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e30


def _thin(steps: Sequence[int], values: np.ndarray) -> tuple[list[int], np.ndarray]:
    """Steps [K] and values [1, K] of a curve, of a long one some points and the last."""
    apart = math.ceil(len(steps) / _MOST_POINTS)
    places = sorted({*range(0, len(steps), apart), len(steps) - 1})
    return [steps[place] for place in places], values[:, places]
