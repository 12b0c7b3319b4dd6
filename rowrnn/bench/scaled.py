"""A process of a layout: a run or a sweep on some devices, alone or as one of a job.

The program is the chunk of `rowrnn train` or `rowrnn sweep`. The processes of a job are asked for
the same at once, and run it together.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from rowrnn import parallel
from rowrnn.bench import collectives
from rowrnn.config import (
    Config,
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    ParallelConfig,
    TrainConfig,
)
from rowrnn.core import metrics
from rowrnn.core.experiment import Experiment
from rowrnn.core.metrics import Metrics
from rowrnn.lab import stack, trainer


class _Run:
    """One run, whose batches all devices share."""

    def __init__(self, config: Config):
        parallel.start(config.parallel)
        mesh = parallel.make_mesh(config.parallel)
        prepared = trainer.prepare(config)
        functions = trainer.functions_on(mesh, prepared)
        self._state = parallel.create_state(mesh, prepared.create_state, prepared.seeds)
        train = prepared.dataset.train
        split = parallel.put_split(mesh, train.images, train.labels)
        sums, values, order = parallel.put_replicated(
            mesh, (metrics.zeros(), prepared.values, _order(prepared))
        )
        self._rest = (sums, values, split, order)
        with jax.default_matmul_precision(config.train.precision):
            self._chunk = parallel.compile_replicated(
                mesh, functions.chunk, self._state, *self._rest, np.int32(0),
                dtype=config.model.dtype, donate=(0,),
            )  # fmt: skip
        self.facts = _facts(mesh, self._chunk)

    def train(self, steps: int) -> None:
        """Takes steps and waits for the last."""
        self._state, sums = self._chunk(self._state, *self._rest, np.int32(steps))
        _wait(self._state, sums)


class _Sweep:
    """Many runs, each on a group of devices, and one after the other there."""

    def __init__(self, config: Config, members: int):
        parallel.start_sweep(config.parallel, vmap=False)
        self._mesh = mesh = parallel.make_sweep_mesh(config.parallel, vmap=False)
        prepared = trainer.prepare(config)
        functions = trainer.functions_on(mesh, prepared)

        def compiled(function, stacked, *arguments, donate=()):
            return parallel.compile_for_seeds(
                mesh, function, stacked, *arguments,
                vmap=False, dtype=config.model.dtype, donate=donate,
            )  # fmt: skip

        seeds = parallel.stack_on(mesh, np.arange(members, dtype=np.uint32))
        sums, values, orders = parallel.stack_on(
            mesh,
            (
                stack.zeros(members),
                stack.stack_values([prepared.values] * members),
                np.stack([_order(prepared)] * members),
            ),
        )
        train = prepared.dataset.train
        split = parallel.put_split(mesh, train.images, train.labels)
        with jax.default_matmul_precision(config.train.precision):
            create = compiled(prepared.create_state, (True, True), seeds, seeds)
            self._state = create(seeds, seeds)
            self._rest = (sums, values, split, orders)
            self._steps = np.zeros(members, np.int32)
            self._chunk = compiled(
                functions.chunk, (True, True, True, False, True, True),
                self._state, *self._rest, self._steps, donate=(0,),
            )  # fmt: skip
        self.facts = _facts(mesh, self._chunk)

    def train(self, steps: int) -> None:
        """Takes steps with every member and waits for the last."""
        of_each = parallel.stack_on(self._mesh, self._steps + np.int32(steps))
        self._state, sums = self._chunk(self._state, *self._rest, of_each)
        _wait(self._state, sums)


def start(
    mode: str,
    batch: int,
    members: int,
    hidden: int,
    projection: int,
    parallel: Mapping[str, Any],
) -> _Run | _Sweep:
    """A process of a layout, for `rowrnn.bench.worker`.

    Args:
        mode: "solo" or "sweep".
        batch: examples in a step of each member.
        members: of the sweep, on all devices.
        hidden: units.
        projection: width of the projection.
        parallel: fields of `ParallelConfig`.
    """
    config = Config(
        model=ModelConfig(projection_size=projection, hidden_size=hidden),
        data=DataConfig(dataset="mnist_sample"),
        optimizer=OptimizerConfig(name="adam", learning_rate=1e-3),
        train=TrainConfig(batch_size=batch, precision="highest"),
        parallel=ParallelConfig(**parallel),
    )
    return _Run(config) if mode == "solo" else _Sweep(config, members)


def _order(prepared: Experiment) -> np.ndarray:
    """An order of an epoch, [N]; which one does not matter here."""
    size = len(prepared.dataset.train.labels)
    return np.random.default_rng(0).permutation(size).astype(np.int32)


def _facts(mesh: Mesh, chunk: jax.stages.Compiled) -> dict[str, Any]:
    found = collectives.find(chunk.as_text() or "")
    return parallel.describe(mesh) | {
        "collectives": [dataclasses.asdict(each) for each in found],
        "per_step": collectives.per_step(found),
    }


def _wait(state: Any, sums: Metrics) -> None:
    """Waits for all; raises where training has diverged, which ends a chunk too soon."""
    jax.block_until_ready((state, sums))
    if any(np.asarray(shard.data).any() for shard in sums.nonfinite.addressable_shards):
        raise FloatingPointError("training has diverged: what was timed are not all its steps")
