"""The configuration of one experiment: every default and every range check is in this file.

A configuration is a tree of frozen dataclasses, read from TOML with `load`, written with `dump`,
and checked as a whole with `check`. The module imports nothing heavy, so that a bad value is
reported before jax is loaded.

>>> config = Config(model=ModelConfig(hidden_size=64))
>>> config.model.projection_size
128
>>> check(Config(train=TrainConfig(batch_size=0)))
Traceback (most recent call last):
rowrnn.errors.ConfigError: train.batch_size = 0: must be an integer from 1 to 1048576
"""

import dataclasses
import difflib
import functools
import hashlib
import importlib.util
import json
import os
import re
import reprlib
import tomllib
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import tomli_w

from rowrnn import files
from rowrnn.errors import ConfigError

DEFAULT_EPOCHS = 10

EXAMPLE = "; write section.key, such as optimizer.learning_rate"
"""For a name that is like none."""

# Of a TOML file. A config has two thousand.
_MOST_BYTES = 2**20
# Of a value or a name in a message.
_MOST_SHOWN = 60

FREE = frozenset(
    {
        "data.dir",
        "data.manual_dir",
        "train.display",
        "train.logger",
        "train.log_every_steps",
        "train.eval_every_steps",
        "checkpoint.every_steps",
        "checkpoint.every_epoch",
        "checkpoint.every_seconds",
        "checkpoint.keep",
        "parallel.devices",
        "parallel.data",
        "parallel.seed",
        "parallel.coordinator",
        "parallel.processes",
        "parallel.process",
        "parallel.heartbeat_seconds",
        "parallel.compilation_cache",
    }
)
"""These change how a run is watched, stored or spread out, but not what it computes; another number
of devices to a batch adds up gradients in another order, and so changes their last bits."""

_JOB = ("parallel.coordinator", "parallel.processes", "parallel.process")


def _between(
    default: Any,
    low: float,
    high: float,
    *,
    open_high: bool = False,
    traced: bool = False,
    off_at_zero: bool = False,
) -> Any:
    """A field whose value lies in [low, high], or in [low, high) with `open_high`.

    With `traced` the value is an argument of the compiled program and not a constant in it, see
    `traced`; with `off_at_zero` only where it is not 0, which leaves a part of the program out.
    """
    return field(
        default=default,
        metadata={
            "low": low,
            "high": high,
            "open_high": open_high,
            "traced": traced,
            "off_at_zero": off_at_zero,
        },
    )


@dataclass(frozen=True)
class ModelConfig:
    """The network: each row through a linear projection, an LSTM over the rows, a readout."""

    projection_size: int = _between(128, 0, 65_536)
    """Width of the linear layer in front of the LSTM; 0 feeds the rows directly."""
    hidden_size: int = _between(128, 1, 65_536)
    """Units of each LSTM layer."""
    layers: int = _between(1, 1, 64)
    """LSTM layers, one on top of the other."""
    dropout: float = _between(0.0, 0.0, 1.0, open_high=True, traced=True, off_at_zero=True)
    """Share of the activations dropped between LSTM layers and before the readout."""
    forget_bias: float = _between(1.0, -100.0, 100.0, traced=True)
    """Added to the forget gate at run time, beside its learned bias."""
    pooling: Literal["last", "mean"] = "last"
    """What is read out: the hidden state after the last row, or the mean over all rows."""
    init: Literal["modern", "glorot", "notebook"] = "modern"
    """modern: Glorot, orthogonal recurrence. glorot: that for the recurrence too. notebook: as the
    2015 notebook drew them."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the operands of matrix products; parameters and sums stay float32."""
    backend: Literal["fast", "scan", "cudnn"] = "fast"
    """Which implementation of the recurrence runs: scan is the definition, fast the same maths
    in fewer and larger products, cudnn needs a CUDA device."""


