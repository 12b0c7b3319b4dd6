"""The accuracy of groups of images, such as those of one writer, against their sizes."""

from collections.abc import Sequence

import numpy as np

from rowrnn.figures import frame
from rowrnn.figures.drawing import Target


def accuracy_by_group(
    counts: Sequence[int], accuracy: Sequence[float], spread: float, path: Target, title: str
) -> None:
    """Draws a point for each group, and the band in which most would lie by chance, as a PNG.

    Args:
        counts: images of each group, G of them.
        accuracy: share of right answers in each.
        spread: standard deviation over images of their mean answers.
        path: the PNG file to write, or a `Drawing`.
        title: one line or two.

    Raises `OSError` where `path` cannot be written.

    >>> from rowrnn.figures.drawing import Drawing
    >>> picture = Drawing()
    >>> accuracy_by_group([30, 40], [0.9, 1.0], 0.2, picture, "two writers")
    >>> picture.caption
    'point: a group; line: mean; band: where 95 % would lie if groups were alike'
    """
    figure, axes = frame.begin(title, 8, 4.6, path)
    mean = float(np.average(accuracy, weights=counts))
    sizes = np.linspace(max(0.9 * min(counts), 0.5), 1.05 * max(counts), 200)
    half = 1.96 * spread / np.sqrt(sizes)
    band = np.clip([mean - half, mean + half], 0, 1)
    axes.fill_between(sizes, *band, color=frame.BLUE, alpha=0.15, linewidth=0)
    axes.axhline(mean, color="0.3", linewidth=1)
    axes.scatter(counts, accuracy, s=22, color=frame.BLUE, alpha=0.6, linewidths=0, zorder=3)
    axes.set_xlim(sizes[0], sizes[-1])
    axes.set_xlabel("images of the group")
    axes.set_ylabel("accuracy")
    frame.plain(axes.yaxis)
    about = "point: a group; line: mean; band: where 95 % would lie if groups were alike"
    frame.finish(figure, about, path)
