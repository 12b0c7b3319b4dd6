"""A network reading an image row by row: probabilities, hidden state and gates.

The rows go down in every panel (but for the bars of the animation), so that one looks from a row
of the digit straight across to what it did.
"""

import io
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from rowrnn import files
from rowrnn.errors import ConfigError
from rowrnn.figures import drawing, frame
from rowrnn.figures.drawing import Target
from rowrnn.figures.frame import BLUE, VERMILION

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Milliseconds that a frame of an animation is shown, and its last one.
_FRAME_MS, _LAST_FRAME_MS = 220, 3_000

# Lightness grows with the value, so that it is read in grey, and with any colour vision.
_MAP, _UNREAD = "cividis", "0.88"
# Inches: the height of the panels, the room below them, and the height of the page.
_TALL, _BELOW, _PAGE = 2.5, 0.95, 4.25
# More columns than this in a panel of this size are but noise to the eye.
_MOST_COLUMNS, _MOST_TICKS = 32, 12


class ReadingArrays(NamedTuple):
    """What is drawn.

    Attributes:
        image: uint8 [T, F].
        probabilities: probabilities of the classes after each row, [T, C].
        hidden: hidden states of the last layer, [T, H], between -1 and 1.
        gates: the gates of the last layer by name, each [T, H], between 0 and 1.
        names: of the classes; without them they have their numbers.
        channels: values of a pixel, 3 of colour.
    """

    image: np.ndarray
    probabilities: np.ndarray
    hidden: np.ndarray
    gates: Mapping[str, np.ndarray]
    names: tuple[str, ...] = ()
    channels: int = 1

    def name(self, label: int) -> str:
        """The name of a class, cut where it is long."""
        return frame.short(self.names[label], 12) if self.names else str(label)


# Shows so many rows, and returns what has changed in the page.
_Reveal = Callable[[int], list["Artist"]]


def require_format(path: Path) -> None:
    """Raises `ConfigError` where the name of a picture does not say what to draw."""
    if path.suffix.lower() not in (".gif", ".png"):
        raise ConfigError(
            f"{path}: must end in .gif (an animation, row by row) or .png (all rows at once)"
        )


def reading_strip(arrays: ReadingArrays, path: Target, title: str, since: int) -> None:
    """Draws a whole reading as a PNG: the digit, probabilities, hidden state and gates, row by row.

    `since` is the row, counted from 1, from which on the last answer was held; a line above it
    goes through all panels. Units are in the order of their hidden states after the last row, in
    all panels alike, and where there are many a column is the mean of neighbours. Raises `OSError`
    where `path` cannot be written.

    >>> picture, half = drawing.Drawing(), np.full((4, 2), 0.5)
    >>> arrays = ReadingArrays(np.eye(4, dtype=np.uint8), half, half, {"gate": half})
    >>> reading_strip(arrays, picture, "a small image", 1)
    >>> picture.svg[:4]
    '<svg'
    """
    figure, panels, _ = _page(arrays, title, _probability_map)
    for axes in panels:
        axes.axhline(since - 1.5, color=VERMILION, linewidth=1.4, linestyle=(0, (4, 2)))
    label = int(arrays.probabilities[-1].argmax())
    name = arrays.name(label)
    _note(figure, f"dashed: from here on it predicts {name}; dot: the most probable class; ")
    drawing.save(figure, path)


def reading_animation(arrays: ReadingArrays, path: str | os.PathLike[str], title: str) -> None:
    """Draws a reading as an animated GIF, a frame for each row; the last one is held longer.

    Raises `OSError` where `path` cannot be written.
    """
    from PIL import Image

    figure, _, reveal = _page(arrays, title, _probability_bars)
    _note(figure, "")
    canvas: Any = figure.canvas
    for artist in reveal(1):
        artist.set_animated(True)
    # Parts that do not change are drawn once: a frame then takes a tenth of the time.
    canvas.draw()
    background = canvas.copy_from_bbox(figure.bbox)
    frames = []
    for rows in range(1, len(arrays.image) + 1):
        canvas.restore_region(background)
        for artist in reveal(rows):
            figure.draw_artist(artist)
        frames.append(Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy()))
    # One palette for all, or colours would flicker.
    palette = _palette()
    frames = [each.quantize(palette=palette, dither=Image.Dither.NONE) for each in frames]
    file = io.BytesIO()
    frames[0].save(
        file,
        format="GIF",
        save_all=True,
        append_images=frames[1:],
        duration=[_FRAME_MS] * (len(frames) - 1) + [_LAST_FRAME_MS],
        loop=0,
    )
    files.write_whole(Path(path), file.getvalue())


