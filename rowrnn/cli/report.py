"""``rowrnn report``."""

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
from rowrnn.jax_settings import require_devices, require_jax


@dataclass(frozen=True, kw_only=True)
class ReportArguments(Common):
    """Show a run, a sweep or a record of rowrnn bench as one page, which opens in any browser.

    Of a run: curves, confusion matrix, the 24 worst test images and the probabilities after each
    of their rows, gates, config, environment. Of a sweep: how accuracy is distributed, statistics,
    curves, grid. Of a record: tables and plots. train and sweep write it at their end.
    """

    path: Annotated[Positional[Path], arg(metavar="PATH")]
    """The directory of a run or a sweep, or the JSON file of rowrnn bench --out."""
    to: Annotated[Path | None, arg(metavar="FILE.html")] = None
    """The page; without it, report.html in the directory, or FILE.html beside FILE.json."""
    checkpoint: str = "last"
    """Of a run: last, best (on validation) or a step."""
    data: DataPlace = field(default_factory=DataPlace)


def main(arguments: Sequence[str]) -> int:
    """Writes the report of what lies in a directory or file."""
    given = parse("report", ReportArguments, arguments)
    require_text(given.path)
    if given.to is not None:
        require_text(given.to)

    require_jax()
    require_devices()
    from rowrnn.show.report import report

    made = report(given.path, to=given.to, which=given.checkpoint, data_dir=given.data.dir)
    tell(plain(made.verdict), sys.stdout)
    for line in made.missing:
        tell(plain(f"Not shown: {line}"), sys.stdout)
    tell_written(made.path)
    given.answer({"report": str(made.path), "verdict": made.verdict, "missing": made.missing})
    return 0


def report_at_end(path: str | Path) -> None:
    """The report of what has just ended; whatever goes wrong is a line and no failure."""
    try:
        from rowrnn.show.report import report

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # What there is to say was said on the way.
            made = report(path)
    except KeyboardInterrupt:
        say(f"warning: no report, on Ctrl-C; rowrnn report {path} writes it")
    except Exception as error:
        say(f"warning: no report: {str(error) or type(error).__name__}")
    else:
        tell(f"Look at it: {plain(str(made.path))}", sys.stderr)
