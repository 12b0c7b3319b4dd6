"""The final values of all seeds of a sweep."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from rowrnn.errors import count
from rowrnn.figures import drawing, frame
from rowrnn.figures.drawing import Drawing, Target

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Quartiles of fewer seeds say less than the points themselves.
_QUARTILES_FROM = 8
# Points of the page, in a row: from its lower edge to quartiles, mean and seeds, and above these.
_QUARTILES, _MEAN, _SEEDS, _ABOVE = 7, 16, 26, 6


class _Row(NamedTuple):
    """A group of seeds: how many there are, their finite values in order, the mean's interval."""

    place: int
    total: int
    values: np.ndarray
    interval: tuple[float, float] | None


def distribution(
    groups: Mapping[str, np.ndarray],
    intervals: Mapping[str, tuple[float, float] | None],
    path: Target,
    title: str,
    xlabel: str,
    published: tuple[str, float] | None = None,
) -> None:
    """Draws the final values of all seeds as a PNG, a row of points for each group.

    Args:
        groups: values [S], one a seed, by the label of a grid point. Those that are not finite
            are counted, not drawn.
        intervals: the 95 % interval of each group's mean; `None`, or no entry, where not known.
        path: the PNG file to write, or a `Drawing`.
        title: one line or two.
        xlabel: what the values are, such as "test accuracy".
        published: what to compare with, as (label, value).

    Raises `OSError` where `path` cannot be written.

    >>> picture, groups = Drawing(), {"hidden=128": np.array([0.941, 0.947, 0.944])}
    >>> intervals = {"hidden=128": (0.937, 0.951)}
    >>> distribution(groups, intervals, picture, "three seeds", "accuracy", ("2015", 0.9414))
    >>> picture.caption
    'point: a seed; diamond and bar: mean and its 95 % interval over seeds, for these images'
    """
    from matplotlib.ticker import MaxNLocator

    rows = []
    for label, group in groups.items():
        values = np.sort(np.asarray(group, float))
        known = frame.known(intervals.get(label))
        place = len(groups) - 1 - len(rows)  # the first on top
        rows.append(_Row(place, len(values), values[np.isfinite(values)], known))
    most = max(row.total for row in rows)
    tall = max(0.75, min(1.2 + 0.8 * math.log10(max(most, 1)), 4.4 / len(rows)))  # inches
    parts = [part for label in groups for part in label.split(",")]
    figure, axes = frame.begin(title, 8, tall * len(rows) + 1.5, path, labels=parts)
    shown = [[published[1]] if published else []]
    shown += [part for row in rows for part in (row.values, row.interval or ())]
    frame.limit(axes, np.concatenate(shown))
    axes.set_ylim(0, len(rows))
    # The values of a grid below each other, or they would take the room of the figure.
    labels = [label.replace(",", ",\n") for label in groups] if len(rows) > 1 else [""]
    axes.set_yticks([row.place + 0.5 for row in rows], labels, parse_math=False)
    axes.set_xlabel(xlabel, parse_math=False)
    narrow = isinstance(path, Drawing)
    if narrow:
        # There is room for three labels of five decimals.
        axes.xaxis.set_major_locator(MaxNLocator(3))
    frame.plain(axes.xaxis)
    _write_beside(axes, rows)
    if published:
        # The label would meet the heading beside it in a narrow figure.
        _reference(axes, *published, above=16 if narrow else 4)
    legend = (
        "point: a seed; diamond and bar: mean and its 95 % interval over seeds, for these images"
    )
    if most >= _QUARTILES_FROM:
        legend += "; thin line: quartiles and median"
    frame.caption(figure, legend, path)
    if _draw_points(figure, axes, [row for row in rows if len(row.values)]):
        frame.caption(figure, f"{legend}; equal values side by side", path)
    drawing.save(figure, path)


def _write_beside(axes: "Axes", rows: Sequence[_Row]) -> None:
    """Lines between the rows, and beside each its mean and number of seeds."""
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    for place in range(1, len(rows)):
        axes.axhline(place, color="0.8", linewidth=0.8)
    frame.beside(
        axes, 1, "mean [95 % interval]", transform=axes.transAxes, va="bottom", color="0.35"
    )
    for row in rows:
        ended, mean = len(row.values), "none completed"
        seeds = count(row.total, "seed")
        if ended:
            mean = frame.interval_text(float(row.values.mean()), row.interval)
        if ended < row.total:
            seeds = f"{ended:,} of {row.total:,} seeds"
        frame.beside(axes, row.place + 0.5, f"{mean}\n{seeds}")


