"""The means over a grid of settings: a curve, a map or rows."""

import itertools
import math
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any, NamedTuple

import numpy as np

from rowrnn.figures import frame
from rowrnn.figures.drawing import Target

# Most lines of a figure that can be told apart.
_MOST_LINES = 8

_MEAN = "mean over seeds and its 95 % interval for these images"


class _Grid(NamedTuple):
    """The arguments of `grid`."""

    axes: Mapping[str, Sequence[Any]]
    means: np.ndarray
    intervals: np.ndarray
    path: Target
    title: str
    value_label: str
    marks_best: bool

    @property
    def is_loss(self) -> bool:
        """Whether the best mean is the smallest."""
        return frame.is_loss(self.value_label)

    @property
    def best(self) -> tuple[int, ...] | None:
        """The place of the best mean; None where there is no mean, or none may be called best."""
        if not (self.marks_best and np.isfinite(self.means).any()):
            return None
        flat = np.nanargmin(self.means) if self.is_loss else np.nanargmax(self.means)
        return tuple(int(index) for index in np.unravel_index(flat, self.means.shape))

    def about_best(self, how: str) -> str:
        """What a caption says of the best: how it is marked, and where it is at an edge."""
        if self.best is None:
            return ""
        edges = [
            name.replace("_", " ")
            for place, (name, values) in zip(self.best, self.axes.items(), strict=True)
            if len(values) > 2 and _are_numbers(values)
            if values[place] in (min(values), max(values))
        ]
        beyond = f", at the edge of {' and of '.join(edges)}: what lies beyond may be better"
        return f"; the best {how}{beyond if edges else ''}"


def grid(
    axes: Mapping[str, Sequence[Any]],
    means: np.ndarray,
    intervals: np.ndarray,
    path: Target,
    title: str,
    value_label: str,
    *,
    lines: bool = False,
    marks_best: bool = True,
) -> None:
    """Draws the means over a grid of settings as a PNG, the best of them marked.

    One axis of numbers gives a curve, two axes a map, and anything else a row of text and bar for
    each point, the best on top. The best mean is the largest, or, where `value_label` has "loss"
    in it, the smallest.

    Args:
        axes: the values of each name that varies, in order.
        means: the mean over seeds at each point, [V1, V2, ...]; NaN where nothing completed.
        intervals: the interval of each mean, [V1, V2, ..., 2]; NaN where not known.
        path: the PNG file to write, or a `Drawing`.
        title: one line or two.
        value_label: what the means are of.
        lines: draws two axes as lines along the one that `along` names, and not as a map.
        marks_best: whether the best is marked, which it may not be where these means cannot select.

    Raises `OSError` where `path` cannot be written.

    >>> from rowrnn.figures import Drawing
    >>> picture, means = Drawing(), np.array([0.93, 0.95])
    >>> intervals = np.stack([means - 0.01, means + 0.01], axis=-1)
    >>> grid({"hidden": [64, 128]}, means, intervals, picture, "two sizes", "test accuracy")
    >>> picture.caption
    'line and band: mean over seeds and its 95 % interval for these images; the best ringed'
    """
    means, intervals = np.asarray(means, float), np.asarray(intervals, float)
    if lines and next(iter(axes)) == along(axes):
        axes, means = {name: axes[name] for name in reversed([*axes])}, means.T
        intervals = intervals.swapaxes(0, 1)
    given = _Grid(axes, means, intervals, path, title, value_label, marks_best)
    match list(axes.values()):
        case _ if lines:
            _draw_lines(given)
        case [values] if _are_numbers(values):
            _draw_lines(given)
        case [_, _]:
            _draw_map(given)
        case _:
            _draw_rows(given)


def along(axes: Mapping[str, Sequence[Any]]) -> str | None:
    """The axis of two along which lines can be drawn: the longer of those with numbers.

    None where there is none with three, or the other would give more lines than can be told apart.
    """
    if len(axes) != 2:
        return None
    lengths = {name: len(values) for name, values in axes.items() if _are_numbers(values)}
    name = max(lengths, key=lengths.__getitem__, default=None)
    if name is None or lengths[name] < 3:
        return None
    lines = next(len(values) for other, values in axes.items() if other != name)
    return name if lines <= _MOST_LINES else None


def _are_numbers(values: Sequence[Any]) -> bool:
    return all(isinstance(v, Real) and not isinstance(v, bool) for v in values)


