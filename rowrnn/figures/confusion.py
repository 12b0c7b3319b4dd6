"""The confusion matrix of a classifier."""

from collections.abc import Sequence

import numpy as np

from rowrnn.figures import drawing, frame
from rowrnn.figures.drawing import Target


def confusion_matrix(
    confusion: np.ndarray, path: Target, title: str, names: Sequence[str] = ()
) -> None:
    """Draws a confusion matrix as a PNG in which the errors stand out.

    `confusion` is an integer array [C, C]: examples of the true class (row) that were given the
    predicted class (column). Each count stands in its cell, zeros left empty. The diagonal, which
    would drown everything else, is grey; the other cells are coloured by their share of their
    row, on a scale that ends at the largest error. Beside each row stands the accuracy of its
    class. `names` are those of the classes. Raises `OSError` where `path` cannot be written.

    >>> picture = drawing.Drawing()
    >>> confusion_matrix(np.array([[95, 5], [2, 98]]), picture, "two classes, 193 of 200 right")
    >>> picture.svg[:4]
    '<svg'
    """
    confusion = np.asarray(confusion)
    classes = len(confusion)
    totals = confusion.sum(axis=1)
    shares = confusion / np.maximum(totals, 1)[:, None]
    errors = np.where(np.eye(classes, dtype=bool), np.nan, shares)
    worst = np.nan_to_num(errors).max()

    cell = np.clip(6 / classes, 0.3, 1.2)  # inches
    figure = frame.new_figure(cell * classes + 1.9, cell * classes + 1.6, layout="constrained")
    axes = figure.add_subplot()
    limits = (0, worst or 1)
    frame.cells(axes, errors, frame.VERMILION, limits, line=("0.93", 1), ground="0.88")
    for true, predicted in zip(*np.nonzero(confusion), strict=True):
        axes.text(
            predicted, true, str(confusion[true, predicted]), ha="center", va="center",
            fontsize=min(11, 22 * cell),
        )  # fmt: skip
    axes.set_title(title, parse_math=False, fontsize=12, pad=12)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    axes.set_xticks(range(classes))
    axes.set_yticks(range(classes))
    if names:
        shown = [frame.short(name, 12) for name in names]
        axes.set_xticks(range(classes), shown, rotation=90, parse_math=False)
        axes.set_yticks(range(classes), shown, parse_math=False)

    right = axes.secondary_yaxis("right")
    accuracies = [
        f"{100 * share:.1f} %" if total else "none"
        for share, total in zip(shares.diagonal(), totals, strict=True)
    ]
    right.set_yticks(range(classes), accuracies)
    right.set_ylabel("accuracy of the class", labelpad=10)
    right.tick_params(length=0)
    right.spines[:].set_visible(False)

    darkest = f"colour: errors as a share of their row, darkest {100 * worst:.2f} %"
    figure.supxlabel(darkest if worst else "no errors", fontsize=9, color="0.35")
    drawing.save(figure, path)
