"""The network, in Flax Linen over the pure functions of `rowrnn.core.lstm`: pixels to logits."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.nn import initializers
from jax.nn.initializers import Initializer

from rowrnn.config import ModelConfig
from rowrnn.core.lstm import Activations, Affine, Carry, activations, lstm, zero_carry

Params = dict[str, Affine]
"""``projection`` (where there is one), ``lstm_0``, ``lstm_1``, …, ``readout``."""

PIXEL_SCALE = 1 / 255
"""Turns uint8 pixels into the range 0 to 1."""


class RowRNN(nn.Module):
    """Reads each image row by row through stacked LSTMs and classifies the last hidden state, or
    with ``pooling="mean"`` the mean of the hidden states.

    >>> model = RowRNN(ModelConfig(), classes=10)
    >>> images = jnp.zeros((2, 28, 28), jnp.uint8)
    >>> variables = model.init(jax.random.key(0), images)
    >>> logits, carries = model.apply(variables, images)
    >>> logits.shape, len(carries), carries[0][0].shape
    ((2, 10), 1, (2, 128))

    Attributes:
        config: sizes, initialisers, dtype and backend.
        classes: number of classes, C.
    """

    config: ModelConfig
    classes: int

    @nn.compact
    def __call__(
        self,
        images: jax.Array,
        carries: Sequence[Carry] | None = None,
        *,
        every_row: bool = False,
        dropout_keys: jax.Array | None = None,
    ) -> tuple[jax.Array, list[Carry]]:
        """Runs the network.

        Args:
            images: [B, T, F], uint8.
            carries: one (c, h) for each layer, each [B, H]; zeros where not given. This is
                `istate` of the 2015 TensorFlow notebook.
            every_row: whether to give the logits after every row, as if it were the last.
            dropout_keys: a key for each image, [B], to drop activations with; without them none
                is dropped.

        Returns:
            Logits, [B, C] or with `every_row` [T, B, C], and the carries after the last row.
        """
        config = self.config
        rows, inputs, scale = images.transpose(1, 0, 2), images.shape[-1], PIXEL_SCALE
        projection = None
        if config.projection_size:
            projection = self._affine("projection", inputs, config.projection_size)
            inputs = config.projection_size
        if carries is None:
            carries = [zero_carry(images.shape[0], config.hidden_size)] * config.layers
        last_carries = []
        pools = config.pooling == "mean"
        for layer, carry in zip(range(config.layers), carries, strict=True):
            is_last = layer == config.layers - 1
            rows, carry = lstm(
                self._cell(f"lstm_{layer}", inputs),
                rows,
                carry,
                projection=projection,
                input_scale=scale,
                forget_bias=config.forget_bias,
                dtype=jnp.dtype(config.dtype),
                every_row=every_row or pools or not is_last,
                backend=config.backend,
            )
            last_carries.append(carry)
            if is_last and pools:
                rows = running_mean(rows) if every_row else rows.mean(axis=0)
            if dropout_keys is not None:
                rows = _drop(rows, dropout_keys, layer, config.dropout)
            projection, inputs, scale = None, config.hidden_size, 1.0
        readout = self._affine("readout", config.hidden_size, self.classes)
        # The readout is small and decides the loss: it is in float32, whatever the others are.
        logits = jnp.dot(rows, readout.kernel, precision=jax.lax.Precision.HIGHEST)
        return logits + jnp.broadcast_to(readout.bias, logits.shape), last_carries

    def _affine(self, name: str, inputs: int, outputs: int) -> Affine:
        """The parameters of a linear layer: projection or readout."""

        def init(key):
            if self.config.init == "notebook":
                kernel_key, bias_key = jax.random.split(key)
                normal = initializers.normal(1.0)
                return Affine(normal(kernel_key, (inputs, outputs)), normal(bias_key, (outputs,)))
            kernel = initializers.glorot_uniform()(key, (inputs, outputs))
            return Affine(kernel, jnp.zeros(outputs))

        return self.param(name, init)

    def _cell(self, name: str, inputs: int) -> Affine:
        """The parameters of one LSTM layer."""
        hidden = self.config.hidden_size
        init = _CELL_INIT[self.config.init]

        def init_cell(key):
            return Affine(init(key, inputs, hidden), jnp.zeros(4 * hidden))

        return self.param(name, init_cell)


class Watched(NamedTuple):
    """What the network holds after each row.

    Attributes:
        probabilities: of the classes if this row were the last, [T, B, C].
        layers: hidden states, cells and gates of each LSTM layer, each array [T, B, H].
    """

    probabilities: jax.Array
    layers: tuple[Activations, ...]


def watch(config: ModelConfig, params: Params, images: jax.Array) -> Watched:
    """What the network holds after each row of a few images [B, T, F], uint8.

    It is computed by the definition of the recurrence, and agrees with `RowRNN` on any backend but
    for rounding.

    >>> config, images = ModelConfig(hidden_size=16), jnp.zeros((2, 28, 28), jnp.uint8)
    >>> params = RowRNN(config, classes=10).init(jax.random.key(0), images)["params"]
    >>> watched = watch(config, params, images)
    >>> watched.probabilities.shape, watched.layers[-1].f.shape
    ((28, 2, 10), (28, 2, 16))
    """
    rows, scale, projection = images.transpose(1, 0, 2), PIXEL_SCALE, params.get("projection")
    layers = []
    for layer in range(config.layers):
        after = activations(
            params[f"lstm_{layer}"],
            rows,
            zero_carry(images.shape[0], config.hidden_size),
            projection=projection,
            input_scale=scale,
            forget_bias=config.forget_bias,
            dtype=jnp.dtype(config.dtype),
        )
        layers.append(after)
        rows, scale, projection = after.h, 1.0, None
    if config.pooling == "mean":
        rows = running_mean(rows)
    readout = params["readout"]
    logits = jnp.dot(rows, readout.kernel, precision=jax.lax.Precision.HIGHEST)
    logits = logits + jnp.broadcast_to(readout.bias, logits.shape)
    return Watched(jax.nn.softmax(logits), tuple(layers))


def running_mean(rows: jax.Array) -> jax.Array:
    """The mean over the rows up to each, [T, B, H] -> [T, B, H].

    >>> running_mean(jnp.array([[[1.0]], [[3.0]], [[5.0]]]))[:, 0, 0].tolist()
    [1.0, 2.0, 3.0]
    """
    counts = jnp.arange(1, rows.shape[0] + 1, dtype=rows.dtype)
    return jnp.cumsum(rows, axis=0) / counts[:, None, None]


def _drop(rows: jax.Array, keys: jax.Array, layer: int, rate: float | jax.Array) -> jax.Array:
    """Inverted dropout of hidden states [T, B, H] or [B, H] by one key for each image, [B].

    A key for each image, and not one for the batch, so that the draws are the same however the
    batch is divided over devices.
    """

    # Not `row / (1 - rate)`: XLA compiles a division by an argument differently for several devices
    # than for one, and the last bit differs.
    scale = 1 / (1 - rate)

    def drop(key, row):
        kept = jax.random.bernoulli(jax.random.fold_in(key, layer), 1 - rate, row.shape)
        return jnp.where(kept, row * scale, 0)

    batch_axis = rows.ndim - 2
    return jax.vmap(drop, (0, batch_axis), batch_axis)(keys, rows)


def _uniform_unit_scaling(key: jax.Array, inputs: int, hidden: int) -> jax.Array:
    """TensorFlow's default in 2015: uniform with variance 1/fan-in, so ±sqrt(3 / fan-in)."""
    limit = (3 / (inputs + hidden)) ** 0.5
    return jax.random.uniform(key, (inputs + hidden, 4 * hidden), minval=-limit, maxval=limit)


def _glorot_and(recurrent: Initializer) -> Callable[[jax.Array, int, int], jax.Array]:
    """Glorot-uniform input kernels, and recurrent ones from `recurrent`, gate by gate."""

    def init(key, inputs, hidden):
        input_key, recurrent_key = jax.random.split(key)
        given = _per_gate(initializers.glorot_uniform(), input_key, (inputs, hidden))
        return jnp.concatenate([given, _per_gate(recurrent, recurrent_key, (hidden, hidden))])

    return init


def _per_gate(init: Initializer, key: jax.Array, shape: tuple[int, int]) -> jax.Array:
    """Four independent draws side by side, [shape[0], 4 * shape[1]]."""
    # Networks under `vmap` are initialised one after another. The QR decompositions of jaxlib 0.10
    # would wait for threads that wait themselves, on two cores for ever.
    draw = jax.custom_batching.sequential_vmap(lambda key: init(key, shape))
    return jnp.concatenate([draw(k) for k in jax.random.split(key, 4)], axis=1)


_CELL_INIT = {
    "modern": _glorot_and(initializers.orthogonal()),
    "glorot": _glorot_and(initializers.glorot_uniform()),
    "notebook": _uniform_unit_scaling,
}