def _draw_lines(grid: _Grid) -> None:
    """A line for each value of the first of two axes along the second, whose numbers need not come
    in order; along a single axis the means stand beside their points."""
    *others, (name, values) = grid.axes.items()
    order = np.argsort(np.array(values, float), kind="stable")
    grid = grid._replace(means=grid.means[..., order], intervals=grid.intervals[..., order, :])
    places = np.array(values, float)[order]
    labels = [f"{other}={frame.show(value)}" for other, row in others for value in row]
    figure, axes = frame.begin(grid.title, 7, 4.4, grid.path, labels=labels)
    rows = grid.means.reshape(-1, len(places))
    bands = grid.intervals.reshape(-1, len(places), 2)
    for index, (means, band) in enumerate(zip(rows, bands, strict=True)):
        style = frame.style(index)
        axes.plot(places, means, **style, marker="o", markersize=6, linewidth=1.4, zorder=4)
        axes.fill_between(places, *band.T, color=style["color"], alpha=0.2, linewidth=0, zorder=2)
        axes.vlines(places, *band.T, color=style["color"], linewidth=2, zorder=3)
    if grid.best is not None:
        axes.plot(
            places[grid.best[-1]], grid.means[grid.best], marker="o", markersize=13,
            fillstyle="none", color=frame.VERMILION, markeredgewidth=2, zorder=5,
        )  # fmt: skip
    _scale_places(axes, places, [frame.show(values[index]) for index in order])
    if not others and len(places) <= 10:
        _write_means(axes, places, grid)
    axes.margins(x=0.1, y=0.15)
    for place in places[~np.isfinite(rows).all(axis=0)]:
        axes.plot(
            place, 0.03, marker="x", color="0.2", markersize=7, transform=axes.get_xaxis_transform()
        )
    axes.set_xlabel(name.replace("_", " "), parse_math=False)
    axes.set_ylabel(grid.value_label, parse_math=False)
    frame.plain(axes.yaxis)
    if others:
        ends = zip(labels, rows, strict=True)
        frame.label_ends(axes, {label: (places, means) for label, means in ends})
    nothing = "" if np.isfinite(rows).all() else "; ×: no seed completed"
    about = f"line and band: {_MEAN}{grid.about_best('ringed')}{nothing}"
    frame.finish(figure, about, grid.path)


def _write_means(axes: Any, places: np.ndarray, grid: _Grid) -> None:
    """Writes each mean beside its point of a curve."""
    means, intervals = grid.means, grid.intervals
    for index in np.flatnonzero(np.isfinite(means)):
        # A valley of the lines has room below alone.
        valley = means[index] <= np.nanmin(means[max(index - 1, 0) : index + 2])
        below = valley and len(places) > 1
        end = (np.nanmin if below else np.nanmax)([means[index], *intervals[index]])
        digits = frame.digits(frame.known(intervals[index]))
        axes.annotate(
            f"{means[index]:.{digits}f}", (places[index], end),
            xytext=(0, -9 if below else 9), textcoords="offset points", ha="center",
            va="top" if below else "bottom", fontsize=9, zorder=6,
            weight="bold" if (index,) == grid.best else "normal",
        )  # fmt: skip


def _scale_places(axes: Any, places: np.ndarray, labels: Sequence[str]) -> None:
    """Scales the x axis of a curve; the places are labelled where they are not too near."""
    from matplotlib.ticker import LogLocator, NullLocator

    # Only a span of many powers makes neighbours collide at the left end of a linear scale.
    logarithmic = places[0] > 0 and places[-1] > 20 * places[0]
    if logarithmic:
        axes.set_xscale("log")
    shown = np.log(places) if logarithmic else places
    span = np.ptp(shown) or 1
    if len(places) == 1 or np.diff(shown).min() / span > 0.014 * (max(map(len, labels)) + 1):
        axes.set_xticks(places, labels)
    elif logarithmic:
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_locator(NullLocator())


