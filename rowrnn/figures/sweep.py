"""What a sweep over seeds and settings has shown: its curves, its final values, its grid."""

import itertools
import math
import textwrap
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np

from rowrnn.figures.drawing import Drawing, Target, fit, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Steps [K], values [S, K], and the values' 10th, 50th and 90th percentiles [K].
_Summary = tuple[np.ndarray, np.ndarray, tuple[np.ndarray, np.ndarray, np.ndarray]]

# Okabe and Ito's palette, which all kinds of colour vision tell apart; dashes go on where it ends.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
_DASHES = ("-", "--", ":")
_BLUE, _VERMILION = _COLOURS[0], _COLOURS[1]

# More groups than this, and the lines of single seeds would only be fog.
_GROUPS_WITH_SEEDS = 4
# So would more lines than this in one group.
_SEEDS_OF_A_GROUP = 64
# Inches from one line of small text to the next.
_LINE = 0.17
# Quartiles of fewer seeds say less than the points themselves.
_QUARTILES_FROM = 8


def learning_curves(
    curves: Mapping[str, tuple[Sequence[int], np.ndarray]],
    path: Target,
    title: str,
    ylabel: str,
) -> None:
    """Draws learning curves as a PNG: per group the median over seeds in a band, and the seeds.

    `curves` has, by the label of a grid point, its steps [K] and values [S, K], one row a seed.
    Values that are not finite are left out, though a group must have some: where a seed has
    stopped, median and band are those of the seeds that go on. The band reaches from the 10th to
    the 90th percentile. A `ylabel` with "loss" in it asks for a logarithmic scale, which it gets
    where all values are positive. On a linear scale, the bands of the second half of training take
    at least half of the height, and the caption says what was cut off for that. Raises `OSError`
    where `path` cannot be written.

    >>> import os, tempfile
    >>> accuracies = np.array([[0.5, 0.8, 0.9], [0.4, 0.7, 0.9]])
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     path = os.path.join(directory, "curves.png")
    ...     curves = {"hidden=128": ([10, 20, 30], accuracies)}
    ...     learning_curves(curves, path, "two seeds", "validation accuracy")
    ...     os.path.getsize(path) > 0
    True
    """
    from matplotlib.patheffects import withStroke

    height = max(4.6, 1.6 + _LINE * len(curves))
    figure, axes = _figure(title, fit(8, path, curves), height, path)
    summaries = {label: _summary(*curve) for label, curve in curves.items()}
    with_seeds = len(curves) <= _GROUPS_WITH_SEEDS
    for index, (steps, values, (low, middle, high)) in enumerate(summaries.values()):
        colour = _COLOURS[index % len(_COLOURS)]
        seeds, dense = len(values), len(steps) > 200
        width, marker = 1.5 if dense else 2, "o" if len(steps) <= 12 else ""
        axes.plot(
            steps, middle, color=colour, linestyle=_dashes(index), linewidth=width, zorder=4,
            marker=marker, markersize=5,
            path_effects=[withStroke(linewidth=width + 1.5, foreground="white")],
        )  # fmt: skip
        if seeds > 1:
            shade = 0.25 if with_seeds else 0.1
            axes.fill_between(steps, low, high, color=colour, alpha=shade, linewidth=0, zorder=3)
        if seeds > 1 and with_seeds:
            lines = _sample(values)
            alpha = np.clip(5 / len(lines), 0.12, 0.5) * (0.4 if dense else 1)
            axes.plot(
                steps, lines.T, color=colour, alpha=alpha, linewidth=0.7, marker=marker,
                markersize=3, zorder=2,
            )  # fmt: skip
    axes.set_xlabel("step")
    axes.set_ylabel(ylabel, parse_math=False)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.margins(x=0.02 if max(len(steps) for steps, *_ in summaries.values()) <= 12 else 0)
    cut = _scale_values(axes, list(summaries.values()), with_seeds, logarithmic=_is_loss(ylabel))
    if len(curves) > 1:
        _label_ends(axes, {label: (s, p[1]) for label, (s, _, p) in summaries.items()}, height)
    about = _about_seeds([values for _, values in curves.values()], with_seeds)
    _caption(figure, about + cut, path)
    save(figure, path)


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
    values = {label: np.asarray(group, float) for label, group in groups.items()}
    finite = {label: np.sort(group[np.isfinite(group)]) for label, group in values.items()}
    known = {label: _known(intervals.get(label)) for label in groups}
    most = max(len(group) for group in groups.values())
    row = max(0.75, min(1.2 + 0.8 * math.log10(max(most, 1)), 4.4 / len(groups)))  # inches
    figure, axes = _figure(title, fit(8, path, groups), row * len(groups) + 1.5, path)

    ends = [*finite.values(), *(np.array(pair) for pair in known.values() if pair)]
    ends = np.concatenate([*ends, [published[1]] if published else []])
    _limit(axes, ends if len(ends) else np.zeros(1))
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
    axes.xaxis.get_major_formatter().set_useOffset(False)  # pyright: ignore
    _beside(axes, 1, "mean [95 % interval]", transform=axes.transAxes, va="bottom", color="0.35")
    for label, place in places.items():
        count, total = len(finite[label]), len(values[label])
        seeds = f"{count:,} of {total:,} seeds" if count < total else _count(total)
        mean = (
            _interval_text(float(finite[label].mean()), known[label]) if count else "none completed"
        )
        _beside(axes, place + 0.5, f"{mean}\n{seeds}")
    if published:
        # In a narrow figure it would meet the heading beside it.
        _reference(axes, *published, above=16 if isinstance(path, Drawing) else 4)
    legend = "point: a seed; diamond and bar: mean and its 95 % interval"
    if most >= _QUARTILES_FROM:
        legend += "; thin line: quartiles and median"
    _caption(figure, legend, path)

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
        _caption(figure, f"{legend}; equal values side by side", path)
    for label, group in finite.items():
        place = places[label]
        along, heights = stacked[label]
        axes.scatter(
            along * unit, place + (base + heights) / tall, s=(0.9 * size) ** 2, color=_BLUE,
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
    figure, axes = _figure(title, fit(7, path), 4.4, path)
    axes.plot(places, means, color=_BLUE, marker="o", markersize=6, linewidth=1.4, zorder=4)
    axes.vlines(places, *intervals.T, color=_BLUE, linewidth=2, zorder=3)
    best = _best(means, value_label)
    if best is not None:
        axes.plot(
            places[best], means[best], marker="o", markersize=13, fillstyle="none",
            color=_VERMILION, markeredgewidth=2, zorder=5,
        )  # fmt: skip
    # Only a span of many powers makes neighbours collide at the left end of a linear scale.
    logarithmic = places[0] > 0 and places[-1] > 20 * places[0]
    if logarithmic:
        axes.set_xscale("log")
    shown = np.log(places) if logarithmic else places
    labels = [_show(values[index]) for index in order]
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
            axes.annotate(
                f"{means[index]:.{_digits(_known(intervals[index]))}f}", (places[index], end),
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
    _plain(axes.yaxis)
    nothing = "" if np.isfinite(means).all() else "; ×: no seed completed"
    _caption(figure, f"mean over seeds and its 95 % interval, the best ringed{nothing}", path)
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
    beside, labels = [_show(value) for value in rows], [_show(value) for value in columns]
    margin, longest = (max(len(label) for label in texts) for texts in (beside, labels))
    cell = min(max(0.95, 0.09 * longest), 2.4)  # inches
    wide = max(5.5, cell * len(columns) + 2.2 + 0.09 * margin)
    figure, panel = _figure(title, wide, max(3.2, 0.6 * len(rows) + 1.9), path)
    # Lightness alone carries the meaning, for every kind of colour vision: the darker, the better.
    colours = LinearSegmentedColormap.from_list("means", ["#f4f9fd", "#63a8d8", "#08306b"])
    if _is_loss(value_label):
        colours = colours.reversed()
    worst, best = _colour_limits(means, value_label)
    low, high = min(worst, best), max(worst, best)
    panel.set_facecolor("0.9")  # what a point without a mean shows
    picture = panel.imshow(
        np.ma.masked_invalid(means), cmap=colours, vmin=low, vmax=high, aspect="auto"
    )
    winner = _best(means, value_label)
    for place in np.ndindex(means.shape):
        mean, interval = means[place], _known(intervals[place])
        text = "none" if not math.isfinite(mean) else f"{mean:.{_digits(interval)}f}"
        if interval and math.isfinite(mean):
            text += f"\n±{(interval[1] - interval[0]) / 2:.{_digits(interval)}f}"
        position = (mean - worst) / (best - worst) if best != worst else 0.5
        panel.text(
            place[1], place[0], text, ha="center", va="center", fontsize=9.5,
            color="white" if position > 0.6 else "black",
            weight="bold" if place == winner else "normal",
        )  # fmt: skip
    if winner is not None:
        corner = (winner[1] - 0.5, winner[0] - 0.5)
        panel.add_patch(
            Rectangle(corner, 1, 1, fill=False, edgecolor=_VERMILION, linewidth=3, clip_on=False)
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
    _plain(bar.ax.yaxis)
    bar.outline.set_edgecolor("0.7")  # pyright: ignore
    _caption(figure, "mean over seeds ± half its 95 % interval; the darker the better, best framed")
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
        (", ".join(f"{name}={_show(value)}" for name, value in zip(axes, point, strict=True)),
         float(means[place]), _known(intervals[place]))
        for place, point in zip(np.ndindex(means.shape), itertools.product(*axes.values()),
                                strict=True)
    ]  # fmt: skip
    # The best on top, what has no mean at the bottom.
    sign = 1 if _is_loss(value_label) else -1
    points.sort(key=lambda point: (math.isnan(point[1]), sign * point[1]))
    longest = max(len(label) for label, *_ in points)
    figure, panel = _figure(title, 6 + 0.08 * longest, 1.6 + 0.26 * max(len(points), 4), path)
    for place, (_, mean, interval) in enumerate(points):
        if not math.isfinite(mean):
            _beside(panel, place, "none completed")
            continue
        colour = _VERMILION if place == 0 else _BLUE
        panel.plot(mean, place, marker="o", markersize=7, color=colour, zorder=4)
        if interval:
            panel.hlines(place, *interval, color=colour, linewidth=2.5, zorder=3)
        _beside(
            panel, place, _interval_text(mean, interval), weight="bold" if place == 0 else "normal"
        )
    panel.set_yticks(
        range(len(points)), [label for label, *_ in points], parse_math=False, fontsize=9
    )
    panel.set_ylim(len(points) - 0.4, -0.6)
    panel.tick_params(axis="y", length=0)
    panel.set_xlabel(value_label, parse_math=False)
    _limit(panel, np.array([x for _, mean, pair in points for x in (mean, *(pair or ()))]))
    _plain(panel.xaxis)
    _caption(figure, "mean over seeds and its 95 % interval, the best on top", path)
    return figure


def _figure(
    title: str, width: float, height: float, to: Target | None = None
) -> tuple["Figure", "Axes"]:
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


def _caption(figure: "Figure", text: str, to: Target | None = None) -> None:
    if isinstance(to, Drawing):
        to.caption = text
        return
    columns = int(16 * figure.get_figwidth())
    figure.supxlabel(
        textwrap.fill(text, columns), fontsize=8, color="0.35", parse_math=False, x=0.015, ha="left"
    )


def _beside(axes: "Axes", height: float, text: str, **style: Any) -> None:
    """Text to the right of the axes."""
    transform = axes.get_yaxis_transform()
    axes.text(
        1.015, height, text, **{"transform": transform, "va": "center", "fontsize": 8} | style
    )


def _dashes(index: int) -> str:
    return _DASHES[index // len(_COLOURS) % len(_DASHES)]


def _is_loss(label: str) -> bool:
    return "loss" in label.lower()


def _best(means: np.ndarray, value_label: str) -> tuple[int, ...] | None:
    """The place of the best mean."""
    if not np.isfinite(means).any():
        return None
    flat = np.nanargmin(means) if _is_loss(value_label) else np.nanargmax(means)
    return tuple(int(index) for index in np.unravel_index(flat, means.shape))


def _known(interval: Any) -> tuple[float, float] | None:
    """An interval that has both its ends."""
    if interval is None or not np.isfinite(interval).all():
        return None
    return float(interval[0]), float(interval[1])


def _show(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _count(seeds: int) -> str:
    return f"{seeds:,} seed{'s' if seeds != 1 else ''}"


def _digits(interval: tuple[float, float] | None) -> int:
    """Decimals that show two digits of an interval's width, at least four."""
    if interval is None or interval[0] == interval[1]:
        return 4
    return int(np.clip(1 - math.floor(math.log10(abs(interval[1] - interval[0]))), 4, 6))


def _interval_text(mean: float, interval: tuple[float, float] | None) -> str:
    digits = _digits(interval)
    if interval is None:
        return f"{mean:.{digits}f}"
    return f"{mean:.{digits}f} [{interval[0]:.{digits}f}, {interval[1]:.{digits}f}]"


def _limit(axes: "Axes", values: np.ndarray) -> None:
    """Limits of the x axis with a margin, also where all values are one."""
    values = values[np.isfinite(values)]
    low, high = (values.min(), values.max()) if len(values) else (0.0, 1.0)
    margin = 0.05 * (high - low) or 0.01
    axes.set_xlim(low - margin, high + margin)


def _plain(axis: Any) -> None:
    """Tick labels that are whole numbers to read, not differences from an offset."""
    axis.get_major_formatter().set_useOffset(False)


def _reference(axes: "Axes", label: str, value: float, above: int) -> None:
    """A vertical line at a published value, its label above the axes."""
    axes.axvline(value, color=_VERMILION, linestyle="--", linewidth=1.6, zorder=2)
    left, right = axes.get_xlim()
    position = (value - left) / (right - left)
    axes.annotate(
        f"{label}: {value:.4f}", (value, 1), xycoords=axes.get_xaxis_transform(),
        xytext=(0, above), textcoords="offset points", va="bottom", color=_VERMILION, fontsize=9,
        ha="left" if position < 0.35 else "right" if position > 0.65 else "center",
        parse_math=False,
    )  # fmt: skip


def _summary(steps: Sequence[int], values: np.ndarray) -> _Summary:
    """Steps at which any seed goes on, its values, and their 10th, 50th and 90th percentile."""
    values = np.where(np.isfinite(values), values, np.nan)
    alive = np.isfinite(values).any(axis=0)
    values = values[:, alive]
    low, middle, high = np.nanpercentile(values, [10, 50, 90], axis=0)
    return np.asarray(steps)[alive], values, (low, middle, high)


def _about_seeds(groups: Sequence[np.ndarray], with_seeds: bool) -> str:
    """The caption of learning curves."""
    counts = sorted({len(values) for values in groups})
    if counts == [1]:
        return "one seed"
    among = _count(counts[0]) if len(counts) == 1 else f"{counts[0]:,} to {_count(counts[-1])}"
    text = f"line: median of {among}; band: 10th to 90th percentile"
    if with_seeds:
        few = counts[-1] <= _SEEDS_OF_A_GROUP
        text += "; faint: " + (
            "every seed" if few else f"{_SEEDS_OF_A_GROUP} seeds, from the worst to the best"
        )
    stopped = sum(int(np.sum(~np.isfinite(values[:, -1]))) for values in groups)
    if stopped:
        text += f"; {_count(stopped)} stopped early and left out from there on"
    return text


def _sample(values: np.ndarray) -> np.ndarray:
    """All seeds, or of many some, spread evenly from the lowest last value to the highest."""
    if len(values) <= _SEEDS_OF_A_GROUP:
        return values
    places = np.linspace(0, len(values) - 1, _SEEDS_OF_A_GROUP).round().astype(int)
    return values[np.argsort(values[:, -1], kind="stable")[places]]


def _scale_values(
    axes: "Axes", summaries: Sequence[_Summary], with_seeds: bool, logarithmic: bool
) -> str:
    """Scales the y axis; returns what the caption has to add."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

    shown = [values if with_seeds else np.stack(bands) for _, values, bands in summaries]
    low = min(np.nanmin(values) for values in shown)
    high = max(np.nanmax(values) for values in shown)
    if logarithmic and low > 0:
        axes.set_yscale("log")
        margin = (high / low) ** 0.04 if high > low else 1.1
        axes.set_ylim(low / margin, high * margin)
        # Within one power of ten, round numbers at equal steps say more.
        wide = high > 10 * low
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)) if wide else MaxNLocator(6))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter("{x:g}")
        return ""
    half = max(steps[-1] for steps, *_ in summaries) / 2
    late = [np.stack(bands)[:, steps >= half] for steps, _, bands in summaries]
    late_low = min(bands.min() for bands in late if bands.size)
    late_high = max(bands.max() for bands in late if bands.size)
    floor = late_low - max(late_high - late_low, 0.01 * abs(late_high))
    cut = not logarithmic and low < floor
    bottom = floor if cut else low
    margin = 0.04 * (high - bottom or 1)
    axes.set_ylim(bottom if cut else bottom - margin, high + margin)
    _plain(axes.yaxis)
    return f"; not shown: values down to {low:.3g}" if cut else ""


def _label_ends(
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
    moved[order] = _spread(fractions[order], _LINE / (height - 1.3))
    for index, (label, (steps, _)) in enumerate(ends.items()):
        colour = _COLOURS[index % len(_COLOURS)]
        axes.annotate(
            label, (steps[-1], places[index]), xytext=(1.05, moved[index]),
            textcoords="axes fraction", va="center", fontsize=9, color="0.15", parse_math=False,
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-", "color": colour, "linewidth": 1.8, "linestyle": _dashes(index),
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


def _colour_limits(means: np.ndarray, value_label: str) -> tuple[float, float]:
    """The worst and the best mean, or less than the worst if it would wash out all others."""
    values = means[np.isfinite(means)]
    if not len(values):
        return 0.0, 1.0
    worst, best = values.min(), values.max()
    if _is_loss(value_label):
        worst, best = best, worst
    middle = np.median(values)
    near = best + 4 * (middle - best)
    if middle != best and abs(near - best) < abs(worst - best):
        worst = near
    return float(worst), float(best)
