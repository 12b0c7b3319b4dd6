"""Every backend of the recurrence against an LSTM written out in float64 NumPy."""

import functools
from typing import NamedTuple

import flax.linen as nn
import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from jax.experimental import rnn
from jax.sharding import PartitionSpec as P

from rowrnn.core.lstm import BACKENDS as BY_NAME
from rowrnn.core.lstm import Affine, cudnn, fast, lstm, pallas, split, zero_carry
from rowrnn.errors import ConfigError

BACKENDS = ["scan", "fast", "split"]
TOLERANCE = {"float64": 1e-12, "float32": 1e-5, "bfloat16": 3e-2}


# The oracle: one row after the other, forward and backward, each derivative written by hand.


def sigmoid(x):
    return 0.5 * (1 + np.tanh(0.5 * x))


def oracle(inputs, input_scale, d_hs, d_carry):
    """Values and gradients in float64: ((hs, carry), gradients of `inputs`).

    `d_hs` [T, B, H] and `d_carry` are the cotangents of all hidden states and of the last carry.
    """
    inputs, d_hs, (dc, dh) = jax.tree.map(np.float64, (inputs, d_hs, d_carry))
    cell, projection, (c, h) = inputs.cell, inputs.projection, inputs.carry
    scaled = input_scale * inputs.xs
    xs = scaled if projection is None else scaled @ projection.kernel + projection.bias
    hidden, size = h.shape[-1], xs.shape[-1]
    forget = np.repeat([0.0, 0, 1, 0], hidden)
    hs, saved = [], []
    for x in xs:
        xh = np.concatenate([x, h], axis=1)
        zi, zj, zf, zo = np.split(xh @ cell.kernel + cell.bias + inputs.forget_bias * forget, 4, 1)
        i, j, f, o = sigmoid(zi), np.tanh(zj), sigmoid(zf), sigmoid(zo)
        new_c = f * c + i * j
        saved.append((xh, i, j, f, o, c, np.tanh(new_c)))
        c, h = new_c, o * np.tanh(new_c)
        hs.append(h)

    d_kernel, d_bias, d_xs = np.zeros_like(cell.kernel), np.zeros_like(cell.bias), []
    for (xh, i, j, f, o, old_c, t), d_h in reversed(list(zip(saved, d_hs, strict=True))):
        dh = dh + d_h
        do = dh * t * o * (1 - o)
        dc = dc + dh * o * (1 - t**2)
        di, dj, df = dc * j * i * (1 - i), dc * i * (1 - j**2), dc * old_c * f * (1 - f)
        dz = np.concatenate([di, dj, df, do], axis=1)
        d_kernel += xh.T @ dz
        d_bias += dz.sum(0)
        dxh = dz @ cell.kernel.T
        d_xs.append(dxh[:, :size])
        dc, dh = dc * f, dxh[:, size:]
    d_xs, d_projection = np.stack(d_xs[::-1]), None
    if projection is not None:
        d_projection = Affine(np.einsum("tbf,tbp->fp", scaled, d_xs), d_xs.sum((0, 1)))
        d_xs = d_xs @ projection.kernel.T
    grads = Inputs(
        Affine(d_kernel, d_bias), input_scale * d_xs, (dc, dh), projection and d_projection,
        (d_bias * forget).sum(),
    )  # fmt: skip
    return (np.stack(hs), (c, h)), grads


class Inputs(NamedTuple):
    """Everything the recurrence is differentiable by."""

    cell: Affine
    xs: jax.Array
    carry: tuple[jax.Array, jax.Array]
    projection: Affine | None
    forget_bias: float | jax.Array


class Case(NamedTuple):
    """The shape of one test; `projected` 0 stands for no projection."""

    rows: int
    batch: int
    inputs: int
    projected: int
    hidden: int
    pixels: bool
    every_row: bool
    seed: int = 0


@functools.lru_cache
def draw(case):
    """Random inputs of the shape of a case, and cotangents of every hidden state and the carry.

    They are float32 numbers, so that they mean the same in float64.
    """
    rng = np.random.default_rng(case.seed)

    def normal(*shape):
        return rng.standard_normal(shape, np.float32)

    def affine(inputs, outputs):
        return Affine(normal(inputs, outputs) / np.float32(inputs**0.5), normal(outputs))

    state = (case.batch, case.hidden)
    shape = (case.rows, case.batch, case.inputs)
    inputs = Inputs(
        affine((case.projected or case.inputs) + case.hidden, 4 * case.hidden),
        rng.integers(0, 256, shape, np.uint8) if case.pixels else normal(*shape),
        (normal(*state), normal(*state)),
        affine(case.inputs, case.projected) if case.projected else None,
        np.asarray(0.7, np.float32),
    )
    d_hs = normal(case.rows, *state)
    if not case.every_row:
        d_hs[:-1] = 0
    return inputs, d_hs, (normal(*state), normal(*state))