def _draw_map(grid: _Grid) -> None:
    """Two axes: the first goes down, the second across."""
    from matplotlib.patches import Rectangle

    (down, rows), (across, columns) = grid.axes.items()
    beside, labels = [frame.show(value) for value in rows], [frame.show(value) for value in columns]
    margin, longest = (max(map(len, texts)) for texts in (beside, labels))
    cell = min(max(0.95, 0.09 * longest), 2.4)  # inches
    wide = max(5.5, cell * len(columns) + 2.2 + 0.09 * margin)
    figure, panel = frame.begin(grid.title, wide, max(3.2, 0.6 * len(rows) + 1.9), grid.path)
    worst, best = _colour_limits(grid)
    low, high = min(worst, best), max(worst, best)
    picture = frame.cells(
        panel, grid.means, frame.BLUE, (worst, best),
        line=("white", 1.5), ground="0.9", aspect="auto",
    )  # fmt: skip
    for place in np.ndindex(grid.means.shape):
        mean, interval = grid.means[place], frame.known(grid.intervals[place])
        text = "none" if not math.isfinite(mean) else f"{mean:.{frame.digits(interval)}f}"
        if interval and math.isfinite(mean):
            text += f"\n±{(interval[1] - interval[0]) / 2:.{frame.digits(interval)}f}"
        panel.text(
            place[1], place[0], text, ha="center", va="center", fontsize=9.5,
            weight="bold" if place == grid.best else "normal",
        )  # fmt: skip
    if grid.best is not None:
        corner = (grid.best[1] - 0.5, grid.best[0] - 0.5)
        edge: Any = {"fill": False, "edgecolor": frame.VERMILION, "linewidth": 3}
        panel.add_patch(Rectangle(corner, 1, 1, **edge, clip_on=False))
    panel.set_xlabel(across.replace("_", " "), parse_math=False)
    panel.set_ylabel(down.replace("_", " "), parse_math=False)
    turned: Any = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"}
    overlap = 0.09 * longest > cell
    panel.set_xticks(range(len(columns)), labels, parse_math=False, **turned if overlap else {})
    panel.set_yticks(range(len(rows)), beside, parse_math=False)
    beyond = "neither"
    if np.isfinite(grid.means).any():
        below, above = np.nanmin(grid.means) < low, np.nanmax(grid.means) > high
        beyond = "min" if below else "max" if above else "neither"
    bar = figure.colorbar(picture, ax=panel, extend=beyond)
    bar.set_label(grid.value_label, parse_math=False)
    frame.plain(bar.ax.yaxis)
    bar.outline.set_edgecolor("0.7")  # pyright: ignore
    about = (
        "mean over seeds ± half its 95 % interval, for these images; blue is better"
        f"{grid.about_best('framed')}"
    )
    frame.finish(figure, about, grid.path)


def _colour_limits(grid: _Grid) -> tuple[float, float]:
    """The worst and the best mean, or less than the worst if it would wash out all others."""
    values = grid.means[np.isfinite(grid.means)]
    if not len(values):
        return 0.0, 1.0
    worst, best = values.min(), values.max()
    if grid.is_loss:
        worst, best = best, worst
    middle = np.median(values)
    near = best + 4 * (middle - best)
    if middle != best and abs(near - best) < abs(worst - best):
        worst = near
    return float(worst), float(best)


def _draw_rows(grid: _Grid) -> None:
    """A row for each point: the best on top, what has no mean at the bottom."""
    points = [
        (", ".join(f"{name}={frame.show(value)}"
                   for name, value in zip(grid.axes, point, strict=True)),
         float(grid.means[place]), frame.known(grid.intervals[place]))
        for place, point in zip(np.ndindex(grid.means.shape),
                                itertools.product(*grid.axes.values()), strict=True)
    ]  # fmt: skip
    sign = 1 if grid.is_loss else -1
    points.sort(key=lambda point: (math.isnan(point[1]), sign * point[1]))
    labels = [label for label, *_ in points]
    width, height = 6 + 0.08 * max(map(len, labels)), 1.6 + 0.26 * max(len(points), 4)
    figure, panel = frame.begin(grid.title, width, height, grid.path)
    for place, (_, mean, interval) in enumerate(points):
        if not math.isfinite(mean):
            frame.beside(panel, place, "none completed")
            continue
        is_best = place == 0 and grid.best is not None
        colour, weight = (frame.VERMILION, "bold") if is_best else (frame.BLUE, "normal")
        panel.plot(mean, place, marker="o", markersize=7, color=colour, zorder=4)
        if interval:
            panel.hlines(place, *interval, color=colour, linewidth=2.5, zorder=3)
        frame.beside(panel, place, frame.interval_text(mean, interval), weight=weight)
    panel.set_yticks(range(len(points)), labels, parse_math=False, fontsize=9)
    panel.set_ylim(len(points) - 0.4, -0.6)
    panel.tick_params(axis="y", length=0)
    panel.set_xlabel(grid.value_label, parse_math=False)
    frame.limit(panel, np.array([x for _, mean, pair in points for x in (mean, *(pair or ()))]))
    frame.plain(panel.xaxis)
    on_top = "the highest on top" if grid.best is None else "the best on top"
    frame.finish(figure, f"{_MEAN}; {on_top}", grid.path)
