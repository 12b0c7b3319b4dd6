"""What each suite measures: its grid and its effort, read from TOML or taken by name.

Every default is in this file. A suite is a flat TOML table:

>>> suite = from_dict({"suite": "lstm", "hidden": [128], "batch": [32, 128]})
>>> suite.hidden, suite.batch, suite.length
((128,), (32, 128), (28,))
>>> from_dict({"suite": "lstm", "hiden": [128]})
Traceback (most recent call last):
rowrnn.errors.ConfigError: unknown name hiden; did you mean hidden?
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from msgspec import Meta

from rowrnn import config as configs
from rowrnn import files
from rowrnn.config import read_toml
from rowrnn.errors import ConfigError, nearest, shown

# DeepBench's training problems for LSTMs, (hidden, batch, length); the input is as wide as the
# hidden state. https://github.com/baidu-research/DeepBench, code/kernels/rnn_problems.h
_DEEPBENCH = (
    *((hidden, batch, 25) for hidden in (512, 1024, 2048, 4096) for batch in (16, 32, 64, 128)),
    *((1536, batch, 50) for batch in (8, 16, 32)),
    *((256, batch, 150) for batch in (16, 32, 64)),
)

_Type = Literal[
    "float32/default",
    "float32/high",
    "float32/highest",
    "bfloat16/default",
    "bfloat16/high",
    "bfloat16/highest",
]
_Repeats = Annotated[int, Meta(ge=3, le=10**6)]
_Size = Annotated[int, Meta(ge=1, le=2**31)]
_Shape = tuple[_Size, _Size, _Size]
_Projection = Annotated[int, Meta(ge=0, le=65_536)]
_Seconds = Annotated[float, Meta(gt=0, le=1e6)]


@dataclass(frozen=True, kw_only=True)
class Suite:
    """How long to measure; every suite has these three.

    Attributes:
        repeats: samples of each figure, at least 5 for a result to keep.
        sample_s: seconds that a sample lasts at least.
        limit_s: seconds after which a slow figure makes do with fewer samples, or a shape that
            would take longer is left out.
    """

    repeats: _Repeats = 10
    sample_s: _Seconds = 0.2
    limit_s: _Seconds = 10.0

    def quick(self) -> "Suite":
        """A smaller copy for a first look, seconds instead of minutes."""
        return dataclasses.replace(self, repeats=5, sample_s=0.1, limit_s=2.0)


@dataclass(frozen=True, kw_only=True)
class Ceiling(Suite):
    """What the device can do at most.

    Attributes:
        products: shapes (m, k, n) of matrix products ``[m, k] @ [k, n]``.
        types: "dtype/precision" of the operands. Shares are of the same type.
        copy_mib: sizes of the arrays that are copied, in MiB.
        one_core: whether to measure a process held to one core too, where the device is a CPU.
    """

    products: tuple[_Shape, ...] = (
        (128, 128, 512),
        (128, 1024, 2048),
        (512, 512, 512),
        (1024, 1024, 1024),
        (2048, 2048, 2048),
        (4096, 4096, 4096),
        (8192, 8192, 8192),
        (16384, 16384, 16384),
    )
    types: tuple[_Type, ...] = ("float32/highest", "float32/default", "bfloat16/default")
    copy_mib: tuple[_Size, ...] = (1, 16, 256)
    one_core: bool = True

    def quick(self) -> "Ceiling":
        """Fewer shapes."""
        return dataclasses.replace(
            self, repeats=5, sample_s=0.05, limit_s=1.0, products=self.products[:5],
            types=("float32/highest",), copy_mib=(256,),
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Lstm(Suite):
    """Forward, and forward with backward, of each backend: the product of the lists, and shapes.

    Attributes:
        backends: names; empty for every one that there is.
        hidden: units, H.
        batch: examples, B.
        length: rows, T.
        seeds: networks side by side under `vmap`; 1 is no `vmap`.
        types: "dtype/precision".
        features: pixels in a row, uint8, scaled by 1/255.
        projection: width of the projection; 0 for none.
        shapes: (hidden, batch, length) on their own, with float rows as wide as the hidden state
            and no projection: the shapes of DeepBench.
    """

    repeats: _Repeats = 7
    sample_s: _Seconds = 0.05
    limit_s: _Seconds = 3.0
    backends: tuple[str, ...] = ()
    hidden: tuple[_Size, ...] = (32, 128, 512)
    batch: tuple[_Size, ...] = (1, 32, 128, 512)
    length: tuple[_Size, ...] = (28,)
    seeds: tuple[_Size, ...] = (1, 4)
    types: tuple[_Type, ...] = ("float32/highest", "bfloat16/default")
    features: _Size = 28
    projection: _Projection = 128
    shapes: tuple[_Shape, ...] = _DEEPBENCH

    def quick(self) -> "Lstm":
        """A few of each."""
        return dataclasses.replace(
            self, repeats=5, sample_s=0.03, limit_s=1.0, hidden=(128,), batch=(32, 128),
            seeds=(1, 4), types=("float32/highest",), shapes=((512, 16, 25),),
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Train(Suite):
    """The whole training step, evaluation and the whole program, at the notebook's sizes.

    Attributes:
        batch: examples in a step.
        hidden: units.
        devices: how many devices share a batch, on a CPU; an accelerator uses all it has.
        backend: of the recurrence; empty for the default.
        program: whether to run `rowrnn train` as a whole.
        target: test accuracy on `mnist_sample` that the whole program is timed to.
        config: of that program, a name or a path.
        slope_s: by how many seconds of training the longer of the two runs is longer whose
            difference in time checks the throughput of the program.
    """

    sample_s: _Seconds = 1.0
    limit_s: _Seconds = 30.0
    batch: tuple[_Size, ...] = (128, 512)
    hidden: _Size = 128
    devices: tuple[_Size, ...] = (1, 2)
    backend: str = ""
    program: bool = True
    target: Annotated[float, Meta(gt=0, le=1)] = 0.97
    config: str = "quickstart"
    slope_s: _Seconds = 15.0

    def quick(self) -> "Train":
        """One batch size and short samples."""
        return dataclasses.replace(
            self, repeats=5, sample_s=0.2, limit_s=5.0, batch=(128,), devices=(1,), slope_s=2.0
        )


@dataclass(frozen=True, kw_only=True)
class Peers(Suite):
    """The same training step in other libraries, in turns with rowrnn's.

    Attributes:
        peers: names, of `rowrnn.bench.peers.VARIANTS`.
        batch: examples in a step.
        evaluation: whether to time evaluation in batches of 1,000 too.
        hidden: units.
        projection: width of the projection.
        devices: settings of rowrnn to choose the best of: how many CPU devices share a batch. Of
            accelerators all are taken.
    """

    repeats: _Repeats = 7
    sample_s: _Seconds = 1.0
    limit_s: _Seconds = 30.0
    peers: tuple[str, ...] = ("pytorch", "keras3", "flax_linen", "flax_nnx", "equinox")
    batch: tuple[_Size, ...] = (128, 512)
    evaluation: bool = True
    hidden: _Size = 128
    projection: _Projection = 128
    devices: tuple[_Size, ...] = (1, 2)

    def quick(self) -> "Peers":
        """One batch size and short samples."""
        return dataclasses.replace(
            self, repeats=5, sample_s=0.3, limit_s=5.0, batch=(128,), devices=(1,)
        )


@dataclass(frozen=True, kw_only=True)
class Startup(Suite):
    """From the shell to the first step, each time in a process of its own.

    Attributes:
        config: of the run that is started, a name or a path.
    """

    repeats: _Repeats = 5
    config: str = "quickstart"

    def quick(self) -> "Startup":
        """Fewer starts."""
        return dataclasses.replace(self, repeats=3)


@dataclass(frozen=True, kw_only=True)
class Scaling(Suite):
    """A run and a sweep on more and more devices.

    Under weak scaling each device keeps its work, under strong scaling the whole stays as it is.
    On a CPU devices are fake: those beyond the cores share them.

    Attributes:
        devices: of all processes together.
        processes: that divide them; pairs that do not divide evenly are left out.
        batch: examples in a step of a run: of each device, or in all; always of a member.
        members: of the sweep for each device, or for each of the most devices in all.
        shared: how many devices share each batch of the sweep, under weak scaling.
        hidden: units; strong scaling of a run is measured with all, the rest with the first.
        projection: width of the projection.
    """

    repeats: _Repeats = 7
    sample_s: _Seconds = 0.3
    devices: tuple[_Size, ...] = (1, 2, 4, 8)
    processes: tuple[_Size, ...] = (1, 2)
    batch: _Size = 128
    members: _Size = 1
    shared: tuple[_Size, ...] = (1, 2)
    hidden: tuple[_Size, ...] = (128, 32, 256)
    projection: _Projection = 128

    def quick(self) -> "Scaling":
        """At most four devices, one size and short samples."""
        return dataclasses.replace(
            self, repeats=5, sample_s=0.1, devices=tuple(n for n in self.devices if n <= 4),
            processes=self.processes[:1], hidden=self.hidden[:1],
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Aot(Suite):
    """What a config compiles to on devices that are not there. Nothing is timed but compiling.

    Attributes:
        targets: devices: v5e:2x4 and other topologies of v4, v5e, v5p, v6e; a100, h100, h200, l4.
        config: TOML of the run, or its name.
        backend: of the recurrence; empty for that of the config.
        members: of a sweep.
        programs: names of those to compile, such as "one run"; empty for all.
    """

    targets: tuple[str, ...] = ("v5e:2x4", "h100")
    config: str = "quickstart"
    backend: str = ""
    members: Annotated[int, Meta(ge=4, le=2**20)] = 8
    programs: tuple[str, ...] = ()

    def quick(self) -> "Aot":
        """The first target."""
        return dataclasses.replace(self, targets=self.targets[:1])


SUITES: dict[str, type[Suite]] = {
    "aot": Aot,
    "lstm": Lstm,
    "train": Train,
    "peers": Peers,
    "startup": Startup,
    "ceiling": Ceiling,
    "scaling": Scaling,
}


def shipped() -> dict[str, Path]:
    """The suites that come with rowrnn as files, by name, such as ``lstm_small``."""
    names = configs.shipped().items()
    return {name.removeprefix("bench_"): path for name, path in names if name.startswith("bench_")}


def load(suite: str) -> Suite:
    """The suite of a name, see `shipped`, or of a TOML file."""
    if suite in SUITES:
        return SUITES[suite]()
    named = shipped()
    path = named.get(suite) or Path(suite)
    if path.suffix != ".toml":
        hint = nearest(suite, [*SUITES, *named], "; rowrnn bench --list shows all")
        raise ConfigError(f"unknown suite {shown(suite)}{hint} (or give the path of a TOML file)")
    try:
        return from_dict(read_toml(path))
    except ConfigError as error:
        raise ConfigError(f"suite {suite}: {error}") from error


def from_dict(table: Mapping[str, Any]) -> Suite:
    """Builds a suite from a table such as TOML gives.

    Raises `ConfigError` for an unknown name and for a value of the wrong type or range.
    """
    name = table.get("suite", "")
    if not isinstance(name, str) or name not in SUITES:
        raise ConfigError(f"suite = {shown(name)}: no such suite{nearest(name, SUITES)}")
    try:
        return files.build(SUITES[name], {key: table[key] for key in table if key != "suite"})
    except ValueError as error:
        raise ConfigError(str(error)) from error


def name_of(suite: Suite) -> str:
    """The name of a suite's kind."""
    return next(name for name, kind in SUITES.items() if type(suite) is kind)
