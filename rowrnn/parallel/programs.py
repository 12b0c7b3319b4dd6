"""Compiling for a mesh: programs of many members, each over shards of its batch."""

import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from rowrnn.core.step import GradFn
from rowrnn.parallel import program_cache

# The axis of members under `vmap`.
_MEMBERS = "member"

# Told to the compiler on CPUs, by type of the operands, unless XLA_FLAGS says something about it:
# without YNNPACK the small float32 products of a step are 15 to 20 % faster, and bfloat16 ones
# much slower (experiments/speed_notes.md).
_CPU_OPTIONS = {"float32": {"xla_cpu_experimental_ynn_fusion_type": ""}}


def shard_grads(mesh: Mesh, grad_fn: GradFn) -> GradFn:
    """Runs a gradient function on each device's shard of the batch and sums what it gives.

    Inside `shard_map` and by an explicit sum: left to itself, the partitioner gathers the gates of
    all rows on every device, which then all compute the whole gradient of the kernel.
    """
    if mesh.shape["data"] == 1:
        return grad_fn

    def sharded(params, batch, keys):
        grads, sums = grad_fn(params, *_shard(mesh, (batch, keys)))
        # The counts of a batch are exact in float32, and so all goes in one collective.
        floats = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), sums)
        grads, floats = jax.lax.psum((grads, floats), "data")
        return grads, jax.tree.map(lambda total, leaf: total.astype(leaf.dtype), floats, sums)

    return sharded


