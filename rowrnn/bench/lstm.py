"""The recurrence alone: forward, and forward with backward, of each backend over a grid.

Before anything is timed, the very program that is to be timed is run on the very arrays, and its
values and gradients are compared with the oracle in float64. What fails is reported as wrong and
gets no time.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rowrnn.bench import ceiling, flops, oracle, record, suites, timing
from rowrnn.config import TrainConfig
from rowrnn.core import lstm
from rowrnn.core.lstm import Affine
from rowrnn.errors import ConfigError, RowRNNError, nearest

MODES = ("forward", "training")
"""Training is forward and backward: gradients with respect to all weights."""


@dataclass(frozen=True)
class Case:
    """One point of the grid; `features` 0 means float rows as wide as the hidden state."""

    hidden: int
    batch: int
    length: int
    seeds: int
    type: str
    features: int
    projection: int

    @property
    def shape(self) -> flops.Shape:
        """The sizes that the operations depend on."""
        width = self.features or self.hidden
        return flops.Shape(self.length, width, self.projection, self.hidden, classes=0)

    @property
    def tolerance(self) -> float:
        """The largest norm-wise error: products in less than float32 have three digits at most."""
        return 1e-5 if self.type == "float32/highest" else 3e-2

    def __str__(self) -> str:
        rows = "" if self.features else ", rows of H floats"
        return f"H{self.hidden} B{self.batch} T{self.length} S{self.seeds} {self.type}{rows}"


class Inputs(NamedTuple):
    """Arguments of a program, each with a leading seed axis where there are several seeds.

    Attributes:
        weights: as `oracle.Weights`, without readout.
        rows: [T, B, F].
        dh: gradient of the last hidden state, [B, H].
    """

    weights: Mapping[str, Any]
    rows: Any
    dh: Any


def run(suite: suites.Lstm, *, quick: bool) -> dict[str, Any]:
    """Measures every backend in every case that fits the time limit."""
    for name in suite.backends:
        if name not in lstm.BACKENDS:
            raise ConfigError(f"backends = {name!r}: no such backend{nearest(name, lstm.BACKENDS)}")
    device = record.this_device()
    # A run's default precision is measured too; on a CPU it is float32 as well.
    default = f"float32/{TrainConfig.precision}"
    if device["platform"] != "cpu" and default not in suite.types:
        suite = dataclasses.replace(suite, types=(*suite.types, default))  # type: ignore[arg-type]
    limits = ceiling.summary(
        ceiling.measure(
            suites.Ceiling(types=suite.types, copy_mib=(256,), repeats=5, sample_s=0.05, limit_s=1)
        )
    )
    figures, skipped = [], []
    with timing.Stop(lambda: figures) as stop:
        for case in cases(suite):
            _measure_case(case, suite, limits["gemm_gflops"][case.type], figures, skipped)
    return record.document(
        suite,
        quick=quick,
        device=device,
        figures=figures,
        stopped=stop.came,
        **limits,
        skipped=list(dict.fromkeys(skipped)),
    )


def _measure_case(
    case: Case, suite: suites.Lstm, rate: float, figures: list[dict[str, Any]], skipped: list[str]
) -> None:
    """Adds the figures of every backend, and says what is skipped; `rate` is in GFLOP/s."""
    # Two calls to warm up and three samples, at half the rate of the best product.
    seconds = 10 * flops.training(case.shape).executed * case.batch * case.seeds / rate / 1e9
    if seconds > suite.limit_s:
        skipped.append(f"{case}: would take longer than limit_s = {suite.limit_s:g}")
        return
    timing.progress(str(case))
    inputs, truth = make_inputs(case)
    for name in suite.backends or tuple(lstm.BACKENDS):
        try:
            figures += [
                _measure(case, name, mode, inputs, truth[mode], suite, rate) for mode in MODES
            ]
        except RowRNNError as error:
            skipped.append(f"{name}: {error}")
        except NotImplementedError as error:  # cuDNN cannot be batched over seeds.
            skipped.append(f"{name}, {case}: {error}")


def cases(suite: suites.Lstm) -> Iterator[Case]:
    """The product of the suite's lists, then its shapes."""
    for kind, seeds, length, hidden, batch in itertools.product(
        suite.types, suite.seeds, suite.length, suite.hidden, suite.batch
    ):
        yield Case(hidden, batch, length, seeds, kind, suite.features, suite.projection)
    for kind, (hidden, batch, length) in itertools.product(suite.types, suite.shapes):
        yield Case(hidden, batch, length, 1, kind, 0, 0)


