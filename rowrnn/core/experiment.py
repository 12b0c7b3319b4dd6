"""One experiment: a config and its data, and the pure functions that a run consists of."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rowrnn import config as configs
from rowrnn.config import Config
from rowrnn.core import metrics, step
from rowrnn.core import state as states
from rowrnn.core.dataset import Dataset
from rowrnn.core.metrics import Metrics
from rowrnn.core.state import TrainState
from rowrnn.core.step import Batch, Divide, GradFn

Values = dict[str, Any]
"""Numbers of a config that compiled programs take as an argument, by dotted name; see
`rowrnn.config.traced`. Arrays [], or [S] where there are many members."""


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

    @classmethod
    def of(cls, config: Config, dataset: Dataset) -> "Experiment":
        """A config and its data; raises `ConfigError` where a batch exceeds the training part."""
        size = len(dataset.train.labels)
        configs.check_fits(config, size)
        steps = configs.total_steps(config, size)
        return cls(config, dataset, steps, size // config.train.batch_size)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and pixels of an image, (T, F)."""
        _, rows, pixels = self.dataset.train.images.shape
        return rows, pixels

    @property
    def seeds(self) -> tuple[np.uint32, np.uint32]:
        """What the run and its parameters are drawn from, for `create_state`."""
        train = self.config.train
        init_seed = train.seed if train.init_seed is None else train.init_seed
        # jax takes a Python int for an int32.
        return np.uint32(train.seed), np.uint32(init_seed)

    def create_state(
        self, seed: np.uint32 | jax.Array, init_seed: np.uint32 | jax.Array | None = None
    ) -> TrainState:
        """The state before the first step; the seeds may be traced."""
        shape, classes = self.shape, self.dataset.classes
        return states.create(self.config, self.steps, shape, classes, seed, init_seed)

    @property
    def facts(self) -> dict[str, Any]:
        """What a checkpoint says of its run, so that it can be loaded without it."""
        return {
            "dataset": self.dataset.name,
            "fingerprint": self.dataset.fingerprint,
            "shape": self.shape,
            "classes": self.dataset.classes,
            "steps": self.steps,
            "config": configs.to_dict(self.config),
        }

    @property
    def values(self) -> Values:
        """The numbers of the config that the programs take as an argument."""
        return {name: np.float32(value) for name, value in configs.traced(self.config).items()}


@dataclass(frozen=True)
class Events:
    """At which steps a host loop has something to do, as multiples of these.

    Attributes:
        total: length of the run.
        epoch: one pass over the training part.
        log: between two entries of the metrics log.
        evaluate: between two evaluations on the validation part.
        save: between two checkpoints.
    """

    total: int
    epoch: int
    log: int
    evaluate: int
    save: int

    @classmethod
    def of(cls, experiment: Experiment) -> "Events":
        """The events of an experiment."""
        config, epoch = experiment.config, experiment.epoch_steps
        return cls(
            total=experiment.steps,
            epoch=epoch,
            log=config.train.log_every_steps,
            evaluate=config.train.eval_every_steps or epoch,
            save=config.checkpoint.every_steps or epoch,
        )

    def after(self, step: int) -> int:
        """The next step at which something is due; a chunk never crosses it."""
        periods = (self.epoch, self.log, self.evaluate, self.save)
        return min(self.total, *(step - step % period + period for period in periods))

    def due(self, step: int, period: int) -> bool:
        """Whether an event of this period falls on a step; all fall on the last."""
        return step % period == 0 or step == self.total


@dataclass(frozen=True)
class Functions:
    """What a run computes, as pure functions; `Values` are the traced numbers of its config.

    Attributes:
        order: (key, epoch) -> order of the epoch, [N].
        chunk: (state, sums, values, train, order, steps) -> (state, sums), see `step.run_chunk`.
        last_batch: (state, values, train, order) -> metrics on the batch of the step just done.
        evaluate: (params, values, split) -> (metrics, logits [N, C]).
    """

    order: Callable[[jax.Array, jax.Array], jax.Array]
    chunk: Callable[..., tuple[TrainState, Metrics]]
    last_batch: Callable[..., Metrics]
    evaluate: Callable[..., tuple[Metrics, jax.Array]]


