"""Figures, drawn with matplotlib's objects alone: no pyplot, no window, no global state."""

from rowrnn.figures.confusion import confusion_matrix
from rowrnn.figures.curves import learning_curves, whole_windows
from rowrnn.figures.drawing import Drawing, Target
from rowrnn.figures.funnel import accuracy_by_group
from rowrnn.figures.grids import along, grid
from rowrnn.figures.reading import (
    ReadingArrays,
    reading_animation,
    reading_strip,
    require_format,
)
from rowrnn.figures.rows import RowCurve, accuracy_by_row, gate_activity
from rowrnn.figures.values import distribution

__all__ = [
    "Drawing",
    "ReadingArrays",
    "RowCurve",
    "Target",
    "accuracy_by_group",
    "accuracy_by_row",
    "along",
    "confusion_matrix",
    "distribution",
    "gate_activity",
    "grid",
    "learning_curves",
    "reading_animation",
    "reading_strip",
    "require_format",
    "whole_windows",
]
