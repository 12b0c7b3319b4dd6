"""Flax NNX: `nnx.RNN` over `nnx.OptimizedLSTMCell`, split into graph and state for the loop."""

import flax
import jax
import jax.numpy as jnp
from flax import nnx

from rowrnn.bench.flops import Shape
from rowrnn.bench.peers.loop import OptaxLoop
from rowrnn.bench.peers.task import make_task


class _Network(nnx.Module):
    def __init__(self, shape: Shape):
        rngs = nnx.Rngs(0)
        self.projection = nnx.Linear(shape.features, shape.projection, rngs=rngs)
        self.cell = nnx.OptimizedLSTMCell(shape.projection, shape.hidden, rngs=rngs)
        self.rnn = nnx.RNN(self.cell, return_carry=True, rngs=rngs)
        self.readout = nnx.Linear(shape.hidden, shape.classes, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        (_, h), _ = self.rnn(self.projection(images))
        return self.readout(h)


def start(batch: int, hidden: int, projection: int) -> OptaxLoop:
    """The peer, with the weights of the task."""
    given = make_task(batch, hidden, projection)
    network = _Network(given.shape)
    places = (
        network.projection.kernel,
        network.projection.bias,
        network.cell.dense_i.kernel,
        network.cell.dense_h.kernel,
        network.cell.dense_h.bias,
        network.readout.kernel,
        network.readout.bias,
    )
    for place, value in zip(places, given.layers, strict=True):
        assert place is not None
        place[...] = jnp.asarray(value)
    graph, params, rest = nnx.split(network, nnx.Param, ...)

    def apply(params, images):
        return nnx.merge(graph, params, rest, copy=True)(images)

    return OptaxLoop(given, params, apply, {"flax": flax.__version__})
