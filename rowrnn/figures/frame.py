"""What the figures share: their frame, colours, captions, labels and ways of saying a value."""

import math
import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from rowrnn.figures.drawing import Drawing, Target

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette, which all kinds of colour vision tell apart; dashes go on where it ends.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
BLUE, VERMILION = COLOURS[0], COLOURS[1]
_DASHES = ("-", "--", ":")

# Inches from one line of small text to the next.
LINE = 0.17


def begin(
    title: str, width: float, height: float, to: Target | None = None
) -> tuple["Figure", "Axes"]:
    """A figure of so many inches, its title in it or on the page, and its axes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if isinstance(to, Drawing):
        to.title, title = title, ""
    # Matplotlib's own wrapping does not tell the layout how high the text becomes.
    lines = [part for line in title.splitlines() for part in textwrap.wrap(line, int(12 * width))]
    height += 0.2 * max(len(lines) - 1, 0)
    figure = Figure(figsize=(width, height), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.08)  # pyright: ignore
    if lines:
        figure.suptitle("\n".join(lines), parse_math=False, fontsize=11, x=0.015, ha="left")
    axes = figure.add_subplot()
    axes.grid(visible=True, color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def caption(figure: "Figure", text: str, to: Target | None = None) -> None:
    """Says in small letters below a figure, or to the page, what its lines and bands are."""
    if isinstance(to, Drawing):
        to.caption = text
        return
    columns = int(16 * figure.get_figwidth())
    figure.supxlabel(
        textwrap.fill(text, columns), fontsize=8, color="0.35", parse_math=False, x=0.015, ha="left"
    )


def beside(axes: "Axes", height: float, text: str, **style: Any) -> None:
    """Text to the right of the axes."""
    transform = axes.get_yaxis_transform()
    axes.text(
        1.015, height, text, **{"transform": transform, "va": "center", "fontsize": 8} | style
    )


def label_ends(
    axes: "Axes", ends: Mapping[str, tuple[np.ndarray, np.ndarray]], height: float
) -> None:
    """Writes each label to the right of its curve's end, moved apart where ends are close."""
    bottom, top = axes.get_ylim()
    places = np.array([np.clip(values[-1], bottom, top) for _, values in ends.values()])
    fractions = (axes.transScale + axes.transLimits).transform(
        np.column_stack([np.full(len(places), axes.get_xlim()[1]), places])
    )[:, 1]
    order = np.argsort(fractions, kind="stable")
    moved = np.empty(len(order))
    moved[order] = _spread(fractions[order], LINE / (height - 1.3))
    for index, (label, (steps, _)) in enumerate(ends.items()):
        colour = COLOURS[index % len(COLOURS)]
        axes.annotate(
            label, (steps[-1], places[index]), xytext=(1.05, moved[index]),
            textcoords="axes fraction", va="center", fontsize=9, color="0.15", parse_math=False,
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-", "color": colour, "linewidth": 1.8, "linestyle": dashes(index),
                "shrinkA": 1, "shrinkB": 2, "relpos": (0, 0.5),
            },
        )  # fmt: skip


def _spread(places: np.ndarray, gap: float) -> np.ndarray:
    """Ascending places in [0, 1], moved as little as leaves the gap between neighbours."""
    steps = gap * np.arange(len(places))
    # Less these steps, "at least a gap apart" is "not falling". Pushed up and pushed down both
    # are that, so their mean is, which moves neither way more than the other.
    rest = places - steps
    up, down = np.maximum.accumulate(rest), np.minimum.accumulate(rest[::-1])[::-1]
    return np.clip((up + down) / 2, 0, max(1 - steps[-1], 0)) + steps


def dashes(index: int) -> str:
    """The line style of a curve, which tells those of one colour apart."""
    return _DASHES[index // len(COLOURS) % len(_DASHES)]


def limit(axes: "Axes", values: np.ndarray) -> None:
    """Limits of the x axis with a margin, also where all values are one."""
    values = values[np.isfinite(values)]
    low, high = (values.min(), values.max()) if len(values) else (0.0, 1.0)
    margin = 0.05 * (high - low) or 0.01
    axes.set_xlim(low - margin, high + margin)


def plain(axis: Any) -> None:
    """Tick labels that are whole numbers to read, not differences from an offset."""
    axis.get_major_formatter().set_useOffset(False)


def is_loss(label: str) -> bool:
    """Whether less is better of what a label names."""
    return "loss" in label.lower()


def known(interval: Any) -> tuple[float, float] | None:
    """An interval that has both its ends."""
    if interval is None or not np.isfinite(interval).all():
        return None
    return float(interval[0]), float(interval[1])


def show(value: Any) -> str:
    """A value of a setting, as an axis says it."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def count(seeds: int) -> str:
    """A number of seeds in words."""
    return f"{seeds:,} seed{'s' if seeds != 1 else ''}"


def digits(interval: tuple[float, float] | None) -> int:
    """Decimals that show two digits of an interval's width, at least four."""
    if interval is None or interval[0] == interval[1]:
        return 4
    return int(np.clip(1 - math.floor(math.log10(abs(interval[1] - interval[0]))), 4, 6))


def interval_text(mean: float, interval: tuple[float, float] | None) -> str:
    """A mean and, where known, its interval."""
    places = digits(interval)
    if interval is None:
        return f"{mean:.{places}f}"
    return f"{mean:.{places}f} [{interval[0]:.{places}f}, {interval[1]:.{places}f}]"
