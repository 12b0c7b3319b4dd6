"""The final values of all seeds of a sweep."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from rowrnn.figures import frame
from rowrnn.figures.drawing import Drawing, Target, fit, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Quartiles of fewer seeds say less than the points themselves.
_QUARTILES_FROM = 8


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
        path: of the PNG, or a `Drawing`.
        title: of the figure, one line or two.
        xlabel: what the values are, such as "test accuracy".
        published: what to compare with, as (label, value).

    Raises:
        OSError: `path` cannot be written.

    >>> import os, tempfile
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     path = os.path.join(directory, "accuracy.png")
    ...     groups = {"hidden=128": np.array([0.941, 0.947, 0.944])}
    ...     intervals = {"hidden=128": (0.937, 0.951)}
    ...     distribution(groups, intervals, path, "three seeds", "accuracy", ("2015", 0.9414))
    ...     os.path.getsize(path) > 0
    True
    """
    from matplotlib.ticker import MaxNLocator

    values = {label: np.asarray(group, float) for label, group in groups.items()}
    finite = {label: np.sort(group[np.isfinite(group)]) for label, group in values.items()}
    known = {label: frame.known(intervals.get(label)) for label in groups}
    most = max(len(group) for group in groups.values())
    row = max(0.75, min(1.2 + 0.8 * math.log10(max(most, 1)), 4.4 / len(groups)))  # inches
    figure, axes = frame.begin(title, fit(8, path, groups), row * len(groups) + 1.5, path)

    ends = [*finite.values(), *(np.array(pair) for pair in known.values() if pair)]
    ends = np.concatenate([*ends, [published[1]] if published else []])
    frame.limit(axes, ends if len(ends) else np.zeros(1))
    axes.set_ylim(0, len(groups))
    places = dict(zip(groups, reversed(range(len(groups))), strict=True))  # the first on top
    axes.set_yticks(
        [place + 0.5 for place in places.values()],
        list(groups) if len(groups) > 1 else [""],
        parse_math=False,
    )
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    for place in range(1, len(groups)):
        axes.axhline(place, color="0.8", linewidth=0.8)
    axes.set_xlabel(xlabel, parse_math=False)
    if isinstance(path, Drawing):
        # There is room for so many labels of five decimals.
        axes.xaxis.set_major_locator(MaxNLocator(3))
    frame.plain(axes.xaxis)
    frame.beside(
        axes, 1, "mean [95 % interval]", transform=axes.transAxes, va="bottom", color="0.35"
    )
    for label, place in places.items():
        count, total = len(finite[label]), len(values[label])
        seeds = f"{count:,} of {total:,} seeds" if count < total else frame.count(total)
        mean = (
            frame.interval_text(float(finite[label].mean()), known[label])
            if count
            else "none completed"
        )
        frame.beside(axes, place + 0.5, f"{mean}\n{seeds}")
    if published:
        # In a narrow figure it would meet the heading beside it.
        _reference(axes, *published, above=16 if isinstance(path, Drawing) else 4)
    legend = "point: a seed; diamond and bar: mean and its 95 % interval"
    if most >= _QUARTILES_FROM:
        legend += "; thin line: quartiles and median"
    frame.caption(figure, legend, path)

    # Points are stacked in points of the page: only the layout knows how much room there is.
    figure.draw_without_rendering()
    box = axes.get_window_extent()
    width, tall = box.width * 72 / figure.dpi, box.height * 72 / figure.dpi / len(groups)
    left, right = axes.get_xlim()
    base, top = 26, 6
    unit = (right - left) / width
    finite = {label: group for label, group in finite.items() if len(group)}
    scaled = {label: group / unit for label, group in finite.items()}
    size, stacked = _stack(scaled, tall - base - top)
    if any((stacked[label][0] != group).any() for label, group in scaled.items()):
        frame.caption(figure, f"{legend}; equal values side by side", path)
    for label, group in finite.items():
        place = places[label]
        along, heights = stacked[label]
        axes.scatter(
            along * unit, place + (base + heights) / tall, s=(0.9 * size) ** 2, color=frame.BLUE,
            linewidths=0, zorder=3,
        )  # fmt: skip
        middle = place + 16 / tall
        if pair := known[label]:
            axes.hlines(middle, *pair, color="0.1", linewidth=3.5, zorder=4)
        axes.plot(
            group.mean(), middle, marker="D", markersize=7, color="0.1", markeredgecolor="white",
            zorder=5,
        )  # fmt: skip
        if len(group) >= _QUARTILES_FROM:
            low, median, high = np.percentile(group, [25, 50, 75])
            below = place + 7 / tall
            axes.hlines(below, low, high, color="0.45", linewidth=1, zorder=3)
            axes.plot(median, below, marker="|", markersize=6, color="0.45", zorder=3)
    save(figure, path)


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


def _stack(
    groups: Mapping[str, np.ndarray], room: float
) -> tuple[float, dict[str, tuple[np.ndarray, np.ndarray]]]:
    """Stacks points so that none hides another.

    Groups are sorted places along x, in the unit of `room`, the height that there is. Returns the
    points' diameter and, by group, their places and heights. Many equal places make a column too
    high: its points then stand side by side, as near as leaves the columns apart. Where even the
    smallest points do not fit, they are pressed together.
    """
    gaps = [np.diff(np.unique(group)).min(initial=40) for group in groups.values()]
    sizes, smallest = np.geomspace(10, 1.2, 16), 3.5  # of points in single file

    def single_file(size: float) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        return {label: (group, _levels(group, size)) for label, group in groups.items()}

    def side_by_side(size: float) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        columns = int(0.85 * min(gaps) / size)
        if columns < 2:
            return single_file(size)
        return {label: _columns(group, size, columns) for label, group in groups.items()}

    tries = [(size, single_file) for size in sizes if size >= smallest]
    tries += [(size, side_by_side) for size in sizes]
    size, step, placed = sizes[-1], 0.0, {}
    for size, place in tries:
        placed = place(size)
        step = room / (1 + max((levels.max() for _, levels in placed.values()), default=0))
        if size <= step:
            break
    step = min(size, step)
    return size, {label: (at, (levels + 0.5) * step) for label, (at, levels) in placed.items()}


def _levels(places: np.ndarray, size: float) -> np.ndarray:
    """The lowest level free for each of the sorted places, where each takes `size`."""
    ends = np.full(len(places), -np.inf)  # of what each level has so far
    levels = np.empty(len(places), int)
    for index, place in enumerate(places):
        levels[index] = np.argmax(ends <= place)
        ends[levels[index]] = place + size
    return levels


def _columns(places: np.ndarray, size: float, columns: int) -> tuple[np.ndarray, np.ndarray]:
    """Places and levels where up to `columns` equal ones of the sorted places share a level."""
    _, first, counts = np.unique(places, return_index=True, return_counts=True)
    levels, column = np.divmod(np.arange(len(places)) - np.repeat(first, counts), columns)
    shared = np.minimum(np.repeat(counts, counts) - levels * columns, columns)
    return places + (column - (shared - 1) / 2) * size, levels
