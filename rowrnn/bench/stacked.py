"""A sweep's programs: as many members as devices, each as `rowrnn sweep` runs it on a CPU."""

import jax
import numpy as np

from rowrnn import parallel
from rowrnn.bench import timing
from rowrnn.bench.peers import rowrnn as own
from rowrnn.bench.peers.task import EVAL_BATCH, Task
from rowrnn.lab import stack, trainer


class _Loop:
    def __init__(self, task: Task, hidden: int, projection: int, devices: int, backend: str):
        config = own.make_config(task.batch, hidden, projection, devices, backend)
        parallel.start_sweep(config.parallel, vmap=False)
        mesh = parallel.make_sweep_mesh(config.parallel, vmap=False)
        prepared = trainer.prepare(config, own.make_dataset(task))
        self._splits, self._size = trainer.put_splits(prepared.dataset, mesh), devices
        with timing.without_compilation_cache(), timing.compile_times() as compiled:
            self._programs = stack.compile_stack(prepared, mesh, self._splits, devices, vmap=False)
        self._mesh = mesh
        self._values = parallel.stack_on(mesh, stack.stack_values([prepared.values] * devices))
        seeds = parallel.stack_on(mesh, np.arange(devices, dtype=np.uint32))
        self._state = self._programs.create(seeds, seeds)
        self._orders = self._programs.order(self._state.key, np.int32(0))
        self.facts = parallel.describe(mesh) | {
            "backend": config.model.backend,
            "compile": {name: compiled[name] for name in ("chunk", "evaluate")},
            "memory": {
                "chunk": timing.memory(self._programs.chunk),
                "evaluate": timing.memory(self._programs.test),
            },
        }

    def train(self, steps: int) -> None:
        """Takes steps with every member and waits for the last."""
        sums, of_each = parallel.stack_on(
            self._mesh, (stack.zeros(self._size), np.full(self._size, steps, np.int32))
        )
        self._state, sums = self._programs.chunk(
            self._state, sums, self._values, self._splits.train, self._orders, of_each
        )
        jax.block_until_ready((sums, self._state))

    def evaluate(self, batches: int) -> None:
        """Evaluates every member in as many batches of 1,000, a multiple of a whole split."""
        for _ in range(batches * EVAL_BATCH // len(self._splits.test.labels)):
            jax.block_until_ready(
                self._programs.test(self._state.params, self._values, self._splits.test)
            )


def start(task: str, batch: int, devices: int, backend: str = "") -> _Loop:
    """A stack on the data of a task; `devices` is also the number of members."""
    given = Task.load(task, batch)
    hidden = given.weights["cell_bias"].size // 4
    return _Loop(given, hidden, given.weights["projection_bias"].size, devices, backend)