@dataclass(frozen=True)
class DataConfig:
    """Which images, where they lie and how they are split and augmented."""

    dataset: Literal["mnist_sample", "mnist", "fashion_mnist", "kmnist", "idx"] = "mnist_sample"
    """mnist_sample ships with rowrnn; idx reads the four IDX files in data.dir."""
    dir: str = ""
    """idx: the directory of the files. Otherwise the TFDS data directory (TFDS_DATA_DIR)."""
    manual_dir: str = ""
    """Directory with the original files, of which the dataset is prepared where it is not yet."""
    validation_size: int | None = _between(None, 0, 1_000_000_000)
    """First training images set apart; unset: 5000 of 50,000 or more, otherwise none."""
    shift: int = _between(0, 0, 1_000)
    """Augmentation: training images move by up to this many pixels along each axis."""
    rotation: float = _between(0.0, 0.0, 3.2, traced=True, off_at_zero=True)
    """Augmentation: they turn by up to this angle, in radians."""
    scale: float = _between(0.0, 0.0, 1.0, open_high=True, traced=True, off_at_zero=True)
    """Augmentation: height and width change by up to this share, each by its own."""
    shear: float = _between(0.0, 0.0, 10.0, traced=True, off_at_zero=True)
    """Augmentation: rows slide by up to this many pixels for each row from the centre."""
    elastic: float = _between(0.0, 0.0, 100.0, traced=True, off_at_zero=True)
    """Augmentation: pixels are displaced smoothly, by this standard deviation in pixels."""


@dataclass(frozen=True)
class OptimizerConfig:
    """The optimizer, its schedule and what is done to gradients and averages."""

    name: Literal["adam", "adamw", "sgd", "muon"] = "adam"
    """Optax's transformation of that name."""
    learning_rate: float = _between(1e-3, 0.0, 1e3, traced=True)
    """Peak of the schedule."""
    schedule: Literal["constant", "cosine"] = "constant"
    """cosine decays to zero at the last step."""
    warmup_steps: int = _between(0, 0, 1_000_000_000)
    """Linear warm-up from zero."""
    weight_decay: float = _between(1e-4, 0.0, 1e3, traced=True)
    """Decoupled weight decay of adamw and muon, on kernels only."""
    momentum: float = _between(0.9, 0.0, 1.0, open_high=True, traced=True)
    """First-moment decay: beta1 of adam and adamw, momentum of sgd and muon."""
    beta2: float = _between(0.999, 0.0, 1.0, open_high=True, traced=True)
    """Second-moment decay of adam and adamw."""
    epsilon: float = _between(1e-8, 0.0, 1.0, traced=True)
    """Denominator offset of adam and adamw."""
    clip_norm: float = _between(0.0, 0.0, 1e9, traced=True, off_at_zero=True)
    """Largest global norm of the gradients; 0 does not clip."""
    ema_decay: float = _between(0.0, 0.0, 1.0, open_high=True, traced=True, off_at_zero=True)
    """Decay of the moving average of the parameters that is then evaluated; 0 keeps none."""


@dataclass(frozen=True)
class TrainConfig:
    """Length, batch, seed and what is shown and measured on the way."""

    seed: int = _between(0, 0, 2**32 - 1)
    """Fixes initialisation, data order, dropout and augmentation."""
    init_seed: int | None = _between(None, 0, 2**32 - 1)
    """Fixes initialisation alone, apart from the rest; unset: train.seed fixes both."""
    batch_size: int = _between(128, 1, 2**20)
    """Examples per step."""
    examples: int | None = _between(None, 1, 10**15)
    """Length in examples: steps are taken while step * batch_size < examples."""
    epochs: int | None = _between(None, 1, 10**9)
    """Length in passes over the training part; 10 where neither length is given."""
    label_smoothing: float = _between(0.0, 0.0, 1.0, open_high=True, traced=True)
    """Share of the target spread evenly over all classes."""
    precision: Literal["default", "high", "highest"] = "default"
    """Matrix-product precision, as jax names it; on a CPU all three are float32."""
    display: Literal["progress", "notebook", "none"] = "progress"
    """progress: a live bar on stderr. notebook: the lines of the 2015 notebook on stdout."""
    logger: Literal["none", "wandb", "mlflow"] = "none"
    """Also tell Weights & Biases or MLflow, as its own environment variables say (WANDB_MODE,
    MLFLOW_TRACKING_URI, ...); of a sweep, its result. A run goes on whatever becomes of that."""
    log_every_steps: int = _between(50, 1, 1_000_000_000)
    """Steps between two entries of the metrics log (and two lines of the notebook display)."""
    eval_every_steps: int = _between(0, 0, 1_000_000_000)
    """Steps between two evaluations on the validation part; 0: each epoch."""


