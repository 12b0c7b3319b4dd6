import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rowrnn.config import OptimizerConfig
from rowrnn.core.lstm import Affine
from rowrnn.core.optimizer import make_optimizer, make_schedule

PARAMS = {"layer": Affine(jnp.array([[1.0, -2.0], [0.5, 3.0]]), jnp.array([0.5, -0.5]))}


def run(config, gradients, total_steps=10):
    """The kernel and bias after one update for each gradient."""
    tx = make_optimizer(config, total_steps)
    params, state = PARAMS, tx.init(PARAMS)
    for gradient in gradients:
        grads = jax.tree.map(lambda leaf, g=gradient: jnp.full_like(leaf, g), params)
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    return params["layer"]


def adam(value, gradients, rate, decay=0.0, beta1=0.9, beta2=0.999, epsilon=1e-8):
    """Kingma & Ba (2015) with Loshchilov & Hutter's decoupled decay, in NumPy."""
    value, m, v = np.asarray(value, np.float64), 0.0, 0.0
    for t, g in enumerate(gradients, start=1):
        m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g * g
        step = (m / (1 - beta1**t)) / (np.sqrt(v / (1 - beta2**t)) + epsilon)
        value = value - rate * (step + decay * value)
    return value


GRADIENTS = [0.3, -0.2, 0.7]


def test_adam_matches_the_paper():
    layer = run(OptimizerConfig("adam", 0.01), GRADIENTS)
    np.testing.assert_allclose(layer.kernel, adam(PARAMS["layer"].kernel, GRADIENTS, 0.01), 1e-5)


def test_adamw_decays_kernels_only():
    layer = run(OptimizerConfig("adamw", 0.01, weight_decay=0.1), GRADIENTS)
    kernel, bias = PARAMS["layer"]
    np.testing.assert_allclose(layer.kernel, adam(kernel, GRADIENTS, 0.01, 0.1), 1e-5)
    np.testing.assert_allclose(layer.bias, adam(bias, GRADIENTS, 0.01), 1e-5)


def test_sgd_has_momentum():
    layer = run(OptimizerConfig("sgd", 0.1, momentum=0.5), [1.0, 1.0])
    np.testing.assert_allclose(layer.bias, PARAMS["layer"].bias - 0.1 * (1 + 1.5), 1e-6)


def test_muon_makes_the_update_of_a_kernel_nearly_orthogonal():
    before = PARAMS["layer"].kernel
    layer = run(OptimizerConfig("muon", 0.1, weight_decay=0.0), [0.3])
    # A constant gradient has rank 1, and so has its orthogonal factor: one singular value near 1.
    singular = np.linalg.svd(np.asarray(before - layer.kernel) / 0.1, compute_uv=False)
    assert 0.6 < singular[0] < 1.3
    assert singular[1] < 1e-3


def test_clipping_bounds_the_global_norm():
    layer = run(OptimizerConfig("sgd", 1.0, momentum=0.0, clip_norm=0.5), [100.0])
    moved = np.concatenate(
        [np.ravel(layer.kernel - PARAMS["layer"].kernel), layer.bias - PARAMS["layer"].bias]
    )
    np.testing.assert_allclose(np.linalg.norm(moved), 0.5, rtol=1e-5)


@pytest.mark.parametrize("warmup", [0, 4])
def test_cosine_with_warm_up(warmup):
    config = OptimizerConfig(learning_rate=2.0, schedule="cosine", warmup_steps=warmup)
    schedule = make_schedule(config, 20)
    expected = [
        2.0 * s / warmup if s < warmup else 1.0 + np.cos(np.pi * (s - warmup) / (20 - warmup))
        for s in range(20)
    ]
    np.testing.assert_allclose([schedule(s) for s in range(20)], expected, atol=1e-6)


def test_numbers_may_be_traced():
    def kernel_after(rate):
        return run(OptimizerConfig("adamw", rate), GRADIENTS).kernel

    both = jax.vmap(kernel_after)(jnp.array([0.01, 0.02]))
    np.testing.assert_allclose(both[1], kernel_after(0.02), rtol=1e-6)
