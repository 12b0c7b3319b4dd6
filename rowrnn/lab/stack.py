"""Many members of a sweep at once: the programs of a run over a leading axis of members.

A *stack* is S members that differ in seeds and traced numbers alone. They are divided over the
devices; on a device they run one after the other (strategy ``map``: each executes what a solo run
executes, and ends with the same bits) or all at once (``vmap``: faster where one member does not
fill the device, the same but for rounding).
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from rowrnn import parallel
from rowrnn.core import metrics
from rowrnn.core import state as states
from rowrnn.core.experiment import Experiment, Values
from rowrnn.core.metrics import Metrics
from rowrnn.core.state import TrainState
from rowrnn.lab import trainer
from rowrnn.lab.trainer import Splits


@dataclass(frozen=True)
class StackPrograms:
    """The compiled programs of a stack; arguments as in `experiment.Functions`, those of a member
    with a leading axis [S].

    Attributes:
        size: members in a stack, S.
        create: (seeds, init_seeds) -> states.
        order: (keys, epoch) -> orders of an epoch, [S, N].
        chunk: (states, sums, values, train, orders, steps [S]) -> (states, sums); the states are
            donated.
        validation: (params, values, split) -> (metrics, predicted classes [S, N]); None without
            that part.
        test: the same on the test part.
        compile_s: seconds that tracing, lowering and compiling took.
    """

    size: int
    create: jax.stages.Compiled
    order: jax.stages.Compiled
    chunk: jax.stages.Compiled
    validation: jax.stages.Compiled | None
    test: jax.stages.Compiled
    compile_s: float


def compile_stack(
    prepared: Experiment, mesh: Mesh, splits: Splits, size: int, *, vmap: bool
) -> StackPrograms:
    """Compiles what a stack of `size` members calls, a multiple of the devices on axis "seed"."""
    config = prepared.config
    functions = trainer.functions_on(mesh, prepared)

    def create(seed, init_seed):
        return prepared.create_state(seed, init_seed)

    def evaluate(params, values, split):
        sums, logits = functions.evaluate(params, values, split)
        return sums, logits.argmax(axis=-1)

    def compiled(function, stacked, *arguments, donate=()):
        return parallel.compile_for_seeds(
            mesh, function, stacked, *arguments, vmap=vmap, dtype=config.model.dtype, donate=donate
        )

    began = time.perf_counter()
    seeds, steps = np.zeros(size, np.uint32), np.zeros(size, np.int32)
    values = stack_values([prepared.values] * size)
    state = abstract_state(prepared, size)
    params = states.evaluation_params(state)
    orders = jax.eval_shape(jax.vmap(functions.order, (0, None)), state.key, np.int32(0))
    evaluate_is_stacked = (True, True, False)
    with jax.default_matmul_precision(config.train.precision):
        return StackPrograms(
            size=size,
            create=compiled(create, (True, True), seeds, seeds),
            order=compiled(functions.order, (True, False), state.key, np.int32(0)),
            chunk=compiled(
                functions.chunk, (True, True, True, False, True, True),
                state, zeros(size), values, splits.train, orders, steps, donate=(0,),
            ),
            validation=None if splits.validation is None else compiled(
                evaluate, evaluate_is_stacked, params, values, splits.validation
            ),
            test=compiled(evaluate, evaluate_is_stacked, params, values, splits.test),
            compile_s=time.perf_counter() - began,
        )  # fmt: skip


def abstract_state(prepared: Experiment, size: int) -> TrainState:
    """Shapes and types of the state of a stack; no batching of the model, which cuDNN's lacks."""
    seed = jax.ShapeDtypeStruct((), np.uint32)
    state = jax.eval_shape(prepared.create_state, seed, seed)
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((size, *leaf.shape), leaf.dtype), state)


def stack_values(values: Sequence[Values]) -> Values:
    """The values of many members as arrays [S]."""
    return {name: np.stack([each[name] for each in values]) for name in values[0]}


def zeros(size: int) -> Metrics:
    """The sums over no examples, of a stack."""
    return jax.tree.map(lambda leaf: np.zeros((size, *leaf.shape), leaf.dtype), metrics.zeros())


def member_of(tree: Any, index: int) -> Any:
    """One member of a stack of arrays [S, ...]."""
    return jax.tree.map(lambda leaf: leaf[index], tree)
