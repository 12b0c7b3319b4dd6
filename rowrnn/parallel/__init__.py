"""Devices and processes: starting jax, the mesh and what lies where, jobs of several processes.

The only room that knows of devices. A program is written for one device; here it is compiled for
all those of a mesh with axes ``"seed"`` and ``"data"``: members of a sweep are divided over the
first, the examples of each batch over the second. The devices may belong to several processes, on
one machine or many, that all run the same program (`jax.distributed`).
"""

from rowrnn.parallel.mesh import (
    check_divides,
    describe,
    make_mesh,
    make_sweep_mesh,
    on_accelerator,
    start,
    start_sweep,
)
from rowrnn.parallel.placement import fetch, replicate, shard_members, shard_state
from rowrnn.parallel.processes import (
    broadcast,
    is_process_0,
    max_over_processes,
    on_process_0,
    process_0_first,
    process_count,
    require_same,
)
from rowrnn.parallel.programs import (
    compile_members,
    compile_on_host,
    device_bytes,
    free_bytes,
    is_out_of_memory,
    shard_batches,
    shard_grads,
    shared_step,
    sorts_on_host,
)

__all__ = [
    "broadcast",
    "check_divides",
    "compile_members",
    "compile_on_host",
    "describe",
    "device_bytes",
    "fetch",
    "free_bytes",
    "is_out_of_memory",
    "is_process_0",
    "make_mesh",
    "make_sweep_mesh",
    "max_over_processes",
    "on_accelerator",
    "on_process_0",
    "process_0_first",
    "process_count",
    "replicate",
    "require_same",
    "shard_batches",
    "shard_grads",
    "shard_members",
    "shard_state",
    "shared_step",
    "sorts_on_host",
    "start",
    "start_sweep",
]
