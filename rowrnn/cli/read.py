"""``rowrnn read``."""

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, arg

from rowrnn.cli.terminal import (
    Checkpoint,
    Common,
    DataPlace,
    Marks,
    Run,
    console,
    marks,
    parse,
    plain,
    require_text,
    tell,
    tell_written,
)
from rowrnn.jax_settings import require_devices, require_jax
from rowrnn.lab.shown import percent

if TYPE_CHECKING:
    import numpy as np
    from rich.text import Text

    from rowrnn.show.read import Reading

# Most columns of a line, of 80, for pixels, for bars of probabilities and for groups of units.
_PIXELS, _BARS, _UNITS = 28, 20, 8


@dataclass(frozen=True, kw_only=True)
class ReadArguments(Common):
    """Watch a run read one digit, row by row: its probabilities, hidden state and gates after each.

    A line for each row: its pixels; a bar for the probability of each class; the hidden state of
    the last layer, as the mean of |h| over eight groups of units; the means of its gates i, f and
    o; and the most probable class. --json gives all numbers.
    """

    run: Run
    image: Annotated[Positional[str], arg(metavar="PICTURE|INDEX")]
    """A PNG or JPEG file, or the number of an image of the run's data, from 0 (a file 7 is ./7)."""
    to: Annotated[Path | None, arg(metavar="FILE.gif|FILE.png")] = None
    """Draw it too: an animation, or all rows in one picture."""
    checkpoint: Checkpoint = "last"
    split: Literal["test", "validation", "train"] = "test"
    """The part of the data that INDEX counts in."""
    data: DataPlace = field(default_factory=DataPlace)


def main(arguments: Sequence[str]) -> int:
    """Shows a run reading."""
    given = parse("read", ReadArguments, arguments)
    require_text(given.run)
    if given.to is not None:
        from rowrnn.figures import require_format

        require_format(given.to)

    require_jax()
    require_devices()
    from rowrnn.show import read

    # More digits than an integer of 64 bits are the name of a file.
    is_index = re.fullmatch(r"-?\d{1,18}", given.image, re.ASCII)
    reading = read.read(
        given.run,
        int(given.image) if is_index else given.image,
        which=given.checkpoint,
        split=given.split,
        data_dir=given.data.dir,
    )
    _report(reading)
    if given.to is not None:
        read.save(reading, given.to)
        tell_written(given.to)
    given.answer(reading.summary())
    return 0


def _report(reading: "Reading") -> None:
    """A line for each row, and one in words."""
    read_as = ", dark on light" if reading.inverted else ""
    warning = reading.warning and f"; warning: {reading.warning}"
    name = plain(reading.name)
    tell(f"{name}, read by the checkpoint of step {reading.step}{read_as}{warning}", sys.stdout)
    print()
    screen = console()
    for line in _lines(
        reading, marks(), coloured=bool(screen.color_system) and not screen.no_color
    ):
        screen.print(line, soft_wrap=True)  # That is, not wrapped by rich.
    words = reading.words()
    print()
    tell(f"{words[0].upper()}{plain(words[1:])}.", sys.stdout)


def _lines(reading: "Reading", drawn: Marks, *, coloured: bool) -> "list[Text]":
    """The heading and the rows, at most 80 columns wide."""
    import numpy as np
    from rich.text import Text

    from rowrnn.figures.reading import merge_columns

    rows, classes = reading.probabilities.shape
    digits = max(3, len(str(rows)))
    cell = max(1, _BARS // classes)
    words = [plain(reading.name_of(label)) for label in range(classes)]
    heads = words if reading.class_names else [str(label % 10) for label in range(classes)]
    longest = max(len(word[:5]) for word in words)
    names = "".join(f"{name[: max(1, cell - 1)]:<{cell}}" for name in heads)
    shown = min(classes * cell, _BARS)
    grey = reading.image.reshape(rows, -1, reading.channels).mean(axis=2)
    pixels = merge_columns(grey / 255, _PIXELS)
    last = reading.layers[-1]
    units = merge_columns(np.abs(np.asarray(last.h)), _UNITS)
    gates = np.stack([gate.mean(axis=1) for gate in (last.i, last.f, last.o)], axis=1)
    heading = [
        f"{'row':>{digits}}", *(
            f"{name[:width]:{width}}"
            for name, width in (
                ("pixels", pixels.shape[1]), (names, shown), ("|h|", units.shape[1])
            )
        ), "ifo", "predicts",
    ]  # fmt: skip
    lines = [Text(" ".join(heading), style="bold" if coloured else "")]
    for row, probabilities in enumerate(reading.probabilities):
        best = int(probabilities.argmax())
        line = Text(f"{row + 1:{digits}d} ")
        line.append_text(_pixels(pixels[row], drawn, coloured=coloured)).append(" ")
        for label in range(shown // cell):
            style = "bold green" if coloured and label == best else ""
            line.append(f"{_heights(drawn, probabilities[label : label + 1]):{cell}}", style)
        line.append(" " * (shown % cell + 1))
        line.append(_heights(drawn, units[row]), "cyan" if coloured else "").append(" ")
        line.append(_heights(drawn, gates[row]), "yellow" if coloured else "")
        held_since = coloured and row + 1 >= reading.since
        line.append(
            f" {words[best][:5]:{longest}} {percent(probabilities[best], 1):>7}",
            "bold green" if held_since else "",
        )
        lines.append(line)
    return lines


def _pixels(row: "np.ndarray", drawn: Marks, *, coloured: bool) -> "Text":
    """A row of pixels [F] from 0 to 1: grey backgrounds, or where there are none, shades."""
    from rich.text import Text

    line = Text()
    for value in row:
        grey = round(255 * float(value))
        shade = drawn.light[min(grey * len(drawn.light) // 256, len(drawn.light) - 1)]
        line.append(" " if coloured else shade, f"on rgb({grey},{grey},{grey})" if coloured else "")
    return line


def _heights(drawn: Marks, values: "np.ndarray") -> str:
    """Values from 0 to 1 as characters of that height."""
    return "".join(drawn.height[round(float(v) * (len(drawn.height) - 1))] for v in values)
