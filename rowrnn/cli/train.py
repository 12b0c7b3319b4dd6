"""``rowrnn train``."""

import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from rowrnn.cli.report import report_at_end
from rowrnn.cli.start import config_of, directory_of
from rowrnn.cli.terminal import Common, Flag, parse, plain
from rowrnn.config import Config
from rowrnn.jax_settings import require_jax

if TYPE_CHECKING:
    from rowrnn.lab.train import TrainResult


@dataclass(frozen=True, kw_only=True)
class TrainArguments(Common):
    """Train one run, evaluate it on the test images and keep it in a directory.

    Any value of the config can be given as a flag; a flag beats the file, the file beats the
    defaults. Ctrl-C saves and stops; --resume goes on.
    """

    config_file: Annotated[Positional[Path | None], arg(metavar="[CONFIG.toml]")] = None
    """The config of the run; without one, the defaults."""
    run_dir: Annotated[Path | None, arg(metavar="DIR")] = None
    """Where the run is kept; without it, runs/NAME-TIME."""
    resume: Annotated[Path | None, arg(metavar="DIR")] = None
    """A run directory to go on with."""
    overwrite: Flag = False
    """Replace the run that lies in --run-dir."""
    config: Annotated[Config, arg(name="")] = Config()


def main(arguments: Sequence[str]) -> int:
    """Trains a run, or goes on with one."""
    given = parse("train", TrainArguments, arguments)
    config = config_of(given, arguments, "run")
    run_dir = directory_of(given, config)

    require_jax()
    from rowrnn import parallel
    from rowrnn.lab.train import train

    result = train(config, run_dir, resume=given.resume, overwrite=given.overwrite)
    if not parallel.is_process_0():
        return 0
    _report_training(result)
    # Not what the result names: a run may have been moved since.
    report_at_end(run_dir)
    given.answer(dataclasses.asdict(result))
    return 0


def _report_training(result: "TrainResult") -> None:
    """Says what came out and what to do next."""
    run = result.run_dir
    lines = [
        f"Test accuracy {result.test_accuracy:.4f} on {result.dataset}",
        f"Trained on {result.examples:,} examples in {result.train_s:.1f} s, "
        f"{result.examples_per_s:,.0f} examples/s",
        f"The run is kept in {run}",
        "",
        "Try next:",
        f"  rowrnn eval {run}",
        f"  rowrnn predict {run} PICTURE.png",
    ]
    if result.dataset == "mnist_sample":
        lines += [
            "  rowrnn data prepare mnist    # all 70,000 digits, and then",
            "  rowrnn train experiments/lstm128.toml",
        ]
    print("\n".join(map(plain, lines)), file=sys.stderr)
