"""What `train` and `sweep` do alike before they start: the config, and the directory."""

import contextlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rowrnn import config as configs
from rowrnn.cli.terminal import given_options, options_of, plain, require_text, tell
from rowrnn.config import Config
from rowrnn.errors import ConfigError

if TYPE_CHECKING:
    from rowrnn.cli.sweep import SweepArguments
    from rowrnn.cli.train import TrainArguments


def config_of(
    given: "TrainArguments | SweepArguments", arguments: Sequence[str], kind: str
) -> Config:
    """The config file, or that of the directory to resume, with the flags on top; checked.

    Args:
        given: what `arguments` say.
        arguments: as they were typed, since only they tell which flags are given.
        kind: "run" or "sweep".
    """
    if given.resume and given.run_dir:
        raise ConfigError(
            f"--run-dir {given.run_dir} and --resume {given.resume}: a resumed {kind} stays where "
            "it is; leave --run-dir out"
        )
    base = Config()
    if given.config_file:
        base = configs.load(given.config_file)
    elif given.resume:
        from rowrnn.store import rundir

        base = rundir.read_config(given.resume)
    options = dict(options_of(type(given)))
    names = {options[option] for option, _ in given_options(arguments)} - {""}
    config = configs.override(base, {name: configs.value_of(given.config, name) for name in names})
    configs.check(config)
    return config


@contextlib.contextmanager
def directory_of(
    given: "TrainArguments | SweepArguments",
    config: Config,
    *,
    ending: str = "",
    reads: bool = False,
) -> Iterator[Path]:
    """The directory to resume, or a new one.

    One without a name of the user's is made at once, so that two commands of the same second have
    two, and is gone again where nothing was put into it.

    Raises `RunError` where another process writes to it now, and `ConfigError` where its name or
    the logger is none that can be used: all before jax is loaded.

    Args:
        given: the arguments.
        config: what is trained.
        ending: of the name of a new directory.
        reads: whether it is not written to, so that others may be.
    """
    from rowrnn.store import rundir, services

    services.require(config.train.logger)
    name = given.config_file.stem if given.config_file else config.data.dataset
    # Another process of the job may have the directory already.
    alone = not reads and configs.told_processes(config.parallel) == 1
    path = given.resume or given.run_dir
    is_default = path is None
    path = path or rundir.default_path(name + ending, take=alone)
    require_text(path)
    if alone:
        rundir.require_free(path)
    try:
        yield path
    finally:
        if is_default and alone:
            with contextlib.suppress(OSError):
                path.rmdir()
                path.parent.rmdir()


def tell_service(path: Path) -> None:
    """Says where the service that was told of a run or sweep has it."""
    from rowrnn.store import services

    if told := services.where_told(path):
        tell(f"Told to {plain(told)}", sys.stderr)
