import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracle import network_logits

from rowrnn.config import Config, DataConfig, ModelConfig, OptimizerConfig, TrainConfig
from rowrnn.core import metrics, step
from rowrnn.core import state as states
from rowrnn.core.step import Batch

CONFIG = Config(ModelConfig(6, 8), train=TrainConfig(batch_size=16, epochs=4))
SIZE, SHAPE, CLASSES = 100, (7, 5), 4
EPOCH_STEPS = SIZE // 16


def split(seed=0, size=SIZE):
    images_key, labels_key = jax.random.split(jax.random.key(seed))
    images = jax.random.randint(images_key, (size, *SHAPE), 0, 256).astype(jnp.uint8)
    return Batch(images, jax.random.randint(labels_key, (size,), 0, CLASSES))


def train_chunks(config, chunks, seed=0):
    """The state after chunks of the given lengths, all from one jitted program."""
    train, steps = split(), sum(chunks)
    train_step = step.make_train_step(config, steps, CLASSES)

    @jax.jit
    def chunk(state, order, steps):
        return step.run_chunk(train_step, state, train, order, steps, 16)

    state, done = states.create(config, steps, SHAPE, CLASSES, seed), 0
    for length in chunks:
        order = step.epoch_order(state.key, done // EPOCH_STEPS, SIZE)
        state, done = chunk(state, order, length), done + length
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
        np.asarray(step.epoch_order(jax.random.key(seed), epoch, SIZE))
        for seed, epoch in [(0, 0), (0, 1), (1, 0)]
    ]
    for order in orders:
        assert sorted(order) == list(range(SIZE))
    assert len({order.tobytes() for order in orders}) == 3


def test_an_epoch_takes_each_example_at_most_once_and_drops_the_remainder():
    train = Batch(jnp.zeros((SIZE, *SHAPE), jnp.uint8), jnp.arange(SIZE))
    order = step.epoch_order(jax.random.key(3), 2, SIZE)
    seen = [
        step.take_batch(train, order, jnp.asarray(2 * EPOCH_STEPS + i), 16).labels
        for i in range(EPOCH_STEPS)
    ]
    np.testing.assert_array_equal(np.concatenate(seen), np.asarray(order)[: 16 * EPOCH_STEPS])


def test_the_gradient_is_the_slope_of_the_loss_in_numpy():
    config = dataclasses.replace(CONFIG, optimizer=OptimizerConfig("sgd", 1.0, momentum=0.0))
    batch = split(size=16)
    state = states.create(config, 1, SHAPE, CLASSES, 0)
    after, _ = step.make_train_step(config, 1, CLASSES)(state, batch)
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


@pytest.mark.parametrize(
    "config",
    [
        dataclasses.replace(CONFIG, data=DataConfig(shift=2)),
        dataclasses.replace(CONFIG, data=DataConfig(rotation=0.2)),
        dataclasses.replace(CONFIG, data=DataConfig(scale=0.2)),
        dataclasses.replace(CONFIG, data=DataConfig(shear=0.2)),
        dataclasses.replace(CONFIG, data=DataConfig(elastic=0.5)),
        dataclasses.replace(CONFIG, model=ModelConfig(6, 8, dropout=0.5)),
    ],
    ids=["shift", "rotation", "scale", "shear", "elastic", "dropout"],
)
def test_each_step_draws_anew(config):
    train_step = jax.jit(step.make_train_step(config, 2, CLASSES))
    state, batch = states.create(config, 2, SHAPE, CLASSES, 0), split(size=16)
    at_steps = [
        float(train_step(state._replace(step=jnp.asarray(s)), batch)[1].loss_sum) for s in (0, 0, 1)
    ]
    assert at_steps[0] == at_steps[1] != at_steps[2]


def test_training_smooths_the_labels_and_evaluation_does_not():
    config = dataclasses.replace(CONFIG, train=TrainConfig(batch_size=16, label_smoothing=0.2))
    state, batch = states.create(config, 1, SHAPE, CLASSES, 0), split(size=16)
    _, trained = step.make_train_step(config, 1, CLASSES)(state, batch)
    evaluated, logits = step.evaluate(config, state.params, batch, CLASSES)
    for sums, smoothing in [(trained, 0.2), (evaluated, 0.0)]:
        expected = metrics.cross_entropy(logits, batch.labels, smoothing).sum()
        np.testing.assert_allclose(sums.loss_sum, expected, rtol=1e-5)


def test_metrics_are_sums_over_the_batch_before_the_update():
    state, batch = states.create(CONFIG, 1, SHAPE, CLASSES, 0), split(size=16)
    _, sums = step.make_train_step(CONFIG, 1, CLASSES)(state, batch)
    logits = np.asarray(
        step.predict_logits(CONFIG, state.params, batch.images, CLASSES), np.float64
    )
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
    ours = metrics.cross_entropy(jnp.asarray(logits, jnp.float32), jnp.asarray(labels), 0.2)
    np.testing.assert_allclose(ours, expected, rtol=1e-5)


def test_ema_follows_its_recursion():
    config = dataclasses.replace(CONFIG, optimizer=OptimizerConfig(ema_decay=0.75))
    train_step = step.make_train_step(config, 3, CLASSES)
    state, batch = states.create(config, 3, SHAPE, CLASSES, 0), split(size=16)
    expected = np.asarray(state.params["readout"].kernel, np.float64)
    for _ in range(3):
        state, _ = train_step(state, batch)
        expected = 0.75 * expected + 0.25 * np.asarray(state.params["readout"].kernel)
    assert state.ema is not None
    np.testing.assert_allclose(state.ema["readout"].kernel, expected, rtol=1e-5)
    assert states.evaluation_params(state) is state.ema


def test_a_gradient_that_is_not_finite_is_counted():
    state, batch = states.create(CONFIG, 1, SHAPE, CLASSES, 0), split(size=16)
    kernel, bias = state.params["readout"]
    broken = state.params | {"readout": state.params["readout"]._replace(kernel=kernel * jnp.nan)}
    _, sums = step.make_train_step(CONFIG, 1, CLASSES)(state._replace(params=broken), batch)
    assert int(sums.nonfinite) == 1
    assert bias.shape == (CLASSES,)


@pytest.mark.parametrize("size", [7, 2003])
def test_evaluation_in_batches_leaves_nothing_out(size, monkeypatch):
    monkeypatch.setattr(step, "EVAL_BATCH", 1000)
    data = split(size=size)
    params = states.create(CONFIG, 1, SHAPE, CLASSES, 0).params
    sums, logits = step.evaluate(CONFIG, params, data, CLASSES)
    expected = network_logits(params, np.asarray(data.images))[-1]
    np.testing.assert_allclose(logits, expected, atol=1e-5)
    assert int(sums.count) == size