def shard_batches(mesh: Mesh, function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Runs a function of examples [B, ...] on each device's shard of them, where they divide.

    What it gives, [B, ...] as well, is whole on every device.
    """
    count = mesh.shape["data"]

    def sharded(examples):
        if any(array.shape[0] % count for array in jax.tree.leaves(examples)):
            return function(examples)
        return jax.lax.all_gather(function(_shard(mesh, examples)), "data", tiled=True)

    return function if count == 1 else sharded


def _shard(mesh: Mesh, tree: Any) -> Any:
    """Of arrays [B, ...] the part that this device works on."""
    count, index = mesh.shape["data"], jax.lax.axis_index("data")

    def cut(array):
        size = array.shape[0] // count
        return jax.lax.dynamic_slice_in_dim(array, index * size, size)

    return jax.tree.map(cut, tree)


def shared_step(step: jax.Array) -> jax.Array:
    """The step that all members under `vmap` have reached, as one number for all of them.

    A member that has diverged stays behind. By a number for each member, the compiler would fetch
    the batch of one member after the other.
    """
    return jax.lax.pmax(step, _MEMBERS)


def compile_members(
    mesh: Mesh,
    function: Callable,
    stacked: tuple[bool, ...],
    *arguments: Any,
    vmap: bool,
    dtype: str,
    donate: tuple[int, ...] = (),
    name: str = "",
) -> jax.stages.Compiled:
    """Compiles a function of one member for many of them, sharded over the axis "seed".

    On each device its members run one after the other (`lax.map`), each by the instructions that
    it would run alone, or all at once (`vmap`). Only shapes are looked at: the devices of the mesh
    need not be there.

    Args:
        mesh: the devices.
        function: of one member.
        stacked: which arguments have a leading axis of members, [S, ...], as all results have;
            the others are the same for all, and lie whole on every device.
        arguments: their shapes and types.
        vmap: whether the members of a device run at once.
        dtype: type of the operands of matrix products, as `model.dtype` says it.
        donate: positions of the arguments whose memory the results may take over.
        name: of the program in jax's log; that of the function where not given.
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
        if vmap:
            return jax.vmap(of_a_member, axis_name=_MEMBERS)(members)
        return jax.lax.map(of_a_member, members)

    mapped = jax.shard_map(
        of_a_device, mesh=mesh, in_specs=specs, out_specs=P("seed"), check_vma=False
    )
    mapped.__name__ = name or function.__name__
    lowered = jax.jit(
        mapped,
        in_shardings=tuple(NamedSharding(mesh, spec) for spec in specs),
        out_shardings=NamedSharding(mesh, P("seed")),
        donate_argnums=donate,
    ).lower(*arguments)
    try:
        compiled = lowered.compile(compiler_options=_compiler_options(mesh, dtype))
    except jax.errors.JaxRuntimeError as error:
        # The options are of one XLA; another may know them no more.
        if "No such compile option" not in str(error):
            raise
        compiled = lowered.compile()
    program_cache.share()
    return compiled


def sorts_on_host(mesh: Mesh) -> bool:
    """Whether what sorts is for `compile_on_host`, since it compiles slowly for the devices.

    For TPUs a sort of 55,000 takes 16 to 47 s. Not where ``JAX_PLATFORMS`` leaves jax no CPU.
    """
    platforms = jax.config.jax_platforms or "cpu"  # type: ignore[attr-defined]
    return mesh.devices.flat[0].platform == "tpu" and "cpu" in platforms


def compile_on_host(
    mesh: Mesh, function: Callable, keys: Any, *arguments: Any
) -> Callable[..., jax.Array]:
    """As `compile_members` of a function of a key and of what is the same for all, with its bits.

    Each host computes on its CPU what its devices get, and exchanges nothing with the others.

    Args:
        mesh: the devices, which have the keys and get the results.
        function: of one member, from a key and the arguments to an array.
        keys: shape and type of those of all members, [S].
        arguments: shapes and types.
    """
    members = keys.shape[0] // mesh.shape["seed"]
    raw = jax.eval_shape(jax.random.key_data, keys)
    cpu = np.array(jax.local_devices(backend="cpu")[:1]).reshape(1, 1)
    compiled = compile_members(
        Mesh(cpu, mesh.axis_names, axis_types=(AxisType.Auto, AxisType.Auto)),
        lambda raw, *arguments: function(jax.random.wrap_key_data(raw), *arguments),
        (True, *(False for _ in arguments)),
        jax.ShapeDtypeStruct((members, *raw.shape[1:]), raw.dtype),
        *arguments,
        vmap=False,
        dtype="float32",
        name=function.__name__,
    )

    def run(keys: jax.Array, *arguments: Any) -> jax.Array:
        # Devices that share their members have the same keys.
        parts = {one.index[0].start: one.data for one in keys.addressable_shards}
        found = {
            start: np.asarray(compiled(np.asarray(jax.random.key_data(part)), *arguments))
            for start, part in parts.items()
        }
        shape = (keys.shape[0], *next(iter(found.values())).shape[1:])

        def part_of(index: Any) -> np.ndarray:
            return found[index[0].start]

        return jax.make_array_from_callback(shape, NamedSharding(mesh, P("seed")), part_of)

    return run


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


def free_bytes(mesh: Mesh) -> int | None:
    """What a device of the mesh has left; of a CPU, its share of what the machine has.

    None where an accelerator does not tell.
    """
    local = mesh.local_devices
    counts = local[0].memory_stats() or {}
    if "bytes_limit" in counts:
        return counts["bytes_limit"] - counts.get("bytes_in_use", 0)
    if local[0].platform != "cpu":
        return None
    kind = "SC_AVPHYS_PAGES" if "SC_AVPHYS_PAGES" in os.sysconf_names else "SC_PHYS_PAGES"
    return os.sysconf(kind) * os.sysconf("SC_PAGE_SIZE") // len(local)


def is_out_of_memory(error: Exception) -> bool:
    """Whether jax has failed for want of memory on a device."""
    lacks = ("RESOURCE_EXHAUSTED", "OUT_OF_MEMORY")
    return isinstance(error, jax.errors.JaxRuntimeError) and any(w in str(error) for w in lacks)


def _compiler_options(mesh: Mesh, dtype: str) -> dict[str, Any]:
    if mesh.devices.flat[0].platform != "cpu":
        return {}
    flags = os.environ.get("XLA_FLAGS", "")
    return {name: value for name, value in _CPU_OPTIONS.get(dtype, {}).items() if name not in flags}