@dataclass(frozen=True)
class CheckpointConfig:
    """When states are saved; a stop always saves."""

    every_steps: int = _between(0, 0, 1_000_000_000)
    """Steps between two saves; 0: by time."""
    every_epoch: bool = False
    """Save at the end of each epoch, where every_steps is 0."""
    every_seconds: float = _between(60.0, 1e-3, 1e9)
    """Seconds between two saves, where neither of the two is given."""
    keep: int = _between(2, 1, 1_000_000)
    """How many of the latest checkpoints stay, beside the best on validation."""


@dataclass(frozen=True)
class ParallelConfig:
    """How a run uses devices and processes."""

    devices: int = _between(0, 0, 1_000_000)
    """Devices of each process. 0: every accelerator; a single CPU device, and for a sweep in one
    process one for each core."""
    data: int | None = _between(None, 1, 1_000_000)
    """Devices that share each batch; unset: all for a single run, 1 for a sweep."""
    seed: int | None = _between(None, 1, 1_000_000)
    """Groups of devices with members of their own in a sweep; unset: all devices / data."""
    coordinator: str | None = None
    """HOST:PORT at which process 0 of a job can be reached; unset where the cluster tells it."""
    processes: int | None = _between(None, 1, 1_000_000)
    """How many processes the job has; 1: this one alone, whatever the cluster tells."""
    process: int | None = _between(None, 0, 999_999)
    """Which of them this one is, from 0."""
    heartbeat_seconds: int = _between(30, 2, 86_400)
    """Seconds without a sign of life from a process of a job, after which jax ends the others."""
    compilation_cache: bool = True
    """Keep compiled programs in the user's cache directory (private: mode 0700), so that the next
    start need not compile them; JAX_COMPILATION_CACHE_DIR names another directory."""


@dataclass(frozen=True)
class Config:
    """One experiment."""

    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    train: TrainConfig = TrainConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    parallel: ParallelConfig = ParallelConfig()


def load(path: str | Path) -> Config:
    """Reads and checks a TOML file; what it leaves out has its default.

    Raises `ConfigError` where the file is missing, is not UTF-8 or not TOML, or holds an unknown
    name or a value out of range.
    """
    try:
        config = from_dict(read_toml(path))
        check(config)
    except ConfigError as error:
        raise ConfigError(f"config {path}: {error}") from error
    return config


def read_toml(path: str | Path) -> dict[str, Any]:
    """The tables of a TOML file.

    Raises `ConfigError`, without the path, where there is no such file, it is not a plain one (a
    pipe may wait for ever, a device never end), is larger than 1 MiB, not UTF-8 or not TOML.
    """
    try:
        with files.open_plain(path) as file:
            content = file.read(_MOST_BYTES + 1)
        if len(content) > _MOST_BYTES:
            raise ConfigError(f"more than {_MOST_BYTES:,} bytes; no config is that large")
        return tomllib.loads(content.decode())
    except OSError as error:
        raise ConfigError(
            f"{error.strerror}; give the path of a TOML file, such as those in experiments/"
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"byte {error.start} is not UTF-8; save the file as UTF-8 text"
        ) from error
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"not valid TOML: {error}") from error
    except ValueError as error:  # An integer of thousands of digits, or a NUL in the path.
        raise ConfigError(f"cannot be read: {str(error).partition(';')[0]}") from error