def _palette() -> Any:
    """The 256 colours of these pages, as an image of Pillow's."""
    from matplotlib import colormaps
    from matplotlib.colors import to_rgb
    from PIL import Image

    blends = [
        np.linspace(1, 0, 16, endpoint=False)[:, None] * (np.array(to_rgb(colour)) - 1)[None] + 1
        for colour in (BLUE, VERMILION)
    ]
    # Pillow looks colours up on a grid of steps of 4: nothing near white may be nearer than white.
    greys = np.append(np.linspace(0, 248 / 255, 102), 1)[:, None].repeat(3, axis=1)
    colours = np.concatenate([
        greys, *blends, colormaps[_MAP](np.linspace(0, 1, 120))[:, :3], [to_rgb(_UNREAD)]
    ])  # fmt: skip
    palette = Image.new("P", (1, 1))
    palette.putpalette((255 * colours).round().astype(np.uint8).tobytes())
    return palette


def _page(
    arrays: ReadingArrays,
    title: str,
    draw_probabilities: Callable[["Axes", ReadingArrays], _Reveal],
) -> tuple["Figure", list["Axes"], _Reveal]:
    """The page with all rows shown, its panels, and how to show fewer."""
    rows, pixels = arrays.image.shape[0], arrays.image.shape[1] // arrays.channels
    order = np.argsort(arrays.hidden[-1], kind="stable")
    strips = {"hidden\nstate h": arrays.hidden, **arrays.gates}
    digit = float(np.clip(_TALL * pixels / rows, 1, 5))
    widths = [digit, 2.1, *[1.15] * len(strips)]
    gaps = [0.65, 0.5, 0.4, *[0.2] * len(arrays.gates)]  # to the left of each
    figure = frame.new_figure(sum(widths) + sum(gaps) + 0.25, _PAGE, dpi=100)
    figure.text(
        0.2 / figure.get_figwidth(), 1 - 0.16 / _PAGE, title, fontsize=12, va="top",
        parse_math=False,
    )  # fmt: skip
    left, panels = 0.0, []
    for width, gap in zip(widths, gaps, strict=True):
        panels.append(_place(figure, left + gap, _BELOW, width, _TALL))
        left += gap + width
    size = f"{rows} rows of\n{pixels} pixels"
    image = arrays.image / 255
    if arrays.channels == 3:
        image = image.reshape(rows, pixels, 3)
    reveals = [_draw_map(panels[0], image, "gray", 0, size)]
    panels[0].set_ylabel("row", labelpad=2)
    panels[0].tick_params(labelleft=True, left=True, length=2)
    reveals.append(draw_probabilities(panels[1], arrays))
    for axes, (name, values) in zip(panels[2:], strips.items(), strict=True):
        least = -1 if values is arrays.hidden else 0
        reveals.append(
            _draw_map(axes, merge_columns(values[:, order], _MOST_COLUMNS), _MAP, least, name)
        )
        axes.set_xlabel(f"{values.shape[1]} units", fontsize=8, labelpad=2)
        _explain_colours(axes, {least: f"{least}".replace("-", "−"), 1: "1"})
    return figure, panels, lambda shown: [artist for each in reveals for artist in each(shown)]


def merge_columns(values: np.ndarray, most: int) -> np.ndarray:
    """Means over neighbouring columns, [T, N] -> [T, at most `most`].

    >>> merge_columns(np.array([[1.0, 3.0, 5.0, 6.0, 7.0]]), 2)
    array([[2., 6.]])
    """
    columns = values.shape[1]
    starts = np.arange(min(columns, most)) * columns // min(columns, most)
    return np.add.reduceat(values, starts, axis=1) / np.diff([*starts, columns])[None]


def _place(figure: "Figure", left: float, below: float, width: float, height: float) -> "Axes":
    """Axes at a place in inches."""
    across, up = figure.get_size_inches()
    return figure.add_axes((left / across, below / up, width / across, height / up))


