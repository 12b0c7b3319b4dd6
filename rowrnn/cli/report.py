"""``rowrnn report``."""

import contextlib
import io
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from rowrnn.cli.terminal import (
    Common,
    DataPlace,
    parse,
    plain,
    require_text,
    say,
    tell,
    tell_written,
)
from rowrnn.errors import ConfigError
from rowrnn.jax_settings import require_devices, require_jax


@dataclass(frozen=True, kw_only=True)
class ReportArguments(Common):
    """Show a run, a sweep or a record of rowrnn bench as one page, which opens in any browser.

    Of a run: curves, confusion matrix, the 24 worst test images and the probabilities after each
    of their rows, gates, config, environment. Of a sweep: how accuracy is distributed, statistics,
    curves, grid. Of a record: tables and plots. train and sweep write it at their end. Of several
    runs and sweeps: their curves over each other, and in what they differ.
    """

    paths: Annotated[Positional[tuple[Path, ...]], arg(metavar="PATH ...")]
    """The directory of a run or a sweep, or several; or the JSON file of rowrnn bench --out."""
    to: Annotated[Path | None, arg(metavar="FILE.html")] = None
    """The page; unset: report.html there, FILE.html beside FILE.json, side_by_side.html here."""
    figures: Annotated[str, arg(metavar="FORMAT,...")] = ""
    """Write each figure too, for a column of a paper: svg, pdf or svg,pdf."""
    checkpoint: str = "last"
    """Of a run: last, best (on validation) or a step."""
    data: DataPlace = field(default_factory=DataPlace)


def main(arguments: Sequence[str]) -> int:
    """Writes the report of what lies in a directory or file."""
    given = parse("report", ReportArguments, arguments)
    if not given.paths:
        raise ConfigError("PATH is missing: give the directory of a run or a sweep")
    for path in given.paths:
        require_text(path)
    if given.to is not None:
        require_text(given.to)

    require_jax()
    require_devices()
    from rowrnn.show.report import report

    made = report(
        *given.paths,
        to=given.to,
        which=given.checkpoint,
        data_dir=given.data.dir,
        figures=tuple(filter(None, given.figures.split(","))),
    )
    tell(plain(made.verdict), sys.stdout)
    for line in made.missing:
        tell(plain(f"Not shown: {line}"), sys.stdout)
    for path, about in made.figures.items():
        tell(plain(f"{path}: {about}"), sys.stdout)
    tell_written(made.path)
    figures = {str(path): about for path, about in made.figures.items()}
    answer = {"report": str(made.path), "verdict": made.verdict, "missing": made.missing}
    given.answer(answer | {"figures": figures})
    return 0


def report_at_end(path: str | Path) -> None:
    """The report of what has just ended; whatever goes wrong is a line and no failure."""
    try:
        from rowrnn.show.report import report

        # Training has shown the same warnings and notes already.
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            made = report(path)
    except KeyboardInterrupt:
        say(f"warning: no report, stopped by Ctrl-C; rowrnn report {path} writes it")
    except Exception as error:
        say(f"warning: no report: {str(error) or type(error).__name__}")
    else:
        tell(f"Look at it: {plain(str(made.path))}", sys.stderr)
