"""The processes of a job: how they join, and what they agree on.

All run the same program in the same order. Process 0 alone writes; what it decides by itself, or
reads from its clock, it tells the others. Where one dies or stops answering, jax ends the others
(SIGABRT) after `parallel.heartbeat_seconds`.
"""

import json
import math
import socket
import zlib
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from rowrnn import config as configs
from rowrnn import errors
from rowrnn.config import ParallelConfig
from rowrnn.errors import ConfigError, JobError, RowRNNError

_Value = TypeVar("_Value")

# Seconds for which the first process waits for the last: to join, and at the end for one that still
# writes. After that jax ends all of them.
_PATIENCE_S = 300
# Bytes to which texts are padded, since jax compiles a program for each length.
_BLOCK = 4096


def join(config: ParallelConfig) -> None:
    """Joins the job that the config or the cluster tells of, if any; before jax computes.

    A job that the caller has joined by `jax.distributed.initialize` is taken as it is. Raises
    `JobError` where process 0 cannot listen on its address, where the name of this machine leads
    nowhere, and where jax does not know the cluster. Where a process does not come within five
    minutes, jax ends those that wait.
    """
    told = configs.told_processes(config)
    if told == 1 or jax.distributed.is_initialized():
        return
    # It would keep a SIGTERM to itself that comes before our own handler is there.
    jax.config.update("jax_enable_preemption_service", False)
    address = config.coordinator
    local = address is not None and address.startswith("127.0.0.1:")
    if address is not None and config.process == 0:
        _require_free(address, "127.0.0.1" if local else "")
    if told is not None:
        _require_own_name()
    try:
        jax.distributed.initialize(
            address,
            config.processes,
            config.process,
            initialization_timeout=_PATIENCE_S,
            heartbeat_timeout_seconds=config.heartbeat_seconds,
            shutdown_timeout_seconds=_PATIENCE_S,
            # Otherwise jax listens on all addresses.
            coordinator_bind_address=address if local else None,
        )
    except (RuntimeError, ValueError) as error:
        # jax has found no cluster, of which there was but a hint; or it runs already, so that it is
        # too late to join one, for which nobody has asked.
        no_cluster = told is None and isinstance(error, ValueError)
        if no_cluster or (address is None and "before any JAX calls" in str(error)):
            return
        raise JobError(
            "this process was started as one of several, but jax does not find the others "
            f"({str(error).splitlines()[0]}); give --parallel.coordinator HOST:PORT, "
            "--parallel.processes N and --parallel.process K, or --parallel.processes 1 where it "
            "is alone"
        ) from error


def _require_own_name() -> None:
    """Raises `JobError` where the name of this machine leads to no address.

    jax's CPU backend finds the address of a process by that name, and would end in a traceback.
    """
    name = socket.gethostname()
    try:
        socket.getaddrinfo(name, None)
    except OSError as error:
        raise JobError(
            f"a job's processes reach each other by the names of their machines, and {name!r}, "
            f"the name of this one, leads to no address ({error.strerror}); add it to /etc/hosts"
        ) from error


def _require_free(address: str, host: str) -> None:
    """Raises `JobError` where nothing can listen on the port of an address; jax would crash, or
    share the port with another job."""
    try:
        socket.create_server((host, int(address.rpartition(":")[2]))).close()
    except OSError as error:
        raise JobError(
            f"parallel.coordinator = {address!r}: process 0 cannot listen there "
            f"({error.strerror}); it must be an address of process 0 that all others reach, with a "
            "free port"
        ) from error


def process_count() -> int:
    """How many processes the job has; 1 without a job."""
    # jax is asked in a job alone: it would start its backend to answer.
    return jax.process_count() if jax.distributed.is_initialized() else 1


def is_process_0() -> bool:
    """Whether this is process 0, which alone writes; a process that is alone is."""
    return process_count() == 1 or jax.process_index() == 0


def on_process_0(function: Callable[[], _Value]) -> _Value | None:
    """The value of a function that runs on process 0 alone; None on the others, which wait for it.

    Raises on all of them the `RowRNNError` that it raised.
    """
    if process_count() == 1:
        return function()
    value, raised = None, None
    if is_process_0():
        try:
            value = function()
        except RowRNNError as error:
            raised = error
    told = broadcast(raised and [type(raised).__name__, str(raised)])
    if told:
        raised = raised or getattr(errors, told[0])(told[1])
        raised.on_all = True
        raise raised
    return value


def process_0_first(function: Callable[[], _Value]) -> _Value:
    """The value of a function that runs on every process, after it has ended on process 0.

    Raises on all of them the `RowRNNError` that it raised on process 0.
    """
    value: Any = on_process_0(function)
    return value if is_process_0() else function()


def broadcast(value: _Value) -> _Value:
    """The value that process 0 has, in JSON's types, on all of them."""
    if process_count() == 1:
        return value
    text = json.dumps(value).encode()
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(text))))
    padded = np.zeros(math.ceil(size / _BLOCK) * _BLOCK, np.uint8)
    if is_process_0():
        padded[:size] = np.frombuffer(text, np.uint8)
    return json.loads(bytes(multihost_utils.broadcast_one_to_all(padded))[:size])


def max_over_processes(*values: float) -> tuple[float, ...]:
    """The maximum of each value over all processes, in float32."""
    if process_count() == 1:
        return values
    gathered = multihost_utils.process_allgather(np.array(values, np.float32))
    return tuple(float(value) for value in gathered.max(axis=0))


def require_same(**texts: str) -> None:
    """Raises `ConfigError`, on all, where a process was given another text than process 0."""
    if process_count() == 1:
        return
    codes = np.array([zlib.crc32(text.encode()) for text in texts.values()], np.uint32)
    gathered = multihost_utils.process_allgather(codes)
    differing = np.argwhere(gathered != gathered[0])
    if len(differing):
        process, place = differing[0]
        error = ConfigError(
            f"{list(texts)[place]}: process {process} of the job was given another than process "
            "0; all need the same arguments (--parallel.processes 1 where they are no job)"
        )
        error.on_all = True
        raise error
