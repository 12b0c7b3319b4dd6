"""One page that shows a run, a sweep, a bench record, or several runs: look, don't read.

The page is a single file that asks the network for nothing: style and figures are inside it, there
is no script, and a Content-Security-Policy forbids the rest. What was found in the directory may
come from a stranger and is only ever text in it.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rowrnn import files
from rowrnn.data import Dataset
from rowrnn.errors import ConfigError, RunError, shown
from rowrnn.figures.drawing import COLUMN
from rowrnn.lab.shown import Shown
from rowrnn.show.report import page, run, several, sweep
from rowrnn.show.report.page import Content
from rowrnn.store import rundir

NAME = "report.html"

FORMATS = ("svg", "pdf")
"""Those in which figures are written."""


@dataclass(frozen=True, repr=False)
class Report(Shown):
    """A report that was written.

    Attributes:
        path: the file.
        verdict: what came out, in one sentence.
        missing: what the page could not show, and why; empty where all is there.
        figures: the files of its figures that were asked for, with their title and caption.
    """

    path: Path
    verdict: str
    missing: list[str]
    figures: dict[Path, str] = field(default_factory=dict)

    def _facts(self) -> dict[str, Any]:
        return {"path": str(self.path), "verdict": self.verdict, "missing": self.missing}


def report(
    path: str | Path,
    *others: str | Path,
    to: str | Path | None = None,
    which: str = "last",
    data_dir: str = "",
    dataset: Dataset | None = None,
    figures: Sequence[str] = (),
) -> Report:
    """Writes the report of a run, a sweep or a record of ``rowrnn bench``, or of several runs.

    What is not there, such as the data of a run that came from elsewhere or the result of one that
    was stopped, is left out of the page, which then says so.

    Args:
        path: the directory of the run or sweep, or the JSON file of the record.
        others: more runs and sweeps, whose curves are drawn over each other on one page.
        to: the file to write; without it ``report.html`` in the directory, beside the record its
            name with ``.html``, and of several runs ``side_by_side.html`` in the working directory.
        which: checkpoint of a run: "last", "best" (highest validation accuracy) or a step.
        data_dir: where the data of a run lies now, where that is not what its config says.
        dataset: the data of a run that was trained on arrays.
        figures: of "svg" and "pdf" those in which each figure is written too, at the width
            of a column of a paper; they lie beside the page, in ``figures/``.

    Raises:
        ConfigError: the file is no record of ``rowrnn bench``, or would be written over; a format
            is neither of the two.
        RunError: there is no run, or the page cannot be written.

    >>> import tempfile, rowrnn
    >>> from rowrnn.config import Config, DataConfig, TrainConfig
    >>> config = Config(data=DataConfig("mnist_sample"), train=TrainConfig(examples=1000))
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     trained = rowrnn.train(config, f"{directory}/run")
    ...     made = report(f"{directory}/run")
    ...     made.path.name, made.missing, "<script" in made.path.read_text()
    ('report.html', [], False)
    """
    if wrong := [kind for kind in figures if kind not in FORMATS]:
        raise ConfigError(f"figures = {shown(wrong[0])}: must be some of {', '.join(FORMATS)}")
    source = files.as_path(path)
    # os says no where it cannot know: what comes next then says why.
    if to is not None and os.path.isdir(to):
        raise ConfigError(f"{to}: is a directory; give a file, such as report.html")
    if others:
        target = Path("side_by_side.html")
        content = several.read([source, *map(files.as_path, others)])
    elif os.path.isfile(source):
        from rowrnn.show.report import bench

        target, content = source.with_suffix(".html"), bench.read(source)
    else:
        rundir.require_run(source)
        target = source / NAME
        content = (
            sweep.read(source)
            if rundir.is_sweep(source)
            else run.read(source, which, data_dir, dataset)
        )
    target = files.as_path(to, "to") if to is not None else target
    if os.path.exists(target) and target.samefile(source):
        raise ConfigError(f"{target}: is the record itself; give another file")
    try:
        files.write_whole(target, page.render(content))
        written = _write_figures(content, target.parent / "figures", figures)
    except OSError as error:
        raise RunError(f"{error.filename or target} was not written: {error.strerror}") from error
    return Report(target, content.verdict, content.missing, written)


def _write_figures(content: Content, directory: Path, formats: Sequence[str]) -> dict[Path, str]:
    """Each figure in each format; gives what a paper says below it, by file."""
    written = {}
    for name, drawing in content.draw(COLUMN).items() if formats else ():
        directory.mkdir(exist_ok=True)
        about = ": ".join(filter(None, (drawing.title, drawing.caption)))
        for kind in formats:
            path = directory / f"{name}.{kind}"
            drawing.save(path)
            written[path] = about
    return written
