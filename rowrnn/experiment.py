"""One experiment: a config and its data, and the compiled programs that run it.

The runners (train, sweep, bench) share what is here; nothing here loops, writes or reads a clock
but for the time that compilation takes.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from rowrnn import config as configs
from rowrnn import data, parallel, step
from rowrnn import state as states
from rowrnn.config import Config
from rowrnn.data import Dataset
from rowrnn.metrics import Metrics
from rowrnn.state import TrainState
from rowrnn.step import Batch


@dataclass(frozen=True)
class Experiment:
    """A config and what it means for its data.

    Attributes:
        config: the config.
        dataset: the images and labels, on the host.
        steps: length of the run.
        epoch_steps: steps in one pass over the training part.
    """

    config: Config
    dataset: Dataset
    steps: int
    epoch_steps: int

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and pixels of an image, (T, F)."""
        _, rows, pixels = self.dataset.train.images.shape
        return rows, pixels

    def create_state(self, seed: int | np.uint32 | jax.Array) -> TrainState:
        """The state before the first step; `seed` may be traced."""
        if isinstance(seed, int):
            seed = np.uint32(seed)  # jax takes a Python int for an int32.
        return states.create(self.config, self.steps, self.shape, self.dataset.classes, seed)


def prepare(config: Config, dataset: Dataset | None = None) -> Experiment:
    """Loads the data of a config, unless it is given, and checks that the config fits it.

    Raises:
        ConfigError: a batch is larger than the training part.
        DataError: the data is missing or damaged.
    """
    dataset = dataset or data.load(config.data)
    size = len(dataset.train.labels)
    configs.check_fits(config, size)
    steps = configs.total_steps(config, size)
    return Experiment(config, dataset, steps, size // config.train.batch_size)


@dataclass(frozen=True)
class Splits:
    """The parts of the data on the device; without a validation part it is None."""

    train: Batch
    validation: Batch | None
    test: Batch


def put_splits(dataset: Dataset, mesh: Mesh) -> Splits:
    """Copies the data to every device of the mesh."""

    def put(split: data.Split) -> Batch:
        return parallel.put_split(mesh, split.images, split.labels)

    has_validation = len(dataset.validation.labels) > 0
    return Splits(
        put(dataset.train),
        put(dataset.validation) if has_validation else None,
        put(dataset.test),
    )


@dataclass(frozen=True)
class Programs:
    """The compiled programs of a run.

    Attributes:
        order: (key, epoch) -> order of the epoch, [N].
        chunk: (state, train, order, steps) -> (state, metrics); the state is donated.
        last_batch: (state, train, order) -> metrics on the batch of the step just done.
        validation: (params, split) -> (metrics, logits [N, C]); None without that part.
        test: the same.
        compile_s: seconds that tracing, lowering and compiling took.
    """

    order: Callable[[jax.Array, np.int32], jax.Array]
    chunk: Callable[[TrainState, Batch, jax.Array, np.int32], tuple[TrainState, Metrics]]
    last_batch: Callable[[TrainState, Batch, jax.Array], Metrics]
    validation: Callable[..., tuple[Metrics, jax.Array]] | None
    test: Callable[..., tuple[Metrics, jax.Array]]
    compile_s: float


def compile_programs(
    experiment: Experiment, mesh: Mesh, splits: Splits, state: TrainState
) -> Programs:
    """Compiles what a run calls, for a state and data that lie on the mesh."""
    config, classes = experiment.config, experiment.dataset.classes
    size, batch_size = len(experiment.dataset.train.labels), config.train.batch_size

    def divide(grad_fn):
        return parallel.divide_grads(mesh, grad_fn)

    train_step = step.make_train_step(config, experiment.steps, classes, divide)

    def order(key, epoch):
        return step.epoch_order(key, epoch, size)

    def place(examples):
        return parallel.divide_examples(mesh, examples)

    def chunk(state, train, order, steps):
        return step.run_chunk(train_step, state, train, order, steps, batch_size, place)

    def last_batch(state, train, order):
        batch = step.take_batch(train, order, state.step - 1, batch_size)
        return step.evaluate(config, state.params, batch, classes)[0]

    def evaluate(params, split):
        return step.evaluate(config, params, split, classes, place)

    def compiled(function, *arguments, donate=()):
        return parallel.compile_replicated(
            mesh, function, *arguments, dtype=config.model.dtype, donate=donate
        )

    began = time.perf_counter()
    params = states.evaluation_params(state)
    with jax.default_matmul_precision(config.train.precision):
        compiled_order = compiled(order, state.key, np.int32(0))
        an_order = compiled_order(state.key, np.int32(0))
        return Programs(
            order=compiled_order,
            chunk=compiled(chunk, state, splits.train, an_order, np.int32(0), donate=(0,)),
            last_batch=compiled(last_batch, state, splits.train, an_order),
            validation=compiled(evaluate, params, splits.validation) if splits.validation else None,
            test=compiled(evaluate, params, splits.test),
            compile_s=time.perf_counter() - began,
        )


class Trained(NamedTuple):
    """What a pure training function returns; under `vmap` each array has a leading seed axis.

    Attributes:
        state: the last state.
        curve: training metrics of each epoch, arrays [epochs]; of a last epoch that is cut short
            only the part that was run.
        test: metrics on the test part.
    """

    state: TrainState
    curve: Metrics
    test: Metrics


def make_train(config: Config, dataset: Dataset) -> Callable[[int | jax.Array], Trained]:
    """A whole run as one pure function of the seed, for `jax.jit` and `jax.vmap`.

    It trains for as long as `config.train` says and evaluates on the test part; the seed given
    to it replaces `config.train.seed`. Nothing is shown or saved on the way.

    >>> from rowrnn.config import DataConfig, ModelConfig, TrainConfig
    >>> config = Config(ModelConfig(0, 8), train=TrainConfig(examples=300, batch_size=50))
    >>> train = make_train(config, data.load(DataConfig()))
    >>> trained = jax.jit(jax.vmap(train))(jnp.arange(3))
    >>> trained.state.params["lstm_0"].kernel.shape, trained.curve.count.shape
    ((3, 36, 32), (3, 1))
    """
    configs.check(config)
    experiment = prepare(config, dataset)
    size, batch_size = len(dataset.train.labels), config.train.batch_size
    train_step = step.make_train_step(config, experiment.steps, dataset.classes)
    whole_epochs, remainder = divmod(experiment.steps, experiment.epoch_steps)
    train_split = Batch(jnp.asarray(dataset.train.images), jnp.asarray(dataset.train.labels))
    test_split = Batch(jnp.asarray(dataset.test.images), jnp.asarray(dataset.test.labels))

    def run_epoch(state, epoch, steps):
        order = step.epoch_order(state.key, epoch, size)
        return step.run_chunk(train_step, state, train_split, order, steps, batch_size)

    def train(seed: int | jax.Array) -> Trained:
        with jax.default_matmul_precision(config.train.precision):
            state, curve = jax.lax.scan(
                lambda state, epoch: run_epoch(state, epoch, experiment.epoch_steps),
                experiment.create_state(seed),
                jnp.arange(whole_epochs),
            )
            if remainder:
                state, last = run_epoch(state, whole_epochs, remainder)
                curve = jax.tree.map(jnp.append, curve, last)
            params = states.evaluation_params(state)
            test, _ = step.evaluate(config, params, test_split, dataset.classes)
        return Trained(state, curve, test)

    return train