def from_dict(tables: Mapping[str, Any]) -> Config:
    """Builds a configuration from nested tables such as TOML gives; unknown names raise."""
    names = [f.name for f in dataclasses.fields(Config)]
    sections = {}
    for name, table in tables.items():
        if name not in names:
            raise ConfigError(f"unknown section [{cut(name)}]{nearest(name, names)}")
        section_type = type(getattr(Config, name))
        if not isinstance(table, Mapping):
            raise ConfigError(f"{name} = {shown(table)}: must be a table, written as [{name}]")
        fields = [f.name for f in dataclasses.fields(section_type)]
        for key in table:
            if key not in fields:
                raise ConfigError(f"unknown name {name}.{cut(key)}{nearest(key, fields)}")
        sections[name] = section_type(**table)
    return Config(**sections)


def restore(tables: Mapping[str, Any]) -> Config:
    """The configuration that a run has written down; raises `ValueError` where it is none."""
    try:
        config = from_dict(tables)
        check(config)
    except ConfigError as error:
        raise ValueError(f"its config: {error}") from error
    return config


def require_data(tables: Mapping[str, Any], dataset: str, fingerprint: str) -> None:
    """Raises `ValueError` where a network claims other data than its config names.

    Args:
        tables: the config, as `to_dict` gives it.
        dataset: name of the data, which is shown and printed.
        fingerprint: SHA-256 of the data, in hex.
    """
    name = restore(tables).data.dataset
    if dataset != name:
        raise ValueError(f"its data is {reprlib.repr(dataset)}, and {name} in its config")
    if not re.fullmatch("[0-9a-f]{64}", fingerprint):
        raise ValueError(f"its fingerprint {reprlib.repr(fingerprint)} is no SHA-256")


def to_dict(config: Config) -> dict[str, dict[str, Any]]:
    """The nested tables of a configuration; values that are unset (None) are left out."""
    return {
        name: {key: value for key, value in table.items() if value is not None}
        for name, table in dataclasses.asdict(config).items()
    }


def dump(config: Config) -> str:
    """The configuration as TOML, every value spelt out; `load` reads it back unchanged."""
    return tomli_w.dumps(to_dict(config))


def check(config: Config) -> None:
    """Raises `ConfigError` naming the first field whose value is of the wrong type or range."""
    for section in dataclasses.fields(config):
        table = getattr(config, section.name)
        for spec in dataclasses.fields(table):
            check_value(f"{section.name}.{spec.name}", getattr(table, spec.name))
    if config.train.examples is not None and config.train.epochs is not None:
        raise ConfigError(
            f"train.examples = {config.train.examples} and train.epochs = {config.train.epochs}: "
            "only one of the two can set the length; leave the other out"
        )
    if config.data.dataset == "idx" and not config.data.dir:
        raise ConfigError(
            "data.dir is empty: the dataset 'idx' needs the directory of the four IDX files; "
            "add --data.dir DIR"
        )
    _check_job(config.parallel)


def check_value(name: str, value: Any) -> None:
    """Raises `ConfigError` where a field, by its dotted name, cannot have a value.

    >>> check_value("model.layers", 0)
    Traceback (most recent call last):
    rowrnn.errors.ConfigError: model.layers = 0: must be an integer from 1 to 64
    """
    problem = _problem(value, _hint_of(name), fields()[name].metadata)
    if problem:
        raise ConfigError(f"{name} = {shown(value)}: {problem}")


def _check_job(parallel: ParallelConfig) -> None:
    """Raises `ConfigError` where a config does not say which process of which job it is for."""
    given = (parallel.coordinator, parallel.processes, parallel.process)
    if given in ((None, None, None), (None, 1, None)):
        return
    if parallel.coordinator is None or parallel.processes is None or parallel.process is None:
        raise ConfigError(
            f"parallel.coordinator, processes, process = {', '.join(map(shown, given))}: a job "
            "needs all three, or none where Slurm, Open MPI, Kubernetes or Cloud TPU tells them"
        )
    if parallel.process >= parallel.processes:
        raise ConfigError(
            f"parallel.process = {parallel.process}: must be less than parallel.processes = "
            f"{parallel.processes}; they count from 0"
        )
    found = re.fullmatch(r"\S+:(\d{1,5})", parallel.coordinator, re.ASCII)
    if found is None or not 0 < int(found[1]) < 2**16:
        raise ConfigError(
            f"parallel.coordinator = {shown(parallel.coordinator)}: must be HOST:PORT, such as "
            "10.0.0.1:12345"
        )


