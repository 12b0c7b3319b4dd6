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
    busy,
    first_then_others,
    from_first,
    is_first,
    largest,
    leave,
    on_first,
    require_same,
    waiting_for_others,
)
from rowrnn.parallel.processes import count as process_count
from rowrnn.parallel.programs import (
    compile_members,
    device_bytes,
    free_bytes,
    is_out_of_memory,
    shard_batches,
    shard_grads,
)

__all__ = [
    "busy",
    "check_divides",
    "compile_members",
    "describe",
    "device_bytes",
    "fetch",
    "first_then_others",
    "free_bytes",
    "from_first",
    "is_first",
    "is_out_of_memory",
    "largest",
    "leave",
    "make_mesh",
    "make_sweep_mesh",
    "on_accelerator",
    "on_first",
    "process_count",
    "replicate",
    "require_same",
    "shard_batches",
    "shard_grads",
    "shard_members",
    "shard_state",
    "start",
    "start_sweep",
    "waiting_for_others",
]
