"""What changes with the rows that were read: accuracy, and how open the gates of a layer are."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from rowrnn.figures import frame
from rowrnn.figures.drawing import Target

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Most curves that have bands: the bands of more would only be fog.
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
    path: Target,
    title: str,
    caption: str,
    settled: int | None = None,
) -> None:
    """Draws accuracy against rows read as a PNG.

    Args:
        curves: the curves by label, which is written at their end where there are several.
        path: the PNG file to write, or a `Drawing`.
        title: one line or more.
        caption: what the bands are.
        settled: the row from which on a single curve stays within a point of its last value. It is
            marked then, and so is where it has come halfway from its first to its last value.

    Raises `OSError` where `path` cannot be written.

    >>> from rowrnn.figures import Drawing
    >>> picture = Drawing()
    >>> accuracy_by_row({"": RowCurve(np.linspace(0.1, 0.98, 28), None)}, picture, "a run", "")
    >>> picture.svg[:4]
    '<svg'
    """
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    height = max(4.6, 1.6 + frame.LINE * len(curves))
    figure, axes = frame.begin(title, 8, height, path)
    rows = {label: np.arange(1, len(curve.accuracy) + 1) for label, curve in curves.items()}
    most, several = max(map(len, rows.values())), len(curves) > 1
    with_bands = len(curves) <= _MOST_BANDS
    axes.set_xlim(0.5 if several else 0, most + 0.5)
    axes.set_ylim(0, 1.1)  # with room for words
    axes.set_yticks(np.linspace(0, 1, 6))
    for index, (label, (accuracy, band)) in enumerate(curves.items()):
        style = frame.style(index)
        if band is not None and with_bands:
            axes.fill_between(
                rows[label], *band.T, color=style["color"], alpha=0.25, linewidth=0, zorder=2
            )
        axes.plot(
            rows[label], accuracy, **style, linewidth=1.8, zorder=3,
            marker="o" if most <= 40 and not several else "", markersize=4,
        )  # fmt: skip
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=14))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_xlabel(f"rows read, of {most}")
    axes.set_ylabel("accuracy")
    if several:
        ends = {label: (rows[label], curve.accuracy) for label, curve in curves.items()}
        frame.label_ends(axes, ends)
    elif settled is not None:
        _mark(axes, next(iter(curves.values())).accuracy, settled)
    frame.finish(figure, caption if with_bands else "", path)


def _mark(axes: "Axes", accuracy: np.ndarray, settled: int) -> None:
    """Says where a curve has come halfway, and where it has settled."""
    half = (accuracy[0] + accuracy[-1]) / 2
    halfway = int(np.argmax(accuracy >= half)) + 1
    for row, text in {
        halfway: f"row {halfway}: halfway, {100 * accuracy[halfway - 1]:.1f} %",
        settled: f"from row {settled}: within 1 point of {100 * accuracy[-1]:.1f} %",
    }.items():
        value = accuracy[row - 1]
        axes.plot([row, row], [0, value], color="0.45", linewidth=1, linestyle=":", zorder=1)
        # The text stands left of the curve, or right of it where there is no room.
        left = row > 0.35 * len(accuracy)
        axes.annotate(
            text, (row, value), xytext=(-10 if left else 10, 6), textcoords="offset points",
            ha="right" if left else "left", va="bottom", fontsize=9, color="0.15", zorder=4,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1.5},
        )  # fmt: skip


def gate_activity(gates: Mapping[str, np.ndarray], path: Target, title: str, caption: str) -> None:
    """Draws the mean activation of gates against the rows read as a PNG.

    `gates` has, by their names, means after each row, [T], between 0 (closed) and 1 (open).
    Raises `OSError` where `path` cannot be written.

    >>> from rowrnn.figures import Drawing
    >>> picture = Drawing()
    >>> gate_activity({"forget": np.linspace(0.6, 0.9, 28)}, picture, "a run", "")
    >>> picture.svg[:4], picture.title
    ('<svg', 'a run')
    """
    from matplotlib.ticker import MaxNLocator

    height = 3.6
    figure, axes = frame.begin(title, 7, height, path, labels=())
    ends = {name: (np.arange(1, len(means) + 1), means) for name, means in gates.items()}
    for index, (rows, means) in enumerate(ends.values()):
        axes.plot(rows, means, **frame.style(index), linewidth=1.8)
    axes.set_ylim(0, 1)
    axes.margins(x=0.02)
    axes.set_xlabel("rows read")
    axes.set_ylabel("mean activation")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=10))
    frame.label_ends(axes, ends)
    frame.finish(figure, caption, path)
