"""What a result says of itself: a line in a terminal, a line and a picture in a notebook."""

import html
from typing import Any

from rowrnn.errors import RowRNNError
from rowrnn.figures.drawing import Drawing

# The colours of a `Drawing`, as the page around it has them: JupyterLab, VS Code or any other.
_COLOURS = (
    "--ink: currentColor; --blue: #0072b2; --vermilion: #d55e00; fill: var(--ink); "
    "--paper: var(--jp-layout-color0, var(--vscode-editor-background, Canvas))"
)


class Shown:
    """A result that says in a line what matters of it, whatever arrays it holds.

    A subclass says what that is (`_facts`), and draws its picture where it has one (`_picture`).
    A dataclass must have ``repr=False``.
    """

    def _facts(self) -> dict[str, Any]:
        raise NotImplementedError

    def _picture(self) -> Drawing | None:
        return None

    def __repr__(self) -> str:
        facts = ", ".join(f"{name}={_short(value)}" for name, value in self._facts().items())
        return f"{type(self).__name__}({facts})"

    def _repr_html_(self) -> str:
        facts = ", ".join(
            f"{html.escape(name)} <b>{html.escape(shown)}</b>"
            for name, value in self._facts().items()
            for shown in [value if isinstance(value, str) else _short(value)]
            if value is not None
        )
        try:
            picture = self._picture()
        except (RowRNNError, OSError):  # The directory that it came from may have gone.
            picture = None
        return f"<div><p>{type(self).__name__}: {facts}</p>{_element(picture)}</div>"


def _short(value: Any) -> str:
    """A value in a line; numbers with four digits after the point.

    >>> _short(0.97701), _short((0.9, 1.0)), _short("mnist")
    ('0.9770', '(0.9000, 1.0000)', "'mnist'")
    """
    match value:
        case float():
            return f"{value:.4f}"
        case tuple():
            return f"({', '.join(map(_short, value))})"
        case _:
            return repr(value)


def _element(picture: Drawing | None) -> str:
    """A drawing with its title and caption as HTML."""
    if picture is None:
        return ""
    ground = "background: white; color: black; fill: black; " if picture.own_colours else ""
    title, caption = html.escape(picture.title), html.escape(picture.caption)
    return (
        f'<figure style="max-width: {round(1.5 * picture.least_pixels)}px; margin: 0; {_COLOURS}">'
        f'{title}<div style="{ground}">{picture.svg}</div><small>{caption}</small></figure>'
    )
