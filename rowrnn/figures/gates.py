"""How open the gates of a layer are, row by row."""

from collections.abc import Mapping

import numpy as np

from rowrnn.figures import frame
from rowrnn.figures.drawing import Target, fit, save

_HEIGHT = 3.6


def gate_activity(gates: Mapping[str, np.ndarray], path: Target, title: str, caption: str) -> None:
    """Draws the mean activation of gates against the rows read as a PNG.

    `gates` has, by their names, means after each row, [T], between 0 (closed) and 1 (open).
    Raises `OSError` where `path` cannot be written.

    >>> import os, tempfile
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     path = os.path.join(directory, "gates.png")
    ...     gate_activity({"forget": np.linspace(0.6, 0.9, 28)}, path, "a run", "")
    ...     os.path.getsize(path) > 0
    True
    """
    from matplotlib.ticker import MaxNLocator

    figure, axes = frame.begin(title, fit(7, path), _HEIGHT, path)
    rows = {name: np.arange(1, len(means) + 1) for name, means in gates.items()}
    for index, (name, means) in enumerate(gates.items()):
        colour, style = frame.COLOURS[index], frame.dashes(index)
        axes.plot(rows[name], means, color=colour, linestyle=style, linewidth=1.8)
    axes.set_ylim(0, 1)
    axes.margins(x=0.02)
    axes.set_xlabel("rows read")
    axes.set_ylabel("mean activation")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=10))
    frame.label_ends(axes, {name: (rows[name], means) for name, means in gates.items()}, _HEIGHT)
    frame.caption(figure, caption, path)
    save(figure, path)
