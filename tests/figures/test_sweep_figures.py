import itertools
import re
import subprocess
import sys

import numpy as np
import pytest
from matplotlib.collections import LineCollection, PathCollection, PolyCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from PIL import Image

from rowrnn import figures

LONG = "a long title, no formula: $x^$, " * 4 + "\nand a second line"
PUBLISHED = ("notebook of 2015, 256 images", 0.941406)


@pytest.fixture
def draw(monkeypatch, tmp_path):
    """Calls a drawing function, the path put in; returns figure, axes and pixels [H, W, 3]."""
    saved = []
    save = Figure.savefig

    def keep(figure, *args, **kwargs):
        saved.append(figure)
        save(figure, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", keep)

    def call(function, *args, **options):
        path = tmp_path / "figure.png"
        before = {"learning_curves": 1, "distribution": 2, "grid": 3}[function.__name__]
        function(*args[:before], path, *args[before:], **options)
        with Image.open(path) as picture:
            assert picture.format == "PNG"
            pixels = np.asarray(picture.convert("RGB")).astype(int)
        return saved[-1], saved[-1].axes[0], pixels

    return call


def finals(seeds, mean=0.95, images=10_000):
    """Accuracies as they come, with many ties."""
    values = np.random.default_rng(seeds).normal(mean, 0.005, seeds)
    return np.round(values * images) / images


def interval(values):
    return (values.mean() - 0.001, values.mean() + 0.002)


def curve(seeds, steps, end=0.95):
    rng = np.random.default_rng(seeds)
    at = np.linspace(1, 781, steps).astype(int)
    return at, end - 0.8 * np.exp(-at / 60) + rng.normal(0, 0.003, (seeds, steps))


def grid_of(shape, seed=0):
    rng = np.random.default_rng(seed)
    means = rng.permutation(np.linspace(0.93, 0.96, int(np.prod(shape)))).reshape(shape)
    return means, np.stack([means - 0.001, means + 0.002], axis=-1)


def texts(figure):
    return [text.get_text() for text in figure.findobj(Text) if text.get_visible()]


def points(axes):
    """The seeds' points, one array [S, 2] a group."""
    return [np.asarray(found.get_offsets()) for found in axes.collections
            if isinstance(found, PathCollection)]  # fmt: skip


def bars(axes, horizontal=True):
    """Ends of the bars of intervals."""
    along = 0 if horizontal else 1
    return [tuple(segment[:, along]) for found in axes.collections
            if isinstance(found, LineCollection) and found.get_linewidth()[0] >= 2
            for segment in found.get_segments()]  # fmt: skip


# Distribution.


@pytest.mark.parametrize(("seeds", "images"), [(1, 10_000), (200, 10_000), (64, 256), (1000, 256)])
def test_every_seed_is_a_point(seeds, images, draw):
    values = finals(seeds, images=images)
    figure, axes, _ = draw(
        figures.distribution, {"a": values}, {"a": None}, LONG, "accuracy", PUBLISHED
    )
    (found,) = points(axes)
    # Equal values may stand side by side, each nearest to its own.
    rounded = np.round(found[:, 0] * images) / images
    np.testing.assert_allclose(np.sort(rounded), np.sort(values), rtol=1e-12)
    on_page = axes.transData.transform(found)
    distances = np.hypot(*(on_page[:, None] - on_page[None]).T) + 1e9 * np.eye(seeds)
    (collection,) = (c for c in axes.collections if isinstance(c, PathCollection))
    diameter = np.sqrt(collection.get_sizes()[0]) * figure.dpi / 72
    assert distances.min() > diameter  # none hides another
    assert axes.bbox.contains(*on_page.min(axis=0))
    assert axes.bbox.contains(*on_page.max(axis=0))


@pytest.mark.parametrize("seeds", [3, 1000])
def test_points_stand_at_their_values(seeds, draw):
    values = finals(seeds)
    _, axes, _ = draw(figures.distribution, {"a": values}, {}, "", "accuracy")
    np.testing.assert_allclose(points(axes)[0][:, 0], np.sort(values), rtol=1e-12)


def test_a_column_is_as_high_as_it_has_points(draw):
    values = np.repeat([0.94, 0.95, 0.96], [100, 800, 400])
    _, axes, _ = draw(figures.distribution, {"a": values}, {}, "", "accuracy")
    (found,) = points(axes)
    low = found[:, 1].min()
    heights = [np.ptp(found[np.abs(found[:, 0] - at) < 0.005, 1]) for at in (0.94, 0.95, 0.96)]
    step = np.diff(np.unique(found[:, 1]))[0]
    np.testing.assert_allclose(heights, max(heights) * np.array([1, 8, 4]) / 8, atol=step)
    assert low > 0


def test_points_stay_in_their_row(draw):
    groups = {f"g{i}": finals(1000, 0.94 + i / 500, images=256) for i in range(12)}
    _, axes, _ = draw(
        figures.distribution, groups, {k: interval(v) for k, v in groups.items()}, "", "accuracy"
    )
    for place, (found, values) in enumerate(zip(points(axes), groups.values(), strict=True)):
        row = 11 - place  # the first on top
        assert (found[:, 1] > row).all()
        assert (found[:, 1] < row + 1).all()
        np.testing.assert_allclose(np.round(found[:, 0] * 256), np.sort(values) * 256)


def test_mean_and_interval_are_marked_and_written(draw):
    values = np.array([0.94, 0.95, 0.954])
    figure, axes, _ = draw(
        figures.distribution, {"a": values}, {"a": (0.9301, 0.9662)}, "", "accuracy"
    )
    assert bars(axes) == [(0.9301, 0.9662)]
    (mean,) = (line for line in axes.lines if line.get_marker() == "D")
    assert mean.get_xdata()[0] == pytest.approx(0.948)
    assert "0.9480 [0.9301, 0.9662]\n3 seeds" in texts(figure)


def test_seeds_that_did_not_finish_are_counted(draw):
    groups = {"some": np.array([np.nan, 0.95, np.inf]), "none": np.full(3, np.nan)}
    figure, axes, _ = draw(figures.distribution, groups, {"none": (np.nan, np.nan)}, "", "accuracy")
    assert [len(found) for found in points(axes)] == [1]
    assert "0.9500\n1 of 3 seeds" in texts(figure)
    assert "none completed\n0 of 3 seeds" in texts(figure)


@pytest.mark.parametrize("mean", [0.9, 0.9414, 0.98])
def test_the_published_value_is_a_line(mean, draw):
    figure, axes, pixels = draw(
        figures.distribution, {"a": finals(20, mean)}, {"a": None}, "", "accuracy", PUBLISHED
    )
    vermilion = np.array([0xD5, 0x5E, 0x00])
    columns = (np.abs(pixels - vermilion).max(axis=-1) < 20).sum(axis=0)
    expected = axes.transData.transform((PUBLISHED[1], 0))[0]
    assert abs(columns.argmax() - expected) < 2
    assert any(PUBLISHED[0] in text and "0.9414" in text for text in texts(figure))


# Learning curves.


def test_the_band_goes_on_where_seeds_have_stopped(draw):
    steps, values = curve(20, 30)
    values[:3, 10:] = np.nan
    values[3, 20:] = np.inf
    figure, axes, _ = draw(figures.learning_curves, {"a": (steps, values)}, "", "accuracy")
    (band,) = (found for found in axes.collections if isinstance(found, PolyCollection))
    corners = band.get_paths()[0].vertices
    for at in (0, 15, 29):
        alive = values[np.isfinite(values[:, at]), at]
        here = corners[corners[:, 0] == steps[at], 1]
        assert here.min() == pytest.approx(np.percentile(alive, 10))
        assert here.max() == pytest.approx(np.percentile(alive, 90))
        median = axes.lines[0].get_ydata()[at]
        assert median == pytest.approx(np.median(alive))
    assert any("4 seeds stopped early" in text for text in texts(figure))


def test_a_step_that_no_seed_reached_is_left_out(draw):
    steps, values = curve(4, 20)
    values[:, 15:] = np.nan
    _, axes, _ = draw(figures.learning_curves, {"a": (steps, values)}, "", "accuracy")
    np.testing.assert_array_equal(axes.lines[0].get_xdata(), steps[:15])


@pytest.mark.parametrize(
    ("groups", "seeds", "lines"), [(1, 1, 1), (1, 7, 8), (4, 7, 32), (5, 7, 5), (1, 200, 65)]
)
def test_single_seeds_are_faint_lines_unless_too_many(groups, seeds, lines, draw):
    curves = {f"g{i}": curve(seeds, 20) for i in range(groups)}
    _, axes, _ = draw(figures.learning_curves, curves, "", "accuracy")
    assert len(axes.lines) == lines


def test_of_many_seeds_the_worst_and_the_best_are_shown(draw):
    steps, values = curve(200, 20)
    _, axes, _ = draw(figures.learning_curves, {"a": (steps, values)}, "", "accuracy")
    last = [line.get_ydata()[-1] for line in axes.lines[1:]]
    assert min(last) == values[:, -1].min()
    assert max(last) == values[:, -1].max()


def test_labels_at_the_ends_are_in_order_and_apart(draw):
    ends = np.random.default_rng(0).permutation(12)
    curves = {f"lr={end}": curve(5, 40, 0.95 + 0.001 * end) for end in ends}
    figure, axes, _ = draw(figures.learning_curves, curves, LONG, "accuracy")
    labels = [text for text in axes.texts if text.get_text().startswith("lr=")]
    labels.sort(key=lambda text: text.xyann[1])
    # Ends as drawn, not as asked for: noise may swap two.
    heights = {label: np.median(values[:, -1]) for label, (_, values) in curves.items()}
    assert [text.get_text() for text in labels] == sorted(heights, key=heights.__getitem__)
    renderer = figure.canvas.get_renderer()
    boxes = [Text.get_window_extent(text, renderer) for text in labels]
    for below, above in itertools.pairwise(boxes):
        assert below.y1 <= above.y0 + 1


@pytest.mark.parametrize(
    ("ylabel", "lowest", "scale"),
    [("training loss", 0.05, "log"), ("training loss", -0.01, "linear"), ("accuracy", 0, "linear")],
)
def test_positive_losses_have_a_logarithmic_scale(ylabel, lowest, scale, draw):
    values = np.array([[2.0, 1.0, 0.3], [2.0, 0.7, lowest]])
    _, axes, _ = draw(figures.learning_curves, {"a": ([1, 2, 3], values)}, "", ylabel)
    assert axes.get_yscale() == scale
    low, high = axes.get_ylim()
    if "loss" in ylabel:
        assert low < lowest < 2 < high
    assert sum(low <= tick <= high for tick in axes.get_yticks()) >= 3


@pytest.mark.parametrize("accuracies", [(0.9963, 0.9967, 0.9971, 0.9976), (0.2, 0.9), (0.5,)])
def test_accuracies_along_a_narrow_axis_can_be_read(accuracies):
    class Kept(figures.Drawing):
        def take(self, figure):
            drawn.append(figure)

    drawn = []
    groups = {"all seeds": np.array(accuracies)}
    intervals = {"all seeds": (accuracies[0] - 1e-4, accuracies[-1] + 1e-4)}
    figures.distribution(groups, intervals, Kept(), "", "accuracy")
    (figure,) = drawn
    figure.draw_without_rendering()
    low, high = figure.axes[0].get_xlim()
    labels = [
        tick.label1.get_window_extent()
        for tick in figure.axes[0].xaxis.get_major_ticks()
        if low <= tick.get_loc() <= high
    ]
    assert len(labels) >= 2
    assert all(left.x1 + 4 < right.x0 for left, right in itertools.pairwise(labels))


def test_where_most_of_a_loss_lies_it_can_be_read_off(draw):
    values = 0.28 + 1.9 * np.exp(-np.arange(50) / 3)
    _, axes, _ = draw(figures.learning_curves, {"a": (range(50), values[None])}, "", "loss")
    assert sum(0.27 < tick < 0.6 for tick in axes.get_yticks()) >= 3


def test_a_mean_over_few_steps_is_no_event():
    values = np.array([[3.0, 2.0, 9.0]])
    for steps in ((10, 20, 30), (10, 20, 25), (1, 10)):
        assert figures.whole_windows(steps, values[:, : len(steps)])[0] == steps
    last = figures.whole_windows((10, 20, 24), values)
    assert last[0] == (10, 20)
    np.testing.assert_array_equal(last[1], [[3.0, 2.0]])


def test_what_the_scale_cuts_off_is_said(draw):
    steps, values = curve(9, 100)
    figure, axes, _ = draw(figures.learning_curves, {"a": (steps, values)}, "", "accuracy")
    low, high = axes.get_ylim()
    late = np.percentile(values[:, steps > 391], [10, 90], axis=0)
    assert low < late.min() < late.max() < high
    assert low > values.min()
    assert any(f"values down to {values.min():.3g}" in text for text in texts(figure))


# Grid.


@pytest.mark.parametrize(
    ("values", "scale"),
    [([1e-4, 1e-3, 1e-2], "log"), ([32, 64, 128], "linear"), ([0, 0.3, 30], "linear")],
)
def test_one_axis_of_numbers_is_a_curve(values, scale, draw):
    means, intervals = grid_of((3,))
    order = [2, 0, 1]  # as the user named them
    _, axes, _ = draw(
        figures.grid, {"x": [values[i] for i in order]}, means[order], intervals[order],
        "", "accuracy",
    )  # fmt: skip
    assert axes.get_xscale() == scale
    np.testing.assert_array_equal(axes.lines[0].get_xdata(), values)
    np.testing.assert_array_equal(axes.lines[0].get_ydata(), means)
    assert sorted(bars(axes, horizontal=False)) == sorted(map(tuple, intervals))
    ring = max(axes.lines, key=lambda line: line.get_markersize())
    assert ring.get_xdata()[0] == values[means.argmax()]


@pytest.mark.parametrize("turned", [False, True])
def test_two_axes_are_lines_along_the_longer_one_of_numbers(turned, draw):
    means, intervals = grid_of((2, 3))
    axes = {"name": ["adam", "sgd"], "rate": [0.1, 0.001, 0.01]}
    if turned:
        axes = dict(reversed(list(axes.items())))
        means, intervals = means.T, intervals.swapaxes(0, 1)
    assert figures.along(axes) == "rate"
    figure, panel, _ = draw(figures.grid, axes, means, intervals, "", "accuracy", lines=True)
    rows = means.T if turned else means
    for line, row in zip(panel.lines, rows, strict=False):
        np.testing.assert_array_equal(line.get_xdata(), [0.001, 0.01, 0.1])
        np.testing.assert_array_equal(line.get_ydata(), row[[1, 2, 0]])
    assert {"name=adam", "name=sgd"} <= set(texts(figure))


@pytest.mark.parametrize(
    "axes",
    [
        {"x": [1, 2, 3]},
        {"x": [1, 2], "y": [3, 4]},
        {"x": ["a", "b", "c"], "y": [True, False]},
        {"x": [1, 2, 3], "y": [str(n) for n in range(9)]},
        {"x": [1, 2, 3], "y": [1], "z": [1]},
    ],
)
def test_other_grids_are_not_drawn_as_lines(axes):
    assert figures.along(axes) is None


@pytest.mark.parametrize(("best", "at_edge"), [(0, True), (1, False), (2, True)])
def test_a_best_at_the_edge_of_its_grid_is_named_as_such(best, at_edge):
    means = np.full(3, 0.9)
    means[best] = 0.95
    for marks_best in (True, False):
        picture = figures.Drawing()
        figures.grid(
            {"learning_rate": [1, 2, 3]}, means, np.full((3, 2), np.nan), picture, "", "accuracy",
            marks_best=marks_best,
        )  # fmt: skip
        said = "the best ringed, at the edge of learning rate" in picture.caption
        assert said == (at_edge and marks_best)
        assert ("best" in picture.caption) == marks_best


@pytest.mark.parametrize("label", ["accuracy", "validation loss"])
def test_lightness_orders_the_cells_of_a_map(label, draw):
    means, intervals = grid_of((3, 4))
    axes = {"down": [1, 2, 3], "across": ["a", "b", "c", "d"]}
    _, panel, pixels = draw(figures.grid, axes, means, intervals, "", label)
    lightness = []
    for row, column in np.ndindex(means.shape):
        x, y = panel.transData.transform((column + 0.4, row + 0.35))
        lightness.append(pixels[round(len(pixels) - y), round(x)] @ [0.2126, 0.7152, 0.0722])
    darkest_first = np.argsort(means.ravel() * (1 if "loss" in label else -1))
    np.testing.assert_array_equal(np.argsort(lightness), darkest_first)
    (frame,) = (patch for patch in panel.patches if isinstance(patch, Rectangle))
    assert to_rgb(frame.get_edgecolor()) == to_rgb("#D55E00")
    row, column = divmod(int(darkest_first[0]), 4)
    assert frame.get_xy() == (column - 0.5, row - 0.5)
    cells = {text.get_position(): text.get_text() for text in panel.texts}
    assert cells == {
        (column, row): f"{means[row, column]:.4f}\n±0.0015" for row, column in np.ndindex(3, 4)
    }


def test_one_failure_does_not_wash_out_a_map(draw):
    means, intervals = grid_of((3, 4))
    means[0, 0], means[1, 1], intervals[1, 1] = 0.1, np.nan, np.nan
    axes = {"down": [1, 2, 3], "across": [1, 2, 3, 4]}
    figure, panel, _ = draw(figures.grid, axes, means, intervals, "", "accuracy")
    assert panel.collections[0].norm.vmin > 0.8
    assert {"none", "0.1000\n±0.0015"} <= set(texts(figure))


@pytest.mark.parametrize(
    ("axes", "label"),
    [
        ({"x": ["adam", "sgd", "rmsprop"]}, "accuracy"),
        ({"x": [0.5, "auto"]}, "accuracy"),
        ({"x": [False, True]}, "accuracy"),
        ({"x": [1, 2], "y": [3, 4], "z": ["a", "b", "c"]}, "accuracy"),
        ({"x": [1, 2], "y": [3, 4], "z": ["a", "b", "c"]}, "loss"),
    ],
)
def test_anything_else_is_rows_with_the_best_on_top(axes, label, draw):
    shape = tuple(map(len, axes.values()))
    means, intervals = grid_of(shape)
    lost = (0,) * len(shape)
    means[lost], intervals[lost] = np.nan, np.nan
    _, panel, _ = draw(figures.grid, axes, means, intervals, "", label)
    lines = sorted(panel.lines, key=lambda line: line.get_ydata()[0])
    heights = panel.transData.transform([(0, line.get_ydata()[0]) for line in lines])[:, 1]
    assert (np.diff(heights) < 0).all()
    found = [line.get_xdata()[0] for line in lines]
    assert found == sorted(means[np.isfinite(means)], reverse=label != "loss")
    names = [text.get_text() for text in panel.get_yticklabels()]
    assert len(names) == means.size
    for name, value in zip(names, found, strict=False):
        place = tuple(np.argwhere(means == value)[0])
        assert name == ", ".join(
            f"{k}={v[i]}" for (k, v), i in zip(axes.items(), place, strict=True)
        )
    assert names[-1] == ", ".join(f"{name}={values[0]}" for name, values in axes.items())


def test_long_names_of_columns_do_not_overlap(draw):
    names = [letter * 40 for letter in "abc"]
    figure, panel, _ = draw(
        figures.grid, {"x": [1, 2], "y": names}, *grid_of((2, 3)), "", "accuracy"
    )
    renderer = figure.canvas.get_renderer()
    labels = panel.get_xticklabels()
    if not labels[0].get_rotation():
        boxes = [label.get_window_extent(renderer) for label in labels]
        assert all(left.x1 < right.x0 for left, right in itertools.pairwise(boxes))


# All of them.

LONG_NAMES = ["none", "shift by two pixels", "rotation of ten degrees"]
DRAWINGS = {
    "curves": lambda draw: draw(
        figures.learning_curves,
        {f"optimizer.learning_rate=0.00{i}, h={i}": curve(3, 781) for i in range(12)},
        LONG, "validation accuracy",
    ),
    "one step": lambda draw: draw(
        figures.learning_curves, {"a": curve(3, 1), "b": curve(1, 1)}, LONG, "validation loss"
    ),
    "distribution": lambda draw: draw(
        figures.distribution,
        {f"optimizer.learning_rate={i}, h={i}": finals(3, 0.94 + i / 1e3) for i in range(12)},
        {}, LONG, "accuracy", PUBLISHED,
    ),
    "alike": lambda draw: draw(figures.distribution, {"a": np.full(9, 0.5)}, {}, LONG, "$x^$"),
    "curve": lambda draw: draw(
        figures.grid, {"$x^$": range(1, 65)}, np.ones(64), np.ones((64, 2)), LONG, "accuracy",
    ),
    "one point": lambda draw: draw(
        figures.grid, {"$x^$": [3]}, np.full(1, np.nan), np.full((1, 2), np.nan), LONG, "accuracy",
    ),
    "map": lambda draw: draw(
        figures.grid, {"$x^$": LONG_NAMES, "y": LONG_NAMES}, *grid_of((3, 3)), LONG, "accuracy"
    ),
    "empty map": lambda draw: draw(
        figures.grid, {"x": [1, 2], "y": [1]}, np.full((2, 1), np.nan),
        np.full((2, 1, 2), np.nan), LONG, "accuracy",
    ),
    "rows": lambda draw: draw(
        figures.grid, {"$x^$": LONG_NAMES, "y": [1, 2], "z": LONG_NAMES}, *grid_of((3, 2, 3)),
        LONG, "accuracy",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DRAWINGS)
def test_no_text_is_cut_off(name, draw):
    figure, axes, pixels = DRAWINGS[name](draw)
    height, width, _ = pixels.shape
    renderer = figure.canvas.get_renderer()
    for text in figure.findobj(Text):
        # Numbers: ticks beyond the limits keep labels that are never drawn.
        if text.get_visible() and re.search(r"[^−\d.,]", text.get_text()):
            box = Text.get_window_extent(text, renderer)
            assert 0 <= box.x0 < box.x1 <= width, text
            assert 0 <= box.y0 < box.y1 <= height, text
    assert axes.bbox.width > 0.35 * width or axes.bbox.width > 300


@pytest.mark.parametrize("name", ["one step", "alike", "map"])
def test_a_path_that_cannot_be_written_raises(name, draw, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "PIL.Image.open", lambda path: pytest.fail("the drawing should have raised")
    )
    (tmp_path / "figure.png").mkdir()
    with pytest.raises(OSError, match=r"figure\.png"):
        DRAWINGS[name](draw)


@pytest.mark.slow
def test_pyplot_is_left_alone(tmp_path):
    code = """
import sys
import numpy as np
from rowrnn import figures
assert "matplotlib" not in sys.modules
values = np.array([0.9, 0.92])
figures.learning_curves({"a": ([1, 2], values[None])}, "one.png", "", "loss")
figures.distribution({"a": values}, {}, "one.png", "", "accuracy")
for shape in [(2,), (1, 2), (1, 1, 2)]:
    axes = {f"x{place}": range(size) for place, size in enumerate(shape)}
    figures.grid(axes, values.reshape(shape), np.full((*shape, 2), np.nan), "one.png", "", "loss")
assert "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