def make_inputs(case: Case) -> tuple[Inputs, dict[str, Any]]:
    """Random inputs of a case in NumPy, and what its programs must return, by mode."""
    draw = np.random.default_rng(0)
    each = [_one_seed(case, seed, draw) for seed in range(case.seeds)]
    return each[0] if case.seeds == 1 else jax.tree.map(lambda *leaves: np.stack(leaves), *each)


def _one_seed(case: Case, seed: int, draw: np.random.Generator) -> tuple[Inputs, dict[str, Any]]:
    """Inputs of one network and, by the oracle, its last hidden state and its gradients."""
    shape = (case.length, case.batch, case.shape.features)
    weights = oracle.random_weights(seed, shape[-1], case.projection, case.hidden, classes=0)
    rows = draw.normal(size=shape).astype(np.float32)
    wide_rows = rows.astype(np.float64)
    if case.features:
        rows = draw.integers(0, 256, shape, np.uint8)
        wide_rows = rows / 255
    dh = draw.normal(size=(case.batch, case.hidden)).astype(np.float32)
    wide = {name: weight.astype(np.float64) for name, weight in weights.items()}
    h, tape = oracle.lstm(wide, wide_rows)
    grads = oracle.lstm_gradients(wide, wide_rows, tape, dh.astype(np.float64))
    return Inputs(weights, rows, dh), {"forward": h, "training": (h, grads)}


def make_program(case: Case, backend: str, mode: str) -> Callable[[Inputs], Any]:
    """The function that is compiled and timed.

    It returns the last hidden state, and in training the gradients too.
    """

    def forward(inputs: Inputs) -> Any:
        weights, projection = inputs.weights, None
        if case.projection:
            projection = Affine(weights["projection_kernel"], weights["projection_bias"])
        h, _ = lstm.lstm(
            Affine(weights["cell_kernel"], weights["cell_bias"]),
            inputs.rows,
            lstm.zero_carry(case.batch, case.hidden),
            projection=projection,
            input_scale=1 / 255 if case.features else 1.0,
            forget_bias=oracle.FORGET_BIAS,
            dtype=jnp.dtype(case.type.split("/")[0]),
            backend=backend,
        )
        return h

    def training(inputs: Inputs) -> Any:
        h, pull = jax.vjp(lambda weights: forward(inputs._replace(weights=weights)), inputs.weights)
        return h, pull(inputs.dh)[0]

    program = forward if mode == "forward" else training
    return jax.vmap(program) if case.seeds > 1 else program


def worst_error(values: Any, truth: Any) -> float:
    """The largest norm-wise error among the arrays of a tree."""
    return max(jax.tree.leaves(jax.tree.map(oracle.distance, values, truth)))


def _measure(
    case: Case,
    backend: str,
    mode: str,
    inputs: Inputs,
    truth: Any,
    suite: suites.Lstm,
    rate: float,
) -> dict[str, Any]:
    """The figure of one program, or what is wrong with it."""
    name = f"{backend} {mode} {case}"
    facts = {"backend": backend, "mode": mode} | {
        key: getattr(case, key) for key in ("hidden", "batch", "length", "seeds", "type")
    }
    facts["rows"] = "pixels" if case.features else "floats"
    placed = jax.device_put(inputs)
    program = jax.jit(make_program(case, backend, mode))
    with (
        timing.without_compilation_cache(),
        timing.compile_times() as programs,
        jax.default_matmul_precision(case.type.split("/")[1]),
    ):
        compiled = program.lower(placed).compile()
    error = worst_error(jax.device_get(compiled(placed)), truth)
    if error > case.tolerance:
        reason = f"error {error:.1e} against the oracle, more than {case.tolerance:.0e}"
        return {"name": name, "case": facts, "wrong": reason}
    count = flops.forward if mode == "forward" else flops.training
    return record.figure(
        name,
        facts,
        timing.measure(lambda: compiled(placed), suite),
        examples=case.batch * case.seeds,
        flops=count(case.shape),
        ceiling_gflops=rate,
        error=error,
        tolerance=case.tolerance,
        compile=next(iter(programs.values())),
        memory=timing.memory(compiled),
    )
