"""Devices: starting jax, the mesh and what lies where. The only room that knows of devices."""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from rowrnn.config import ParallelConfig
from rowrnn.errors import ConfigError
from rowrnn.state import TrainState
from rowrnn.step import Batch, GradFn

# Told to the compiler on CPUs, by type of the operands, unless XLA_FLAGS says something about it:
# without YNNPACK the small float32 products of a step are 15 to 20 % faster, and bfloat16 ones
# much slower (experiments/speed_notes.md).
_CPU_OPTIONS = {"float32": {"xla_cpu_experimental_ynn_fusion_type": ""}, "bfloat16": {}}


def start(config: ParallelConfig) -> None:
    """Prepares jax for a run; what is asked for must come before its first computation."""
    if config.devices > 1:
        # Raises where the backend runs already; `make_mesh` checks that it has enough devices.
        with contextlib.suppress(RuntimeError):
            jax.config.update("jax_num_cpu_devices", config.devices)
    if not config.compilation_cache:
        jax.config.update("jax_enable_compilation_cache", False)
        return
    # Everything: a start compiles dozens of programs that each take a moment.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        directory = _private_cache_directory()
        if directory is not None:
            jax.config.update("jax_compilation_cache_dir", str(directory))


def _private_cache_directory() -> Path | None:
    """A directory for compiled programs that nobody else can write to, or None.

    What lies in it is run as code.
    """
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    directory = Path(home) / "rowrnn" / "compilation"
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory.chmod(0o700)
        private = directory.stat().st_uid == os.getuid() and not directory.is_symlink()
    except OSError:
        return None
    return directory if private else None


def make_mesh(config: ParallelConfig) -> Mesh:
    """A mesh with axes "seed" and "data", all its devices on "data".

    Raises `ConfigError` where fewer devices are there than asked for.
    """
    devices = jax.devices()
    count = config.devices or (1 if devices[0].platform == "cpu" else len(devices))
    if count > len(devices):
        raise ConfigError(
            f"parallel.devices = {count}: this process has {len(devices)} "
            f"{devices[0].platform} device(s); ask for at most that many"
        )
    grid = np.array(devices[:count]).reshape(1, count)
    return Mesh(grid, ("seed", "data"), axis_types=(AxisType.Auto, AxisType.Auto))


def check_divides(mesh: Mesh, batch_size: int) -> None:
    """Raises `ConfigError` where the batch cannot be divided evenly over the devices."""
    count = mesh.shape["data"]
    if batch_size % count:
        raise ConfigError(
            f"train.batch_size = {batch_size}: must be a multiple of {count}, "
            "the number of devices that share each batch"
        )


def replicated(mesh: Mesh) -> NamedSharding:
    """A copy on every device."""
    return NamedSharding(mesh, P())


def divide_examples(mesh: Mesh, examples: Any) -> Any:
    """Inside a jitted function: spreads arrays [B, ...] over the axis "data" where it divides B."""
    count = mesh.shape["data"]
    if any(array.shape[0] % count for array in jax.tree.leaves(examples)):
        return examples
    return jax.lax.with_sharding_constraint(examples, NamedSharding(mesh, P("data")))


def divide_grads(mesh: Mesh, grad_fn: GradFn) -> GradFn:
    """Runs a gradient function on each device's share of the batch and sums what it gives.

    Said in so many words with `shard_map`: left to itself, the partitioner gathers the gates of
    all rows on every device, which then all compute the whole gradient of the kernel.
    """
    if mesh.shape["data"] == 1:
        return grad_fn

    def share(params, batch, keys):
        # Gradients are summed once, at the end, and not for each use of a parameter.
        params = jax.lax.pcast(params, "data", to="varying")
        return jax.lax.psum(grad_fn(params, batch, keys), "data")

    return jax.shard_map(share, mesh=mesh, in_specs=(P(), P("data"), P("data")), out_specs=P())


def put_split(mesh: Mesh, images: np.ndarray, labels: np.ndarray) -> Batch:
    """A whole split on every device."""
    return put_replicated(mesh, Batch(images, labels))  # type: ignore[arg-type]


def put_replicated(mesh: Mesh, tree: Any) -> Any:
    """Arrays of the host on every device."""
    return jax.device_put(tree, replicated(mesh))


def create_state(
    mesh: Mesh, create: Callable[..., TrainState], seeds: tuple[np.uint32, ...]
) -> TrainState:
    """A new state on every device, made there: typed keys cannot be copied between processes."""
    return jax.jit(create, out_shardings=replicated(mesh))(*seeds)


def put_state(mesh: Mesh, state: TrainState) -> TrainState:
    """A restored state on every device, by a jitted function for the same reason."""
    return jax.jit(_copy, out_shardings=replicated(mesh))(state)


def compile_replicated(
    mesh: Mesh, function: Callable, *arguments: Any, dtype: str, donate: tuple[int, ...] = ()
) -> Callable:
    """Compiles a function whose arguments and results lie whole on every device of the mesh.

    Args:
        mesh: the devices.
        function: what to compile.
        arguments: what it will be called with, or others of the same shapes and types.
        dtype: type of the operands of matrix products, as `model.dtype` says it.
        donate: positions of the arguments whose memory the results may take over.
    """
    everywhere = replicated(mesh)
    jitted = jax.jit(
        function, in_shardings=everywhere, out_shardings=everywhere, donate_argnums=donate
    )
    lowered = jitted.lower(*arguments)
    try:
        return lowered.compile(compiler_options=_compiler_options(mesh, dtype))
    except jax.errors.JaxRuntimeError as error:
        # The options are of one XLA; another may know them no more.
        if "No such compile option" not in str(error):
            raise
        return lowered.compile()


def _compiler_options(mesh: Mesh, dtype: str) -> dict[str, Any]:
    if mesh.devices.flat[0].platform != "cpu":
        return {}
    flags = os.environ.get("XLA_FLAGS", "")
    return {name: value for name, value in _CPU_OPTIONS[dtype].items() if name not in flags}


def describe(mesh: Mesh) -> dict[str, object]:
    """What ran: platform, kind and number of devices, and the cores of the machine."""
    device = mesh.devices.flat[0]
    return {
        "platform": device.platform,
        "kind": device.device_kind,
        "devices": int(mesh.devices.size),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
    }


def _copy(tree: Any) -> Any:
    return jax.tree.map(jnp.copy, tree)
