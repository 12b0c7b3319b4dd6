"""rowrnn itself in a measuring process: a trainer that is asked to train and to evaluate."""

from typing import Any

import flax
import jax
import numpy as np
import optax

from rowrnn import config as configs
from rowrnn import parallel
from rowrnn.bench import timing
from rowrnn.config import Config
from rowrnn.core.dataset import Dataset
from rowrnn.core.metrics import Metrics
from rowrnn.core.step import EVAL_BATCH
from rowrnn.lab.trainer import Trainer, prepare, stack_members


class Program:
    """A run, or members of a sweep that are sharded over the devices, ready to be timed.

    Args:
        config: of all members, whose seeds count up from its own.
        dataset: where it is not that of the config.
        members: of a sweep; 0 is a single run, whose batches all devices share.

    Attributes:
        facts: devices, backend, versions, compile times, memory, and what a step exchanges.
    """

    def __init__(self, config: Config, dataset: Dataset | None = None, members: int = 0):
        if members:
            parallel.start_sweep(config.parallel)
            mesh = parallel.make_sweep_mesh(config.parallel)
        else:
            parallel.start(config.parallel)
            mesh = parallel.make_mesh(config.parallel)
        parallel.check_divides(mesh, config.train.batch_size)
        self.experiment = prepare(config, dataset)
        with timing.compile_times() as compiled:
            self.trainer = Trainer(self.experiment, mesh, members or 1)
        seeds, init_seeds, hyperparams = stack_members([self.experiment] * (members or 1))
        others = np.arange(members or 1, dtype=np.uint32)
        self.state = self.trainer.init(seeds + others, init_seeds + others, hyperparams)
        self._order = self.trainer.order(self.state, 0)
        programs = self.trainer.programs
        self.facts: dict[str, Any] = parallel.describe(mesh) | {
            "backend": config.model.backend,
            "versions": {
                "jax": jax.__version__,
                "flax": flax.__version__,
                "optax": optax.__version__,
            },
            "compile": {name: compiled[name] for name in ("chunk", "evaluate")},
            "memory": {
                "chunk": timing.memory(programs.chunk),
                "evaluate": timing.memory(programs.test),
            },
            "collectives": timing.collectives(programs.chunk.as_text() or ""),
        }

    def train(self, steps: int) -> None:
        """Takes steps with every member and waits for the last."""
        jax.block_until_ready(self.take(steps))
        # A member that diverges stops, and what was timed would not be all its steps.
        if any(np.asarray(shard.data).any()
               for shard in self.state.metrics.nonfinite.addressable_shards):  # fmt: skip
            raise FloatingPointError("training has diverged: what was timed are not all its steps")

    def take(self, steps: int) -> Metrics:
        """Takes steps; the sums over all steps so far, [S], not waited for."""
        self.state = self.trainer.run(self.state, self._order, steps)
        return self.state.metrics

    def evaluate(self, batches: int) -> int:
        """Counts correct answers in as many batches of 1,000, a multiple of the whole test part."""
        size = len(self.experiment.dataset.test.labels)
        answers = [self.trainer.test(self.state) for _ in range(batches * EVAL_BATCH // size)]
        jax.block_until_ready(answers)
        return sum(int(np.asarray(sums.correct).sum()) for sums, _ in answers)


class _Served:
    """Whole runs, stopped at the first step or at an accuracy."""

    facts: dict[str, Any] = {}  # noqa: RUF012

    def train_to(self, path: str, target: float) -> dict[str, Any]:
        """Trains as a config says until the test accuracy is reached, or to the end."""
        with timing.compile_times() as compiled:
            program = Program(configs.load(path))
        trainer, experiment, state = program.trainer, program.experiment, program.state
        accuracy, epoch = 0.0, 0
        while accuracy < target and epoch < experiment.steps // experiment.epoch_steps:
            state = trainer.run(state, trainer.order(state, epoch), experiment.epoch_steps)
            sums, _ = trainer.test(state)
            accuracy = int(sums.correct[0]) / int(sums.count[0])
            epoch += 1
        return {
            "reached": accuracy >= target,
            "epochs": epoch,
            "test_accuracy": accuracy,
            "compile_s": sum(sum(stages.values()) for stages in compiled.values()),
        }

    def first_step(self, path: str) -> dict[str, Any]:
        """Takes one step; the answer has the device and the compile times of each program."""
        with timing.compile_times() as compiled:
            program = Program(configs.load(path))
            program.train(1)
        return {"device": program.facts, "compile": compiled}


def start() -> _Served:
    """For `rowrnn.bench.worker`."""
    return _Served()
