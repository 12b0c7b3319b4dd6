"""How a notebook shows a result: a line, and its picture where it has one."""

import html
from collections.abc import Sequence
from functools import singledispatch
from pathlib import Path
from typing import Any

from rowrnn import figures
from rowrnn.errors import RowRNNError
from rowrnn.figures import Drawing
from rowrnn.lab.compare import SweepComparison
from rowrnn.lab.evaluate import Evaluation
from rowrnn.lab.runs import RunSummary
from rowrnn.lab.shown import Shown, short
from rowrnn.lab.sweep import SweepResult, outcome
from rowrnn.lab.train import TrainResult
from rowrnn.show import curves
from rowrnn.show.read import Reading, draw_strip
from rowrnn.show.report import Report

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
        for text in [", ".join(value) if isinstance(value, list) else _text(value)]
        if text and not (name == "pairs" and isinstance(result, SweepComparison))
    )
    try:
        below = _below(result)
    except (RowRNNError, OSError):
        below = ""
    return f"<div><p>{type(result).__name__}: {told}</p>{below}</div>"


def table_of(runs: Sequence[RunSummary]) -> str:
    """Runs and sweeps as a table of HTML."""
    headings = ("name", "state", "started", "test accuracy", "members", "seconds")
    return _table(
        headings,
        [
            (
                run.name,
                run.state,
                f"{run.started:%Y-%m-%d %H:%M} UTC",
                _text(run.test_accuracy),
                _text(run.members),
                "" if run.wall_s is None else f"{run.wall_s:,.0f}",
            )
            for run in runs
        ],
    )


def _below(result: Shown) -> str:
    """What is shown below the line of a result."""
    if isinstance(result, Report):
        # The page has no scripts, and in this frame none would run.
        page = html.escape(result.path.read_text(encoding="utf-8"))
        style = "width: 100%; height: 40em; border: 0; background: white"
        return f'<iframe sandbox="" style="{style}" srcdoc="{page}"></iframe>'
    if isinstance(result, SweepComparison):
        headings = ("", "against", "test accuracy", "difference", "95 % interval", "p", "verdict")
        rows = [
            (
                pair.b,
                pair.a,
                f"{pair.mean_b:.4f} against {pair.mean_a:.4f}",
                f"{pair.comparison.difference:+.4f}",
                "{:+.4f} to {:+.4f}".format(*pair.comparison.interval),
                f"{pair.adjusted_p:.3g}",
                pair.verdict,
            )
            for pair in result.pairs
        ]
        return _table(headings, rows)
    return _element(picture(result))


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def line(cells: Sequence[str], tag: str) -> str:
        return f"<tr>{''.join(f'<{tag}>{html.escape(cell)}</{tag}>' for cell in cells)}</tr>"

    return f"<table>{line(headings, 'th')}{''.join(line(cells, 'td') for cells in rows)}</table>"


def _text(value: Any) -> str:
    """A value in a line; nothing of what is not known."""
    return value if isinstance(value, str) else "" if value is None else short(value)


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
