"""The training step and the ways of running it: pure, jit-able, without I/O.

All ways of training share one `train_step`. A *chunk* of steps (`run_chunk`) runs on the device
without coming back to the host, over images that already lie there. Augmentation and dropout are
functions of (key, step) and the order of the data is one of (key, epoch); where a chunk begins or
ends has no part in them.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax

from rowrnn.config import Config, DataConfig, is_off
from rowrnn.core.augment import random_shift, random_warp
from rowrnn.core.metrics import Metrics, cross_entropy
from rowrnn.core.model import Params, RowRNN
from rowrnn.core.optimizer import make_optimizer
from rowrnn.core.state import TrainState, of_member

EVAL_BATCH = 1_000

# Purposes for which a run's key is used; each draws from a stream of its own.
_ORDER, _SHIFT, _DROPOUT, _WARP = 0, 1, 2, 3


class Batch(NamedTuple):
    """Images [B, T, F] uint8 and labels [B] int32; a whole split has the same form."""

    images: jax.Array
    labels: jax.Array


TrainStep = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]
GradFn = Callable[[Params, Batch, jax.Array], tuple[Params, Metrics]]
"""(params, examples, a key for each) -> (their share of the gradients of the batch, metrics)."""
ShardGrads = Callable[[GradFn], GradFn]
"""Makes a gradient function work on a shard of each batch and sum over the shards."""
ShardBatches = Callable[[Callable[[Any], Any]], Callable[[Any], Any]]
"""Makes a function of arrays [B, ...] work on a shard of them and gather what it gives."""


def unsharded(function: Any) -> Any:
    """The function itself: a single device works on whole batches."""
    return function


def make_train_step(
    config: Config, total_steps: int, classes: int, shard_grads: ShardGrads = unsharded
) -> TrainStep:
    """The pure function ``train_step(state, batch) -> (state, metrics)`` of an experiment.

    One step augments the batch, computes loss and gradients, updates the parameters through Optax
    and, where asked for, their moving average. The metrics are those of the forward pass, with
    augmentation, dropout and smoothing, before the update, but that `nonfinite` looks at the update
    too; ``state.metrics`` is left as it is.

    Args:
        config: the experiment. The numbers of it that are in ``state.hyperparams`` are read there.
        total_steps: length of the run, for the schedule.
        classes: number of classes.
        shard_grads: lets every device work on a shard of the batch; nothing on a single one.
    """

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        member = of_member(config, state)
        tx = make_optimizer(member.optimizer, total_steps)
        grad_fn = shard_grads(_make_grad_fn(member, classes))
        batch = batch._replace(images=_augment(member.data, state.key, state.step, batch.images))
        dropout_key = _stream(state.key, _DROPOUT, state.step)
        example_keys = jax.random.split(dropout_key, batch.labels.shape[0])
        grads, metrics = grad_fn(state.params, batch, example_keys)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = cast(Params, optax.apply_updates(state.params, updates))
        ema = state.ema
        if ema is not None:
            decay = member.optimizer.ema_decay
            ema = cast(Params, optax.incremental_update(params, ema, 1 - decay))
        # A gradient that is not finite shows in the update, and so does a division by zero in it.
        finite = jnp.isfinite(metrics.loss_sum) & jnp.isfinite(optax.tree.norm(updates))
        metrics = dataclasses.replace(metrics, nonfinite=1 - finite.astype(jnp.int32))
        state = state._replace(step=state.step + 1, params=params, opt_state=opt_state, ema=ema)
        return state, metrics

    return train_step


def _augment(config: DataConfig, key: jax.Array, step: jax.Array, images: jax.Array) -> jax.Array:
    """Images [B, T, F] of a batch, each changed at random where the config asks for it."""
    if config.channels == 3:  # Pixels move, with all their channels: these share the draws.
        grey = functools.partial(_augment, dataclasses.replace(config, channels=1), key, step)
        apart = images.reshape(*images.shape[:2], -1, 3)
        return jax.vmap(grey, 3, 3)(apart).reshape(images.shape)
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
        losses = cross_entropy(logits, batch.labels, config.train.label_smoothing)
        sums = Metrics.of(logits, losses, batch.labels)
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
    train: Batch,
    order: jax.Array,
    steps: int | jax.Array,
    batch_size: int,
    shared_step: Callable[[jax.Array], jax.Array] = unsharded,
) -> TrainState:
    """Runs `steps` steps of one epoch on the device and adds their metrics to ``state.metrics``.

    The number of steps is traced, so that one compiled program runs chunks of every length; and the
    metrics are added up one step at a time. So a run that is cut elsewhere executes the same
    instructions and gives the same bits.

    The step after which ``state.metrics.nonfinite`` is not 0 is the last: a run that has diverged
    stays as it is, also where others go on beside it.

    Args:
        train_step: what `make_train_step` gave.
        state: the state before the chunk.
        train: the training part, on the device.
        order: the order of the epoch that all these steps belong to, [N].
        steps: how many steps.
        batch_size: B.
        shared_step: makes the step of each of many members the one that they have in common.
    """
    end = state.step + steps

    def goes_on(state):
        return (state.step < end) & (state.metrics.nonfinite == 0)

    def body(state):
        batch = take_batch(train, order, shared_step(state.step), batch_size)
        state, metrics = train_step(state, batch)
        return state._replace(metrics=state.metrics + metrics)

    # The loop is found by this name in what is compiled.
    with jax.named_scope("steps"):
        return jax.lax.while_loop(goes_on, body, state)


def predict_logits(
    config: Config, params: Params, images: jax.Array, classes: int, shard: ShardBatches = unsharded
) -> jax.Array:
    """Logits [N, C] of N images [N, T, F], one or more, in batches of `EVAL_BATCH`."""
    model = RowRNN(config.model, classes)

    @shard
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
    config: Config, params: Params, split: Batch, classes: int, shard: ShardBatches = unsharded
) -> tuple[Metrics, jax.Array]:
    """The sums over a split and its logits [N, C]; no smoothing, augmentation or dropout."""
    logits = predict_logits(config, params, split.images, classes, shard)
    losses = cross_entropy(logits, split.labels)
    return Metrics.of(logits, losses, split.labels), logits


def _stream(key: jax.Array, purpose: int, index: int | jax.Array) -> jax.Array:
    """The key for one purpose at one step or epoch."""
    return jax.random.fold_in(jax.random.fold_in(key, purpose), index)
