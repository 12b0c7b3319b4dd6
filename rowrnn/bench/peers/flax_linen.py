"""Flax Linen: `nn.RNN` over `nn.OptimizedLSTMCell`."""

from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from rowrnn.bench.peers.loop import OptaxLoop
from rowrnn.bench.peers.task import make_task


class _Network(nn.Module):
    projection: int
    hidden: int
    classes: int

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        rows = nn.Dense(self.projection)(images)
        rnn = nn.RNN(nn.OptimizedLSTMCell(self.hidden), return_carry=True)
        (_, h), _ = rnn(rows)
        return nn.Dense(self.classes)(h)


def start(batch: int, hidden: int, projection: int) -> OptaxLoop:
    """The peer, with the weights of the task."""
    given = make_task(batch, hidden, projection)
    shape = given.shape
    network = _Network(shape.projection, shape.hidden, shape.classes)
    rows, rows_bias, *recurrence, readout, readout_bias = given.layers
    cell: dict[str, Any] = {}
    parts = (np.split(array, 4, axis=-1) for array in recurrence)
    for gate, input_kernel, kernel, bias in zip("ifgo", *parts, strict=True):
        cell[f"i{gate}"] = {"kernel": input_kernel}
        cell[f"h{gate}"] = {"kernel": kernel, "bias": bias}
    params = {
        "Dense_0": {"kernel": rows, "bias": rows_bias},
        "OptimizedLSTMCell_0": cell,
        "Dense_1": {"kernel": readout, "bias": readout_bias},
    }

    def apply(params: Any, images: jax.Array) -> Any:
        return network.apply({"params": params}, images)

    return OptaxLoop(given, jax.tree.map(jnp.array, params), apply, {"flax": flax.__version__})
