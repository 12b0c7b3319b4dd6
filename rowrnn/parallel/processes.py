"""The processes of a job: how they join, what they agree on, and how they leave.

All run the same program in the same order. Process 0 alone writes; what it decides by itself, or
reads from its clock, it tells the others.
"""

import atexit
import contextlib
import itertools
import json
import os
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np

from rowrnn import errors
from rowrnn.config import ParallelConfig
from rowrnn.errors import ConfigError, JobError, RowRNNError
from rowrnn.parallel import coordinator
from rowrnn.parallel.watchdog import COMMON, Watchdog

_Value = TypeVar("_Value")

# A process may come this much later than the first, and wait this long for one that still writes.
_JOIN_S = 300
_END_S = 86_400
# Longer than the watchdog takes to miss somebody.
_VERDICT_S = 12.0
# Of those that leave together, for the last to arrive.
_TOGETHER_S = 10


@dataclass(frozen=True)
class _Job:
    """The job that this process has joined, as process `index` of `count`."""

    index: int
    count: int
    client: Any
    watchdog: Watchdog
    meetings: Iterator[int] = field(default_factory=itertools.count)


_job: _Job | None = None


def join(config: ParallelConfig) -> None:
    """Joins the job that the config or the cluster tells of, if any; before jax computes.

    Raises `JobError` where the processes do not find each other. A job that the caller has
    joined through `jax.distributed.initialize` is taken as it is.
    """
    global _job
    if _job is not None or config.processes == 1:
        return
    # Not for what this process may start in its turn.
    launcher = os.environ.pop("ROWRNN_LAUNCHER", None)
    if launcher is not None:
        # Before it waits for others, that may have gone as well.
        threading.Thread(target=_watch_launcher, args=(launcher,), daemon=True).start()
    if not jax.distributed.is_initialized():
        cluster = None if config.coordinator else _detect_cluster()
        if config.coordinator is None and cluster is None:
            return
        _initialize(config, cluster)
    from jax._src import distributed

    state: Any = distributed.global_state
    watchdog = Watchdog(
        state.client, state.process_id, state.num_processes, config.stall_seconds, _give_up
    )
    _job = _Job(state.process_id, state.num_processes, state.client, watchdog)
    watchdog.start()
    atexit.register(_finish)


def _detect_cluster() -> str | None:
    """The kind of cluster that has started this process as one of several, as jax knows them."""
    from jax._src import clusters, xla_bridge

    # Where jax runs already, it is too late to join anything, and nobody has asked for it.
    if xla_bridge.backends_are_initialized():
        return None
    for cluster in clusters.ClusterEnv._cluster_types:
        if not cluster.opt_in_only_method and cluster.is_env_present():
            return cluster.name or cluster.__name__
    return None


def _initialize(config: ParallelConfig, cluster: str | None) -> None:
    on_this_machine = (config.coordinator or "").startswith("127.0.0.1:")
    # Its handler would take the place of ours: all stop together, after a chunk (`interrupt`).
    jax.config.update("jax_enable_preemption_service", False)
    with _coordinator_apart(), _not_waiting_for_ever():
        try:
            jax.distributed.initialize(
                config.coordinator,
                config.processes,
                config.process,
                initialization_timeout=_END_S,
                heartbeat_timeout_seconds=_END_S,
                shutdown_timeout_seconds=_END_S,
                # Otherwise jax listens on all addresses.
                coordinator_bind_address=config.coordinator if on_this_machine else None,
            )
        except (RuntimeError, ValueError) as error:
            reason = str(error).splitlines()[0]
            if cluster is not None:
                raise JobError(
                    f"{cluster} has started this process as one of several, but jax cannot find "
                    f"the others ({reason}); give --parallel.coordinator HOST:PORT, "
                    "--parallel.processes N and --parallel.process K"
                ) from error
            raise JobError(
                f"parallel.coordinator = {config.coordinator!r}: process {config.process} of "
                f"{config.processes} could not join ({reason}); it must be an address of process "
                "0 that all others reach, with a port that is free there"
            ) from error


@contextlib.contextmanager
def _not_waiting_for_ever() -> Iterator[None]:
    """Ends this process where it still waits for others after a while; jax would abort, with a
    stack trace."""

    def leave() -> None:
        print(
            f"rowrnn: not all processes of the job have joined it within {_JOIN_S} s; look at what "
            "the others say, whether all were started, and whether all reach process 0",
            file=sys.stderr,
        )
        _exit(JobError.exit_code)

    timer = threading.Timer(_JOIN_S, leave)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@contextlib.contextmanager
def _coordinator_apart() -> Iterator[None]:
    """Lets jax start its coordinator as a process of its own, see `rowrnn.parallel.coordinator`."""
    from jax._src.lib import _jax  # type: ignore[attr-defined]

    inside = getattr(_jax, "get_distributed_runtime_service", None)
    if inside is None:  # A jax that does it otherwise.
        yield
        return
    _jax.get_distributed_runtime_service = _Coordinator
    try:
        yield
    finally:
        _jax.get_distributed_runtime_service = inside