def run(inputs, backend="fast", **options):
    """The backend under test on an `Inputs`."""
    return lstm(
        inputs.cell,
        inputs.xs,
        inputs.carry,
        projection=inputs.projection,
        forget_bias=inputs.forget_bias,
        backend=backend,
        **options,
    )


# One program, and not one for each operation of it.
run_jitted = jax.jit(run, static_argnames=("backend", "dtype", "every_row"))


def values_and_grads(inputs, cotangents, **options):
    """What `run` gives, and its gradients; jitted, as rowrnn uses it."""

    @jax.jit
    def compute(inputs, cotangents):
        pixels = inputs.xs if inputs.xs.dtype == np.uint8 else None

        def of_floats(floats):
            return run(floats if pixels is None else floats._replace(xs=pixels), **options)

        outputs, vjp = jax.vjp(of_floats, inputs if pixels is None else inputs._replace(xs=None))
        return outputs, vjp(cotangents)[0]

    return compute(jax.tree.map(jnp.asarray, inputs), jax.tree.map(jnp.asarray, cotangents))


def assert_close(actual, expected, tolerance):
    """Norm by norm: |actual - expected| <= tolerance · |expected| for every leaf."""
    actual, expected = jax.tree.leaves_with_path(actual), jax.tree.leaves(expected)
    assert len(actual) == len(expected)
    for (path, a), b in zip(actual, expected, strict=True):
        assert a.shape == np.shape(b)
        error = np.linalg.norm(np.asarray(a, np.float64) - b)
        assert error <= tolerance * np.linalg.norm(b), f"{jax.tree_util.keystr(path)}: {error}"


@functools.lru_cache
def expected(case):
    """What the oracle gives for a case."""
    return oracle(*draw(case)[:1], input_scale(case), *draw(case)[1:])


def input_scale(case):
    return 1 / 255 if case.pixels else 0.9


def check_against_oracle(backend, dtype, case):
    wide = np.dtype("float64" if dtype == "float64" else "float32")
    inputs, d_hs, d_carry = jax.tree.map(
        lambda leaf: leaf if leaf.dtype == np.uint8 else leaf.astype(wide), draw(case)
    )
    (hs, carry), grads = expected(case)
    with jax.enable_x64(dtype == "float64"):
        outputs, actual = values_and_grads(
            inputs,
            (d_hs if case.every_row else d_hs[-1], d_carry),
            backend=backend,
            input_scale=input_scale(case),
            dtype=jnp.dtype(dtype),
            every_row=case.every_row,
        )
    assert {leaf.dtype for leaf in jax.tree.leaves((outputs, actual))} == {wide}
    outputs_expected = (hs if case.every_row else hs[-1], carry)
    grads = join(grads._replace(xs=None if case.pixels else grads.xs))
    actual = join(actual)
    if dtype == "bfloat16":
        # With eight bits, a leaf of few numbers may be all rounding.
        outputs, outputs_expected, actual, grads = map(
            as_vector, (outputs, outputs_expected, actual, grads)
        )
    assert_close(outputs, outputs_expected, TOLERANCE[dtype])
    assert_close(actual, grads, TOLERANCE[dtype])


def join(grads):
    """Gradients with that of the forget bias among the other biases.

    It is a sum over all units that may cancel: no tolerance relative to its size would be fair.
    """
    biases = np.append(grads.cell.bias, grads.forget_bias)
    return grads._replace(cell=Affine(grads.cell.kernel, biases), forget_bias=None)


