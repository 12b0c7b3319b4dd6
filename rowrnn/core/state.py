"""What a run carries from step to step, and how it begins."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rowrnn import config as configs
from rowrnn.config import Config
from rowrnn.core.metrics import Metrics
from rowrnn.core.model import Params, RowRNN
from rowrnn.core.optimizer import make_optimizer

Hyperparams = dict[str, Any]
"""Numbers of a config that ride along in the state, by dotted name; see `rowrnn.config.traced`."""


class TrainState(NamedTuple):
    """The state of one run; every field is an array or a tree of arrays.

    Of S runs at once, the *members* of a sweep, every array has a leading axis [S].

    Attributes:
        step: updates done, int32.
        params: parameters of the model.
        opt_state: state of the Optax transformation.
        key: typed key that data order, augmentation and dropout are drawn from.
        ema: moving average of the parameters, or None where the config keeps none.
        hyperparams: numbers of the config that members may differ in, such as the learning rate,
            so that one compiled program serves them all.
        metrics: sums over the training batches since they were last set to zero.
    """

    step: jax.Array
    params: Params
    opt_state: optax.OptState
    key: jax.Array
    ema: Params | None
    hyperparams: Hyperparams
    metrics: Metrics


def create(
    config: Config,
    total_steps: int,
    shape: tuple[int, int],
    classes: int,
    seed: int | np.uint32 | jax.Array,
    init_seed: int | np.uint32 | jax.Array | None = None,
    hyperparams: Mapping[str, Any] | None = None,
) -> TrainState:
    """The state before the first step, a pure function of its arguments.

    Args:
        config: model and optimizer; the seeds in it are not read.
        total_steps: length of the run, for the schedule.
        shape: rows and pixels of an image, (T, F).
        classes: number of classes.
        seed: may be traced, so that `vmap` makes many states at once.
        init_seed: what the parameters are drawn from; `seed` where not given.
        hyperparams: values of all names in `rowrnn.config.traced`; those of the config where not
            given.

    >>> state = create(Config(), 100, (28, 28), 10, seed=0)
    >>> state.params["lstm_0"].kernel.shape, float(state.hyperparams["optimizer.momentum"])
    ((256, 512), 0.8999999761581421)
    """
    init_key, key = jax.random.split(jax.random.key(seed))
    if init_seed is not None:
        init_key, _ = jax.random.split(jax.random.key(init_seed))
    images = jnp.zeros((1, *shape), jnp.uint8)
    params = cast(Params, RowRNN(config.model, classes).init(init_key, images)["params"])
    hyperparams = configs.traced(config) if hyperparams is None else hyperparams
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=make_optimizer(config.optimizer, total_steps).init(params),
        key=key,
        # A copy: the state is donated, and one buffer cannot be donated twice.
        ema=jax.tree.map(jnp.copy, params) if config.optimizer.ema_decay else None,
        hyperparams={name: jnp.float32(value) for name, value in hyperparams.items()},
        metrics=Metrics.zeros(),
    )


def of_member(config: Config, state: TrainState) -> Config:
    """The config of a member: that of all, with the numbers that are its own."""
    return configs.replace(config, state.hyperparams)


def evaluation_params(state: TrainState) -> Params:
    """The parameters to evaluate: their moving average where one is kept."""
    return state.params if state.ema is None else state.ema


def named_leaves(tree: Any) -> Iterator[tuple[str, Any]]:
    """The leaves of a tree with their dotted names, such as ``params.lstm_0.kernel``."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        yield jax.tree_util.keystr(path, simple=True, separator="."), leaf
