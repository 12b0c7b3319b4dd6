"""Learning curves over the seeds of a sweep."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from rowrnn.errors import count
from rowrnn.figures import frame
from rowrnn.figures.drawing import Target

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Most groups whose seeds are drawn, and most seeds of a group: more lines would only be fog.
_GROUPS_WITH_SEEDS, _SEEDS_OF_A_GROUP = 4, 64


class _Curve(NamedTuple):
    """A group: steps [K], values [S, K], and their 10th, 50th and 90th percentiles [3, K]."""

    steps: np.ndarray
    values: np.ndarray
    band: np.ndarray


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

    >>> from rowrnn.figures import Drawing
    >>> picture, losses = Drawing(), np.array([[0.9, 0.4, 0.2], [0.8, 0.4, 0.1]])
    >>> learning_curves({"hidden=128": ([10, 20, 30], losses)}, picture, "two seeds", "loss")
    >>> picture.caption
    'line: median of 2 seeds; band: 10th to 90th percentile; faint: every seed'
    """
    from matplotlib.patheffects import withStroke

    height = max(4.6, 1.6 + frame.LINE * len(curves))
    figure, axes = frame.begin(title, 8, height, path, labels=curves)
    drawn = {label: _summarize(*curve) for label, curve in curves.items()}
    with_seeds = len(curves) <= _GROUPS_WITH_SEEDS
    for index, (steps, values, (low, middle, high)) in enumerate(drawn.values()):
        style = frame.style(index)
        seeds, dense = len(values), len(steps) > 200
        width, marker = 1.5 if dense else 2, "o" if len(steps) <= 12 else ""
        axes.plot(
            steps, middle, **style, linewidth=width, zorder=4, marker=marker, markersize=5,
            path_effects=[withStroke(linewidth=width + 1.5, foreground="white")],
        )  # fmt: skip
        if seeds > 1:
            shade = 0.25 if with_seeds else 0.1
            axes.fill_between(
                steps, low, high, color=style["color"], alpha=shade, linewidth=0, zorder=3
            )
        if seeds > 1 and with_seeds:
            lines = _sample(values)
            alpha = np.clip(5 / len(lines), 0.12, 0.5) * (0.4 if dense else 1)
            axes.plot(
                steps, lines.T, color=style["color"], alpha=alpha, linewidth=0.7, marker=marker,
                markersize=3, zorder=2,
            )  # fmt: skip
    axes.set_xlabel("step")
    axes.set_ylabel(ylabel, parse_math=False)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.margins(x=0.02 if max(len(curve.steps) for curve in drawn.values()) <= 12 else 0)
    axes.set_xlim(left=0)  # Where training began, though nothing is known of it there.
    cut = _scale_values(axes, list(drawn.values()), with_seeds, logarithmic=frame.is_loss(ylabel))
    if len(curves) > 1:
        ends = {label: (curve.steps, curve.band[1]) for label, curve in drawn.items()}
        frame.label_ends(axes, ends)
    about = _about_seeds([values for _, values in curves.values()], with_seeds)
    frame.finish(figure, about + cut, path)


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


def _summarize(steps: Sequence[int], values: np.ndarray) -> _Curve:
    """The steps at which any seed goes on, with NaN where a seed has stopped."""
    values = np.where(np.isfinite(values), values, np.nan)
    alive = np.isfinite(values).any(axis=0)
    values = values[:, alive]
    return _Curve(np.asarray(steps)[alive], values, np.nanpercentile(values, [10, 50, 90], axis=0))


def _about_seeds(groups: Sequence[np.ndarray], with_seeds: bool) -> str:
    """The caption of learning curves."""
    counts = sorted({len(values) for values in groups})
    if counts == [1]:
        return "one seed"
    fewest = f"{counts[0]:,} to " if len(counts) > 1 else ""
    among = f"{fewest}{count(counts[-1], 'seed')}"
    text = f"line: median of {among}; band: 10th to 90th percentile"
    if with_seeds:
        some = f"{_SEEDS_OF_A_GROUP} seeds, from the worst to the best"
        text += f"; faint: {'every seed' if counts[-1] <= _SEEDS_OF_A_GROUP else some}"
    stopped = sum(int(np.sum(~np.isfinite(values[:, -1]))) for values in groups)
    if stopped:
        text += f"; {count(stopped, 'seed')} stopped early and left out from there on"
    return text


def _sample(values: np.ndarray) -> np.ndarray:
    """All seeds, or of many some, spread evenly from the lowest last value to the highest."""
    if len(values) <= _SEEDS_OF_A_GROUP:
        return values
    places = np.linspace(0, len(values) - 1, _SEEDS_OF_A_GROUP).round().astype(int)
    return values[np.argsort(values[:, -1], kind="stable")[places]]


def _scale_values(
    axes: "Axes", curves: Sequence[_Curve], with_seeds: bool, logarithmic: bool
) -> str:
    """Scales the y axis; returns what the caption has to add."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

    shown = [curve.values if with_seeds else curve.band for curve in curves]
    low = min(np.nanmin(values) for values in shown)
    high = max(np.nanmax(values) for values in shown)
    # A value below the smallest float32 was never a loss, and is too small for an axis.
    if logarithmic and low > np.finfo(np.float32).tiny:
        axes.set_yscale("log")
        margin = (high / low) ** 0.04 if high > low else 1.1
        axes.set_ylim(low / margin, high * margin)
        # A range below a power of ten needs more ticks; one far below takes round numbers at equal
        # steps.
        ratio = high / low
        subs = (1, 2, 5) if ratio > 10 else (1, 1.5, 2, 3, 4, 5, 7)
        axes.yaxis.set_major_locator(LogLocator(subs=subs) if ratio > 3 else MaxNLocator(6))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter("{x:g}")
        return ""
    half = max(curve.steps[-1] for curve in curves) / 2
    late = np.concatenate([curve.band[:, curve.steps >= half].ravel() for curve in curves])
    late_low, late_high = late.min(), late.max()
    floor = late_low - max(late_high - late_low, 0.01 * abs(late_high))
    cut = not logarithmic and low < floor
    bottom = floor if cut else low
    margin = 0.04 * (high - bottom or 1)
    axes.set_ylim(bottom if cut else bottom - margin, high + margin)
    frame.plain(axes.yaxis)
    return f"; not shown: values down to {low:.3g}" if cut else ""
