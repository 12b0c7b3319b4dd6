"""rowrnn itself, through the same door as its peers: the programs that `rowrnn train` runs."""

import dataclasses

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax

from rowrnn import parallel
from rowrnn.bench import timing
from rowrnn.bench.oracle import Weights
from rowrnn.bench.peers.task import EVAL_BATCH, RATE, Task
from rowrnn.config import Config, ModelConfig, OptimizerConfig, ParallelConfig, TrainConfig
from rowrnn.core import metrics
from rowrnn.core.lstm import Affine
from rowrnn.core.metrics import Metrics
from rowrnn.core.model import Params
from rowrnn.data import Dataset, Split
from rowrnn.lab import trainer


class _Loop:
    def __init__(self, task: Task, config: Config):
        parallel.start(config.parallel)
        mesh = parallel.make_mesh(config.parallel)
        parallel.check_divides(mesh, config.train.batch_size)
        prepared = trainer.prepare(config, make_dataset(task))
        self._splits = trainer.put_splits(prepared.dataset, mesh)
        self._order = jax.device_put(task.order, parallel.replicated(mesh))
        state = parallel.create_state(mesh, prepared.create_state, prepared.seeds)
        self._state = parallel.put_state(mesh, state._replace(params=_params(task.weights)))
        with timing.without_compilation_cache(), timing.compile_times() as compiled:
            programs = trainer.compile_programs(prepared, mesh, self._splits, self._state)
        self._chunk, self._test = programs.chunk, programs.test
        self._values = programs.values
        self.facts = parallel.describe(mesh) | {
            "device": mesh.devices.flat[0].device_kind,
            "backend": config.model.backend,
            "versions": {
                "jax": jax.__version__,
                "flax": flax.__version__,
                "optax": optax.__version__,
            },
            "compile": {name: compiled[name] for name in ("chunk", "evaluate")},
            "memory": {
                "chunk": timing.memory(self._chunk),
                "evaluate": timing.memory(self._test),
            },
        }

    def first_logits(self) -> list:
        """Logits [B][C] of the first batch, followed by those of all the others."""
        # The program takes only whole splits.
        _, logits = self._test(self._state.params, self._values, self._splits.test)
        return np.asarray(logits)[np.asarray(self._order)].tolist()

    def losses(self, steps: int) -> list[float]:
        """Takes steps one by one and returns the loss of each before its update."""
        chunks = (self._take(1) for _ in range(steps))
        return [float(sums.loss_sum / sums.count) for sums in chunks]

    def train(self, steps: int) -> None:
        """Takes steps and waits for the last."""
        jax.block_until_ready((self._take(steps), self._state))

    def evaluate(self, batches: int) -> int:
        """Counts the correct answers in as many batches of 1,000, a multiple of a whole split."""
        answers = [
            self._test(self._state.params, self._values, self._splits.test)
            for _ in range(batches * EVAL_BATCH // len(self._splits.test.labels))
        ]
        jax.block_until_ready(answers)
        return sum(int(sums.correct) for sums, _ in answers)

    def _take(self, steps: int) -> Metrics:
        self._state, sums = self._chunk(
            self._state,
            metrics.zeros(),
            self._values,
            self._splits.train,
            self._order,
            np.int32(steps),
        )
        return sums


def start(task: str, batch: int, devices: int = 1, backend: str = "") -> _Loop:
    """rowrnn with the weights of the task.

    Args:
        task: path of the task.
        batch: examples in a step.
        devices: how many share a batch; 0 as the config has it.
        backend: of the recurrence; empty for the default.
    """
    given = Task.load(task, batch)
    hidden = given.weights["cell_bias"].size // 4
    projection = given.weights["projection_bias"].size
    return _Loop(given, make_config(batch, hidden, projection, devices, backend))


def make_config(batch: int, hidden: int, projection: int, devices: int, backend: str) -> Config:
    """The config of a task; an empty backend is the default."""
    model = ModelConfig(projection_size=projection, hidden_size=hidden)
    if backend:
        model = dataclasses.replace(model, backend=backend)  # type: ignore[arg-type]
    return Config(
        model=model,
        optimizer=OptimizerConfig(name="adam", learning_rate=RATE),
        train=TrainConfig(batch_size=batch, precision="highest"),
        # Whatever cluster has started the benchmark, its children are not a job.
        parallel=ParallelConfig(devices=devices, processes=1),
    )


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
