"""The means over a grid of settings: a curve, a map or rows."""

import itertools
import math
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np

from rowrnn.figures import frame
from rowrnn.figures.drawing import Target, fit, save

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def grid(
    axes: Mapping[str, Sequence[Any]],
    means: np.ndarray,
    intervals: np.ndarray,
    path: Target,
    title: str,
    value_label: str,
) -> None:
    """Draws the means over a grid of settings as a PNG, the best of them marked.

    One axis of numbers gives a curve, two axes a map, and anything else a row of text and bar for
    each point, the best on top. The best mean is the largest, or, where `value_label` has "loss"
    in it, the smallest.

    Args:
        axes: the values of each name that varies, in order.
        means: of the seeds at each point, [V1, V2, ...]; NaN where nothing completed.
        intervals: of those means, [V1, V2, ..., 2]; NaN where not known.
        path: of the PNG, or a `Drawing`.
        title: of the figure, one line or two.
        value_label: what the means are of.

    Raises:
        OSError: `path` cannot be written.

    >>> import os, tempfile
    >>> means = np.array([0.93, 0.95])
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     path = os.path.join(directory, "grid.png")
    ...     intervals = np.stack([means - 0.01, means + 0.01], axis=-1)
    ...     grid({"hidden": [64, 128]}, means, intervals, path, "two sizes", "test accuracy")
    ...     os.path.getsize(path) > 0
    True
    """
    means, intervals = np.asarray(means, float), np.asarray(intervals, float)
    match list(axes.values()):
        case [values] if all(isinstance(v, Real) and not isinstance(v, bool) for v in values):
            (name,) = axes
            figure = _curve(name, values, means, intervals, title, value_label, path)
        case [_, _]:
            figure = _map(axes, means, intervals, title, value_label, path)
        case _:
            figure = _rows(axes, means, intervals, title, value_label, path)
    save(figure, path)


def _curve(
    name: str,
    values: Sequence[Any],
    means: np.ndarray,
    intervals: np.ndarray,
    title: str,
    value_label: str,
    path: Target,
) -> "Figure":
    from matplotlib.ticker import LogLocator, NullLocator

    order = np.argsort(np.array(values, float), kind="stable")
    places, means, intervals = np.array(values, float)[order], means[order], intervals[order]
    figure, axes = frame.begin(title, fit(7, path), 4.4, path)
    axes.plot(places, means, color=frame.BLUE, marker="o", markersize=6, linewidth=1.4, zorder=4)
    axes.vlines(places, *intervals.T, color=frame.BLUE, linewidth=2, zorder=3)
    best = _best(means, value_label)
    if best is not None:
        axes.plot(
            places[best], means[best], marker="o", markersize=13, fillstyle="none",
            color=frame.VERMILION, markeredgewidth=2, zorder=5,
        )  # fmt: skip
    # Only a span of many powers makes neighbours collide at the left end of a linear scale.
    logarithmic = places[0] > 0 and places[-1] > 20 * places[0]
    if logarithmic:
        axes.set_xscale("log")
    shown = np.log(places) if logarithmic else places
    labels = [frame.show(values[index]) for index in order]
    span = np.ptp(shown) or 1
    longest = max(len(label) for label in labels)
    if len(places) == 1 or np.diff(shown).min() / span > 0.014 * (longest + 1):
        axes.set_xticks(places, labels)
    elif logarithmic:
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_locator(NullLocator())
    if len(places) <= 10:
        for index in np.flatnonzero(np.isfinite(means)):
            # In a valley the lines leave room below alone.
            valley = means[index] <= np.nanmin(means[max(index - 1, 0) : index + 2])
            below = valley and len(places) > 1
            end = (np.nanmin if below else np.nanmax)([means[index], *intervals[index]])
            digits = frame.digits(frame.known(intervals[index]))
            axes.annotate(
                f"{means[index]:.{digits}f}", (places[index], end),
                xytext=(0, -9 if below else 9), textcoords="offset points", ha="center",
                va="top" if below else "bottom", fontsize=9, zorder=6,
                weight="bold" if (index,) == best else "normal",
            )  # fmt: skip
    axes.margins(x=0.07, y=0.15)
    for place in places[~np.isfinite(means)]:
        axes.plot(
            place, 0.03, marker="x", color="0.2", markersize=7, transform=axes.get_xaxis_transform()
        )
    axes.set_xlabel(name, parse_math=False)
    axes.set_ylabel(value_label, parse_math=False)
    frame.plain(axes.yaxis)
    nothing = "" if np.isfinite(means).all() else "; ×: no seed completed"
    frame.caption(figure, f"mean over seeds and its 95 % interval, the best ringed{nothing}", path)
    return figure


