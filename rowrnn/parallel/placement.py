"""What lies where: arrays of the host on the devices of a mesh, and back.

Each process gives to its own devices what belongs there; nothing is sent to another.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from rowrnn.core.state import TrainState
from rowrnn.core.step import Batch
from rowrnn.parallel import processes


def replicated(mesh: Mesh) -> NamedSharding:
    """A copy on every device."""
    return NamedSharding(mesh, P())


def over_seeds(mesh: Mesh) -> NamedSharding:
    """Arrays [S, ...] divided over the axis "seed", with a copy on every device of the other."""
    return NamedSharding(mesh, P("seed"))


def put_split(mesh: Mesh, images: np.ndarray, labels: np.ndarray) -> Batch:
    """A whole split on every device."""
    return put_replicated(mesh, Batch(images, labels))  # type: ignore[arg-type]


def put_replicated(mesh: Mesh, tree: Any) -> Any:
    """Arrays of the host on every device."""
    return _put(tree, replicated(mesh))


def stack_on(mesh: Mesh, tree: Any) -> Any:
    """Arrays [S, ...] of the host, divided over the axis "seed"."""
    return _put(tree, over_seeds(mesh))


def _put(tree: Any, sharding: NamedSharding) -> Any:
    if processes.count() == 1:
        return jax.device_put(tree, sharding)

    def put(array):
        array = np.asarray(array)
        return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])

    return jax.tree.map(put, tree)


def create_state(
    mesh: Mesh, create: Callable[..., TrainState], seeds: tuple[np.uint32, ...]
) -> TrainState:
    """A new state on every device, made there: typed keys cannot be copied between processes."""
    return jax.jit(create, out_shardings=replicated(mesh))(*seeds)


def put_state(mesh: Mesh, state: TrainState) -> TrainState:
    """A restored state on every device, by a jitted function for the same reason."""
    return jax.jit(_copy, out_shardings=replicated(mesh))(state)


def put_stack(mesh: Mesh, state: TrainState) -> TrainState:
    """A restored stack of states, divided over the axis "seed"."""
    return jax.jit(_copy, out_shardings=over_seeds(mesh))(state)


def fetch(mesh: Mesh, tree: Any) -> Any:
    """Arrays of the devices on this host, whole, whichever process has them; keys stay keys.

    All processes must ask for the same.
    """
    if processes.count() > 1:
        tree = jax.jit(_copy, out_shardings=replicated(mesh))(tree)
    return jax.tree.map(_to_host, tree)


def _to_host(leaf: Any) -> Any:
    is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return leaf if is_key else np.asarray(leaf)


def _copy(tree: Any) -> Any:
    return jax.tree.map(jnp.copy, tree)
