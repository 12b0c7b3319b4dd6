"""The trainer: members of one experiment on the devices of a mesh.

It prepares, places and compiles, and runs what the core computes: the order of an epoch, a chunk of
steps, an evaluation. It knows no files and no clocks; `rowrnn.lab.loop` has these.
"""

import dataclasses
import warnings
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from rowrnn import config as configs
from rowrnn import data, parallel
from rowrnn.config import Config
from rowrnn.core.dataset import Dataset, Split
from rowrnn.core.experiment import Experiment, make_functions
from rowrnn.core.metrics import Metrics
from rowrnn.core.state import Hyperparams, TrainState
from rowrnn.core.step import Batch, unsharded


def prepare(config: Config, dataset: Dataset | None = None) -> Experiment:
    """Loads the data of a config, unless it is given, and checks that the config fits it.

    Raises:
        ConfigError: a batch is larger than the training part.
        DataError: the data is missing or damaged.
    """
    dataset = data.load(config.data) if dataset is None else data.split(dataset, config.data)
    return Experiment.of(config, dataset)


def config_for(
    dataset: Dataset, config: Config | None, resume: str | Path | None = None
) -> Config | None:
    """The config of a run on arrays, which says that its data is arrays.

    None where it is left to the run that is resumed.
    """
    if config is None and resume is not None:
        return None
    config = Config() if config is None else config
    configs.check(config)
    data.split(dataset, config.data)
    name = configs.of_data(config, dataset.name, dataset.channels).data.dataset
    return configs.replace(config, {"data.dataset": name})


class Programs(NamedTuple):
    """What is compiled for some members; states and what they give have a leading axis [S].

    Attributes:
        init: (seeds, init_seeds, hyperparams) -> state.
        order: (keys, epoch) -> orders of the epoch, [S, N]; for TPUs computed on the host.
        chunk: (state, train, orders, steps) -> state; the state given is donated.
        validation: (state, split) -> (metrics, predicted classes [S, N]); None without that part.
        test: the same on the test part.
        last_batch: (state, train, orders) -> metrics on the batch of the step just done; None
            unless the notebook's lines are shown, which nobody else needs it for.
    """

    init: jax.stages.Compiled
    order: Callable[..., jax.Array]
    chunk: jax.stages.Compiled
    validation: jax.stages.Compiled | None
    test: jax.stages.Compiled
    last_batch: jax.stages.Compiled | None


def compile_programs(
    experiment: Experiment, mesh: Mesh, members: int = 1, *, vmap: bool = False
) -> Programs:
    """Compiles from shapes alone: the devices of the mesh are not touched, nor need they be there.

    Args:
        experiment: what the members have in common.
        mesh: the devices.
        members: S, a multiple of the devices on the axis "seed".
        vmap: whether the members of a device run at once, and not one after the other.
    """
    compiler, dataset = Compiler(experiment, mesh, members, vmap), experiment.dataset
    has_validation = len(dataset.validation.labels) > 0
    shows_batches = experiment.config.train.display == "notebook"
    return Programs(
        init=compiler.init(),
        order=compiler.order(),
        chunk=compiler.chunk(),
        validation=compiler.evaluation(dataset.validation) if has_validation else None,
        test=compiler.evaluation(dataset.test),
        last_batch=compiler.last_batch() if shows_batches else None,
    )


