"""One page that shows a run, a sweep or a bench record: look, don't read.

The page is a single file that asks the network for nothing: style and figures are inside it, there
is no script, and a Content-Security-Policy forbids the rest. What was found in the directory may
come from a stranger and is only ever text in it.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from rowrnn import files
from rowrnn.errors import ConfigError, RunError
from rowrnn.show.report import page, run, sweep
from rowrnn.store import rundir

NAME = "report.html"


@dataclass(frozen=True)
class Report:
    """A report that was written.

    Attributes:
        path: the file.
        verdict: what came out, in one sentence.
        missing: what the page could not show, and why; empty where all is there.
    """

    path: Path
    verdict: str
    missing: list[str]


def report(
    path: str | Path, *, to: str | Path | None = None, which: str = "last", data_dir: str = ""
) -> Report:
    """Writes the report of a run, a sweep or a record of ``rowrnn bench``.

    What is not there, such as the data of a run that came from elsewhere or the result of one that
    was stopped, is left out of the page, which then says so.

    Args:
        path: the directory of the run or sweep, or the JSON file of the record.
        to: the file to write; without it ``report.html`` in the directory, or beside the record
            its name with ``.html``.
        which: checkpoint of a run: "last", "best" (highest validation accuracy) or a step.
        data_dir: where the data of a run lies now, where that is not what its config says.

    Raises:
        ConfigError: the file is no record of ``rowrnn bench``, or would be written over.
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
    source = Path(path)
    # os says no where it cannot know: what comes next then says why.
    if to is not None and os.path.isdir(to):
        raise ConfigError(f"{to}: is a directory; give a file, such as report.html")
    if os.path.isfile(source):
        from rowrnn.show.report import bench

        target, content = source.with_suffix(".html"), bench.read(source)
    else:
        rundir.require_run(source)
        target = source / NAME
        content = (
            sweep.read(source) if rundir.is_sweep(source) else run.read(source, which, data_dir)
        )
    target = Path(to) if to is not None else target
    if os.path.exists(target) and target.samefile(source):
        raise ConfigError(f"{target}: is the record itself; give another file")
    try:
        files.write_whole(target, page.render(content))
    except OSError as error:
        raise RunError(f"{target} was not written: {error.strerror}") from error
    return Report(target, content.verdict, content.missing)