def as_vector(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


# Nothing but ones; no projection; one too narrow to be joined; one that is joined.
CORNERS = [
    Case(1, 1, 1, 1, 1, pixels=True, every_row=False),
    Case(5, 60, 9, 0, 3, pixels=True, every_row=True),
    Case(7, 10, 60, 5, 33, pixels=False, every_row=True),
    Case(9, 17, 12, 16, 20, pixels=False, every_row=False),
]
# Sizes that are padded, and sizes that are whole blocks.
KERNELS = [
    Case(4, 17, 5, 0, 20, pixels=False, every_row=True),
    Case(3, 16, 7, 6, 128, pixels=True, every_row=False),
    Case(1, 1, 1, 0, 1, pixels=False, every_row=False),
]
NOTEBOOK = Case(28, 128, 28, 128, 128, pixels=True, every_row=False)
LARGEST = Case(64, 100, 28, 40, 256, pixels=False, every_row=True)


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("backend", "dtype", "case"),
    [
        # Both are compared in float64, and in the narrow types once or twice.
        *(("scan", "float64", case) for case in CORNERS),
        ("scan", "float32", CORNERS[3]),
        ("scan", "bfloat16", CORNERS[2]),
        *(("fast", "float64", case) for case in CORNERS),
        ("fast", "float32", CORNERS[3]),
        ("fast", "bfloat16", CORNERS[2]),
        ("fast", "float32", NOTEBOOK),
        *(slow("fast", "float32", case) for case in (*CORNERS[:3], LARGEST)),
        *(slow("fast", "bfloat16", case) for case in (*CORNERS[:2], CORNERS[3], NOTEBOOK)),
        ("split", "float64", CORNERS[3]),
        slow("split", "float32", NOTEBOOK),
        ("split", "bfloat16", CORNERS[2]),
        *(slow("split", dtype, case) for dtype in TOLERANCE for case in CORNERS),
        *(slow("split", dtype, LARGEST) for dtype in ("float32", "bfloat16")),
        # Here the kernels for GPUs are interpreted, and those for TPUs below.
        ("pallas", "float32", KERNELS[0]),
        ("pallas", "bfloat16", KERNELS[1]),
        *(slow("pallas", dtype, case) for dtype in ("float32", "bfloat16") for case in KERNELS),
    ],
    ids=str,
)
def test_values_and_gradients_at_the_corners(backend, dtype, case):
    check_against_oracle(backend, dtype, case)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("case", KERNELS, ids=str)
def test_the_kernels_for_tpus(monkeypatch, dtype, case):
    kernels = pallas.tpu_kernels(interpret=True)
    monkeypatch.setitem(BY_NAME, "tpu", functools.partial(split.read, kernels))
    check_against_oracle("tpu", dtype, case)


@pytest.mark.slow
def test_members_of_the_kernels_are_an_axis_of_their_grid():
    seeds = [draw(SMALL._replace(seed=seed))[0] for seed in range(3)]
    together = jax.tree.map(lambda *leaves: np.stack(leaves), *seeds)
    value_and_grad = jax.value_and_grad(functools.partial(loss, backend="pallas"))
    program = jax.make_jaxpr(jax.vmap(value_and_grad))(together)
    # One each way, for all members at once.
    assert str(program).count("grid=(3, 1)") >= 2
    alone = jax.tree.map(lambda *leaves: np.stack(leaves), *map(jax.jit(value_and_grad), seeds))
    assert_close(jax.jit(jax.vmap(value_and_grad))(together), alone, 1e-5)


CASES = st.builds(
    Case,
    rows=st.integers(1, 64),
    batch=st.integers(1, 300),
    inputs=st.integers(1, 64),
    projected=st.sampled_from([0, 1, 16, 100]),
    hidden=st.integers(1, 256),
    pixels=st.booleans(),
    every_row=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)


@pytest.mark.soak
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("backend", BACKENDS)
@hypothesis.settings(max_examples=200, deadline=None)
@hypothesis.given(case=CASES)
def test_values_and_gradients_many(backend, dtype, case):
    check_against_oracle(backend, dtype, case)


SMALL = Case(6, 4, 5, 7, 3, pixels=False, every_row=True)