class Compiler:
    """Compiles the programs of some members, those of `Programs`; see `compile_programs`."""

    def __init__(self, experiment: Experiment, mesh: Mesh, members: int = 1, vmap: bool = False):
        self._experiment, self._mesh, self._vmap = experiment, mesh, vmap
        self._functions = make_functions(
            arranged(experiment, mesh),
            shard_grads=lambda grad_fn: parallel.shard_grads(mesh, grad_fn),
            shard_batches=lambda function: parallel.shard_batches(mesh, function),
            shared_step=parallel.shared_step if vmap else unsharded,
        )
        self._state = abstract_state(experiment, members)
        self._train, self._step = _abstract(experiment.dataset.train), np.int32(0)
        self._orders = jax.eval_shape(
            jax.vmap(self._functions.order, (0, None)), self._state.key, self._step
        )

    def _compile(self, function, stacked, *arguments, **named) -> jax.stages.Compiled:
        config = self._experiment.config
        with jax.default_matmul_precision(config.train.precision):
            return parallel.compile_members(
                self._mesh, function, stacked, *arguments,
                vmap=self._vmap, dtype=config.model.dtype, **named,
            )  # fmt: skip

    def init(self) -> jax.stages.Compiled:
        """`Programs.init`."""
        members = self._state.step.shape
        seeds = jax.ShapeDtypeStruct(members, np.uint32)
        hyperparams = {
            name: jax.ShapeDtypeStruct(members, np.float32) for name in self._experiment.hyperparams
        }
        create = self._experiment.create_state
        return self._compile(create, (True,) * 3, seeds, seeds, hyperparams)

    def order(self) -> Callable[..., jax.Array]:
        """`Programs.order`."""
        function, keys = self._functions.order, self._state.key
        if parallel.sorts_on_host(self._mesh):
            return parallel.compile_on_host(self._mesh, function, keys, self._step)
        return self._compile(function, (True, False), keys, self._step)

    def chunk(self) -> jax.stages.Compiled:
        """`Programs.chunk`; it needs by far the most memory."""
        return self._compile(
            self._functions.chunk,
            (True, False, True, False),
            self._state,
            self._train,
            self._orders,
            self._step,
            donate=(0,),
            name="chunk",
        )

    def evaluation(self, split: Split) -> jax.stages.Compiled:
        """`Programs.test`, or the same on another part of the data."""
        evaluate = self._functions.evaluate
        return self._compile(evaluate, (True, False), self._state, _abstract(split))

    def last_batch(self) -> jax.stages.Compiled:
        """`Programs.last_batch`."""
        last_batch = self._functions.last_batch
        return self._compile(
            last_batch, (True, False, True), self._state, self._train, self._orders
        )


def arranged(experiment: Experiment, mesh: Mesh) -> Experiment:
    """The experiment with the backend ``fast`` as the devices of a mesh want it."""
    on_cpu, backend = mesh.devices.flat[0].platform == "cpu", experiment.config.model.backend
    if on_cpu and backend == "pallas":
        warnings.warn(
            "model.backend = 'pallas' is interpreted on a CPU, which is slow; 'fast' is for CPUs",
            stacklevel=2,
        )
    if on_cpu or backend != "fast":
        return experiment
    config = configs.replace(experiment.config, {"model.backend": "split"})
    return dataclasses.replace(experiment, config=config)


class Splits(NamedTuple):
    """The parts of the data, whole on every device; without a validation part it is None."""

    train: Batch
    validation: Batch | None
    test: Batch