def _map(
    axes: Mapping[str, Sequence[Any]],
    means: np.ndarray,
    intervals: np.ndarray,
    title: str,
    value_label: str,
    path: Target,
) -> "Figure":
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.patches import Rectangle

    (down, rows), (across, columns) = axes.items()
    beside, labels = [frame.show(value) for value in rows], [frame.show(value) for value in columns]
    margin, longest = (max(len(label) for label in texts) for texts in (beside, labels))
    cell = min(max(0.95, 0.09 * longest), 2.4)  # inches
    wide = max(5.5, cell * len(columns) + 2.2 + 0.09 * margin)
    figure, panel = frame.begin(title, wide, max(3.2, 0.6 * len(rows) + 1.9), path)
    # Lightness alone carries the meaning, for every kind of colour vision: the darker, the better.
    colours = LinearSegmentedColormap.from_list("means", ["#f4f9fd", "#63a8d8", "#08306b"])
    if frame.is_loss(value_label):
        colours = colours.reversed()
    worst, best = _colour_limits(means, value_label)
    low, high = min(worst, best), max(worst, best)
    panel.set_facecolor("0.9")  # what a point without a mean shows
    picture = panel.imshow(
        np.ma.masked_invalid(means), cmap=colours, vmin=low, vmax=high, aspect="auto"
    )
    winner = _best(means, value_label)
    for place in np.ndindex(means.shape):
        mean, interval = means[place], frame.known(intervals[place])
        text = "none" if not math.isfinite(mean) else f"{mean:.{frame.digits(interval)}f}"
        if interval and math.isfinite(mean):
            text += f"\n±{(interval[1] - interval[0]) / 2:.{frame.digits(interval)}f}"
        position = (mean - worst) / (best - worst) if best != worst else 0.5
        panel.text(
            place[1], place[0], text, ha="center", va="center", fontsize=9.5,
            color="white" if position > 0.6 else "black",
            weight="bold" if place == winner else "normal",
        )  # fmt: skip
    if winner is not None:
        corner = (winner[1] - 0.5, winner[0] - 0.5)
        panel.add_patch(
            Rectangle(
                corner, 1, 1, fill=False, edgecolor=frame.VERMILION, linewidth=3, clip_on=False
            )
        )
    panel.set_xlabel(across, parse_math=False)
    panel.set_ylabel(down, parse_math=False)
    turned = 0.09 * longest > cell
    panel.set_xticks(
        range(len(columns)), labels, parse_math=False,
        **({"rotation": 30, "ha": "right", "rotation_mode": "anchor"} if turned else {}),
    )  # fmt: skip
    panel.set_yticks(range(len(rows)), beside, parse_math=False)
    panel.set_xticks(np.arange(len(columns) + 1) - 0.5, minor=True)
    panel.set_yticks(np.arange(len(rows) + 1) - 0.5, minor=True)
    panel.grid(visible=False, which="major")
    panel.grid(which="minor", color="white", linewidth=1.5)
    panel.tick_params(which="both", length=0)
    panel.spines[:].set_visible(False)
    beyond = "neither"
    if np.isfinite(means).any():
        below, above = np.nanmin(means) < low, np.nanmax(means) > high
        beyond = "min" if below else "max" if above else "neither"
    bar = figure.colorbar(picture, ax=panel, extend=beyond)
    bar.set_label(value_label, parse_math=False)
    frame.plain(bar.ax.yaxis)
    bar.outline.set_edgecolor("0.7")  # pyright: ignore
    frame.caption(
        figure, "mean over seeds ± half its 95 % interval; the darker the better, best framed", path
    )
    return figure


def _rows(
    axes: Mapping[str, Sequence[Any]],
    means: np.ndarray,
    intervals: np.ndarray,
    title: str,
    value_label: str,
    path: Target,
) -> "Figure":
    points = [
        (", ".join(f"{name}={frame.show(value)}" for name, value in zip(axes, point, strict=True)),
         float(means[place]), frame.known(intervals[place]))
        for place, point in zip(np.ndindex(means.shape), itertools.product(*axes.values()),
                                strict=True)
    ]  # fmt: skip
    # The best on top, what has no mean at the bottom.
    sign = 1 if frame.is_loss(value_label) else -1
    points.sort(key=lambda point: (math.isnan(point[1]), sign * point[1]))
    longest = max(len(label) for label, *_ in points)
    figure, panel = frame.begin(title, 6 + 0.08 * longest, 1.6 + 0.26 * max(len(points), 4), path)
    for place, (_, mean, interval) in enumerate(points):
        if not math.isfinite(mean):
            frame.beside(panel, place, "none completed")
            continue
        colour = frame.VERMILION if place == 0 else frame.BLUE
        panel.plot(mean, place, marker="o", markersize=7, color=colour, zorder=4)
        if interval:
            panel.hlines(place, *interval, color=colour, linewidth=2.5, zorder=3)
        frame.beside(
            panel,
            place,
            frame.interval_text(mean, interval),
            weight="bold" if place == 0 else "normal",
        )
    panel.set_yticks(
        range(len(points)), [label for label, *_ in points], parse_math=False, fontsize=9
    )
    panel.set_ylim(len(points) - 0.4, -0.6)
    panel.tick_params(axis="y", length=0)
    panel.set_xlabel(value_label, parse_math=False)
    frame.limit(panel, np.array([x for _, mean, pair in points for x in (mean, *(pair or ()))]))
    frame.plain(panel.xaxis)
    frame.caption(figure, "mean over seeds and its 95 % interval, the best on top", path)
    return figure


def _best(means: np.ndarray, value_label: str) -> tuple[int, ...] | None:
    """The place of the best mean."""
    if not np.isfinite(means).any():
        return None
    flat = np.nanargmin(means) if frame.is_loss(value_label) else np.nanargmax(means)
    return tuple(int(index) for index in np.unravel_index(flat, means.shape))


def _colour_limits(means: np.ndarray, value_label: str) -> tuple[float, float]:
    """The worst and the best mean, or less than the worst if it would wash out all others."""
    values = means[np.isfinite(means)]
    if not len(values):
        return 0.0, 1.0
    worst, best = values.min(), values.max()
    if frame.is_loss(value_label):
        worst, best = best, worst
    middle = np.median(values)
    near = best + 4 * (middle - best)
    if middle != best and abs(near - best) < abs(worst - best):
        worst = near
    return float(worst), float(best)