def test_gradients_of_the_oracle_are_finite_differences():
    inputs, d_hs, (dc, dh) = jax.tree.map(np.float64, draw(SMALL))
    _, grads = oracle(inputs, 0.9, d_hs, (dc, dh))
    random, epsilon = np.random.default_rng(0), 1e-6
    directions = jax.tree.map(lambda leaf: random.standard_normal(leaf.shape), inputs)
    leaves, form = jax.tree.flatten(inputs)
    for place, (direction, grad) in enumerate(
        zip(jax.tree.leaves(directions), jax.tree.leaves(grads), strict=True)
    ):

        def loss(step, place=place, direction=direction):
            moved = [leaf + step * direction if i == place else leaf
                     for i, leaf in enumerate(leaves)]  # fmt: skip
            (hs, (c, h)), _ = oracle(jax.tree.unflatten(form, moved), 0.9, d_hs, (dc, dh))
            return (hs * d_hs).sum() + (c * dc).sum() + (h * dh).sum()

        slope = (loss(epsilon) - loss(-epsilon)) / (2 * epsilon)
        np.testing.assert_allclose((grad * direction).sum(), slope, rtol=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_agrees_with_flax(backend):
    inputs, *_ = draw(SMALL._replace(projected=0))
    cell = inputs.cell
    kernels = np.split(cell.kernel, 4, axis=1)
    biases = np.split(cell.bias, 4)
    biases[2] = biases[2] + inputs.forget_bias
    params = {}
    for gate, kernel, bias in zip("igfo", kernels, biases, strict=True):
        params["i" + gate] = {"kernel": kernel[: SMALL.inputs]}
        params["h" + gate] = {"kernel": kernel[SMALL.inputs :], "bias": bias}
    flax_lstm = nn.RNN(nn.OptimizedLSTMCell(SMALL.hidden), time_major=True, return_carry=True)
    apply = jax.jit(flax_lstm.apply)
    carry, hs = apply({"params": {"cell": params}}, inputs.xs, initial_carry=inputs.carry)
    assert_close(run_jitted(inputs, backend, every_row=True), (hs, carry), 1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_sequence_cut_in_two_is_the_same_sequence(backend):
    inputs, *_ = draw(SMALL)
    hs, carry = run_jitted(inputs, backend, every_row=True)
    # Of equal length, so that one program reads both.
    half = inputs._replace(xs=inputs.xs[: SMALL.rows // 2])
    first, middle = run_jitted(half, backend, every_row=True)
    half = inputs._replace(xs=inputs.xs[SMALL.rows // 2 :], carry=middle)
    second, last = run_jitted(half, backend, every_row=True)
    assert_close((np.concatenate([first, second]), last), (hs, carry), 1e-6)


@pytest.mark.slow
def test_layers_on_top_of_each_other():
    inputs, d_hs, d_carry = draw(SMALL)
    upper, *_ = draw(Case(6, 4, 3, 0, 3, pixels=False, every_row=True, seed=1))

    def stacked(inputs, upper, backend):
        hs, _ = run(inputs, backend, every_row=True)
        h, carry = run(upper._replace(xs=hs), backend)
        return (h * d_hs[-1]).sum() + (carry[0] * d_carry[0]).sum()

    grad = jax.jit(jax.grad(stacked, (0, 1)), static_argnames="backend")
    grads = {backend: grad(inputs, upper, backend=backend) for backend in BACKENDS}
    assert_close(grads["fast"][0], grads["scan"][0], 1e-5)
    assert_close(grads["fast"][1].cell, grads["scan"][1].cell, 1e-5)


def loss(inputs, backend="fast"):
    h, (c, _) = run(inputs, backend)
    return (h**2).sum() + c.sum()


@pytest.mark.parametrize("mapped", [jax.vmap, lambda f: lambda xs: jax.lax.map(f, xs)],
                         ids=["vmap", "map"])  # fmt: skip
def test_many_seeds_at_once(mapped):
    seeds = [draw(SMALL._replace(seed=seed))[0] for seed in range(3)]
    together = jax.tree.map(lambda *leaves: np.stack(leaves), *seeds)
    value_and_grad = jax.jit(jax.value_and_grad(loss))
    alone = jax.tree.map(lambda *leaves: np.stack(leaves), *map(value_and_grad, seeds))
    assert_close(jax.jit(mapped(value_and_grad))(together), alone, 1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_batch_divided_over_devices(backend):
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    inputs, *_ = draw(SMALL)
    spec = Inputs(P(), P(None, "data"), None, P(), P())

    def loss(inputs):
        # The carry is made inside, where it is the same on every device.
        state = zero_carry(inputs.xs.shape[1], SMALL.hidden)
        return (run(inputs._replace(carry=state), backend)[0] ** 2).sum()

    @functools.partial(jax.shard_map, mesh=mesh, in_specs=(spec,), out_specs=P(), check_vma=False)
    def divided(inputs):
        return jax.lax.psum(loss(inputs), "data")

    inputs = inputs._replace(carry=None)
    alone = jax.jit(jax.value_and_grad(loss))(inputs)
    assert_close(jax.jit(jax.value_and_grad(divided))(inputs), alone, 1e-5)


def test_joined_or_apart_is_the_same(monkeypatch):
    inputs, *_ = draw(SMALL)
    results = []
    for joined in (True, False):
        monkeypatch.setattr(fast, "_joining_pays", lambda *_, joined=joined: joined)
        results.append(jax.jit(jax.value_and_grad(lambda inputs: loss(inputs)))(inputs))
    assert_close(*results, 1e-5)


@pytest.mark.parametrize(
    ("inputs", "projected", "joined"),
    [(28, 128, True), (784, 128, False), (28, 0, False)],
)
def test_joins_where_it_saves_multiplications(inputs, projected, joined):
    """The joint kernel shows in the compiled program as a product of the projection's inputs."""
    case = Case(4, 64, inputs, projected, 128, pixels=True, every_row=False)
    arrays, *_ = draw(case)
    text = str(jax.make_jaxpr(functools.partial(run, backend="fast"))(arrays))
    assert (f"f32[{inputs},512] = dot_general" in text) == joined


def test_evaluation_saves_nothing_for_the_backward_pass():
    case = NOTEBOOK
    inputs, *_ = draw(case)
    memory = jax.jit(run).lower(inputs).compile().memory_analysis()
    gates = 4 * case.rows * case.batch * 4 * case.hidden
    assert memory.temp_size_in_bytes < gates / 2


def test_pixels_cost_no_gradient():
    inputs, *_ = draw(NOTEBOOK)

    def products(xs):
        def weights_loss(weights, xs):
            return loss(weights._replace(xs=xs))

        argnums = 0 if xs.dtype == np.uint8 else (0, 1)
        grad = jax.jit(jax.grad(weights_loss, argnums))
        return grad.lower(inputs._replace(xs=None), xs).compile().as_text().count(" dot(")

    assert products(inputs.xs) == products(inputs.xs.astype(np.float32)) - 1


@pytest.mark.parametrize("backend", BACKENDS)
def test_bfloat16_products_have_bfloat16_operands(backend):
    inputs, *_ = draw(SMALL)
    jaxpr = jax.make_jaxpr(functools.partial(run, backend=backend, dtype=jnp.bfloat16))(inputs)
    h, carry = run_jitted(inputs, backend, dtype=jnp.bfloat16)
    assert "preferred_element_type=float32" in str(jaxpr)
    assert {leaf.dtype for leaf in (h, *carry)} == {np.dtype(np.float32)}
    assert not np.array_equal(h, run_jitted(inputs, backend)[0])


def test_cudnn_weights_mean_the_same():
    inputs, d_hs, d_carry = draw(SMALL._replace(projected=0))
    (hs, (c, h)), _ = oracle(inputs, 1.0, d_hs, d_carry)
    weights = cudnn.to_cudnn(inputs.cell, inputs.forget_bias)
    assert weights.shape == (rnn.get_num_params_in_lstm(SMALL.inputs, SMALL.hidden, 1, False),)
    w_ih, w_hh, b_ih, b_hh = rnn.unpack_lstm_weights(weights, SMALL.inputs, SMALL.hidden, 1, False)
    lengths = jnp.full(SMALL.batch, SMALL.rows, jnp.int32)
    c_0, h_0 = inputs.carry
    actual = rnn.lstm_ref(
        inputs.xs.transpose(1, 0, 2), h_0[None], c_0[None], w_ih, w_hh, b_ih, b_hh, lengths,
        SMALL.inputs, SMALL.hidden, 1, 0.0, False,
    )  # fmt: skip
    assert_close(actual, (hs.transpose(1, 0, 2), h[None], c[None]), 1e-5)


def test_cudnn_backend_maps_its_arguments(monkeypatch):
    """The whole backend, with cuDNN replaced by the reference that jax gives for it."""

    def on_cpu(x, h_0, c_0, weights, lengths, inputs, hidden, *rest):
        unpacked = rnn.unpack_lstm_weights(weights, inputs, hidden, 1, False)
        return rnn.lstm_ref(x, h_0, c_0, *unpacked, lengths, inputs, hidden, *rest[:-1])

    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(cudnn.rnn, "lstm", on_cpu)
    for case in (SMALL, SMALL._replace(every_row=False, pixels=True, projected=0)):
        check_against_oracle("cudnn", "float32", case)


def test_cudnn_needs_a_cuda_device():
    cell = Affine(jnp.zeros((5, 8)), jnp.zeros(8))
    with pytest.raises(ConfigError, match=r"cudnn.*needs a CUDA device.*runs on cpu"):
        lstm(cell, jnp.zeros((2, 1, 3)), zero_carry(1, 2), backend="cudnn")
