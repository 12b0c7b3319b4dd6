"""A whole run inside a measuring process, stopped at the first step or watched epoch by epoch."""

from typing import Any, NamedTuple

import jax
import numpy as np

from rowrnn import config as configs
from rowrnn import parallel
from rowrnn.bench import timing
from rowrnn.core import metrics
from rowrnn.core import state as states
from rowrnn.core.experiment import Experiment
from rowrnn.core.state import TrainState
from rowrnn.lab import trainer
from rowrnn.lab.trainer import Programs, Splits


class _Ready(NamedTuple):
    """What a run has before its first step."""

    prepared: Experiment
    splits: Splits
    state: TrainState
    programs: Programs
    device: dict[str, object]


class _Served:
    def __init__(self) -> None:
        self.facts: dict[str, Any] = {}

    def train_to(self, path: str, target: float) -> dict[str, Any]:
        """Trains as a config says until the test accuracy is reached, or to the end."""
        prepared, splits, state, programs, _ = _prepare(path)
        accuracy, epoch = 0.0, 0
        while accuracy < target and epoch < prepared.steps // prepared.epoch_steps:
            order = programs.order(state.key, np.int32(epoch))
            steps = np.int32(prepared.epoch_steps)
            state, _ = programs.chunk(
                state, metrics.zeros(), programs.values, splits.train, order, steps
            )
            sums, _ = programs.test(states.evaluation_params(state), programs.values, splits.test)
            accuracy = int(sums.correct) / int(sums.count)
            epoch += 1
        return {
            "reached": accuracy >= target,
            "epochs": epoch,
            "test_accuracy": accuracy,
            "compile_s": programs.compile_s,
        }

    def first_step(self, path: str) -> dict[str, Any]:
        """Takes one step; the answer has the device and the compile times of each program."""
        with timing.compile_times() as compiled:
            _, splits, state, programs, device = _prepare(path)
            order = programs.order(state.key, np.int32(0))
            sums = metrics.zeros()
            jax.block_until_ready(
                programs.chunk(state, sums, programs.values, splits.train, order, np.int32(1))
            )
        return {"device": device, "compile": compiled}


def _prepare(path: str) -> _Ready:
    """Everything that `rowrnn train` does before its first step, but for the run directory."""
    config = configs.load(path)
    parallel.start(config.parallel)
    prepared = trainer.prepare(config)
    mesh = parallel.make_mesh(config.parallel)
    splits = trainer.put_splits(prepared.dataset, mesh)
    state = parallel.create_state(mesh, prepared.create_state, prepared.seeds)
    programs = trainer.compile_programs(prepared, mesh, splits, state)
    return _Ready(prepared, splits, state, programs, parallel.describe(mesh))


def start() -> _Served:
    """For `rowrnn.bench.worker`."""
    return _Served()
