"""A figure as a file, or as SVG in a page that gives it its colours and letters."""

import io
import os
import re
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rowrnn import files

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Width in inches of a figure in a page. A phone shows it at two thirds of its size, where text can
# still be read.
WIDTH = 5.0

# Width in inches of a column of a paper.
COLUMN = 3.4

_METADATA = re.compile(r"<metadata>.*?</metadata>", re.DOTALL)
_CONTROL = re.compile(r"[^\t\n\x20-\x7e\x85\xa0-\U0010ffff]|[\ud800-\udfff]")
_COLOUR = re.compile(r"#([0-9a-f]{2})([0-9a-f]{2})([0-9a-f]{2})\b")
# The colours that are the page's, as matplotlib has them on white.
_OF_PAGE = {"--ink": (0, 0, 0), "--blue": (0, 114, 178), "--vermilion": (213, 94, 0)}
_REFERENCE = re.compile(r'url\(#([^)]+)\)|href="#([^"]+)"')


@dataclass
class Drawing:
    """What a figure is drawn into for a page or a paper, in place of the path of a PNG.

    Title and caption are left out of the picture, for the page to set as text. Text stays text.
    There is no date and no address in it, and the same figure gives the same bytes.

    Attributes:
        title: the title of the figure.
        caption: what its lines and bands are.
        svg: the picture, an ``<svg>`` element. Its greys, and its tints of the first two colours,
            are mixed from the page's ``--ink``, ``--blue`` or ``--vermilion`` and ``--paper``,
            unless it has a picture of its own colours in it (`own_colours`).
        own_colours: whether it needs white paper.
        inches: the width that it is drawn for; then its own, which long labels make wider.
        figure: the figure, for `save`.

    >>> from matplotlib.figure import Figure
    >>> figure = Figure()
    >>> _ = figure.add_subplot().plot([1, 2], [3, 4], color="black")
    >>> drawing = Drawing()
    >>> drawing.take(figure)
    >>> drawing.svg[:4], "var(--ink)" in drawing.svg, "http" in drawing.svg
    ('<svg', True, False)
    """

    title: str = ""
    caption: str = ""
    svg: str = ""
    own_colours: bool = False
    inches: float = WIDTH
    figure: "Figure | None" = field(default=None, repr=False)

    @property
    def least_pixels(self) -> int:
        """The width below which the text could not be read."""
        return round(62 * self.inches)

    def take(self, figure: "Figure") -> None:
        """Draws a finished figure."""
        from matplotlib import rc_context

        self.figure = figure
        self.own_colours = any(axes.images for axes in figure.axes)
        self.inches = float(figure.get_figwidth())
        settings: Any = {"svg.fonttype": "none", "svg.hashsalt": "rowrnn", "text.parse_math": False}
        file = io.StringIO()
        with rc_context(settings), warnings.catch_warnings():
            # A warning may say that there is no room for a label: it is then drawn as it comes.
            warnings.simplefilter("ignore")
            figure.savefig(
                file, format="svg", transparent=not self.own_colours, metadata={"Date": None}
            )
        self.svg = _clean(file.getvalue(), own_colours=self.own_colours)

    def save(self, path: Path) -> None:
        """Writes the picture, without title and caption; raises `OSError` where it cannot be."""
        assert self.figure is not None, "nothing has been drawn"
        _write(self.figure, path)


Target = str | os.PathLike[str] | Drawing
"""The path of a PNG, or a `Drawing` for a page."""


def save(figure: "Figure", to: Target) -> None:
    """Draws a finished figure; raises `OSError` where its file cannot be written."""
    if isinstance(to, Drawing):
        to.take(figure)
        return
    _write(figure, Path(to))


def _write(figure: "Figure", path: Path) -> None:
    """In the format of the ending; the same figure gives the same bytes, without a date."""
    from matplotlib import rc_context

    # Letters as outlines in SVG, which look alike everywhere, and as text in PDF.
    settings: Any = {"svg.hashsalt": "rowrnn", "pdf.fonttype": 42}
    kind = path.suffix[1:].lower()
    undated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind)
    file = io.BytesIO()
    with rc_context(settings):
        figure.savefig(file, format=kind, metadata=undated, bbox_inches=None)
    files.write_whole(path, file.getvalue())


def _clean(svg: str, *, own_colours: bool) -> str:
    """The element alone, without names that nothing refers to, in the colours of the page."""
    svg = _METADATA.sub("", _CONTROL.sub("?", svg[svg.index("<svg") :]))
    referred = {name for pair in _REFERENCE.findall(svg) for name in pair if name}
    svg = re.sub(r' id="([^"]*)"', lambda found: found[0] if found[1] in referred else "", svg)
    # The size of the element is the page's affair.
    svg = re.sub(r'^<svg [^>]*?(viewBox="[^"]*")[^>]*>', r'<svg \1 role="img">', svg)
    svg = svg.replace("xlink:href", "href")
    if own_colours:
        return svg
    return _COLOUR.sub(_mixed, svg)


def _mixed(colour: re.Match[str]) -> str:
    """A tint of a colour of the page as so much of that on paper; any other as it is.

    >>> _mixed(_COLOUR.match("#000000")), _mixed(_COLOUR.match("#cccccc"))
    ('var(--ink)', 'color-mix(in srgb, var(--ink) 20%, var(--paper))')
    >>> _mixed(_COLOUR.match("#80b8d8")), _mixed(_COLOUR.match("#009e73"))
    ('color-mix(in srgb, var(--blue) 50%, var(--paper))', '#009e73')
    """
    parts = [int(part, 16) for part in colour.groups()]
    if min(parts) == 255:
        return "var(--paper)"
    share = 1 - min(parts) / 255  # Each of the colours has a part that is 0.
    for name, full in _OF_PAGE.items():
        tint = [255 - share * (255 - part) for part in full]
        if all(abs(one - other) < 1.5 for one, other in zip(parts, tint, strict=True)):
            if share == 1:
                return f"var({name})"
            return f"color-mix(in srgb, var({name}) {100 * share:.0f}%, var(--paper))"
    return colour[0]
