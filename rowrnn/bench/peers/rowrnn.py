"""rowrnn itself, through the same door as its peers: the trainer of `rowrnn train`."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from rowrnn.bench.peers.task import RATE, Task, make_task
from rowrnn.bench.program import Program
from rowrnn.config import Config, ModelConfig, OptimizerConfig, ParallelConfig, TrainConfig
from rowrnn.core import step
from rowrnn.core.dataset import Dataset, Split
from rowrnn.core.lstm import Affine

# The names of layers and of their parts in a task.
_LAYERS = {"projection": "projection", "lstm_0": "cell", "readout": "readout"}
_PARTS = ("kernel", "bias")


class _Peer(Program):
    """A run with the weights and the order of a task, or members of a sweep with their own."""

    def __init__(self, task: Task, config: Config, members: int):
        super().__init__(config, _dataset(task), members)
        self._images = task.images[task.order]
        if not members:
            params = {
                name: Affine(*(jnp.array(task.weights[f"{layer}_{part}"])[None] for part in _PARTS))
                for name, layer in _LAYERS.items()
            }
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
    batch: int,
    hidden: int,
    projection: int,
    devices: int = 1,
    members: int = 0,
    backend: str = "",
    parallel: Mapping[str, Any] | None = None,
    precision: str = "highest",
) -> _Peer:
    """rowrnn with the weights of the task.

    Args:
        batch: examples in a step of each member.
        hidden: units.
        projection: width of the projection.
        devices: of this process; 0 for every accelerator.
        members: of a sweep; 0 is a single run.
        backend: of the recurrence; empty for the default.
        parallel: further fields of `ParallelConfig`. Without them the process is alone, whatever
            cluster has started the benchmark.
        precision: of matrix products, as jax names it.
    """
    model = ModelConfig(projection, hidden)
    if backend:
        model = dataclasses.replace(model, backend=backend)  # type: ignore[arg-type]
    config = Config(
        model=model,
        optimizer=OptimizerConfig(name="adam", learning_rate=RATE),
        train=TrainConfig(batch_size=batch, precision=precision),  # type: ignore[arg-type]
        # No cache is used, so that the time of compiling can be told.
        parallel=ParallelConfig(
            **{"devices": devices, "processes": 1, "compilation_cache": False, **(parallel or {})}
        ),
    )
    return _Peer(make_task(batch, hidden, projection), config, members)


def _dataset(task: Task) -> Dataset:
    """The images of the task, to train on and to evaluate."""
    everything = Split(task.images, task.labels)
    nothing = Split(task.images[:0], task.labels[:0])
    classes = task.shape.classes
    return Dataset("mnist_sample", everything, nothing, everything, classes, fingerprint="")
