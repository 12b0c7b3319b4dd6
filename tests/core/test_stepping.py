import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracle import network_logits

from rowrnn import config as configs
from rowrnn.config import Config, DataConfig, ModelConfig, OptimizerConfig, TrainConfig
from rowrnn.core import metrics, step
from rowrnn.core import state as states
from rowrnn.core.step import Batch

CONFIG = Config(ModelConfig(6, 8), train=TrainConfig(batch_size=16, epochs=4))
SIZE, SHAPE, CLASSES = 100, (7, 5), 4
EPOCH_STEPS = SIZE // 16


def split(seed=0, size=SIZE):
    draw = np.random.default_rng(seed)
    images = draw.integers(0, 256, (size, *SHAPE), np.uint8)
    return Batch(jnp.asarray(images), jnp.asarray(draw.integers(0, CLASSES, size, np.int32)))


# One program each, and not one for each operation of it.
@functools.partial(jax.jit, static_argnames=("model", "optimizer"))
def state_of(model, optimizer, seed, hyperparams):
    config = dataclasses.replace(CONFIG, model=model, optimizer=optimizer)
    return states.create(config, 12, SHAPE, CLASSES, seed, hyperparams=hyperparams)


def create(config, seed=0):
    """The state before the first step; how much is dropped and warped is a number in it."""
    model = dataclasses.replace(config.model, dropout=0.0)
    return state_of(model, config.optimizer, seed, configs.traced(config))


@functools.cache
def make_step(config):
    return jax.jit(step.make_train_step(config, 12, CLASSES))


@functools.cache
def make_chunk(config):
    train, train_step = split(), step.make_train_step(config, 12, CLASSES)
    return jax.jit(
        lambda state, order, steps: step.run_chunk(train_step, state, train, order, steps, 16)
    )


epoch_order = jax.jit(step.epoch_order, static_argnums=2)
predict_logits = jax.jit(step.predict_logits, static_argnums=(0, 3))
evaluate = jax.jit(step.evaluate, static_argnums=(0, 3))
cross_entropy = jax.jit(metrics.cross_entropy, static_argnums=2)