class _Coordinator:
    """The service that jax asks for, in a process of its own; what else jax says is as it was."""

    def __init__(self, address: str, count: int, **_: Any):
        self._process = subprocess.Popen(
            [sys.executable, str(Path(coordinator.__file__)), address, str(count)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,  # Signals of the terminal are not for it.
        )
        assert self._process.stdout is not None
        if self._process.stdout.readline() != "serving\n":
            raise RuntimeError(f"nothing can listen on {address}")

    def shutdown(self) -> None:
        """Ends it."""
        with contextlib.suppress(OSError):
            self._process.communicate("end\n", timeout=30)


def index() -> int:
    """Of this process, from 0."""
    return _job.index if _job else 0


def count() -> int:
    """How many processes there are."""
    return _job.count if _job else 1


def is_first() -> bool:
    """Whether this is process 0, which alone writes; a process that is alone is."""
    return index() == 0


def on_first(function: Callable[[], _Value]) -> _Value | None:
    """What a function gives on process 0; None on the others, which wait until it has ended.

    Raises on all of them the `RowRNNError` that it raised.
    """
    if count() == 1:
        return function()
    try:
        value = function() if is_first() else None
    except RowRNNError as error:
        _tell({"error": type(error).__name__, "message": str(error)})
        raise
    _tell({"value": None})
    return value


def first_then_others(function: Callable[[], _Value]) -> _Value:
    """What a function gives on each process, where the others wait until process 0 has it.

    Raises on all of them the `RowRNNError` that it raised on process 0.
    """
    value = on_first(function)
    return function() if value is None else value


def from_first(value: _Value) -> _Value:
    """The value that process 0 has, in JSON's types, on all of them."""
    return value if count() == 1 else _tell({"value": value})["value"]


def _tell(outcome: dict[str, Any]) -> dict[str, Any]:
    """What process 0 tells; raises on the others the error that it tells of."""
    assert _job is not None
    key = f"rowrnn/told/{next(_job.meetings)}"
    if is_first():
        _job.client.key_value_set(key, json.dumps(outcome))
        return outcome
    # Without end: the watchdog knows when it is in vain.
    told = json.loads(_job.client.blocking_key_value_get(key, 1_000 * _END_S))
    if "error" in told:
        error = getattr(errors, told["error"])(told["message"])
        error.told = True
        raise error
    return told


def require_same(**what: str) -> None:
    """Raises `ConfigError`, on all, where a process was given something else than process 0."""
    if count() == 1:
        return
    for name, text in what.items():
        codes = _gather(np.array(zlib.crc32(text.encode()), np.uint32))
        others = np.flatnonzero(codes != codes[0])
        if len(others):
            raise ConfigError(
                f"{name}: process {others[0]} of the job was given another than process 0; all "
                "need the same arguments (--parallel.processes 1 where they are no job)"
            )


def largest(*values: float) -> tuple[float, ...]:
    """Of each value the largest that a process has; all of them meet here."""
    if count() == 1:
        return values
    assert _job is not None
    # On arrival: who is further than another waits for it.
    _job.watchdog.beat()
    return tuple(float(value) for value in _gather(np.array(values, np.float32)).max(axis=0))


def _gather(array: np.ndarray) -> np.ndarray:
    """The array that each process has, [processes, ...]."""
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(array))


@contextlib.contextmanager
def busy() -> Iterator[None]:
    """In here this process may take long, as in compiling, and does not hang."""
    if _job is None:
        yield
        return
    was = _job.watchdog.set_busy(True)
    try:
        yield
    finally:
        _job.watchdog.set_busy(was)


@contextlib.contextmanager
def waiting_for_others() -> Iterator[None]:
    """Where something fails in here because a process is gone, the watchdog tells which."""
    try:
        yield
    except Exception:
        if _job is not None:
            _job.watchdog.wait_for_signs_of_life(_VERDICT_S)
        raise


def leave(code: int, reason: str) -> None:
    """Ends this process where it is one of several, and lets the others know why.

    Not by way of the interpreter's end, where jax would wait for the others.
    """
    if _job is None:
        return
    with contextlib.suppress(Exception):  # Nobody may be there to be told.
        _job.watchdog.leave(code, reason)
        if code in COMMON:
            # A cluster may end the others as soon as one has ended: not while process 0 writes.
            _job.client.wait_at_barrier("rowrnn/left", 1_000 * _TOGETHER_S)
    _exit(code)


def _give_up(problem: str) -> None:
    print(
        f"rowrnn: {problem}; what was saved before is good: start all processes again, with "
        "--resume",
        file=sys.stderr,
    )
    _exit(JobError.exit_code)


def _exit(code: int) -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(code)


def _watch_launcher(launcher: str) -> None:
    """Leaves when the launcher of this process, a number, has gone without a word."""
    while str(os.getppid()) == launcher:
        time.sleep(1)
    _give_up("the launcher of this process has gone")


def _finish() -> None:
    """Waits for the others, and ends what belongs to the job."""
    assert _job is not None
    _job.watchdog.leave(0, "")
    # Watched until all are here; in jax's own wait one that is lost would be waited for.
    _job.client.wait_at_barrier("rowrnn/end", 1_000 * _END_S)
    _job.watchdog.stop()
    jax.distributed.shutdown()
