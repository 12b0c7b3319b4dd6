"""``rowrnn train``."""

import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from rowrnn import config as configs
from rowrnn.cli.report import report_at_end
from rowrnn.cli.start import config_of, directory_of, tell_service
from rowrnn.cli.terminal import Common, Flag, parse, plain, show_shipped, tell
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

    config_file: Annotated[Positional[Path | None], arg(metavar="[CONFIG]")] = None
    """A TOML file, or a name that --list shows; without one, the defaults."""
    list_: Annotated[Flag, arg(name="list")] = False
    """Show the configs that come with rowrnn, and train nothing."""
    run_dir: Annotated[Path | None, arg(metavar="DIR")] = None
    """Where the run is kept; without it, runs/NAME-TIME."""
    resume: Annotated[Path | None, arg(metavar="DIR")] = None
    """A run directory to go on with."""
    overwrite: Flag = False
    """Replace the run that lies in --run-dir."""
    init_from: Annotated[Path | None, arg(metavar="DIR")] = None
    """A run, or an export of one, whose parameters are the first ones of this run."""
    config: Annotated[Config, arg(name="")] = Config()


def main(arguments: Sequence[str]) -> int:
    """Trains a run, or goes on with one."""
    given = parse("train", TrainArguments, arguments)
    if given.list_:
        return _list(given)
    config = config_of(given, arguments, "run")
    with directory_of(given, config) as run_dir:
        return _run(given, config, run_dir)


def _run(given: TrainArguments, config: Config, run_dir: Path) -> int:
    """Trains into a directory, and reports."""
    require_jax()
    from rowrnn import parallel
    from rowrnn.lab.train import train

    result = train(
        config,
        run_dir,
        resume=given.resume,
        overwrite=given.overwrite,
        init_from=given.init_from,
    )
    if not parallel.is_process_0():
        return 0
    _report_training(result, config.data.dir, resumed=given.resume is not None)
    tell_service(run_dir)
    # Not what the result names: a run may have been moved since.
    report_at_end(run_dir)
    given.answer(dataclasses.asdict(result))
    return 0


def _list(given: TrainArguments) -> int:
    """Shows the configs that come with rowrnn."""
    found = configs.shipped()
    found = {name: path for name, path in found.items() if not name.startswith("bench_")}
    show_shipped(found)
    given.answer({name: configs.summary(path) for name, path in found.items()})
    return 0


def _report_training(result: "TrainResult", where: str, *, resumed: bool) -> None:
    """Says what came out on the data that lies there, and what to do next."""
    from rowrnn import data

    run = result.run_dir
    validation = result.validation_accuracy
    lines = [
        f"Test accuracy {result.test_accuracy:.4f} on {configs.data_name(result.dataset, where)}"
        + ("" if validation is None else f", validation accuracy {validation:.4f}"),
        f"Trained on {result.examples:,} examples in {result.train_s:.1f} s, "
        f"{result.examples_per_s:,.0f} examples/s",
        f"The run is kept in {run}",
        "",
        "Try next:",
        f"  rowrnn eval {run}",
        f"  rowrnn predict {run} PICTURE.png",
    ]
    if result.dataset == "mnist_sample" and not resumed:
        if not data.is_prepared("mnist"):
            lines.append("  rowrnn data prepare mnist    # all 70,000 digits, and then")
        lines.append("  rowrnn train lstm128")
    for line in map(plain, lines):
        if line.startswith("  "):  # To be copied, and so not folded.
            print(line, file=sys.stderr)
        else:
            tell(line, sys.stderr)
