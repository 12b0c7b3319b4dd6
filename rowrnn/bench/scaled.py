"""A process of a layout: a run or a sweep on some devices, alone or as one of a job.

The processes of a job are asked for the same at once, and run it together.
"""

from collections.abc import Mapping
from typing import Any

from rowrnn.bench import scaling
from rowrnn.bench.program import Program
from rowrnn.config import (
    Config,
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    ParallelConfig,
    TrainConfig,
)


def start(
    mode: str,
    batch: int,
    members: int,
    hidden: int,
    projection: int,
    parallel: Mapping[str, Any],
) -> Program:
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
    program = Program(config, members=members if mode == "sweep" else 0)
    text = program.trainer.programs.chunk.as_text() or ""
    program.facts |= {"collectives": scaling.collectives(text)}
    return program
