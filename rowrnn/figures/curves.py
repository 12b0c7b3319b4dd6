"""Learning curves over the seeds of a sweep."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from rowrnn.figures import frame
from rowrnn.figures.drawing import Target, fit, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Steps [K], values [S, K], and the values' 10th, 50th and 90th percentiles [K].
_Summary = tuple[np.ndarray, np.ndarray, tuple[np.ndarray, np.ndarray, np.ndarray]]

# More groups than this, and the lines of single seeds would only be fog.
_GROUPS_WITH_SEEDS = 4
# So would more lines than this in one group.
_SEEDS_OF_A_GROUP = 64


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

    height = max(4.6, 1.6 + frame.LINE * len(curves))
    figure, axes = frame.begin(title, fit(8, path, curves), height, path)
    summaries = {label: _summary(*curve) for label, curve in curves.items()}
    with_seeds = len(curves) <= _GROUPS_WITH_SEEDS
    for index, (steps, values, (low, middle, high)) in enumerate(summaries.values()):
        colour = frame.COLOURS[index % len(frame.COLOURS)]
        seeds, dense = len(values), len(steps) > 200
        width, marker = 1.5 if dense else 2, "o" if len(steps) <= 12 else ""
        axes.plot(
            steps, middle, color=colour, linestyle=frame.dashes(index), linewidth=width, zorder=4,
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
    cut = _scale_values(
        axes, list(summaries.values()), with_seeds, logarithmic=frame.is_loss(ylabel)
    )
    if len(curves) > 1:
        frame.label_ends(axes, {label: (s, p[1]) for label, (s, _, p) in summaries.items()}, height)
    about = _about_seeds([values for _, values in curves.values()], with_seeds)
    frame.caption(figure, about + cut, path)
    save(figure, path)


def whole_windows(steps: Sequence[int], values: np.ndarray) -> tuple[Sequence[int], np.ndarray]:
    """Means over windows of steps, without a last one of less than half the length of the others.

    It scatters so much more than they do that it would look like an event. `steps` [K] are the ends
    of the windows, `values` [S, K] the means.

    >>> whole_windows([10, 20, 21], np.array([[0.9, 0.5, 0.1]]))
    ([10, 20], array([[0.9, 0.5]]))
    """
    if len(steps) > 2 and 2 * (steps[-1] - steps[-2]) < steps[-2] - steps[-3]:
        return steps[:-1], values[:, :-1]
    return steps, values


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
    among = (
        frame.count(counts[0])
        if len(counts) == 1
        else f"{counts[0]:,} to {frame.count(counts[-1])}"
    )
    text = f"line: median of {among}; band: 10th to 90th percentile"
    if with_seeds:
        few = counts[-1] <= _SEEDS_OF_A_GROUP
        text += "; faint: " + (
            "every seed" if few else f"{_SEEDS_OF_A_GROUP} seeds, from the worst to the best"
        )
    stopped = sum(int(np.sum(~np.isfinite(values[:, -1]))) for values in groups)
    if stopped:
        text += f"; {frame.count(stopped)} stopped early and left out from there on"
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
        # Over less than a power of ten there must be more of them; over much less, round numbers at
        # equal steps.
        ratio = high / low
        subs = (1, 2, 5) if ratio > 10 else (1, 1.5, 2, 3, 4, 5, 7)
        axes.yaxis.set_major_locator(LogLocator(subs=subs) if ratio > 3 else MaxNLocator(6))
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
    frame.plain(axes.yaxis)
    return f"; not shown: values down to {low:.3g}" if cut else ""
