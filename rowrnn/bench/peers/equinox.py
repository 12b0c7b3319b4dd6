"""Equinox: `eqx.nn.LSTMCell` in a `lax.scan`, as its documentation has it, under `vmap`."""

# pyright: reportMissingImports=false, reportAttributeAccessIssue=false

import importlib.metadata

import equinox as eqx
import jax
import jax.numpy as jnp

from rowrnn.bench.peers.loop import OptaxLoop
from rowrnn.bench.peers.task import make_task


class _Network(eqx.Module):
    projection: eqx.nn.Linear
    cell: eqx.nn.LSTMCell
    readout: eqx.nn.Linear

    def __call__(self, image: jax.Array) -> jax.Array:
        state = (jnp.zeros(self.cell.hidden_size), jnp.zeros(self.cell.hidden_size))

        def read_row(state, row):
            return self.cell(row, state), None

        (h, _), _ = jax.lax.scan(read_row, state, jax.vmap(self.projection)(image))
        return self.readout(h)


def start(batch: int, hidden: int, projection: int) -> OptaxLoop:
    """The peer, with the weights of the task."""
    given = make_task(batch, hidden, projection)
    shape, key = given.shape, jax.random.key(0)
    network = _Network(
        eqx.nn.Linear(shape.features, shape.projection, key=key),
        eqx.nn.LSTMCell(shape.projection, shape.hidden, key=key),
        eqx.nn.Linear(shape.hidden, shape.classes, key=key),
    )

    def places(network):
        return (
            network.projection.weight,
            network.projection.bias,
            network.cell.weight_ih,
            network.cell.weight_hh,
            network.cell.bias,
            network.readout.weight,
            network.readout.bias,
        )

    network = eqx.tree_at(places, network, tuple(jnp.asarray(value.T) for value in given.layers))
    params, static = eqx.partition(network, eqx.is_array)

    def apply(params, images):
        return jax.vmap(eqx.combine(params, static))(images)

    return OptaxLoop(given, params, apply, {"equinox": importlib.metadata.version("equinox")})
