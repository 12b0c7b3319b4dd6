"""The configuration of one experiment: every default and every range check is in this file.

A configuration is a tree of frozen dataclasses, read from TOML with `load`, written with `dump`,
and checked as a whole with `check`. The module imports nothing heavy, so that a bad value is
reported before jax is loaded.

>>> config = Config(model=ModelConfig(hidden_size=64))
>>> config.model.projection_size
128
>>> check(Config(train=TrainConfig(batch_size=0)))
Traceback (most recent call last):
rowrnn.errors.ConfigError: train.batch_size = 0: must be an integer from 1 to 1,048,576
"""

import contextlib
import dataclasses
import functools
import hashlib
import importlib.util
import json
import os
import re
import tomllib
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
from msgspec import Meta

from rowrnn import files
from rowrnn.errors import ConfigError, cut, nearest, shown

DEFAULT_EPOCHS = 10

_EXAMPLE = "; write section.key, such as optimizer.learning_rate"
"""What a message says of a name that is like none."""

# Largest TOML file read, in bytes.
_MOST_BYTES = 2**20

FREE = frozenset(
    {
        "data.dir",
        "data.manual_dir",
        "data.rows",
        "data.columns",
        "data.channels",
        "data.pictures",
        "data.test_share",
        "data.split_seed",
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
of devices to a batch adds up gradients in another order, and so changes their last bits. What those
of the data change, the fingerprint of the data tells."""

_PLACES = {
    "idx": ("the directory of the four IDX files", "DIR"),
    "folder": ("a directory with a folder of pictures for each class", "DIR"),
    "npz": ("a file of NumPy arrays", "FILE.npz"),
}
"""Where a dataset of one's own lies, in words."""


def data_name(dataset: str, directory: str) -> str:
    """What people call data: files of their own by the name of the directory or file.

    >>> data_name("npz", "runs/stripes.npz"), data_name("mnist", "tensorflow_datasets")
    ('stripes.npz', 'mnist')
    """
    return (dataset in _PLACES and Path(directory).name) or dataset


_JOB = ("parallel.coordinator", "parallel.processes", "parallel.process")
LENGTHS = frozenset({"train.examples", "train.epochs"})
"""Either sets the length of a run."""

Seed = Annotated[int, Meta(ge=0, le=2**32 - 1)]
"""A seed of a run or of a member."""
_Text = Annotated[str, Meta(pattern=r"^[^\0\ud800-\udfff]*\Z")]
"""Text that can be written to a TOML file and given to the file system."""
_Tfds = Annotated[
    str,
    Meta(pattern=r"^tfds:\w+(/[\w.-]+)?(:[\d.]+)?\Z", description="tfds:NAME, as tfds:cifar10"),
]
_Share = Annotated[float, Meta(ge=0.0, lt=1.0)]
_Side = Annotated[int, Meta(ge=1, le=4096)]
_Steps = Annotated[int, Meta(ge=0, le=10**9)]
_Devices = Annotated[int, Meta(ge=1, le=10**6)]


@dataclass(frozen=True)
class Traced:
    """Marks a number that is an argument of the compiled program and not a constant in it.

    With `off_at_zero` only where it is not 0, which leaves a part of the program out.
    """

    off_at_zero: bool = False


@dataclass(frozen=True)
class ModelConfig:
    """The network: each row through a linear projection, an LSTM over the rows, a readout."""

    projection_size: Annotated[int, Meta(ge=0, le=65_536)] = 128
    """Width of the linear layer in front of the LSTM; 0 feeds the rows directly."""
    hidden_size: Annotated[int, Meta(ge=1, le=65_536)] = 128
    """Units of each LSTM layer."""
    layers: Annotated[int, Meta(ge=1, le=64)] = 1
    """LSTM layers, one on top of the other."""
    dropout: Annotated[_Share, Traced(off_at_zero=True)] = 0.0
    """Share of the activations dropped between LSTM layers and before the readout."""
    forget_bias: Annotated[float, Meta(ge=-100.0, le=100.0), Traced()] = 1.0
    """Added to the forget gate at run time, beside its learned bias."""
    pooling: Literal["last", "mean"] = "last"
    """What is read out: the hidden state after the last row, or the mean over all rows."""
    init: Literal["modern", "glorot", "notebook"] = "modern"
    """modern: Glorot, orthogonal recurrence. glorot: Glorot alone. notebook: as that of 2015."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the operands of matrix products; parameters and sums stay float32."""
    backend: Literal["fast", "scan", "split", "pallas", "cudnn"] = "fast"
    """scan: the definition. fast: as the device wants it. split, pallas: GPU, TPU. cudnn: CUDA."""


@dataclass(frozen=True)
class DataConfig:
    """Which images, where they lie and how they are split and augmented."""

    dataset: (
        Literal[
            "mnist_sample", "mnist", "fashion_mnist", "kmnist", "idx", "folder", "npz", "arrays"
        ]
        | _Tfds
    ) = "mnist_sample"
    """idx, folder, npz: in data.dir; arrays: from Python; tfds:NAME, as tfds:emnist/letters."""
    dir: _Text = ""
    """idx, folder: their directory; npz: the file. Otherwise that of TFDS (TFDS_DATA_DIR)."""
    manual_dir: _Text = ""
    """Directory with the original files, of which the dataset is prepared where it is not yet."""
    pictures: Literal["digit", "as_is"] | None = None
    """digit: cut out, centred, light on black, as in MNIST. as_is: resized. Unset: by dataset."""
    rows: _Side | None = None
    """folder, tfds: height to which pictures are resized; unset: the most frequent."""
    columns: _Side | None = None
    """folder, tfds: width to which pictures are resized; unset: the most frequent."""
    channels: Annotated[int, Meta(ge=1, le=3)] | None = None
    """folder, tfds: 1 reads grey, 3 colour, each row as columns × channels; unset: as they are."""
    test_share: Annotated[float, Meta(ge=0.001, le=0.999)] = 0.2
    """folder, tfds: share of each class that is the test part, where there is none."""
    split_seed: Seed = 0
    """folder, tfds: which pictures these are, and the order of the others."""
    validation_size: Annotated[int, Meta(ge=0, le=1_000_000_000)] | None = None
    """First training images set apart; unset: 5000 of 50,000 or more, otherwise none."""
    first_epoch: Literal["shuffled", "file"] = "shuffled"
    """file: the first epoch goes in the order of the data, as the notebook of 2015 went."""
    shift: Annotated[int, Meta(ge=0, le=1_000)] = 0
    """Augmentation: training images move by up to this many pixels along each axis."""
    rotation: Annotated[float, Meta(ge=0.0, le=3.2), Traced(off_at_zero=True)] = 0.0
    """Augmentation: they turn by up to this angle, in radians."""
    scale: Annotated[_Share, Traced(off_at_zero=True)] = 0.0
    """Augmentation: height and width change by up to this share, each by its own."""
    shear: Annotated[float, Meta(ge=0.0, le=10.0), Traced(off_at_zero=True)] = 0.0
    """Augmentation: rows slide by up to this many pixels for each row from the centre."""
    elastic: Annotated[float, Meta(ge=0.0, le=100.0), Traced(off_at_zero=True)] = 0.0
    """Augmentation: pixels are displaced smoothly, by this standard deviation in pixels."""


@dataclass(frozen=True)
class OptimizerConfig:
    """The optimizer, its schedule and what is done to gradients and averages."""

    name: Literal["adam", "adamw", "sgd", "muon"] = "adam"
    """Optax's transformation of that name."""
    learning_rate: Annotated[float, Meta(ge=0.0, le=1e3), Traced()] = 1e-3
    """Peak of the schedule."""
    schedule: Literal["constant", "cosine"] = "constant"
    """cosine decays to zero at the last step."""
    warmup_steps: _Steps = 0
    """Linear warm-up from zero."""
    weight_decay: Annotated[float, Meta(ge=0.0, le=1e3), Traced()] = 1e-4
    """Decoupled weight decay of adamw and muon, on kernels only."""
    momentum: Annotated[_Share, Traced()] = 0.9
    """First-moment decay: beta1 of adam and adamw, momentum of sgd and muon."""
    beta2: Annotated[_Share, Traced()] = 0.999
    """Second-moment decay of adam and adamw."""
    epsilon: Annotated[float, Meta(ge=0.0, le=1.0), Traced()] = 1e-8
    """Denominator offset of adam and adamw."""
    clip_norm: Annotated[float, Meta(ge=0.0, le=1e9), Traced(off_at_zero=True)] = 0.0
    """Largest global norm of the gradients; 0 does not clip."""
    ema_decay: Annotated[_Share, Traced(off_at_zero=True)] = 0.0
    """Decay of the moving average of the parameters that is then evaluated; 0 keeps none."""


@dataclass(frozen=True)
class TrainConfig:
    """Length, batch, seed and what is shown and measured on the way."""

    seed: Seed = 0
    """Fixes initialisation, data order, dropout and augmentation."""
    init_seed: Seed | None = None
    """Fixes initialisation alone, apart from the rest; unset: train.seed fixes both."""
    batch_size: Annotated[int, Meta(ge=1, le=2**20)] = 128
    """Examples per step."""
    examples: Annotated[int, Meta(ge=1, le=10**15)] | None = None
    """Length in examples: steps are taken while step * batch_size < examples."""
    epochs: Annotated[int, Meta(ge=1, le=10**9)] | None = None
    """Length in passes over the training part; 10 where neither length is given."""
    label_smoothing: Annotated[_Share, Traced()] = 0.0
    """Share of the target spread evenly over all classes."""
    precision: Literal["default", "high", "highest"] = "default"
    """Matrix-product precision, as jax names it; on a CPU all three are float32."""
    display: Literal["progress", "notebook", "none"] = "progress"
    """progress: a live bar on stderr. notebook: the lines of the 2015 notebook on stdout."""
    logger: Literal["none", "wandb", "mlflow"] = "none"
    """Also tell this service, as its own variables say (WANDB_MODE, MLFLOW_TRACKING_URI, ...)."""
    log_every_steps: Annotated[int, Meta(ge=1, le=1_000_000_000)] = 50
    """Steps between two entries of the metrics log (and two lines of the notebook display)."""
    eval_every_steps: _Steps = 0
    """Steps between two evaluations on the validation part; 0: each epoch."""


@dataclass(frozen=True)
class CheckpointConfig:
    """When states are saved; a stop always saves."""

    every_steps: _Steps = 0
    """Steps between two saves; 0: by time."""
    every_epoch: bool = False
    """Save at the end of each epoch, where every_steps is 0."""
    every_seconds: Annotated[float, Meta(ge=1e-3, le=1e9)] = 60.0
    """Seconds between two saves, where neither of the two is given."""
    keep: Annotated[int, Meta(ge=1, le=1_000_000)] = 2
    """How many of the latest checkpoints stay, beside the best on validation."""


@dataclass(frozen=True)
class ParallelConfig:
    """How a run uses devices and processes."""

    devices: Annotated[int, Meta(ge=0, le=1_000_000)] = 0
    """Devices of each process. 0: all accelerators; one CPU device, or in a sweep one a core."""
    data: _Devices | None = None
    """Devices that share each batch; unset: all for a single run, 1 for a sweep."""
    seed: _Devices | None = None
    """Groups of devices with members of their own in a sweep; unset: all devices / data."""
    coordinator: _Text | None = None
    """HOST:PORT at which process 0 of a job can be reached; unset where the cluster tells it."""
    processes: _Devices | None = None
    """How many processes the job has; 1: this one alone, whatever the cluster tells."""
    process: Annotated[int, Meta(ge=0, le=999_999)] | None = None
    """Which of them this one is, from 0."""
    heartbeat_seconds: Annotated[int, Meta(ge=2, le=86_400)] = 30
    """Seconds without a sign of life from a process of a job, after which jax ends the others."""
    compilation_cache: bool = True
    """Keep compiled programs in the user's private cache, or in JAX_COMPILATION_CACHE_DIR."""


@dataclass(frozen=True, repr=False)
class Config:
    """One experiment; it shows what differs from the default.

    >>> Config(ModelConfig(hidden_size=64))
    Config(model.hidden_size=64)
    """

    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    train: TrainConfig = TrainConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    parallel: ParallelConfig = ParallelConfig()

    def __repr__(self) -> str:
        told = []
        for section in dataclasses.fields(self):
            value, usual = getattr(self, section.name), section.default
            if type(value) is not type(usual):
                told.append(f"{section.name}={value!r}")
                continue
            told += [
                f"{section.name}.{name}={part!r}"
                for name, part in vars(value).items()
                if part != getattr(usual, name)
            ]
        return f"Config({', '.join(told)})"


def load(path: str | Path) -> Config:
    """Reads and checks a TOML file; what it leaves out has its default.

    Args:
        path: of the file, or a name of `shipped`, such as ``quickstart``.

    Raises `ConfigError` where the file is missing, is not UTF-8 or not TOML, or holds an unknown
    name or a value out of range.
    """
    try:
        config = from_dict(read_toml(_find(path)))
        check(config)
    except ConfigError as error:
        raise ConfigError(f"config {path}: {error}") from error
    return config


def shipped() -> dict[str, Path]:
    """The TOML files that come with rowrnn, by name: configs, and suites, named ``bench_…``.

    >>> "quickstart" in shipped() and "bench_train" in shipped()
    True
    """
    # A wheel keeps the files of experiments/ here.
    packaged = Path(__file__).parent / "experiments"
    directory = packaged if packaged.is_dir() else Path(__file__).parents[1] / "experiments"
    return {path.stem: path for path in sorted(directory.glob("*.toml"))}


def summary(path: Path) -> str:
    """What a file of `shipped` says of itself in a line: the first after its commands."""
    _, _, told = path.read_text(encoding="utf-8").partition("\n#\n# ")
    return told.partition("\n")[0]


def _find(path: str | Path) -> str | Path:
    """The file of a path or of a name; a file of one's own comes first."""
    return path if os.path.isfile(path) else shipped().get(str(path), path)


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
        return tomllib.loads(content.decode("utf-8-sig"))
    except OSError as error:
        otherwise = "; give the path of a TOML file, or a name that rowrnn train --list shows"
        hint = nearest(Path(path).stem, shipped(), otherwise)
        raise ConfigError(f"{error.strerror}{hint}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"byte {error.start} is not UTF-8; save the file as UTF-8 text"
        ) from error
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"not valid TOML: {error}") from error
    except ValueError as error:  # An integer of thousands of digits, or a NUL in the path.
        raise ConfigError(f"cannot be read: {str(error).partition(';')[0]}") from error


def from_dict(tables: Mapping[str, Any]) -> Config:
    """Builds a configuration from nested tables such as TOML gives.

    Raises `ConfigError` for an unknown name and for a value of the wrong type or range.
    """
    kinds = {section.name: type(section.default) for section in dataclasses.fields(Config)}
    sections: dict[str, Any] = {}
    for name, table in tables.items():
        if name not in kinds:
            raise ConfigError(f"unknown section [{cut(name)}]{nearest(name, kinds)}")
        if not isinstance(table, Mapping):
            raise ConfigError(f"{name} = {shown(table)}: must be a table, written as [{name}]")
        try:
            sections[name] = files.build(kinds[name], table, f"{name}.")
        except ValueError as error:
            raise ConfigError(str(error)) from error
    return Config(**sections)


def restore(tables: Mapping[str, Any]) -> Config:
    """The configuration that a run has written down; raises `ValueError` where it is none."""
    try:
        config = from_dict(tables)
        check(config)
    except ConfigError as error:
        raise ValueError(f"its config: {error}") from error
    return config


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
    if not isinstance(config, Config):
        raise ConfigError(f"config = {shown(config)}: must be a rowrnn.Config")
    for section in dataclasses.fields(Config):
        found, kind = getattr(config, section.name), typing.cast(type, section.type)
        if not isinstance(found, kind):
            raise ConfigError(f"{section.name} = {shown(found)}: must be a {kind.__name__}")
    for name in fields():
        check_value(name, value_of(config, name))
    if config.train.examples is not None and config.train.epochs is not None:
        raise ConfigError(
            f"train.examples = {config.train.examples} and train.epochs = {config.train.epochs}: "
            "only one of the two can set the length; leave the other out"
        )
    if config.data.channels == 2:
        raise ConfigError("data.channels = 2: must be 1 (grey) or 3 (colour)")
    if config.data.dataset in _PLACES and not config.data.dir:
        name, (what, metavar) = config.data.dataset, _PLACES[config.data.dataset]
        raise ConfigError(
            f"data.dir is empty: the dataset {name!r} needs {what}; "
            f"add --data.dir {metavar} (in Python DataConfig({name!r}, dir=...))"
        )
    _check_job(config.parallel)


def of_data(config: Config, name: str, channels: int) -> Config:
    """The configuration with what its data decides: `name` and `channels` of a `Dataset`.

    A data set of another name than the config says was given as arrays. Raises `ConfigError` where
    pictures in colour would be read as digits.

    >>> of_data(Config(), "mine", 3).data.dataset, of_data(Config(), "mine", 3).data.pictures
    ('arrays', 'as_is')
    """
    dataset = name if name == config.data.dataset else "arrays"
    digits = re.fullmatch(r"mnist_sample|(tfds:)?k?mnist(:.*)?|tfds:emnist\b.*", dataset)
    pictures = config.data.pictures or ("digit" if digits and channels == 1 else "as_is")
    if pictures == "digit" and channels == 3:
        raise ConfigError(
            f"data.pictures = 'digit': {name} is in colour, and a digit is read in grey; "
            "take 'as_is', or data.channels = 1"
        )
    values = {"dataset": dataset, "pictures": pictures, "channels": channels}
    return replace(config, {f"data.{key}": value for key, value in values.items()})


def check_value(name: str, value: Any) -> None:
    """Raises `ConfigError` where a field, by its dotted name, cannot have a value.

    >>> check_value("model.layers", 0)
    Traceback (most recent call last):
    rowrnn.errors.ConfigError: model.layers = 0: must be an integer from 1 to 64
    """
    try:
        files.fit(name, value, _type_of(name))
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _type_of(name: str) -> Any:
    """The type of a field; raises `ConfigError`, with the nearest name, where there is none."""
    if name not in fields():
        raise ConfigError(f"unknown name {cut(name)}{nearest(name, fields(), _EXAMPLE)}")
    return fields()[name]


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
            f"train.batch_size = {config.train.batch_size}: must be at most {train_size:,}, "
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
    for name in fields():
        before, after = value_of(old, name), value_of(new, name)
        if before != after:
            yield name, before, after


def deciding(config: Config) -> dict[str, Any]:
    """The values that decide what a run computes, and so not `FREE` ones, by dotted name."""
    return {name: value_of(config, name) for name in fields() if name not in FREE}


def digest(config: Config) -> str:
    """SHA-256, in hex, of the values that decide what a run computes."""
    return hashlib.sha256(json.dumps(deciding(config), sort_keys=True).encode()).hexdigest()


@functools.cache
def fields() -> Mapping[str, Any]:
    """The type of every field of a configuration, with its range, by dotted name."""
    return {
        f"{section.name}.{name}": hint
        for section in dataclasses.fields(Config)
        for name, hint in files.types_of(type(section.default)).items()
    }


def value_of(config: Config, name: str) -> Any:
    """The value of a field, by its dotted name."""
    section, key = name.split(".")
    return getattr(getattr(config, section), key)


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


def override(config: Config, values: Mapping[str, Any]) -> Config:
    """The configuration with other values, of which a length replaces the other kind of length.

    >>> override(Config(train=TrainConfig(examples=500)), {"train.epochs": 2}).train.examples
    """
    given = {name for name in LENGTHS if values.get(name) is not None}
    others = LENGTHS - given if given else set()
    return replace(config, {**dict.fromkeys(others), **values})


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
    for name, hint in fields().items():
        marks = [mark for mark in typing.get_args(hint) if isinstance(mark, Traced)]
        value = value_of(config, name)
        if marks and not (marks[0].off_at_zero and is_off(value)):
            found[name] = float(value)
    return found


def is_off(value: Any) -> bool:
    """Whether a value is the number 0; one that is traced is not."""
    return isinstance(value, int | float) and value == 0


def parse_value(name: str, text: str) -> Any:
    """The value of a field from text, as a flag gives it.

    Raises `ConfigError` for an unknown name or a text that is no value of the field.

    >>> parse_value("optimizer.learning_rate", "3e-3")
    0.003
    """
    _type_of(name)  # Raises for an unknown name.
    section, key = name.split(".")
    bare = typing.get_type_hints(type(getattr(Config, section)))[key]
    kinds = {bare, *typing.get_args(bare)}
    if text == "None" and type(None) in kinds:
        return None
    value: Any = {"true": True, "false": False}.get(text, text) if bool in kinds else text
    for kind in kinds & {int, float}:
        # Text that is no number stays text, which `check_value` refuses with the range.
        with contextlib.suppress(ValueError):
            value = kind(text)
    check_value(name, value)
    return value
