"""``rowrnn export``."""

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from rowrnn.cli.terminal import Checkpoint, Common, DataPlace, Flag, parse, say, tell_written
from rowrnn.errors import ConfigError, DataError, RunError
from rowrnn.jax_settings import require_devices, require_jax


@dataclass(frozen=True, kw_only=True)
class ExportArguments(Common):
    """Write a trained network for use without the run or rowrnn: a directory, a web page or both.

    The directory holds model.safetensors and config.json (the layout of Hugging Face),
    model.jaxexport (a program for CPUs, CUDA devices and TPUs that needs jax and flatbuffers alone)
    and a model card. rowrnn predict takes it in place of a run. The page is one file for any
    browser, from disk: draw a digit, and watch the network read it row by row.
    """

    run: Annotated[Positional[Path], arg(metavar="RUN")]
    """The run directory, or a directory that export made."""
    to: Annotated[Path | None, arg(metavar="DIR")] = None
    """The new directory."""
    onnx: Flag = False
    """Put a model.onnx into that directory too."""
    web: Annotated[Path | None, arg(metavar="FILE.html")] = None
    """The new page."""
    checkpoint: Checkpoint = "last"
    data: DataPlace = field(default_factory=DataPlace)


def main(arguments: Sequence[str]) -> int:
    """Exports a network."""
    given = parse("export", ExportArguments, arguments)

    _check(given)

    require_jax()
    require_devices()
    from rowrnn.lab.classifier import load
    from rowrnn.lab.evaluate import evaluate
    from rowrnn.show.export import export, export_web, require_unused

    for path in filter(None, (given.to, given.web)):
        require_unused(path)
    # One checkpoint for all: a run that is being trained has another last one in a moment.
    which = str(load(given.run, given.checkpoint).step)
    try:
        evaluation = evaluate(given.run, which=which, data_dir=given.data.dir).summary()
    except (DataError, RunError) as error:  # Missing, or other data by now.
        say(f"{error}; what is written will not say how good the network is")
        evaluation = None
    if given.web is not None:
        export_web(given.run, given.web, which=which, evaluation=evaluation)
        tell_written(given.web)
    if given.to is not None:
        export(given.run, given.to, which=which, evaluation=evaluation, onnx=given.onnx)
        tell_written(given.to)
    written = {"path": given.to and str(given.to), "web": given.web and str(given.web)}
    given.answer({**written, "test_accuracy": evaluation and evaluation["test_accuracy"]})
    return 0


def _check(given: ExportArguments) -> None:
    """Raises `ConfigError` where the arguments do not say what to write."""
    if given.to is None and given.web is None:
        raise ConfigError("export: give --to DIR, --web FILE.html or both")
    if given.onnx and given.to is None:
        raise ConfigError("--onnx: give the directory that it goes into with --to DIR")
    if given.onnx and importlib.util.find_spec("jax2onnx") is None:
        raise ConfigError("--onnx needs jax2onnx: pip install 'rowrnn[onnx]'")
    if given.web is not None and given.web.suffix.lower() not in (".html", ".htm"):
        raise ConfigError(f"--web {given.web}: must end in .html, for a browser to open it")
    if given.web and given.to and given.to.resolve() in given.web.resolve().parents:
        raise ConfigError(f"--web {given.web}: lies in the directory of --to; give another place")
