"""Starting jax, and the devices of all processes as a mesh."""

import math
import os
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

from rowrnn import config as configs
from rowrnn.config import ParallelConfig
from rowrnn.errors import ConfigError
from rowrnn.jax_settings import require_devices
from rowrnn.parallel import processes, program_cache


def start(config: ParallelConfig) -> None:
    """Prepares jax for a run; what is asked for must come before its first computation."""
    _start(config, sweep=False)


def start_sweep(config: ParallelConfig) -> None:
    """Prepares jax for a sweep: on a CPU each core becomes a device."""
    _start(config, sweep=True)


def _start(config: ParallelConfig, *, sweep: bool) -> None:
    """Joins the job, asks for CPU devices and keeps compiled programs."""
    processes.join(config)
    cores = len(_cores())
    in_job = jax.distributed.is_initialized()
    count = _wanted(config) or (cores if sweep and not in_job else 1)
    # One device is what the backend starts with; one that runs already may have more.
    may_start = count == 1 or _ask_for_cpu_devices(count)
    # Devices that wait for each other in a collective each hold a thread.
    collectives = not sweep or (config.data or 1) > 1
    waiting = collectives and count > cores
    if may_start and waiting and (_told_threads() or 0) <= count:
        os.environ["NPROC"] = str(2 * max(2, count))
    program_cache.start(keep=config.compilation_cache)
    # All processes of a job meet here to tell each other of their devices; jax waits two minutes.
    require_devices()


def _wanted(config: ParallelConfig) -> int:
    """Devices of each process that a config asks for; 0 where it leaves them open."""
    axes = (config.data or 1) * (config.seed or 1)
    if config.devices or axes == 1:
        return config.devices
    # Asking jax would start the CPU backend before it is told how many devices it has.
    told = configs.told_processes(config)
    return math.ceil(axes / (told if told and told > 1 else processes.process_count()))


def _ask_for_cpu_devices(count: int) -> bool:
    """Makes the CPU backend start with so many devices; False where it runs already."""
    try:
        # A value that stays as it is is accepted, even where the backend runs.
        jax.config.update("jax_num_cpu_devices", count + 1)
        jax.config.update("jax_num_cpu_devices", count)
    except RuntimeError:
        return False
    return True


def _told_threads() -> int | None:
    """Threads that the environment gives that pool; None where it leaves them to XLA."""
    threads = os.environ.get("NPROC", "")
    return int(threads) if threads.isdecimal() else None


def _cores() -> list[int]:
    """The cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def make_mesh(config: ParallelConfig) -> Mesh:
    """A mesh with axes "seed" and "data", all its devices on "data".

    Raises `ConfigError` where fewer devices are there than asked for, or the axes do not fit them.
    """
    if (config.seed or 1) > 1:
        raise ConfigError(
            f"parallel.seed = {config.seed}: a single run has one seed; leave it out, or train "
            "many with rowrnn sweep"
        )
    local = len(jax.local_devices())
    grid = _take(config, _wanted(config) or (local if on_accelerator() else 1))
    return _mesh(config, grid, data=config.data or len(grid), seed=1)


def on_accelerator() -> bool:
    """Whether jax has found something better than CPUs."""
    return jax.default_backend() != "cpu"


def make_sweep_mesh(config: ParallelConfig) -> Mesh:
    """A mesh with axes "seed" and "data", its devices on "seed" unless the config says otherwise.

    Raises `ConfigError` where fewer devices are there than asked for, or the axes do not fit them.
    """
    grid = _take(config, _wanted(config) or len(jax.local_devices()))
    data = config.data or 1
    return _mesh(config, grid, data=data, seed=config.seed or max(1, len(grid) // data))


def _take(config: ParallelConfig, count: int) -> list[Any]:
    """The first so many devices of each process, process by process."""
    devices = jax.devices()
    if count > len(jax.local_devices()):
        asked = f"parallel.devices = {count}"
        if not config.devices:
            asked = f"parallel.seed x parallel.data = {count * processes.process_count()}"
        raise ConfigError(
            f"{asked}: this process has {len(jax.local_devices())} {devices[0].platform} "
            "device(s); ask for at most that many of each process"
        )
    taken = []
    for process in range(processes.process_count()):
        taken += [device for device in devices if device.process_index == process][:count]
    return taken


def _mesh(config: ParallelConfig, devices: list[Any], *, data: int, seed: int) -> Mesh:
    if seed * data != len(devices):
        asked = ", ".join(
            f"parallel.{name} = {value}"
            for name, value in (("seed", config.seed), ("data", config.data))
            if value is not None
        )
        raise ConfigError(
            f"{asked}: seed x data must be the number of devices, {len(devices)} in all"
        )
    # Neighbours on "data", which talk to each other at every step, are of one process if possible.
    grid = np.array(devices).reshape(seed, data)
    return Mesh(grid, ("seed", "data"), axis_types=(AxisType.Auto, AxisType.Auto))


def check_divides(mesh: Mesh, batch_size: int) -> None:
    """Raises `ConfigError` where the batch cannot be divided evenly over the devices."""
    count = mesh.shape["data"]
    if batch_size % count:
        raise ConfigError(
            f"train.batch_size = {batch_size}: must be a multiple of {count}, "
            "the number of devices that share each batch"
        )


def describe(mesh: Mesh) -> dict[str, object]:
    """What ran: platform, kind and number of devices, processes, and this machine's cores and the
    threads that its CPU devices share."""
    device, cores, told = mesh.devices.flat[0], len(_cores()), _told_threads()
    return {
        "platform": device.platform,
        "kind": device.device_kind,
        "devices": int(mesh.devices.size),
        "processes": processes.process_count(),
        "cores": cores,
        "threads": max(cores if told is None else told, len(jax.local_devices(backend="cpu"))),
    }
