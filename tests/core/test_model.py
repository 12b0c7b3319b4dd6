import functools
import os
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracle import network_logits

from rowrnn.config import ModelConfig
from rowrnn.core.model import RowRNN


def random_images(seed, batch=3, rows=7, pixels=5):
    return np.random.default_rng(seed).integers(0, 256, (batch, rows, pixels), np.uint8)


# One program each, and not one for each operation of it.
@functools.partial(jax.jit, static_argnums=0)
def variables_of(model, images):
    return model.init(jax.random.key(0), images)


@functools.partial(jax.jit, static_argnums=0, static_argnames="every_row")
def apply(model, variables, images, carries=None, **options):
    return model.apply(variables, images, carries, **options)


def grid():
    """Every kind of network; four of them have each choice once or twice."""
    few = {("modern", "last", 0, 1), ("modern", "last", 6, 3), ("notebook", "mean", 6, 1),
           ("glorot", "mean", 0, 3)}  # fmt: skip
    for kind in (("modern", "last"), ("notebook", "mean"), ("glorot", "mean")):
        for size, layers in ((0, 1), (0, 3), (6, 1), (6, 3)):
            case = (*kind, size, layers)
            yield case if case in few else pytest.param(*case, marks=pytest.mark.slow)


@pytest.mark.parametrize(("init", "pooling", "projection_size", "layers"), [*grid()])
def test_logits_match_numpy(init, pooling, projection_size, layers):
    config = ModelConfig(projection_size, 4, layers, forget_bias=0.7, init=init, pooling=pooling)
    model, images = RowRNN(config, classes=3), random_images(1)
    params = variables_of(model, images)["params"]
    # Biases are zero at first; a network in use has others.
    params = jax.tree.map(lambda leaf: leaf + 0.1 if leaf.ndim == 1 else leaf, params)
    expected = network_logits(params, images, forget_bias=0.7, pooling=pooling)

    @jax.jit
    def compute(params):
        every, carries = model.apply({"params": params}, images, every_row=True)
        return every, carries, model.apply({"params": params}, images)[0]

    every, carries, last = compute(params)
    np.testing.assert_allclose(every, expected, atol=2e-5)
    np.testing.assert_allclose(last, expected[-1], atol=2e-5)
    assert len(carries) == layers
    assert carries[0][0].shape == (3, 4)


def test_a_cut_sequence_goes_on_where_it_was_left():
    config = ModelConfig(5, 6, layers=2)
    model, images = RowRNN(config, classes=4), random_images(2, rows=9)
    variables = variables_of(model, images)
    whole, whole_carries = apply(model, variables, images)
    _, carries = apply(model, variables, images[:, :4])
    second, second_carries = apply(model, variables, images[:, 4:], carries)
    np.testing.assert_allclose(second, whole, atol=1e-6)
    np.testing.assert_allclose(second_carries, whole_carries, atol=1e-6)


def test_a_given_carry_is_used():
    model, images = RowRNN(ModelConfig(0, 6), classes=4), random_images(3)
    variables = variables_of(model, images)
    carry = (jnp.full((3, 6), 0.5), jnp.full((3, 6), -0.25))
    logits, _ = apply(model, variables, images, [carry])
    expected = network_logits(variables["params"], np.asarray(images), carries=[carry])
    np.testing.assert_allclose(logits, expected[-1], atol=1e-5)


def test_notebook_initialisers_have_the_distribution_of_2015():
    model = RowRNN(ModelConfig(init="notebook"), classes=10)
    params = variables_of(model, jnp.zeros((1, 28, 28), jnp.uint8))["params"]
    for name in ("projection", "readout"):
        kernel, bias = params[name]
        assert abs(float(kernel.std()) - 1) < 0.1
        assert float(jnp.abs(bias).max()) > 0.1
    cell = params["lstm_0"]
    limit = (3 / 256) ** 0.5
    assert 0.99 * limit < float(jnp.abs(cell.kernel).max()) <= limit
    np.testing.assert_allclose(cell.kernel.std(), limit / 3**0.5, rtol=0.01)
    assert not cell.bias.any()


def test_modern_recurrent_kernels_are_orthogonal_gate_by_gate():
    model = RowRNN(ModelConfig(0, 16), classes=10)
    params = variables_of(model, jnp.zeros((1, 28, 28), jnp.uint8))["params"]
    for gate in np.split(np.asarray(params["lstm_0"].kernel)[28:], 4, axis=1):
        np.testing.assert_allclose(gate.T @ gate, np.eye(16), atol=1e-5)


def test_glorot_recurrent_kernels_are_uniform_within_their_limit():
    model = RowRNN(ModelConfig(0, 64, init="glorot"), classes=10)
    params = variables_of(model, jnp.zeros((1, 28, 28), jnp.uint8))["params"]
    recurrent, limit = np.asarray(params["lstm_0"].kernel)[28:], (6 / 128) ** 0.5
    assert 0.99 * limit < np.abs(recurrent).max() <= limit
    np.testing.assert_allclose(recurrent.std(), limit / 3**0.5, rtol=0.02)


def test_dropout_scales_what_it_keeps_and_is_off_by_default():
    model, images = RowRNN(ModelConfig(0, 400, dropout=0.5), classes=2), random_images(4)
    variables = variables_of(model, images)
    plain, _ = apply(model, variables, images)

    def drop(keys):
        return model.apply(variables, images, dropout_keys=keys)[0]

    dropped = jax.jit(jax.vmap(drop))(jax.random.split(jax.random.key(1), (200, 3)))
    assert not np.allclose(dropped[0], plain)
    np.testing.assert_allclose(dropped.mean(axis=0), plain, atol=0.15)


def test_bfloat16_computes_narrow_and_keeps_float32():
    images = random_images(5)
    wide = RowRNN(ModelConfig(8, 16), classes=3)
    narrow = RowRNN(ModelConfig(8, 16, dtype="bfloat16"), classes=3)
    variables = variables_of(wide, images)
    logits, carries = apply(narrow, variables, images)
    expected, _ = apply(wide, variables, images)
    assert logits.dtype == carries[0][0].dtype == jnp.float32
    difference = np.linalg.norm(logits - expected) / np.linalg.norm(expected)
    assert 1e-5 < difference < 3e-2


@pytest.mark.slow
def test_networks_are_initialised_at_once_in_as_few_threads_as_there_are():
    """It ends: no network waits for threads that wait themselves."""
    code = """
        import jax, jax.numpy as jnp
        from rowrnn.config import ModelConfig
        from rowrnn.core.model import RowRNN

        model, images = RowRNN(ModelConfig(0, 64), classes=10), jnp.zeros((1, 28, 28), jnp.uint8)
        init = jax.jit(jax.vmap(lambda seed: model.init(jax.random.key(seed), images)))
        for first in range(0, 400, 4):
            jax.block_until_ready(init(first + jnp.arange(4)))
    """
    one_device = {"NPROC": "2", "JAX_NUM_CPU_DEVICES": "1", "JAX_PLATFORMS": "cpu"}
    subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env=os.environ | one_device, check=True, timeout=60,
    )  # fmt: skip