class Trainer:
    """Trains members that differ in their seeds and hyperparameters alone; one run is one member.

    Every array of a state has a leading axis of members, [S, ...], which is sharded over the mesh
    axis "seed"; each batch is sharded over "data". On a device its members run one after the other,
    bit for bit as each would alone, or with `vmap` all at once, the same but for rounding.

    Programs are compiled at once; the data is placed when it is first needed.

    Args:
        experiment, mesh, members, vmap: as for `compile_programs`.
        splits: data of the experiment that lies on the mesh already.
    """

    def __init__(
        self,
        experiment: Experiment,
        mesh: Mesh,
        members: int = 1,
        *,
        vmap: bool = False,
        splits: Splits | None = None,
    ):
        self.experiment, self.mesh, self.members = experiment, mesh, members
        self.programs = compile_programs(experiment, mesh, members, vmap=vmap)
        if splits is not None:
            self.splits = splits

    @cached_property
    def splits(self) -> Splits:
        """The data on the devices."""
        dataset = self.experiment.dataset

        def put(split: Split) -> Batch:
            return parallel.replicate(self.mesh, Batch(split.images, split.labels))  # type: ignore[arg-type]

        has_validation = len(dataset.validation.labels) > 0
        validation = put(dataset.validation) if has_validation else None
        return Splits(put(dataset.train), validation, put(dataset.test))

    def place(self) -> None:
        """Places the data on the devices, so that no chunk that is timed waits for it."""
        _ = self.splits

    def init(
        self, seeds: np.ndarray, init_seeds: np.ndarray, hyperparams: Hyperparams
    ) -> TrainState:
        """The state before the first step; arrays [S], as `stack_members` gives them."""
        return self.programs.init(*self.put_members((seeds, init_seeds, hyperparams)))

    def put(self, state: TrainState) -> TrainState:
        """A state of the host, such as a restored one, on the devices."""
        return parallel.shard_state(self.mesh, state)

    def put_members(self, tree: Any) -> Any:
        """Arrays [S, ...] of the host on the devices."""
        return parallel.shard_members(self.mesh, tree)

    def fetch(self, tree: Any) -> Any:
        """Copies of arrays on this host; all processes must ask for the same."""
        return parallel.fetch(self.mesh, tree)

    def order(self, state: TrainState, epoch: int) -> jax.Array:
        """The order in which each member takes the training examples in an epoch, [S, N]."""
        return self.programs.order(state.key, np.int32(epoch))

    def run(self, state: TrainState, order: jax.Array, steps: int) -> TrainState:
        """The state after some steps of the epoch of this order; the state given is used up."""
        return self.programs.chunk(state, self.splits.train, order, np.int32(steps))

    def validate(self, state: TrainState) -> tuple[Metrics, jax.Array] | None:
        """Metrics [S] and predicted classes [S, N] on the validation part; None without one."""
        if self.programs.validation is None:
            return None
        return self.programs.validation(state, self.splits.validation)

    def test(self, state: TrainState) -> tuple[Metrics, jax.Array]:
        """Metrics [S] and predicted classes [S, N] on the test part."""
        return self.programs.test(state, self.splits.test)

    def last_batch(self, state: TrainState, order: jax.Array) -> Metrics:
        """Metrics [S] on the batch of the step just done, after its update."""
        assert self.programs.last_batch is not None, "train.display is not 'notebook'"
        return self.programs.last_batch(state, self.splits.train, order)


def stack_members(
    experiments: Sequence[Experiment],
) -> tuple[np.ndarray, np.ndarray, Hyperparams]:
    """Seeds, seeds of the initial parameters and hyperparameters of many members, arrays [S]."""
    seeds, init_seeds = zip(*(experiment.seeds for experiment in experiments), strict=True)
    each = [experiment.hyperparams for experiment in experiments]
    hyperparams = {name: np.stack([values[name] for values in each]) for name in each[0]}
    return np.array(seeds), np.array(init_seeds), hyperparams


def first256_accuracy(config: Config, right: np.ndarray) -> float | None:
    """The figure that the notebook of 2015 printed, of its first 256 test images.

    None where neither its protocol nor its display is asked for: elsewhere it says less than the
    accuracy on all. `right` is bool [N].
    """
    asked_for = config.model.init == "notebook" or config.train.display == "notebook"
    return float(right[:256].mean()) if asked_for else None


def abstract_state(experiment: Experiment, members: int) -> TrainState:
    """Shapes and types of the state of some members.

    The axis of members is put in front here: the backend of cuDNN cannot be traced under `vmap`.
    """
    seed = jax.ShapeDtypeStruct((), np.uint32)
    state = jax.eval_shape(experiment.create_state, seed, seed)
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((members, *leaf.shape), leaf.dtype), state
    )


def _abstract(split: Split) -> Batch:
    images, labels = split.images, split.labels
    return Batch(
        jax.ShapeDtypeStruct(images.shape, images.dtype),  # type: ignore[arg-type]
        jax.ShapeDtypeStruct(labels.shape, labels.dtype),  # type: ignore[arg-type]
    )