def make_functions(
    experiment: Experiment,
    divide_grads: Callable[[GradFn], GradFn] = step.as_it_is,
    divide_batches: Divide = step.as_it_is,
) -> Functions:
    """The functions of an experiment.

    Args:
        experiment: gives the config, whose traced numbers are not read.
        divide_grads: lets every device work on its share of a batch, in training.
        divide_batches: the same in evaluation.
    """
    classes = experiment.dataset.classes
    size, batch_size = len(experiment.dataset.train.labels), experiment.config.train.batch_size

    def order(key, epoch):
        return step.epoch_order(key, epoch, size)

    def chunk(state, sums, values, train, order, steps):
        config = configs.replace(experiment.config, values)
        train_step = step.make_train_step(config, experiment.steps, classes, divide_grads)
        return step.run_chunk(train_step, state, sums, train, order, steps, batch_size)

    def last_batch(state, values, train, order):
        config = configs.replace(experiment.config, values)
        batch = step.take_batch(train, order, state.step - 1, batch_size)
        return step.evaluate(config, state.params, batch, classes)[0]

    def evaluate(params, values, split):
        config = configs.replace(experiment.config, values)
        return step.evaluate(config, params, split, classes, divide_batches)

    return Functions(order, chunk, last_batch, evaluate)


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

    It trains for as long as `config.train` says and evaluates on the test part. Nothing is shown or
    saved on the way.

    Args:
        config: the run; its `train.seed` is not looked at.
        dataset: images [N, T, F], uint8, and labels [N], int32, of each part.

    Returns a function from a seed, an int or uint32 [], to `Trained`. Raises `ConfigError` where a
    value is out of range or does not fit the data.

    >>> from rowrnn.config import DataConfig, ModelConfig, TrainConfig
    >>> from rowrnn.data import load
    >>> config = Config(ModelConfig(0, 8), train=TrainConfig(examples=300, batch_size=50))
    >>> train = make_train(config, load(DataConfig()))
    >>> trained = jax.jit(jax.vmap(train))(jnp.arange(3))
    >>> trained.state.params["lstm_0"].kernel.shape, trained.curve.count.shape
    ((3, 36, 32), (3, 1))
    """
    configs.check(config)
    experiment = Experiment.of(config, dataset)
    functions, values = make_functions(experiment), experiment.values
    init_seed = None if config.train.init_seed is None else np.uint32(config.train.init_seed)
    whole_epochs, remainder = divmod(experiment.steps, experiment.epoch_steps)
    train_split = Batch(jnp.asarray(dataset.train.images), jnp.asarray(dataset.train.labels))
    test_split = Batch(jnp.asarray(dataset.test.images), jnp.asarray(dataset.test.labels))

    def run_epoch(state, epoch, steps):
        order = functions.order(state.key, epoch)
        return functions.chunk(state, metrics.zeros(), values, train_split, order, steps)

    def train(seed: int | jax.Array) -> Trained:
        with jax.default_matmul_precision(config.train.precision):
            state, curve = jax.lax.scan(
                lambda state, epoch: run_epoch(state, epoch, experiment.epoch_steps),
                experiment.create_state(
                    np.uint32(seed) if isinstance(seed, int) else seed, init_seed
                ),
                jnp.arange(whole_epochs),
            )
            if remainder:
                state, last = run_epoch(state, whole_epochs, remainder)
                curve = jax.tree.map(jnp.append, curve, last)
            params = states.evaluation_params(state)
            test, _ = functions.evaluate(params, values, test_split)
        return Trained(state, curve, test)

    return train
