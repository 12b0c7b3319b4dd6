"""``rowrnn export``."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from rowrnn.cli.terminal import Common, parse, plain, say
from rowrnn.errors import DataError


@dataclass(frozen=True, kw_only=True)
class ExportArguments(Common):
    """Write a trained network into a directory of its own, for use without the run or rowrnn.

    It holds model.safetensors and config.json (the layout of Hugging Face), model.jaxexport (a
    program for CPUs, CUDA devices and TPUs that jax alone runs) and a model card. rowrnn predict
    takes it in place of a run.
    """

    run: Annotated[Positional[Path], arg(metavar="RUN")]
    """The run directory."""
    to: Annotated[Path, arg(metavar="DIR")]
    """The new directory."""
    checkpoint: str = "last"
    """last, best (on validation) or a step."""


def main(arguments: Sequence[str]) -> int:
    """Exports a network."""
    given = parse("export", ExportArguments, arguments)

    from rowrnn.runners.evaluate import evaluate
    from rowrnn.runners.export import export

    try:
        evaluation = evaluate(given.run, which=given.checkpoint).summary()
    except DataError as error:
        say(f"{error}; the model card will not say how good it is")
        evaluation = None
    path = export(given.run, given.to, which=given.checkpoint, evaluation=evaluation)
    print(f"Written: {plain(str(path))}")
    if given.json:
        accuracy = evaluation and evaluation["test_accuracy"]
        print(json.dumps({"path": str(path), "test_accuracy": accuracy}))
    return 0
