"""The command line: arguments to a config, a config to a runner, a result to the terminal.

The only room that knows tyro and ``sys.exit``. Runners are imported by the command that needs
them, so that help and config errors come before jax is loaded.
"""

import dataclasses
import json
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import tyro
from tyro.conf import Positional, arg

from rowrnn import config as configs
from rowrnn.config import Config
from rowrnn.errors import ConfigError, DataError, RowRNNError

if TYPE_CHECKING:
    from rowrnn.runners.evaluate import Evaluation
    from rowrnn.runners.predict import Prediction
    from rowrnn.runners.train import TrainResult

_Arguments = TypeVar("_Arguments")

_OVERVIEW = """\
usage: rowrnn COMMAND [arguments]

Row-wise recurrent networks for images, in JAX.

commands:
  train [CONFIG.toml]      train one run, evaluate it and keep it in a directory
  eval RUN                 loss, accuracy by class and confusion matrix of a run
  predict RUN PICTURE ...  what a run sees in pictures
  data prepare NAME        download or convert mnist, fashion_mnist or kmnist

`rowrnn COMMAND --help` shows the arguments of a command. All of them take --json (one JSON
object on the last line of stdout) and --debug (a traceback with an error).

Start with: rowrnn train experiments/quickstart.toml
"""


def main() -> None:
    """Runs the command that the process was started with, and exits."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Runs a command line and returns its exit code."""
    warnings.showwarning = _show_warning
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_OVERVIEW, end="")
        return 0 if arguments else 2
    if arguments[0] == "--version":
        from importlib.metadata import version

        print(f"rowrnn {version('rowrnn')}")
        return 0
    try:
        return _command(arguments)
    except RowRNNError as error:
        if "--debug" in arguments:
            traceback.print_exception(error)
        else:
            _say(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        _say("left on Ctrl-C")
        return 130


@dataclass(frozen=True, kw_only=True)
class _Common:
    json: bool = False
    """Print the result as one JSON value on the last line of stdout."""
    debug: bool = False
    """Show a traceback with an error."""


@dataclass(frozen=True, kw_only=True)
class TrainArguments(_Common):
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
    overwrite: bool = False
    """Replace the run that lies in --run-dir."""
    config: Annotated[Config, arg(name="")] = Config()


def train(arguments: Sequence[str]) -> int:
    """``rowrnn train``."""
    given = _parse("train", TrainArguments, arguments)
    if given.resume and given.run_dir:
        raise ConfigError(
            f"--run-dir {given.run_dir} and --resume {given.resume}: a resumed run stays where "
            "it is; leave --run-dir out"
        )
    config = _config_of(given, arguments)
    configs.check(config)

    from rowrnn import rundir
    from rowrnn.runners.train import train

    name = given.config_file.stem if given.config_file else config.data.dataset
    run_dir = given.run_dir or rundir.default_path(name)
    result = train(config, run_dir, resume=given.resume, overwrite=given.overwrite)
    _report_training(result)
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
        from rowrnn import rundir

        base = rundir.read_config(given.resume)
    config = _parse("train", TrainArguments, arguments, TrainArguments(config=base)).config
    # A length given as a flag replaces the other kind of length in the file.
    flags = given.config.train
    if flags.examples is not None and flags.epochs is None:
        return _replace_train(config, epochs=None)
    if flags.epochs is not None and flags.examples is None:
        return _replace_train(config, examples=None)
    return config


def _replace_train(config: Config, **values: Any) -> Config:
    return dataclasses.replace(config, train=dataclasses.replace(config.train, **values))


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
    print("\n".join(lines), file=sys.stderr)


@dataclass(frozen=True)
class _DataPlace:
    dir: str = ""
    """Where the data lies now, where that is not what the config of the run says."""


@dataclass(frozen=True, kw_only=True)
class EvalArguments(_Common):
    """Loss, accuracy with its 95 % interval, accuracy by class and the confusion matrix of a run.

    Writes eval-SPLIT.json and eval-SPLIT.png into the run directory.
    """

    run: Annotated[Positional[Path], arg(metavar="RUN")]
    """The run directory."""
    checkpoint: str = "last"
    """last, best (on validation) or a step."""
    split: Literal["test", "validation", "train"] = "test"
    """The part of the data."""
    data: _DataPlace = _DataPlace()


def evaluate(arguments: Sequence[str]) -> int:
    """``rowrnn eval``."""
    given = _parse("eval", EvalArguments, arguments)

    from rowrnn.runners import evaluate

    evaluation = evaluate.evaluate(
        given.run, which=given.checkpoint, split=given.split, data_dir=given.data.dir
    )
    paths = evaluate.save(evaluation)
    _report_evaluation(evaluation, paths)
    if given.json:
        print(json.dumps(evaluation.summary()))
    return 0


def _report_evaluation(evaluation: "Evaluation", paths: Sequence[Path]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(stderr=True)
    low, high = evaluation.interval
    console.print(
        f"{evaluation.split} accuracy {evaluation.accuracy:.4f}, "
        f"95 % interval {low:.4f} to {high:.4f}, loss {evaluation.loss:.4f}\n"
        f"{evaluation.count:,} images of {evaluation.dataset}, checkpoint of step "
        f"{evaluation.step}\n",
        highlight=False,
    )
    table = Table(box=None)
    for heading in ("class", "images", "accuracy"):
        table.add_column(heading, justify="right")
    table.add_column("most often taken for")
    for label, row in enumerate(evaluation.confusion):
        errors = row.copy()
        errors[label] = 0
        worst = int(errors.argmax())
        mistake = f"{worst}  ({errors[worst]} times)" if errors[worst] else ""
        table.add_row(str(label), f"{row.sum():,}", f"{evaluation.per_class[label]:.4f}", mistake)
    console.print(table)
    for path in paths:
        console.print(f"Written: {path}", highlight=False, markup=False, soft_wrap=True)


@dataclass(frozen=True, kw_only=True)
class PredictArguments(_Common):
    """Say which class a run sees in pictures of one digit each, of any size.

    IDX files are taken too, as they are. A picture that cannot be read gets a line on stderr, and
    the exit code is then 3.
    """

    run: Annotated[Positional[Path], arg(metavar="RUN")]
    """The run directory."""
    pictures: Annotated[Positional[tuple[Path, ...]], arg(metavar="PICTURE")]
    """PNG, JPEG or IDX files."""
    checkpoint: str = "last"
    """last, best (on validation) or a step."""
    rows: bool = False
    """Show the belief after each row."""


def predict(arguments: Sequence[str]) -> int:
    """``rowrnn predict``."""
    given = _parse("predict", PredictArguments, arguments)
    if not given.pictures:
        raise ConfigError("predict needs at least one picture: rowrnn predict RUN PICTURE.png …")

    from rowrnn.runners.predict import predict

    predictions, problems = predict(given.run, given.pictures, which=given.checkpoint)
    for prediction in predictions:
        _report_prediction(prediction, rows=given.rows)
    for problem in problems:
        _say(str(problem))
    if given.json:
        print(json.dumps([prediction.summary() for prediction in predictions]))
    return DataError.exit_code if problems else 0


def _report_prediction(prediction: "Prediction", *, rows: bool) -> None:
    """One line for a picture on stderr, and with `rows` one more for each row of it."""
    read_as = ", dark on light" if prediction.inverted else ""
    print(
        f"{_plain(prediction.path)}: {prediction.label} ({prediction.probability:.1%}), then "
        f"{prediction.runner_up} ({prediction.runner_up_probability:.1%}){read_as}",
        file=sys.stderr,
    )
    if rows:
        for row, (pixels, belief) in enumerate(
            zip(prediction.image, prediction.rows, strict=True), start=1
        ):
            shades = "".join(" ░▒▓█"[int(pixel) * 5 // 256] for pixel in pixels)
            label = int(belief.argmax())
            bar = "■" * round(20 * belief[label])
            print(f"{row:4d} {shades} {label} {belief[label]:6.1%} {bar}", file=sys.stderr)


@dataclass(frozen=True, kw_only=True)
class PrepareArguments(_Common):
    """Download a dataset, or convert its original files, to the format of TFDS.

    Checksums are verified. It goes to --data.dir, or TFDS_DATA_DIR, or ~/tensorflow_datasets. A
    set that is prepared already is left as it is.
    """

    name: Annotated[Positional[Literal["mnist", "fashion_mnist", "kmnist"]], arg(metavar="NAME")]
    """mnist, fashion_mnist or kmnist."""
    dir: Annotated[str, arg(name="data.dir")] = ""
    """The TFDS data directory."""
    manual_dir: Annotated[str, arg(name="manual-dir", aliases=["--data.manual-dir"])] = ""
    """A directory with the four original files; nothing is downloaded then."""


def data(arguments: Sequence[str]) -> int:
    """``rowrnn data``."""
    if not arguments or arguments[0] != "prepare":
        if arguments and arguments[0] in ("-h", "--help"):
            print("usage: rowrnn data prepare NAME [--manual-dir DIR] [--data.dir DIR]")
            return 0
        raise ConfigError("data has one command: rowrnn data prepare mnist [--manual-dir DIR]")
    given = _parse("data prepare", PrepareArguments, arguments[1:])

    from rowrnn import data

    path = data.prepare(given.name, given.dir, given.manual_dir)
    _say(f"{given.name} is ready in {path}")
    if given.json:
        print(json.dumps({"dataset": given.name, "path": str(path)}))
    return 0


_COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "train": train,
    "eval": evaluate,
    "predict": predict,
    "data": data,
}


def _command(arguments: Sequence[str]) -> int:
    name, *rest = arguments
    if name not in _COMMANDS:
        raise ConfigError(f"unknown command {name!r}{configs.nearest(name, _COMMANDS)}")
    return _COMMANDS[name](rest)


def _parse(
    command: str,
    kind: type[_Arguments],
    arguments: Sequence[str],
    default: _Arguments | None = None,
) -> _Arguments:
    """Arguments to a dataclass; prints what is wrong and exits with 2 where they are no good."""
    return tyro.cli(
        kind,
        prog=f"rowrnn {command}",
        args=arguments,
        default=default if default is not None else tyro.MISSING_NONPROP,
        config=(tyro.conf.FlagCreatePairsOff,),
    )


def _say(text: str) -> None:
    print(f"rowrnn: {_plain(text)}", file=sys.stderr)


def _plain(text: str) -> str:
    """Text without control characters, which a file name could smuggle to the terminal."""
    return "".join(c if c.isprintable() or c == "\n" else f"\\x{ord(c):02x}" for c in text)


def _show_warning(message: Warning | str, category: type[Warning], *_: Any) -> None:
    """One line for a warning of ours; those of libraries concern developers, not users."""
    if issubclass(category, UserWarning) and str(message).startswith("checkpoint "):
        _say(f"warning: {message}")


if __name__ == "__main__":
    main()
