"""How a notebook shows a result: a line, and its picture where it has one."""

import html
from functools import singledispatch
from pathlib import Path
from typing import Any

from rowrnn import figures
from rowrnn.errors import RowRNNError
from rowrnn.figures import Drawing
from rowrnn.lab.evaluate import Evaluation
from rowrnn.lab.shown import Shown, short
from rowrnn.lab.sweep import SweepResult, outcome
from rowrnn.lab.train import TrainResult
from rowrnn.show import curves
from rowrnn.show.read import Reading, draw_strip

# The colours of a `Drawing`, as the page around it has them: JupyterLab, VS Code or any other.
_COLOURS = (
    "--ink: currentColor; --blue: #0072b2; --vermilion: #d55e00; fill: var(--ink); "
    "--paper: var(--jp-layout-color0, var(--vscode-editor-background, Canvas))"
)


def html_of(result: Shown, facts: dict[str, Any]) -> str:
    """A result as HTML; without its picture where what it is drawn of has gone."""
    told = ", ".join(
        f"{html.escape(name)} <b>{html.escape(text)}</b>"
        for name, value in facts.items()
        for text in [value if isinstance(value, str) else short(value)]
        if value is not None
    )
    try:
        drawing = picture(result)
    except (RowRNNError, OSError):
        drawing = None
    return f"<div><p>{type(result).__name__}: {told}</p>{_element(drawing)}</div>"


@singledispatch
def picture(result: Shown) -> Drawing | None:
    """The picture of a result; None of one that has none."""
    return None


@picture.register
def _(result: TrainResult) -> Drawing | None:
    return next(iter(curves.draw(Path(result.run_dir)).values()), None)


@picture.register
def _(result: SweepResult) -> Drawing | None:
    drawing = Drawing()
    outcome.draw_accuracy(result, "", drawing)
    return drawing if drawing.svg else None


@picture.register
def _(result: Evaluation) -> Drawing:
    drawing = Drawing()
    title = f"{result.split}: true and predicted class"
    figures.confusion_matrix(result.confusion, drawing, title, result.class_names)
    return drawing


@picture.register
def _(result: Reading) -> Drawing:
    drawing = Drawing()
    draw_strip(result, drawing)
    return drawing


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
