"""Flax NNX: `nnx.RNN` over `nnx.OptimizedLSTMCell`, split into graph and state for the loop."""

import flax
import jax
import jax.numpy as jnp
from flax import nnx

from rowrnn.bench.peers.loop import OptaxLoop
from rowrnn.bench.peers.task import Task, cell_ifgo


class _Network(nnx.Module):
    def __init__(self, features: int, projection: int, hidden: int, classes: int):
        rngs = nnx.Rngs(0)
        self.projection = nnx.Linear(features, projection, rngs=rngs)
        self.cell = nnx.OptimizedLSTMCell(projection, hidden, rngs=rngs)
        self.rnn = nnx.RNN(self.cell, return_carry=True, rngs=rngs)
        self.readout = nnx.Linear(hidden, classes, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        (_, h), _ = self.rnn(self.projection(images))
        return self.readout(h)


def start(task: str, batch: int) -> OptaxLoop:
    """The peer, with the weights of the task."""
    given = Task.load(task, batch)
    weights = given.weights
    features, projection = weights["projection_kernel"].shape
    hidden, classes = weights["readout_kernel"].shape
    network = _Network(features, projection, hidden, classes)
    cell = cell_ifgo(weights)
    for place, value in (
        (network.projection.kernel, weights["projection_kernel"]),
        (network.projection.bias, weights["projection_bias"]),
        (network.cell.dense_i.kernel, cell.input_kernel),
        (network.cell.dense_h.kernel, cell.recurrent_kernel),
        (network.cell.dense_h.bias, cell.bias),
        (network.readout.kernel, weights["readout_kernel"]),
        (network.readout.bias, weights["readout_bias"]),
    ):
        assert place is not None
        place[...] = jnp.asarray(value)
    graph, params, rest = nnx.split(network, nnx.Param, ...)

    def apply(params, images):
        return nnx.merge(graph, params, rest, copy=True)(images)

    return OptaxLoop(given, params, apply, {"flax": flax.__version__})
