"""``rowrnn train``."""

import dataclasses
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from rowrnn import config as configs
from rowrnn.cli.report import report_at_end
from rowrnn.cli.terminal import Common, Flag, parse, plain, require_text
from rowrnn.config import Config
from rowrnn.errors import ConfigError

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
    if given.resume and given.run_dir:
        raise ConfigError(
            f"--run-dir {given.run_dir} and --resume {given.resume}: a resumed run stays where "
            "it is; leave --run-dir out"
        )
    config = _config_of(given, arguments)
    configs.check(config)

    from rowrnn.store import rundir, services

    services.require(config.train.logger)
    name = given.config_file.stem if given.config_file else config.data.dataset
    run_dir = given.run_dir or rundir.default_path(name)
    require_text(given.resume or run_dir)
    # In a job another process may have the directory already.
    if configs.told_processes(config.parallel) == 1:
        rundir.require_free(given.resume or run_dir)

    from rowrnn import parallel
    from rowrnn.lab.train import train

    result = train(config, run_dir, resume=given.resume, overwrite=given.overwrite)
    if not parallel.is_process_0():
        return 0
    _report_training(result)
    # Not what the result names: a run may have been moved since.
    report_at_end(given.resume or run_dir)
    if given.json:
        print(json.dumps(dataclasses.asdict(result)))
    return 0


def _config_of(given: TrainArguments, arguments: Sequence[str]) -> Config:
    """The config file, or that of the run to resume, with the flags on top.

    The flags are parsed twice: the first time tells which file their defaults come from.
    """
    base = Config()
    if given.config_file:
        base = configs.load(given.config_file)
    elif given.resume:
        from rowrnn.store import rundir

        base = rundir.read_config(given.resume)
    config = parse("train", TrainArguments, arguments, TrainArguments(config=base)).config
    return config_with_flags(config, given.config)


def config_with_flags(config: Config, flags: Config) -> Config:
    """A config with flags on top, of which a length replaces the other kind of length in the file.

    Args:
        config: parsed with the file as its defaults.
        flags: parsed without it.
    """
    if flags.train.examples is not None and flags.train.epochs is None:
        return configs.replace(config, {"train.epochs": None})
    if flags.train.epochs is not None and flags.train.examples is None:
        return configs.replace(config, {"train.examples": None})
    return config


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
