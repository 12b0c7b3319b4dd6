"""The confusion matrix of a classifier."""

import os

import numpy as np

from rowrnn.figures import drawing


def confusion_matrix(confusion: np.ndarray, path: str | os.PathLike[str], title: str) -> None:
    """Draws a confusion matrix as a PNG in which the errors stand out.

    `confusion` is an integer array [C, C]: examples of the true class (row) that were given the
    predicted class (column). Each count stands in its cell, zeros left empty. The diagonal, which
    would drown everything else, is grey; the other cells are coloured by their share of their
    row, on a scale that ends at the largest error. Beside each row stands the accuracy of its
    class. Raises `OSError` where `path` cannot be written.

    >>> import os, tempfile
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     path = os.path.join(directory, "confusion.png")
    ...     confusion_matrix(np.array([[95, 5], [2, 98]]), path, "two classes, 193 of 200 right")
    ...     os.path.getsize(path) > 0
    True
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.figure import Figure

    confusion = np.asarray(confusion)
    classes = len(confusion)
    totals = confusion.sum(axis=1)
    shares = confusion / np.maximum(totals, 1)[:, None]
    errors = np.ma.masked_array(shares, mask=np.eye(classes, dtype=bool))
    worst = errors.filled(0).max()

    cell = np.clip(6 / classes, 0.3, 1.2)  # inches
    figure = Figure(figsize=(cell * classes + 1.9, cell * classes + 1.6), dpi=120)
    FigureCanvasAgg(figure)
    figure.set_layout_engine("constrained")
    axes = figure.add_subplot()
    axes.set_facecolor("0.88")  # what the diagonal shows
    # Lightness alone carries the meaning, for every kind of colour vision.
    colours = LinearSegmentedColormap.from_list("errors", ["white", "#f58518", "#7f2704"])
    axes.imshow(errors, cmap=colours, vmin=0, vmax=worst or 1)
    for true, predicted in zip(*np.nonzero(confusion), strict=True):
        axes.text(
            predicted,
            true,
            str(confusion[true, predicted]),
            ha="center",
            va="center",
            fontsize=min(11, 22 * cell),
            color="white"
            if true != predicted and shares[true, predicted] > 0.6 * worst
            else "black",
        )
    axes.set_title(title, parse_math=False, fontsize=12, pad=12)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    axes.set_xticks(range(classes))
    axes.set_yticks(range(classes))
    # Thin lines between the cells.
    axes.set_xticks(np.arange(classes + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(classes + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="0.93", linewidth=1)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)

    right = axes.secondary_yaxis("right")
    accuracies = [
        f"{100 * share:.1f} %" if total else "none"
        for share, total in zip(shares.diagonal(), totals, strict=True)
    ]
    right.set_yticks(range(classes), accuracies)
    right.set_ylabel("accuracy of the class", labelpad=10)
    right.tick_params(length=0)
    right.spines[:].set_visible(False)

    darkest = (
        f"colour: errors as a share of their row, darkest {100 * worst:.2f} %"
        if worst
        else "no errors"
    )
    figure.supxlabel(darkest, fontsize=9, color="0.35")
    drawing.save(figure, path)
