"""Accuracy as a function of the rows that were read."""

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from rowrnn.figures import drawing, frame

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# More curves than this, and their bands would only be fog.
_MOST_BANDS = 4


class RowCurve(NamedTuple):
    """A curve over rows.

    Attributes:
        accuracy: after each row, [T].
        band: its interval, [T, 2]; None where not known.
    """

    accuracy: np.ndarray
    band: np.ndarray | None


def accuracy_by_row(
    curves: Mapping[str, RowCurve],
    path: str | os.PathLike[str],
    title: str,
    caption: str,
    settled: int | None = None,
) -> None:
    """Draws accuracy against rows read as a PNG.

    Args:
        curves: by their label, which is written at their end where there are several.
        path: of the PNG.
        title: of the figure.
        caption: what the bands are.
        settled: the row from which on a single curve stays within a point of its last value. It is
            marked then, and so is where it has come halfway from its first to its last value.

    Raises `OSError` where `path` cannot be written.

    >>> import os, tempfile
    >>> accuracy = np.linspace(0.1, 0.98, 28)
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     path = os.path.join(directory, "rows.png")
    ...     accuracy_by_row({"": RowCurve(accuracy, None)}, path, "a run", "")
    ...     os.path.getsize(path) > 0
    True
    """
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    height = max(4.6, 1.6 + frame.LINE * len(curves))
    figure, axes = frame.begin(title, 8, height)
    most = max(len(curve.accuracy) for curve in curves.values())
    axes.set_xlim(0.5 if len(curves) > 1 else 0, most + 0.5)
    axes.set_ylim(0, 1.1)  # with room for words
    axes.set_yticks(np.linspace(0, 1, 6))
    for index, (accuracy, band) in enumerate(curves.values()):
        colour, rows = frame.COLOURS[index % len(frame.COLOURS)], np.arange(1, len(accuracy) + 1)
        if band is not None and len(curves) <= _MOST_BANDS:
            axes.fill_between(rows, *band.T, color=colour, alpha=0.25, linewidth=0, zorder=2)
        axes.plot(
            rows, accuracy, color=colour, linestyle=frame.dashes(index), linewidth=1.8, zorder=3,
            marker="o" if most <= 40 and len(curves) == 1 else "", markersize=4,
        )  # fmt: skip
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=14))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_xlabel(f"rows read, of {most}")
    axes.set_ylabel("accuracy")
    if len(curves) > 1:
        ends = {
            label: (np.arange(1, len(curve.accuracy) + 1), curve.accuracy)
            for label, curve in curves.items()
        }
        frame.label_ends(axes, ends, height)
        if len(curves) > _MOST_BANDS:
            caption = ""
    elif settled is not None:
        _mark(axes, next(iter(curves.values())).accuracy, settled)
    frame.caption(figure, caption)
    drawing.save(figure, path)


def _mark(axes: "Axes", accuracy: np.ndarray, settled: int) -> None:
    """Says where a curve has come halfway, and where it has settled."""
    half = (accuracy[0] + accuracy[-1]) / 2
    halfway = int(np.argmax(accuracy >= half)) + 1
    for row, text in {
        halfway: f"row {halfway}: halfway, {accuracy[halfway - 1]:.1%}",
        settled: f"from row {settled}: within 1 point of {accuracy[-1]:.1%}",
    }.items():
        value = accuracy[row - 1]
        axes.plot([row, row], [0, value], color="0.45", linewidth=1, linestyle=":", zorder=1)
        # To the left of the curve, where it has not been; to its right where there is no room.
        left = row > 0.35 * len(accuracy)
        axes.annotate(
            text, (row, value), xytext=(-10 if left else 10, 6), textcoords="offset points",
            ha="right" if left else "left", va="bottom", fontsize=9, color="0.15", zorder=4,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1.5},
        )  # fmt: skip
