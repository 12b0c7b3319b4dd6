"""What the figures share: their frame, colours, captions, labels and ways of saying a value."""

import math
import textwrap
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from rowrnn.figures import drawing
from rowrnn.figures.drawing import Drawing, Target

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette, which all kinds of colour vision tell apart; dashes go on where it ends.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
BLUE, VERMILION = COLOURS[0], COLOURS[1]
_DASHES = ("-", "--", ":")

# How much of its colour the fullest cell has, so that ink can be read on it.
_MOST_COLOUR = 0.6
# Inches from one line of small text to the next.
LINE = 0.17


def new_figure(width: float, height: float, dpi: int = 120, layout: Any = None) -> "Figure":
    """An empty figure of so many inches, without pyplot."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=dpi, layout=layout)
    FigureCanvasAgg(figure)
    return figure


def begin(
    title: str,
    width: float,
    height: float,
    to: Target | None = None,
    labels: Iterable[str] | None = None,
) -> tuple["Figure", "Axes"]:
    """A figure of so many inches with its title, and its axes.

    A `Drawing` takes the title instead. Where `labels` are given, which stand beside the axes, its
    figure is only as wide as a page and these labels need.
    """
    if isinstance(to, Drawing):
        to.title, title = title, ""
        if labels is not None:
            longest = max(map(len, labels), default=0)
            width = min(width, to.inches + 0.075 * max(0, longest - 12))
        height *= min(1.0, 0.2 + 0.8 * to.inches / drawing.WIDTH)
    # Matplotlib's own wrapping does not tell the layout how high the text becomes.
    lines = [part for line in title.splitlines() for part in textwrap.wrap(line, int(12 * width))]
    figure = new_figure(width, height + 0.2 * max(len(lines) - 1, 0), layout="constrained")
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


def finish(figure: "Figure", text: str, to: Target) -> None:
    """Sets the caption and draws the figure; raises `OSError` where it cannot be written."""
    caption(figure, text, to)
    drawing.save(figure, to)


def beside(axes: "Axes", height: float, text: str, **style: Any) -> None:
    """Text to the right of the axes."""
    transform = axes.get_yaxis_transform()
    axes.text(
        1.015, height, text, **{"transform": transform, "va": "center", "fontsize": 8} | style
    )


def style(index: int) -> dict[str, Any]:
    """Colour and dashes of a curve, which tell those of one colour apart."""
    dashes = _DASHES[index // len(COLOURS) % len(_DASHES)]
    return {"color": COLOURS[index % len(COLOURS)], "linestyle": dashes}


def label_ends(axes: "Axes", ends: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> None:
    """Writes each label to the right of its curve's end, moved apart where ends are close."""
    height = axes.get_figure(root=True).get_figheight()  # pyright: ignore
    bottom, top = axes.get_ylim()
    places = np.array([np.clip(values[-1], bottom, top) for _, values in ends.values()])
    fractions = (axes.transScale + axes.transLimits).transform(
        np.column_stack([np.full(len(places), axes.get_xlim()[1]), places])
    )[:, 1]
    order = np.argsort(fractions, kind="stable")
    moved = np.empty(len(order))
    moved[order] = _spread(fractions[order], LINE / (height - 1.3))
    for index, (label, (steps, _)) in enumerate(ends.items()):
        axes.annotate(
            label, (steps[-1], places[index]), xytext=(1.05, moved[index]),
            textcoords="axes fraction", va="center", fontsize=9, color="0.15", parse_math=False,
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-", "linewidth": 1.8, "shrinkA": 1, "shrinkB": 2,
                "relpos": (0, 0.5), **style(index),
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


def cells(
    axes: "Axes",
    values: np.ndarray,
    colour: str,
    limits: tuple[float, float],
    *,
    line: tuple[str, float],
    ground: str,
    aspect: Literal["auto", "equal"] = "equal",
) -> Any:
    """A matrix as cells, with lines of a colour and width between, that text can stand in.

    The nearer a value to the second of the limits, the more of the colour its cell has; what is not
    finite has the colour of the ground. Cells are rectangles, not an image, so that they follow the
    colours of a page. Returns them, for a colour bar.
    """
    from matplotlib.colors import LinearSegmentedColormap, to_rgb

    # Lightness alone carries the meaning, for every kind of colour vision.
    full = tuple(1 - _MOST_COLOUR * (1 - part) for part in to_rgb(colour))
    colours = [(1.0, 1.0, 1.0), full]
    first, last = limits
    scale = LinearSegmentedColormap.from_list(
        "cells", colours if first <= last else colours[::-1], 32
    ).with_extremes(bad=ground)
    edges = [np.arange(size + 1) - 0.5 for size in values.shape]
    image = axes.pcolormesh(
        edges[1], edges[0], np.ma.masked_invalid(values), cmap=scale,
        vmin=min(limits), vmax=max(limits),
    )  # fmt: skip
    axes.set_ylim(edges[0][-1], edges[0][0])
    axes.set_aspect(aspect)
    axes.set_yticks(np.arange(values.shape[0] + 1) - 0.5, minor=True)
    axes.set_xticks(np.arange(values.shape[1] + 1) - 0.5, minor=True)
    axes.grid(visible=False, which="major")
    axes.grid(which="minor", color=line[0], linewidth=line[1])
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    return image


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
    """Whether a label names something of which less is better."""
    return "loss" in label.lower()


def known(interval: Any) -> tuple[float, float] | None:
    """An interval that has both its ends."""
    if interval is None or not np.isfinite(interval).all():
        return None
    return float(interval[0]), float(interval[1])


def show(value: Any) -> str:
    """A value of a setting, as an axis says it."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def short(name: str, most: int) -> str:
    """A name that fits an axis, of at most so many characters."""
    name = "".join(filter(str.isprintable, name))
    return name if len(name) <= most else f"{name[: most - 1]}…"


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