def _reference(axes: "Axes", label: str, value: float, above: int) -> None:
    """A vertical line at a published value, its label above the axes."""
    axes.axvline(value, color=frame.VERMILION, linestyle="--", linewidth=1.6, zorder=2)
    left, right = axes.get_xlim()
    position = (value - left) / (right - left)
    axes.annotate(
        f"{label}: {value:.4f}", (value, 1), xycoords=axes.get_xaxis_transform(),
        xytext=(0, above), textcoords="offset points", va="bottom", color=frame.VERMILION,
        fontsize=9, ha="left" if position < 0.35 else "right" if position > 0.65 else "center",
        parse_math=False,
    )  # fmt: skip


def _draw_points(figure: "Figure", axes: "Axes", rows: Sequence[_Row]) -> bool:
    """Draws seeds, means, intervals and quartiles; returns whether equal seeds stand side by side.

    Seeds are stacked in points of the page, for which the layout must be known.
    """
    figure.draw_without_rendering()
    box, (_, above) = axes.get_window_extent(), axes.get_ylim()
    left, right = axes.get_xlim()
    unit = (right - left) / (box.width * 72 / figure.dpi)
    tall = box.height * 72 / figure.dpi / above
    scaled = [row.values / unit for row in rows]
    size, stacked = _stack(scaled, tall - _SEEDS - _ABOVE)
    for row, (along, heights) in zip(rows, stacked, strict=True):
        axes.scatter(
            along * unit, row.place + (_SEEDS + heights) / tall, s=(0.9 * size) ** 2,
            color=frame.BLUE, linewidths=0, zorder=3,
        )  # fmt: skip
        middle = row.place + _MEAN / tall
        if row.interval:
            axes.hlines(middle, *row.interval, color="0.1", linewidth=3.5, zorder=4)
        axes.plot(
            row.values.mean(), middle, marker="D", markersize=7, color="0.1",
            markeredgecolor="white", zorder=5,
        )  # fmt: skip
        if len(row.values) >= _QUARTILES_FROM:
            low, median, high = np.percentile(row.values, [25, 50, 75])
            below = row.place + _QUARTILES / tall
            axes.hlines(below, low, high, color="0.45", linewidth=1, zorder=3)
            axes.plot(median, below, marker="|", markersize=6, color="0.45", zorder=3)
    pairs = zip(scaled, stacked, strict=True)
    return any((along != values).any() for values, (along, _) in pairs)


def _stack(
    groups: Sequence[np.ndarray], room: float
) -> tuple[float, list[tuple[np.ndarray, np.ndarray]]]:
    """Stacks points so that none hides another.

    Groups are sorted places along x, in the unit of `room`, the height that there is. Returns the
    points' diameter and, for each group, their places and heights. Many equal places make a column
    too high: its points then stand side by side, as near as leaves the columns apart. Where even
    the smallest points do not fit, they are pressed together.
    """
    gap = min((np.diff(np.unique(group)).min(initial=40) for group in groups), default=40)
    sizes, smallest = np.geomspace(10, 1.2, 16), 3.5  # of points in single file
    tries = [(size, 1) for size in sizes if size >= smallest]
    tries += [(size, int(0.85 * gap / size)) for size in sizes]
    size, step, placed = sizes[-1], 0.0, []
    for size, columns in tries:
        placed = [_arrange(group, size, columns) for group in groups]
        step = room / (1 + max((levels.max() for _, levels in placed), default=0))
        if size <= step:
            break
    step = min(size, step)
    return size, [(along, (levels + 0.5) * step) for along, levels in placed]


def _arrange(places: np.ndarray, size: float, columns: int) -> tuple[np.ndarray, np.ndarray]:
    """Places and levels of the sorted places, where up to `columns` equal ones share a level.

    In a single column each takes the lowest level on which it has `size` to itself.
    """
    if columns < 2:
        ends = np.full(len(places), -np.inf)  # of what each level has so far
        levels = np.empty(len(places), int)
        for index, place in enumerate(places):
            levels[index] = np.argmax(ends <= place)
            ends[levels[index]] = place + size
        return places, levels
    _, first, counts = np.unique(places, return_index=True, return_counts=True)
    levels, column = np.divmod(np.arange(len(places)) - np.repeat(first, counts), columns)
    shared = np.minimum(np.repeat(counts, counts) - levels * columns, columns)
    return places + (column - (shared - 1) / 2) * size, levels
