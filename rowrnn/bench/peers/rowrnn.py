"""rowrnn itself, through the same door as its peers: the trainer of `rowrnn train`."""

import dataclasses

import jax
import jax.numpy as jnp

from rowrnn.bench import timing
from rowrnn.bench.oracle import Weights
from rowrnn.bench.peers.task import RATE, Task
from rowrnn.bench.program import Program
from rowrnn.config import Config, ModelConfig, OptimizerConfig, ParallelConfig, TrainConfig
from rowrnn.core import step
from rowrnn.core.dataset import Dataset, Split
from rowrnn.core.lstm import Affine
from rowrnn.core.model import Params


class _Peer(Program):
    """A run with the weights and the order of a task."""

    def __init__(self, task: Task, config: Config, members: int):
        with timing.without_compilation_cache():
            super().__init__(config, make_dataset(task), members)
        self._images = task.images[task.order]
        if not members:
            params = jax.tree.map(lambda leaf: leaf[None], _params(task.weights))
            self.state = self.trainer.put(self.state._replace(params=params))
            self._order = self.trainer.put_members(task.order[None])

    def first_logits(self) -> list:
        """Logits [B][C] of the first batch, followed by those of all the others."""
        config, classes = self.experiment.config, self.experiment.dataset.classes
        params = jax.tree.map(lambda leaf: leaf[0], self.trainer.fetch(self.state.params))
        with jax.default_matmul_precision(config.train.precision):
            return step.predict_logits(config, params, jnp.asarray(self._images), classes).tolist()

    def losses(self, steps: int) -> list[float]:
        """Takes steps one by one and returns the loss of each before its update."""
        before, found = 0.0, []
        for _ in range(steps):
            loss_sum = float(self.take(1).loss_sum[0])
            found.append((loss_sum - before) / self.experiment.config.train.batch_size)
            before = loss_sum
        return found


def start(
    task: str, batch: int, devices: int = 1, backend: str = "", *, sweep: bool = False
) -> _Peer:
    """rowrnn with the weights of the task.

    Args:
        task: path of the task.
        batch: examples in a step.
        devices: how many share a batch; 0 as the config has it.
        backend: of the recurrence; empty for the default.
        sweep: whether each device trains a member of a sweep instead, of any weights.
    """
    given = Task.load(task, batch)
    hidden = given.weights["cell_bias"].size // 4
    model = ModelConfig(given.weights["projection_bias"].size, hidden)
    if backend:
        model = dataclasses.replace(model, backend=backend)  # type: ignore[arg-type]
    config = Config(
        model=model,
        optimizer=OptimizerConfig(name="adam", learning_rate=RATE),
        train=TrainConfig(batch_size=batch, precision="highest"),
        # Whatever cluster has started the benchmark, its children are not a job.
        parallel=ParallelConfig(devices=devices, processes=1),
    )
    return _Peer(given, config, devices if sweep else 0)


def make_dataset(task: Task) -> Dataset:
    """The images of the task, to train on and to evaluate."""
    everything = Split(task.images, task.labels)
    nothing = Split(task.images[:0], task.labels[:0])
    classes = task.weights["readout_bias"].size
    return Dataset("mnist_sample", everything, nothing, everything, classes, fingerprint="")


def _params(weights: Weights) -> Params:
    names = {"projection": "projection", "lstm_0": "cell", "readout": "readout"}
    return {
        name: Affine(jnp.array(weights[f"{ours}_kernel"]), jnp.array(weights[f"{ours}_bias"]))
        for name, ours in names.items()
    }
