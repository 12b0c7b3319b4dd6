"""Devices: starting jax, the mesh and what lies where. The only room that knows of devices."""

import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from rowrnn import program_cache
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
        _ask_for_cpu_devices(config.devices)
    program_cache.start(keep=config.compilation_cache)


def start_sweep(config: ParallelConfig, *, vmap: bool) -> None:
    """Prepares jax for a sweep: on a CPU each core becomes a device.

    `vmap` makes batched matrix products. On a CPU these can wait for each other for ever where the
    thread pool is not larger than the number of devices (seen in a third of the runs with two
    cores, at 0 % CPU), so that it gets a larger one.
    """
    count = config.devices or len(_cores())
    if _ask_for_cpu_devices(count) and vmap and not _pool_exceeds(count):
        os.environ["NPROC"] = str(2 * max(2, count))
    program_cache.start(keep=config.compilation_cache)


def _ask_for_cpu_devices(count: int) -> bool:
    """Makes the CPU backend start with so many devices; False where it runs already."""
    try:
        # A value that stays as it is is accepted, even where the backend runs.
        jax.config.update("jax_num_cpu_devices", count + 1)
        jax.config.update("jax_num_cpu_devices", count)
    except RuntimeError:
        return False
    return True


def _pool_exceeds(devices: int) -> bool:
    """Whether the thread pool of the CPU backend is known to be larger than a number of devices."""
    threads = os.environ.get("NPROC", "")
    return threads.isdecimal() and int(threads) > devices


def _cores() -> list[int]:
    """The cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def make_mesh(config: ParallelConfig) -> Mesh:
    """A mesh with axes "seed" and "data", all its devices on "data".

    Raises `ConfigError` where fewer devices are there than asked for.
    """
    devices = jax.devices()
    count = config.devices or (1 if devices[0].platform == "cpu" else len(devices))
    return _mesh(devices, (1, count))


def on_accelerator() -> bool:
    """Whether jax has found something better than CPUs."""
    return jax.default_backend() != "cpu"


def make_sweep_mesh(config: ParallelConfig, *, vmap: bool) -> Mesh:
    """A mesh with axes "seed" and "data", all its devices on "seed": those asked for, or all.

    Raises `ConfigError` where fewer devices are there than asked for, and for `vmap` on CPU devices
    that could wait for each other for ever, see `start_sweep`.
    """
    devices = jax.devices()
    if vmap and devices[0].platform == "cpu" and not _pool_exceeds(len(devices)):
        raise ConfigError(
            "strategy = 'vmap': jax runs already in this process, with a thread pool in which "
            "batched products on CPU devices can hang; set "
            f"NPROC={2 * max(2, len(devices))} in the environment before jax starts, or take "
            "strategy = 'map'"
        )
    return _mesh(devices, (config.devices or len(devices), 1))


def _mesh(devices: list[Any], shape: tuple[int, int]) -> Mesh:
    count = max(shape)
    if count > len(devices):
        raise ConfigError(
            f"parallel.devices = {count}: this process has {len(devices)} "
            f"{devices[0].platform} device(s); ask for at most that many"
        )
    grid = np.array(devices[:count]).reshape(shape)
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
) -> jax.stages.Compiled:
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
    return _compile(mesh, jitted, arguments, dtype)


def compile_for_seeds(
    mesh: Mesh,
    function: Callable,
    stacked: tuple[bool, ...],
    *arguments: Any,
    vmap: bool,
    dtype: str,
    donate: tuple[int, ...] = (),
) -> jax.stages.Compiled:
    """Compiles a function of one member for many of them, divided over the axis "seed".

    On each device its members run one after the other, in the very loop that a solo run executes
    (`lax.map`), or all at once (`vmap`).

    Args:
        mesh: the devices.
        function: of one member.
        stacked: which arguments have a leading axis of members, [S, ...], as all results have;
            the others are the same for all.
        arguments: what it will be called with, or others of the same shapes and types.
        vmap: whether the members of a device run at once.
        dtype: type of the operands of matrix products, as `model.dtype` says it.
        donate: positions of the arguments whose memory the results may take over.
    """
    specs = tuple(P("seed") if is_stacked else P() for is_stacked in stacked)

    def of_a_device(*arguments):
        def of_a_member(members):
            members = iter(members)
            return function(
                *(
                    next(members) if is_stacked else argument
                    for argument, is_stacked in zip(arguments, stacked, strict=True)
                )
            )

        members = tuple(a for a, is_stacked in zip(arguments, stacked, strict=True) if is_stacked)
        return jax.vmap(of_a_member)(members) if vmap else jax.lax.map(of_a_member, members)

    # For the log of compilations.
    of_a_device.__name__ = function.__name__
    jitted = jax.jit(
        jax.shard_map(of_a_device, mesh=mesh, in_specs=specs, out_specs=P("seed"), check_vma=False),
        in_shardings=tuple(NamedSharding(mesh, spec) for spec in specs),
        out_shardings=NamedSharding(mesh, P("seed")),
        donate_argnums=donate,
    )
    return _compile(mesh, jitted, arguments, dtype)


def _compile(mesh: Mesh, jitted: Any, arguments: Any, dtype: str) -> jax.stages.Compiled:
    lowered = jitted.lower(*arguments)
    try:
        return lowered.compile(compiler_options=_compiler_options(mesh, dtype))
    except jax.errors.JaxRuntimeError as error:
        # The options are of one XLA; another may know them no more.
        if "No such compile option" not in str(error):
            raise
        return lowered.compile()


def stack_on(mesh: Mesh, tree: Any) -> Any:
    """Arrays [S, ...] of the host, divided over the axis "seed"."""
    return jax.device_put(tree, NamedSharding(mesh, P("seed")))


def device_bytes(compiled: jax.stages.Compiled) -> int:
    """What a compiled program needs on each device: arguments, results, temporaries.

    Results that take the place of a donated argument count once.
    """
    analysis = compiled.memory_analysis()
    assert analysis is not None, "every backend of jax gives one"
    return (
        analysis.argument_size_in_bytes
        + analysis.output_size_in_bytes
        - analysis.alias_size_in_bytes
        + analysis.temp_size_in_bytes
    )


def free_bytes(mesh: Mesh) -> int:
    """What a device of the mesh has left; of a CPU, its share of what the machine has."""
    device = mesh.devices.flat[0]
    counts = device.memory_stats() or {}
    if "bytes_limit" in counts:
        return counts["bytes_limit"] - counts.get("bytes_in_use", 0)
    kind = "SC_AVPHYS_PAGES" if "SC_AVPHYS_PAGES" in os.sysconf_names else "SC_PHYS_PAGES"
    return os.sysconf(kind) * os.sysconf("SC_PAGE_SIZE") // mesh.devices.size


def is_out_of_memory(error: Exception) -> bool:
    """Whether jax has failed for want of memory on a device."""
    return isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in str(error)


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
        "cores": len(_cores()),
    }


def _copy(tree: Any) -> Any:
    return jax.tree.map(jnp.copy, tree)
