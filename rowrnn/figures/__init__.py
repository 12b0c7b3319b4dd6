"""Figures, drawn with matplotlib's objects alone: no pyplot, no window, no global state."""

from rowrnn.figures.confusion import confusion_matrix
from rowrnn.figures.sweep import distribution, grid, learning_curves

__all__ = ["confusion_matrix", "distribution", "grid", "learning_curves"]