def train_chunks(config, chunks, seed=0):
    """The state after chunks of the given lengths, all from one jitted program."""
    state, done = create(config, seed), 0
    for length in chunks:
        order = epoch_order(state.key, done // EPOCH_STEPS, SIZE)
        state, done = make_chunk(config)(state, order, length), done + length
        assert int(state.metrics.count) == 16 * done
    return state


def assert_same_bits(left, right):
    for ours, theirs in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        if jnp.issubdtype(ours.dtype, jax.dtypes.prng_key):
            ours, theirs = jax.random.key_data(ours), jax.random.key_data(theirs)
        assert np.asarray(ours).tobytes() == np.asarray(theirs).tobytes()


RICH = Config(
    ModelConfig(6, 8, layers=2, dropout=0.3),
    DataConfig(shift=1, rotation=0.2, elastic=0.5),
    OptimizerConfig("adamw", schedule="cosine", clip_norm=1.0, ema_decay=0.9),
    TrainConfig(batch_size=16, label_smoothing=0.1),
)


@pytest.mark.parametrize("config", [pytest.param(CONFIG, marks=pytest.mark.soak), RICH])
def test_where_a_chunk_ends_changes_no_bit(config):
    whole = train_chunks(config, [6, 6])
    cut = train_chunks(config, [1, 2, 3, 5, 1])
    assert_same_bits(whole, cut)


def test_seeds_differ():
    first, second = train_chunks(CONFIG, [2], seed=0), train_chunks(CONFIG, [2], seed=1)
    assert not np.allclose(first.params["readout"].kernel, second.params["readout"].kernel)


def test_order_is_a_permutation_that_changes_with_epoch_and_seed():
    orders = [
        np.asarray(epoch_order(jax.random.key(seed), epoch, SIZE))
        for seed, epoch in [(0, 0), (0, 1), (1, 0)]
    ]
    for order in orders:
        assert sorted(order) == list(range(SIZE))
    assert len({order.tobytes() for order in orders}) == 3


def test_an_epoch_takes_each_example_at_most_once_and_drops_the_remainder():
    train = Batch(jnp.zeros((SIZE, *SHAPE), jnp.uint8), jnp.arange(SIZE))
    order = epoch_order(jax.random.key(3), 2, SIZE)
    seen = [
        step.take_batch(train, order, jnp.asarray(2 * EPOCH_STEPS + i), 16).labels
        for i in range(EPOCH_STEPS)
    ]
    np.testing.assert_array_equal(np.concatenate(seen), np.asarray(order)[: 16 * EPOCH_STEPS])


def test_the_gradient_is_the_slope_of_the_loss_in_numpy():
    config = dataclasses.replace(CONFIG, optimizer=OptimizerConfig("sgd", 1.0, momentum=0.0))
    batch = split(size=16)
    state = create(config)
    after, _ = make_step(config)(state, batch)
    gradient = jax.tree.map(jnp.subtract, state.params, after.params)

    def loss(params):
        logits = network_logits(params, np.asarray(batch.images))[-1]
        log_sum = np.log(np.exp(logits).sum(axis=1))
        return (log_sum - logits[np.arange(16), batch.labels]).mean()

    random = np.random.default_rng(0)
    for name in ("projection", "lstm_0", "readout"):
        direction = jax.tree.map(lambda leaf: random.normal(size=leaf.shape), state.params[name])
        along = sum(
            (np.asarray(g) * d).sum() for g, d in zip(gradient[name], direction, strict=True)
        )
        ends = [
            loss(state.params | {name: jax.tree.map(
                lambda p, d, e=e: np.asarray(p, np.float64) + e * d, state.params[name], direction
            )})
            for e in (1e-5, -1e-5)
        ]  # fmt: skip
        np.testing.assert_allclose(along, (ends[0] - ends[1]) / 2e-5, rtol=1e-3, atol=1e-5)


# How much is drawn, by what a program is told in its state: one program for all but the shift.
DRAWN = {"data.rotation": 0.2, "data.scale": 0.2, "data.shear": 0.2, "data.elastic": 0.5,
         "model.dropout": 0.5}  # fmt: skip


def losses_at(config, hyperparams, steps):
    """Of a step taken at each of some places, from the same state and on the same batch."""
    state, batch = create(config), split(size=16)
    state = state._replace(hyperparams=state.hyperparams | hyperparams)
    return [
        float(make_step(config)(state._replace(step=jnp.int32(at)), batch)[1].loss_sum)
        for at in steps
    ]


@pytest.mark.parametrize("name", ["data.shift", *DRAWN])
def test_each_step_draws_anew(name):
    if name == "data.shift":
        config, hyperparams = configs.replace(CONFIG, {name: 2}), {}
    else:
        config = configs.replace(CONFIG, DRAWN)
        hyperparams = {other: jnp.float32(0) for other in DRAWN} | {name: jnp.float32(DRAWN[name])}
    first, again, next_step = losses_at(config, hyperparams, (0, 0, 1))
    assert first == again != next_step


def test_where_nothing_is_drawn_each_step_is_the_same():
    nothing = {name: jnp.float32(0) for name in DRAWN}
    first, next_step = losses_at(configs.replace(CONFIG, DRAWN), nothing, (0, 1))
    assert first == next_step


def test_training_smooths_the_labels_and_evaluation_does_not():
    config = dataclasses.replace(CONFIG, train=TrainConfig(batch_size=16, label_smoothing=0.2))
    state, batch = create(config), split(size=16)
    _, trained = make_step(config)(state, batch)
    evaluated, logits = evaluate(config, state.params, batch, CLASSES)
    for sums, smoothing in [(trained, 0.2), (evaluated, 0.0)]:
        expected = cross_entropy(logits, batch.labels, smoothing).sum()
        np.testing.assert_allclose(sums.loss_sum, expected, rtol=1e-5)


def test_metrics_are_sums_over_the_batch_before_the_update():
    state, batch = create(CONFIG), split(size=16)
    _, sums = make_step(CONFIG)(state, batch)
    logits = np.asarray(predict_logits(CONFIG, state.params, batch.images, CLASSES), np.float64)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    losses = -np.log(probabilities[np.arange(16), batch.labels])
    np.testing.assert_allclose(sums.loss_sum, losses.sum(), rtol=1e-5)
    assert int(sums.correct) == int((logits.argmax(axis=1) == np.asarray(batch.labels)).sum())
    assert int(sums.nonfinite) == 0


def test_label_smoothing_is_the_cross_entropy_to_the_mixed_target():
    logits = np.random.default_rng(0).normal(size=(5, 4))
    labels = np.array([0, 3, 1, 1, 2])
    target = 0.8 * np.eye(4)[labels] + 0.2 / 4
    log_probabilities = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    expected = -(target * log_probabilities).sum(axis=1)
    ours = cross_entropy(jnp.asarray(logits, jnp.float32), jnp.asarray(labels), 0.2)
    np.testing.assert_allclose(ours, expected, rtol=1e-5)


def test_ema_follows_its_recursion():
    config = dataclasses.replace(CONFIG, optimizer=OptimizerConfig(ema_decay=0.75))
    train_step = make_step(config)
    state, batch = create(config), split(size=16)
    expected = np.asarray(state.params["readout"].kernel, np.float64)
    for _ in range(3):
        state, _ = train_step(state, batch)
        expected = 0.75 * expected + 0.25 * np.asarray(state.params["readout"].kernel)
    assert state.ema is not None
    np.testing.assert_allclose(state.ema["readout"].kernel, expected, rtol=1e-5)
    assert states.evaluation_params(state) is state.ema


def test_a_gradient_that_is_not_finite_is_counted():
    state, batch = create(CONFIG), split(size=16)
    kernel, bias = state.params["readout"]
    broken = state.params | {"readout": state.params["readout"]._replace(kernel=kernel * jnp.nan)}
    _, sums = make_step(CONFIG)(state._replace(params=broken), batch)
    assert int(sums.nonfinite) == 1
    assert bias.shape == (CLASSES,)


@pytest.mark.parametrize("size", [7, 2003])
def test_evaluation_in_batches_leaves_nothing_out(size, monkeypatch):
    monkeypatch.setattr(step, "EVAL_BATCH", 1000)
    data = split(size=size)
    params = create(CONFIG).params
    sums, logits = evaluate(CONFIG, params, data, CLASSES)
    expected = network_logits(params, np.asarray(data.images))[-1]
    np.testing.assert_allclose(logits, expected, atol=1e-5)
    assert int(sums.count) == size
