"""The training step and the ways of running it: pure, jit-able, without I/O.

There is one `train_step`. A *chunk* of steps (`run_chunk`) runs on the device without coming back
to the host, over images that already lie there. Data order, augmentation and dropout are functions
of (seed, step) alone, never of where a chunk begins or ends.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax

from rowrnn.config import Config, DataConfig, is_off
from rowrnn.core import metrics
from rowrnn.core.augment import random_shift, random_warp
from rowrnn.core.metrics import Metrics
from rowrnn.core.model import Params, RowRNN
from rowrnn.core.optimizer import make_optimizer
from rowrnn.core.state import TrainState

EVAL_BATCH = 1_000

# What is drawn from a run's key; each purpose has its own stream.
_ORDER, _SHIFT, _DROPOUT, _WARP = 0, 1, 2, 3


class Batch(NamedTuple):
    """Images [B, T, F] uint8 and labels [B] int32; a whole split has the same form."""

    images: jax.Array
    labels: jax.Array


Divide = Callable[[Callable[[Any], Any]], Callable[[Any], Any]]
"""From a function of arrays [B, ...] to the same function, of which each device does a share."""

TrainStep = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]
GradFn = Callable[[Params, Batch, jax.Array], tuple[Params, Metrics]]
"""(params, batch, a key for each example) -> (gradients, metrics), both sums over the examples."""


def as_it_is(function: Any) -> Any:
    """What a single device makes of a function that many would divide."""
    return function


def make_train_step(
    config: Config,
    total_steps: int,
    classes: int,
    divide: Callable[[GradFn], GradFn] = as_it_is,
) -> TrainStep:
    """The pure function ``train_step(state, batch) -> (state, metrics)`` of an experiment.

    One step augments the batch, computes loss and gradients, updates the parameters through Optax
    and, where asked for, their moving average. The metrics are those of the forward pass, before
    the update.

    Args:
        config: the experiment. Its numbers that `rowrnn.config.traced` lists may be traced arrays,
            so that one compiled program serves many of them.
        total_steps: length of the run, for the schedule.
        classes: number of classes.
        divide: lets every device work on its share of the batch; nothing on a single one.
    """
    tx = make_optimizer(config.optimizer, total_steps)
    grad_fn = divide(_make_grad_fn(config, classes))

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        batch = batch._replace(images=_augment(config.data, state.key, state.step, batch.images))
        dropout_key = _stream(state.key, _DROPOUT, state.step)
        example_keys = jax.random.split(dropout_key, batch.labels.shape[0])
        grads, sums = grad_fn(state.params, batch, example_keys)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = cast(Params, optax.apply_updates(state.params, updates))
        ema = state.ema
        if ema is not None:
            decay = config.optimizer.ema_decay
            ema = cast(Params, optax.incremental_update(params, ema, 1 - decay))
        # A gradient that is not finite shows in the update, and so does a division by zero in it.
        finite = jnp.isfinite(sums.loss_sum) & jnp.isfinite(optax.tree.norm(updates))
        sums = dataclasses.replace(sums, nonfinite=1 - finite.astype(jnp.int32))
        return TrainState(state.step + 1, params, opt_state, state.key, ema), sums

    return train_step


def _augment(config: DataConfig, key: jax.Array, step: jax.Array, images: jax.Array) -> jax.Array:
    """Images [B, T, F] of a batch, each changed at random where the config asks for it."""
    warps = (config.rotation, config.scale, config.shear, config.elastic)
    if not all(map(is_off, warps)):
        images = random_warp(_stream(key, _WARP, step), images, *warps)
    if config.shift:
        images = random_shift(_stream(key, _SHIFT, step), images, config.shift)
    return images


def _make_grad_fn(config: Config, classes: int) -> GradFn:
    """Gradients of the mean loss over a whole batch, from any part of it."""
    model = RowRNN(config.model, classes)

    def loss_fn(params, batch, keys):
        dropout_keys = None if is_off(config.model.dropout) else keys
        logits, _ = model.apply({"params": params}, batch.images, dropout_keys=dropout_keys)
        losses = metrics.cross_entropy(logits, batch.labels, config.train.label_smoothing)
        sums = metrics.from_logits(logits, losses, batch.labels)
        # Not the mean: that over a share of the batch is not a share of the mean.
        return losses.sum() / config.train.batch_size, sums

    return jax.grad(loss_fn, has_aux=True)


def epoch_order(key: jax.Array, epoch: int | jax.Array, size: int) -> jax.Array:
    """The order of one pass: a permutation of `size` examples, a function of (key, epoch)."""
    return jax.random.permutation(_stream(key, _ORDER, epoch), size)


def take_batch(train: Batch, order: jax.Array, step: jax.Array, batch_size: int) -> Batch:
    """The batch of a step; the remainder of each pass is dropped.

    Args:
        train: the training part, images [N, T, F] and labels [N].
        order: what `epoch_order` gave for the epoch of this step, [N].
        step: index of the step in the whole run.
        batch_size: B.
    """
    in_epoch = step % (train.labels.shape[0] // batch_size)
    index = jax.lax.dynamic_slice_in_dim(order, in_epoch * batch_size, batch_size)
    return Batch(jnp.take(train.images, index, axis=0), jnp.take(train.labels, index))


def run_chunk(
    train_step: TrainStep,
    state: TrainState,
    sums: Metrics,
    train: Batch,
    order: jax.Array,
    steps: int | jax.Array,
    batch_size: int,
) -> tuple[TrainState, Metrics]:
    """Runs `steps` steps of one epoch on the device and adds their metrics to `sums`.

    The number of steps is an array, not a constant, so that one compiled program runs chunks of
    every length; and the metrics are added up one step at a time. So a run that is cut elsewhere
    executes the same instructions and gives the same bits.

    The step after which `sums.nonfinite` is not 0 is the last: a run that has diverged stays as it
    is, also where others that have not go on beside it.

    Args:
        train_step: what `make_train_step` gave.
        state: the state before the chunk.
        sums: the metrics of the steps before that are added up with these.
        train: the training part, on the device.
        order: the order of the epoch that all these steps belong to, [N].
        steps: how many steps.
        batch_size: B.
    """
    end = state.step + steps

    def goes_on(carried):
        state, sums = carried
        return (state.step < end) & (sums.nonfinite == 0)

    def body(carried):
        state, sums = carried
        batch = take_batch(train, order, state.step, batch_size)
        state, step_sums = train_step(state, batch)
        return state, sums + step_sums

    return jax.lax.while_loop(goes_on, body, (state, sums))


def predict_logits(
    config: Config, params: Params, images: jax.Array, classes: int, divide: Divide = as_it_is
) -> jax.Array:
    """Logits [N, C] of any number of images [N, T, F], in batches of `EVAL_BATCH`."""
    model = RowRNN(config.model, classes)

    @divide
    def batch_logits(batch):
        return model.apply({"params": params}, batch)[0]

    whole = images.shape[0] // EVAL_BATCH * EVAL_BATCH
    parts = []
    if whole:
        batches = images[:whole].reshape(-1, EVAL_BATCH, *images.shape[1:])
        parts.append(jax.lax.map(batch_logits, batches).reshape(whole, classes))
    if whole < images.shape[0]:
        parts.append(batch_logits(images[whole:]))
    return jnp.concatenate(parts)


def evaluate(
    config: Config, params: Params, split: Batch, classes: int, divide: Divide = as_it_is
) -> tuple[Metrics, jax.Array]:
    """The sums over a split and its logits [N, C]; no smoothing, augmentation or dropout."""
    logits = predict_logits(config, params, split.images, classes, divide)
    losses = metrics.cross_entropy(logits, split.labels)
    return metrics.from_logits(logits, losses, split.labels), logits


def _stream(key: jax.Array, purpose: int, index: int | jax.Array) -> jax.Array:
    """The key for one purpose at one step or epoch."""
    return jax.random.fold_in(jax.random.fold_in(key, purpose), index)
