"""One experiment: a config and its data, and the pure functions that a run consists of."""

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rowrnn import config as configs
from rowrnn.config import Config
from rowrnn.core import state as states
from rowrnn.core import step
from rowrnn.core.dataset import Dataset
from rowrnn.core.metrics import Metrics
from rowrnn.core.state import Hyperparams, TrainState, of_member
from rowrnn.core.step import Batch, ShardBatches, ShardGrads
from rowrnn.errors import DataError
from rowrnn.jax_settings import pinned


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
        """A config and its data; raises `ConfigError` where the two do not fit."""
        config = configs.of_data(config, dataset.name, dataset.channels)
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
        # Not Python integers, which jax takes for int32: seeds go up to 2**32 - 1.
        return np.uint32(train.seed), np.uint32(init_seed)

    @property
    def hyperparams(self) -> dict[str, np.float32]:
        """The numbers of the config that ride along in the state."""
        return {name: np.float32(value) for name, value in configs.traced(self.config).items()}

    def create_state(
        self,
        seed: np.uint32 | jax.Array,
        init_seed: np.uint32 | jax.Array | None = None,
        hyperparams: Hyperparams | None = None,
    ) -> TrainState:
        """The state before the first step; all arguments may be traced."""
        return states.create(
            self.config, self.steps, self.shape, self.dataset.classes, seed, init_seed, hyperparams
        )

    @property
    def facts(self) -> dict[str, Any]:
        """What a checkpoint says of its run, so that it can be restored without the data."""
        return {
            "dataset": self.dataset.name,
            "fingerprint": self.dataset.fingerprint,
            "shape": self.shape,
            "classes": self.dataset.classes,
            "class_names": self.dataset.class_names,
            "steps": self.steps,
            "config": configs.to_dict(self.config),
        }


class Functions(NamedTuple):
    """What a run computes, as pure functions of one member's state.

    Attributes:
        order: (key, epoch) -> order of the epoch, [N].
        chunk: (state, train, order, steps) -> state, see `step.run_chunk`.
        last_batch: (state, train, order) -> metrics of the present parameters, without dropout, on
            the batch of the step just done.
        evaluate: (state, split) -> (metrics, predicted classes [N]), by the moving average of the
            parameters where one is kept.
    """

    order: Callable[[jax.Array, jax.Array], jax.Array]
    chunk: Callable[[TrainState, Batch, jax.Array, int | jax.Array], TrainState]
    last_batch: Callable[[TrainState, Batch, jax.Array], Metrics]
    evaluate: Callable[[TrainState, Batch], tuple[Metrics, jax.Array]]


def make_functions(
    experiment: Experiment,
    shard_grads: ShardGrads = step.unsharded,
    shard_batches: ShardBatches = step.unsharded,
    shared_step: Callable[[jax.Array], jax.Array] = step.unsharded,
) -> Functions:
    """The functions of an experiment; whoever calls them sets the precision of matrix products.

    Args:
        experiment: gives the config, of which the numbers in ``state.hyperparams`` are not read.
        shard_grads: lets every device work on a shard of each batch, in training.
        shard_batches: the same in evaluation.
        shared_step: see `step.run_chunk`.
    """
    config, classes = experiment.config, experiment.dataset.classes
    size, batch_size = len(experiment.dataset.train.labels), config.train.batch_size
    train_step = step.make_train_step(config, experiment.steps, classes, shard_grads)

    def order(key, epoch):
        shuffled, in_file = step.epoch_order(key, epoch, size), config.data.first_epoch == "file"
        return jnp.where(epoch == 0, jnp.arange(size), shuffled) if in_file else shuffled

    def last_batch(state, train, order):
        batch = step.take_batch(train, order, state.step - 1, batch_size)
        return step.evaluate(of_member(config, state), state.params, batch, classes)[0]

    def evaluate(state, split):
        params = states.evaluation_params(state)
        sums, logits = step.evaluate(
            of_member(config, state), params, split, classes, shard_batches
        )
        return sums, logits.argmax(axis=-1)

    chunk = functools.partial(
        step.run_chunk, train_step, batch_size=batch_size, shared_step=shared_step
    )
    return Functions(order, chunk, last_batch, evaluate)


class Trained(NamedTuple):
    """What a pure training function returns; under `vmap` each array has a leading axis [S].

    Attributes:
        state: the last state.
        curve: training metrics of each epoch, arrays [epochs]; of a last epoch that is cut short
            only the part that was run.
        test: metrics on the test part.
    """

    state: TrainState
    curve: Metrics
    test: Metrics

    def __repr__(self) -> str:
        params = sum(leaf.size for leaf in jax.tree.leaves(self.state.params))
        return f"Trained(params={params}, epochs={self.curve.count.shape[-1]}, test={self.test!r})"


@pinned
def make_train(config: Config, dataset: Dataset) -> Callable[[int | jax.Array], Trained]:
    """A whole run as one pure function of the seed, for `jax.jit` and `jax.vmap`.

    It trains for as long as `config.train` says and evaluates on the test part. Nothing is shown or
    saved on the way.

    Args:
        config: the run; its `train.seed` is not looked at. Where its `train.init_seed` is set, all
            seeds have the same initial parameters.
        dataset: images [N, T, F], uint8, and labels [N], int32, of each part.

    Returns a function from a seed, an int or uint32 [], to `Trained`; the backend ``cudnn`` has no
    `vmap`. Raises `ConfigError` where a value is out of range or does not fit the data, and
    `DataError` where `dataset` is no `Dataset`.

    >>> from rowrnn.config import DataConfig, ModelConfig, TrainConfig
    >>> from rowrnn.data import load
    >>> config = Config(ModelConfig(0, 8), train=TrainConfig(examples=300, batch_size=50))
    >>> train = make_train(config, load(DataConfig()))
    >>> trained = jax.jit(jax.vmap(train))(jnp.arange(3, dtype=jnp.uint32))
    >>> trained.state.params["lstm_0"].kernel.shape, trained.curve.count.shape
    ((3, 36, 32), (3, 1))
    """
    configs.check(config)
    if not isinstance(dataset, Dataset):
        raise DataError(f"dataset: must be a Dataset of rowrnn.data, not {type(dataset).__name__}")
    experiment = Experiment.of(config, dataset)
    functions = make_functions(experiment)
    init_seed = None if config.train.init_seed is None else np.uint32(config.train.init_seed)
    whole_epochs, remainder = divmod(experiment.steps, experiment.epoch_steps)
    train_split = Batch(jnp.asarray(dataset.train.images), jnp.asarray(dataset.train.labels))
    test_split = Batch(jnp.asarray(dataset.test.images), jnp.asarray(dataset.test.labels))

    def run_epoch(state, epoch, steps):
        order = functions.order(state.key, epoch)
        # A run that has diverged stays as it is in the epochs that follow, too.
        none = dataclasses.replace(Metrics.zeros(), nonfinite=state.metrics.nonfinite)
        state = state._replace(metrics=none)
        state = functions.chunk(state, train_split, order, steps)
        return state, state.metrics

    @pinned
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
            test, _ = functions.evaluate(state, test_split)
        return Trained(state, curve, test)

    return train
