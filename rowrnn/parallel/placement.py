"""What lies where: arrays of the host on the devices of a mesh, and back.

Each process gives to its own devices what belongs there; nothing is sent to another.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from rowrnn.core.state import TrainState
from rowrnn.parallel import processes


def replicate(mesh: Mesh, tree: Any) -> Any:
    """Arrays of the host, whole on every device."""
    return _put(tree, NamedSharding(mesh, P()))


def shard_members(mesh: Mesh, tree: Any) -> Any:
    """Arrays [S, ...] of the host, sharded over the axis "seed"."""
    return _put(tree, NamedSharding(mesh, P("seed")))


def _put(tree: Any, sharding: NamedSharding) -> Any:
    if processes.process_count() == 1:
        return jax.device_put(tree, sharding)

    def put(array):
        array = np.asarray(array)
        return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])

    return jax.tree.map(put, tree)


def shard_state(mesh: Mesh, state: TrainState) -> TrainState:
    """A restored state [S, ...], sharded over the axis "seed".

    By a jitted function, since typed keys cannot be copied between processes.
    """
    return jax.jit(_copy, out_shardings=NamedSharding(mesh, P("seed")))(state)


def fetch(mesh: Mesh, tree: Any) -> Any:
    """Copies of arrays on this host, whole, whichever process has them; keys stay keys.

    All processes must ask for the same.
    """
    if processes.process_count() > 1:
        raw = jax.jit(_raw, out_shardings=NamedSharding(mesh, P()))(tree)
    else:
        raw = _raw(tree)

    def host(leaf, array):
        array = np.array(array)
        return jax.random.wrap_key_data(jnp.asarray(array)) if _is_key(leaf) else array

    return jax.tree.map(host, tree, raw)


def _raw(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: jax.random.key_data(leaf) if _is_key(leaf) else leaf, tree)


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _copy(tree: Any) -> Any:
    return jax.tree.map(jnp.copy, tree)