def told_processes(parallel: ParallelConfig) -> int | None:
    """How many processes the config, or else the cluster, says that the job has.

    1: this process is alone. None: it may be one of several, which only jax can find out, by asking
    Kubernetes or a TPU.
    """
    if parallel.processes is not None:
        return parallel.processes
    # Open MPI first, as jax does: it may start its processes through Slurm.
    for name in ("OMPI_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS"):
        if os.environ.get(name, "").isdecimal():
            return int(os.environ[name])
    pod = "JOB_COMPLETION_INDEX" in os.environ and importlib.util.find_spec("kubernetes")
    return None if pod or importlib.util.find_spec("libtpu") else 1


def without_job(config: Config) -> Config:
    """The configuration as it is kept: how often it is run, and where, is no part of it."""
    return replace(config, dict.fromkeys(_JOB))


def check_fits(config: Config, train_size: int) -> None:
    """Raises `ConfigError` where the batch is larger than the training part of the data."""
    if config.train.batch_size > train_size:
        raise ConfigError(
            f"train.batch_size = {config.train.batch_size}: must be at most {train_size}, "
            f"the number of training images in {config.data.dataset}"
        )


def total_steps(config: Config, train_size: int) -> int:
    """Steps of the whole run, for a training part of `train_size` images.

    `train.examples` follows the notebook's loop, which starts at step 1 and goes on while
    ``step * batch_size < examples``:

    >>> total_steps(Config(train=TrainConfig(examples=100_000, batch_size=128)), 55_000)
    781
    """
    batch = config.train.batch_size
    if config.train.examples is not None:
        return max(1, (config.train.examples - 1) // batch)
    return (config.train.epochs or DEFAULT_EPOCHS) * (train_size // batch)


def differences(old: Config, new: Config) -> Iterator[tuple[str, Any, Any]]:
    """The fields in which two configurations differ, as (dotted name, old value, new value)."""
    olds, news = dataclasses.asdict(old), dataclasses.asdict(new)
    for section, table in olds.items():
        for key, value in table.items():
            if value != news[section][key]:
                yield f"{section}.{key}", value, news[section][key]


def digest(config: Config) -> str:
    """SHA-256, in hex, of all values that decide what a run computes, and so not of `FREE` ones."""
    deciding = {
        f"{section}.{key}": value
        for section, table in dataclasses.asdict(config).items()
        for key, value in table.items()
        if f"{section}.{key}" not in FREE
    }
    return hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()


@functools.cache
def fields() -> Mapping[str, dataclasses.Field]:
    """Every field of a configuration by its dotted name."""
    return {
        f"{section.name}.{spec.name}": spec
        for section in dataclasses.fields(Config)
        for spec in dataclasses.fields(section.type)  # type: ignore[arg-type]
    }


def replace(config: Config, values: Mapping[str, Any]) -> Config:
    """The configuration with other values, by dotted names; they are not checked.

    >>> replace(Config(), {"model.hidden_size": 64}).model.hidden_size
    64
    """
    for name, value in values.items():
        section, key = name.split(".")
        table = dataclasses.replace(getattr(config, section), **{key: value})
        config = dataclasses.replace(config, **{section: table})
    return config


def traced(config: Config) -> dict[str, float]:
    """The values that are arguments of the compiled programs, by dotted name.

    Configurations that differ in these alone run in the same programs, side by side where there
    are many. A value that is 0 and leaves a part of the program out is not among them.

    >>> traced(Config())["optimizer.learning_rate"]
    0.001
    >>> "model.dropout" in traced(Config())
    False
    """
    found = {}
    for name, spec in fields().items():
        section, key = name.split(".")
        value = getattr(getattr(config, section), key)
        if spec.metadata.get("traced") and not (spec.metadata["off_at_zero"] and is_off(value)):
            found[name] = float(value)
    return found


def is_off(value: Any) -> bool:
    """Whether a value is the number 0; one that is traced is not."""
    return isinstance(value, int | float) and value == 0


def parse_value(name: str, text: str) -> Any:
    """The value of a field from text, as a flag gives it; its range is checked by `check`.

    Raises `ConfigError` for an unknown name or a text of the wrong type.

    >>> parse_value("optimizer.learning_rate", "3e-3")
    0.003
    """
    names = fields()
    if name not in names:
        raise ConfigError(f"unknown name {cut(name)}{nearest(name, names, EXAMPLE)}")
    hint = _hint_of(name)
    kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if bool in kinds:
        if text not in ("true", "false"):
            raise ConfigError(f"{name} = {shown(text)}: must be true or false")
        return text == "true"
    for kind in (int, float):
        if kind in kinds:
            try:
                return kind(text)
            except ValueError:
                noun = "an integer" if kind is int else "a number"
                raise ConfigError(f"{name} = {shown(text)}: must be {noun}") from None
    return text


@functools.cache
def _hint_of(name: str) -> Any:
    """The type of a field, by its dotted name."""
    section, key = name.split(".")
    return typing.get_type_hints(type(getattr(Config, section)))[key]


def _problem(value: Any, hint: Any, limits: Mapping[str, Any]) -> str:
    """What is wrong with a value, or an empty string."""
    options = typing.get_args(hint)
    if typing.get_origin(hint) is Literal:
        if value in options:
            return ""
        return f"must be one of {', '.join(options)}{nearest(value, options, '')}"
    if isinstance(hint, types.UnionType):
        if value is None:
            return ""
        hint = next(option for option in options if option is not type(None))
    if hint is bool:
        return "" if isinstance(value, bool) else "must be true or false"
    if hint is str:
        if not isinstance(value, str):
            return "must be a string, in quotes"
        return "" if _is_text(value) else "must be UTF-8 text without a NUL"
    kinds = int if hint is int else (int, float)
    low, high, open_high = limits["low"], limits["high"], limits["open_high"]
    is_number = isinstance(value, kinds) and not isinstance(value, bool)
    # nan and inf fail the comparisons.
    if is_number and low <= value <= high and not (open_high and value == high):
        return ""
    noun = "an integer" if hint is int else "a number"
    until = "up to but not including" if open_high else "to"
    return f"must be {noun} from {low} {until} {high}"


def _is_text(value: str) -> bool:
    """Whether a string can be written to a TOML file and given to the file system."""
    try:
        value.encode()
    except UnicodeEncodeError:  # Bytes of a file name that is not UTF-8.
        return False
    return "\0" not in value


def nearest(name: Any, valid: typing.Iterable[str], otherwise: str | None = None) -> str:
    """A hint at the nearest valid name; where none is near, all of them, or `otherwise`."""
    valid = list(valid)
    close = difflib.get_close_matches(name if isinstance(name, str) else "", valid, n=1)
    if close:
        return f"; did you mean {close[0]}?"
    return f"; valid names: {', '.join(valid)}" if otherwise is None else otherwise


def shown(value: Any) -> str:
    """A value in a message, as Python writes it, cut where it is long.

    >>> shown("cosine"), shown(10**10_000)
    ("'cosine'", 'a huge int')
    """
    try:
        return cut(repr(value))
    except (ValueError, RecursionError):  # An integer of thousands of digits, or tables in tables.
        return f"a huge {type(value).__name__}"


def cut(text: str) -> str:
    """A text, cut where it is too long for a message."""
    return text if len(text) <= _MOST_SHOWN else text[: _MOST_SHOWN - 1] + "…"