def _draw_map(axes: "Axes", values: np.ndarray, colours: str, least: float, title: str) -> _Reveal:
    """Values [T, N] between `least` and 1 as a map, rows going down; those unread are grey.

    Colours [T, N, 3] are shown as they are.
    """
    from matplotlib import colormaps

    image = axes.imshow(
        values, cmap=colormaps[colours].with_extremes(bad=_UNREAD), vmin=least, vmax=1,
        aspect="auto", interpolation="nearest",
    )  # fmt: skip
    axes.set_title(title, fontsize=9, pad=5)
    axes.set_xticks([])
    ticks = sorted({1, *(round(len(values) * part / 4) for part in (1, 2, 3, 4))} - {0})
    axes.set_yticks([tick - 1 for tick in ticks], [str(tick) for tick in ticks])
    axes.tick_params(labelsize=8, left=False, labelleft=False)
    axes.spines[:].set_visible(False)
    read = np.arange(len(values)).reshape(-1, *[1] * (values.ndim - 1))

    def reveal(rows: int) -> list["Artist"]:
        unread = np.broadcast_to(read >= rows, values.shape)
        if values.ndim == 3:
            image.set_data(np.where(unread, float(_UNREAD), values))
        else:
            image.set_data(np.ma.masked_array(values, mask=unread))
        return [image]

    return reveal


def _probability_map(axes: "Axes", arrays: ReadingArrays) -> _Reveal:
    """Probabilities [T, C] as a map from white to black, a dot on the best class of each row."""
    probabilities = arrays.probabilities
    reveal = _draw_map(axes, probabilities, "Greys", 0, "probability after each row,\nby class")
    rows, classes = probabilities.shape
    best = probabilities.argmax(axis=1)
    axes.scatter(
        best, range(rows), s=np.clip(500 / rows, 3, 16), color=VERMILION, linewidths=0.6,
        edgecolors="white", zorder=3,
    )  # fmt: skip
    _label_classes(axes.xaxis, arrays, 4, rotation=90 if arrays.names and classes > 3 else 0)
    axes.spines[:].set(visible=True, color="0.7")
    _explain_colours(axes, {0: "0 %", 1: "100 %"})
    return reveal


def _probability_bars(axes: "Axes", arrays: ReadingArrays) -> _Reveal:
    """Probabilities [T, C] after the row last read as bars, the longest in another colour."""
    probabilities = arrays.probabilities
    classes = probabilities.shape[1]
    bars = axes.barh(range(classes), probabilities[-1], height=0.72, color=BLUE)
    axes.set_xlim(0, 1)
    axes.set_ylim(classes - 0.4, -0.6)
    _label_classes(axes.yaxis, arrays, 7)
    axes.set_xticks([0, 0.5, 1], ["0 %", "50 %", "100 %"], fontsize=8)
    axes.grid(axis="x", color="0.85", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    words = axes.set_title("", fontsize=9, pad=5)

    def reveal(rows: int) -> list["Artist"]:
        last, best = probabilities[rows - 1], probabilities[:rows].argmax(axis=1)
        for label, bar in enumerate(bars):
            bar.set_width(last[label])
            bar.set_color(VERMILION if label == best[-1] else BLUE)
        since = int(np.flatnonzero(best != best[-1]).max(initial=-1)) + 2
        words.set_text(
            f"after row {rows} of {len(probabilities)}:\n"
            f"{arrays.name(best[-1])} with {100 * last.max():.0f} %, since row {since}"
        )
        return [*bars, words]

    return reveal


def _label_classes(axis: Any, arrays: ReadingArrays, most: int, **how: Any) -> None:
    """Labels every class at an axis, or of many some."""
    from matplotlib.ticker import MaxNLocator

    classes = arrays.probabilities.shape[1]
    if classes <= _MOST_TICKS:
        names = [frame.short(arrays.name(label), most) for label in range(classes)]
        axis.set_ticks(range(classes), names, parse_math=False, **how)
    else:
        axis.set_major_locator(MaxNLocator(_MOST_TICKS, integer=True))
    axis.set_tick_params(labelsize=7 if arrays.names else 8, length=0, pad=3)


def _explain_colours(axes: "Axes", ticks: Mapping[float, str]) -> None:
    """Says in a bar below a panel what its colours mean."""
    figure: Any = axes.figure
    across = figure.get_figwidth()
    box = axes.get_position()
    bar = _place(figure, box.x0 * across, _BELOW - 0.42, box.width * across, 0.09)
    figure.colorbar(axes.images[0], cax=bar, orientation="horizontal")
    bar.set_xticks(list(ticks), list(ticks.values()), fontsize=8)
    bar.tick_params(length=0, pad=2)


def _note(figure: "Figure", text: str) -> None:
    """A line of small print at the bottom."""
    words = f"{text}units in the order of h after the last row"
    figure.text(
        1 - 0.25 / figure.get_figwidth(), 0.1 / _PAGE, words, fontsize=8, color="0.35",
        ha="right", va="bottom",
    )  # fmt: skip
