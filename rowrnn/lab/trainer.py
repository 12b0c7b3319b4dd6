"""The compiled programs of a run and its data, on the devices of a mesh."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import jax
import numpy as np
from jax.sharding import Mesh

from rowrnn import data, parallel
from rowrnn.config import Config
from rowrnn.core import metrics
from rowrnn.core import state as states
from rowrnn.core.dataset import Dataset, Split
from rowrnn.core.experiment import Experiment, Functions, Values, make_functions
from rowrnn.core.metrics import Metrics
from rowrnn.core.state import TrainState
from rowrnn.core.step import Batch


def prepare(config: Config, dataset: Dataset | None = None) -> Experiment:
    """Loads the data of a config, unless it is given, and checks that the config fits it.

    Raises:
        ConfigError: a batch is larger than the training part.
        DataError: the data is missing or damaged.
    """
    return Experiment.of(config, dataset or data.load(config.data))


@dataclass(frozen=True)
class Splits:
    """The parts of the data on the device; without a validation part it is None."""

    train: Batch
    validation: Batch | None
    test: Batch


def put_splits(dataset: Dataset, mesh: Mesh) -> Splits:
    """Copies the data to every device of the mesh."""

    def put(split: Split) -> Batch:
        return parallel.put_split(mesh, split.images, split.labels)

    has_validation = len(dataset.validation.labels) > 0
    return Splits(
        put(dataset.train),
        put(dataset.validation) if has_validation else None,
        put(dataset.test),
    )


def functions_on(mesh: Mesh, experiment: Experiment) -> Functions:
    """The functions of an experiment, for the devices of a mesh to share each batch."""
    return make_functions(
        experiment,
        divide_grads=lambda grad_fn: parallel.divide_grads(mesh, grad_fn),
        divide_batches=lambda function: parallel.divide_batches(mesh, function),
    )


@dataclass(frozen=True)
class Programs:
    """The compiled programs of one run; see `Functions` for what they take and give.

    Attributes:
        values: the traced numbers of the config, on the mesh.
        order: the order of an epoch.
        chunk: steps; the state is donated.
        last_batch: metrics on the batch of the step just done.
        validation: evaluation on the validation part; None without that part.
        test: evaluation on the test part.
        compile_s: seconds that tracing, lowering and compiling took.
    """

    values: Values
    order: Callable[[jax.Array, np.int32], jax.Array]
    chunk: Callable[..., tuple[TrainState, Metrics]]
    last_batch: Callable[..., Metrics]
    validation: Callable[..., tuple[Metrics, jax.Array]] | None
    test: Callable[..., tuple[Metrics, jax.Array]]
    compile_s: float


def compile_programs(
    experiment: Experiment, mesh: Mesh, splits: Splits, state: TrainState
) -> Programs:
    """Compiles what a run calls, for a state and data that lie on the mesh."""
    config = experiment.config
    functions = functions_on(mesh, experiment)
    values = parallel.put_replicated(mesh, experiment.values)

    def compiled(function, *arguments, donate=()):
        return parallel.compile_replicated(
            mesh, function, *arguments, dtype=config.model.dtype, donate=donate
        )

    began = time.perf_counter()
    params = states.evaluation_params(state)
    with jax.default_matmul_precision(config.train.precision):
        order = compiled(functions.order, state.key, np.int32(0))
        an_order = order(state.key, np.int32(0))
        chunk = compiled(
            functions.chunk, state, metrics.zeros(), values, splits.train, an_order, np.int32(0),
            donate=(0,),
        )  # fmt: skip
        last_batch = compiled(functions.last_batch, state, values, splits.train, an_order)
        test = compiled(functions.evaluate, params, values, splits.test)
        validation = None
        if splits.validation is not None:
            validation = compiled(functions.evaluate, params, values, splits.validation)
    seconds = time.perf_counter() - began
    return Programs(values, order, chunk, last_batch, validation, test, seconds)
