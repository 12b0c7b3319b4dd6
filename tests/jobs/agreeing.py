"""What the processes of a job make of each other: ``python agreeing.py COORDINATOR COUNT INDEX``.

Prints it as JSON, one object for each process. They meet in the current directory.
"""

import json
import sys
import time
from pathlib import Path

import jax
import numpy as np

from rowrnn import parallel
from rowrnn.config import ParallelConfig
from rowrnn.core import step
from rowrnn.errors import ConfigError, RunError

SHORT, LONG = [1, "two", None, 2.5], {"é": "x" * 10_000}


def main():
    address, count, index = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    parallel.start(ParallelConfig(2, coordinator=address, processes=count, process=index))
    found = {
        "count": parallel.process_count(),
        "is_process_0": parallel.is_process_0(),
        "max": parallel.max_over_processes(index, -index, 0.5),
        # Only what process 0 has counts.
        "broadcast": [
            parallel.broadcast(value if index == 0 else index) for value in (SHORT, LONG)
        ],
        "on_process_0": parallel.on_process_0(lambda: index + 7),
        "process_0_first": parallel.process_0_first(lambda: slow(index)),
        "errors": [error_of(on_process_0_fails), error_of(lambda: differ(index))],
    }
    found["orders"] = orders()
    parallel.require_same(config="a", seeds="0:3")
    print(json.dumps(found))


def order_of(key, epoch):
    return step.epoch_order(key, epoch, 20)


def orders():
    """What each host computes for its devices, with a member on each of the job."""
    mesh = parallel.make_sweep_mesh(ParallelConfig(2))
    keys = parallel.shard_state(mesh, keys_of(mesh.devices.size))
    own = parallel.compile_on_host(mesh, order_of, jax.eval_shape(lambda: keys), np.int32(0))
    return parallel.fetch(mesh, own(keys, np.int32(0))).tolist()


def keys_of(members):
    return jax.vmap(jax.random.key)(np.arange(members, dtype=np.uint32))


def slow(index):
    """Those that were here before, as this one sees it."""
    before = sorted(path.name for path in Path().glob("was-here-*"))
    if index == 0:
        time.sleep(0.5)
    Path(f"was-here-{index}").touch()
    return before[:1]


def on_process_0_fails():
    def fail():
        raise RunError("run directory x is not empty")

    parallel.on_process_0(fail)


def differ(index):
    parallel.require_same(config="a", seeds=str(index // 2))


def error_of(function):
    try:
        function()
    except (RunError, ConfigError) as error:
        return type(error).__name__, str(error), error.on_all
    return None


if __name__ == "__main__":
    main()
