"""What a step takes: compute / ceiling + collective bytes / bandwidth + latency.

Two uses of one sum. On this machine its rates are fitted to measured layouts and checked against
others (`evaluate`). For machines that are not here they are assumed, by name, and the sum says
where data parallelism stops paying and how long many seeds take (`predict`). Nothing that was
fitted on a CPU enters a prediction: only the form of the sum is tested here.
"""

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rowrnn.bench import flops
from rowrnn.bench.flops import Shape


@dataclass(frozen=True)
class Point:
    """A measured layout.

    Attributes:
        name: of the layout.
        devices: how many.
        seconds: of a step.
        terms: what the step needs, by name, each in its own unit.
    """

    name: str
    devices: int
    seconds: float
    terms: Mapping[str, float]


def fit(points: Sequence[Point]) -> dict[str, float]:
    """Seconds for a unit of each term: non-negative, least squares of the relative errors.

    A term that is nowhere needed, or that only noise would call for, costs nothing.

    >>> doubled = [Point("", 1, 2 * x + 3, {"compute": x, "step": 1}) for x in (1.0, 2.0, 5.0)]
    >>> {name: round(cost, 6) for name, cost in fit(doubled).items()}
    {'compute': 2.0, 'step': 3.0}
    """
    from scipy.optimize import nnls

    names = sorted({name for point in points for name in point.terms})
    rows = [[point.terms.get(name, 0.0) / point.seconds for name in names] for point in points]
    matrix = np.array(rows)
    # Operations come in billions and steps one by one: of one size, they are solved as well.
    sizes = np.abs(matrix).max(axis=0)
    sizes[sizes == 0] = 1.0
    costs, _ = nnls(matrix / sizes, np.ones(len(points)))
    return {name: float(cost) for name, cost in zip(names, costs / sizes, strict=True)}


def seconds(costs: Mapping[str, float], terms: Mapping[str, float]) -> float:
    """Of a step that needs these terms."""
    return sum(costs.get(name, 0.0) * amount for name, amount in terms.items())


def split(points: Sequence[Point]) -> tuple[list[Point], list[Point]]:
    """Points to fit and points to check: every third by name, so that each run has the same."""
    ordered = sorted(points, key=lambda point: point.name)
    held_out = ordered[1::3]
    return [point for point in ordered if point not in held_out], held_out


def evaluate(points: Sequence[Point]) -> dict[str, Any]:
    """The model of a machine, and how far it is off where it was not fitted.

    Returns ``costs`` (of the fit), ``points`` (name, seconds, predicted, held_out),
    ``fitted_error``, ``held_out_error`` and ``extrapolation_error``. Errors are (median, largest)
    of |predicted / measured - 1|. The last is that of the layouts with the most devices, by a fit
    without them; None where all have the same number.
    """
    fitted, held_out = split(points)
    costs = fit(fitted)
    most = max(point.devices for point in points)
    fewer = [point for point in points if point.devices < most]
    return {
        "costs": costs,
        "points": [
            {
                "name": point.name,
                "seconds": point.seconds,
                "predicted": seconds(costs, point.terms),
                "held_out": point in held_out,
            }
            for point in points
        ],
        "fitted_error": errors(costs, fitted),
        "held_out_error": errors(costs, held_out) if held_out else None,
        "extrapolation_error": errors(fit(fewer), [p for p in points if p not in fewer])
        if fewer
        else None,
    }


def errors(costs: Mapping[str, float], points: Sequence[Point]) -> tuple[float, float]:
    """Median and largest of |predicted / measured - 1|."""
    off = [abs(seconds(costs, point.terms) / point.seconds - 1) for point in points]
    return statistics.median(off), max(off)


@dataclass(frozen=True)
class Link:
    """A way between devices.

    Attributes:
        bytes_per_s: in one direction, out of one device.
        hop_s: seconds of one exchange, however small.
    """

    bytes_per_s: float
    hop_s: float


@dataclass(frozen=True)
class Machine:
    """An accelerator that is not here, with all that is assumed of it.

    Attributes:
        name: in words.
        devices: in all.
        host: devices that the inner link joins; the outer one joins groups of so many.
        peak_flops: operations per second of one device, as its vendor states it.
        memory_bytes_per_s: of one device, as stated.
        share: of both that the products and passes of this network reach.
        inner: link within a host.
        outer: link between hosts.
        row_s: seconds of a row, forward and backward, however small its arrays.
        rest_s: the same of all else in a step.
        sources: where the figures are from, in words.
    """

    name: str
    devices: int
    host: int
    peak_flops: float
    memory_bytes_per_s: float
    share: float
    inner: Link
    outer: Link
    row_s: float
    rest_s: float
    sources: str


# Of a link what its vendor states, times the share that a long message reaches.
_OF_A_LINK = 0.7
_NVLINK = Link(_OF_A_LINK * 450e9, 3e-6)
_INFINIBAND = Link(_OF_A_LINK * 50e9, 5e-6)
_ICI = Link(_OF_A_LINK * 200e9, 1e-6)

# From one operation of a program to the next, however small: kernels of a GPU that wait for each
# other, and operations within a program of a TPU.
_GPU_KERNEL_S, _TPU_OPERATION_S = 2.5e-6, 1e-6
# Two operations of a row forward and three backward; gathering, folding, loss, optimizer, loop.
_OF_A_ROW, _OF_THE_REST = 5, 40

_H100 = Machine(
    name="8 H100, one host",
    devices=8,
    host=8,
    peak_flops=494.7e12,
    memory_bytes_per_s=3.35e12,
    share=0.3,
    inner=_NVLINK,
    outer=_INFINIBAND,
    row_s=_OF_A_ROW * _GPU_KERNEL_S,
    rest_s=_OF_THE_REST * _GPU_KERNEL_S,
    sources="NVIDIA's figures of the H100 SXM: TF32 dense (half of what is stated with sparsity), "
    "3.35 TB/s of memory, NVLink 900 GB/s in both directions together; InfiniBand NDR, 400 Gbit/s "
    "for each GPU",
)

MACHINES = (
    _H100,
    # A kernel that goes through all rows by itself waits only for its own blocks, 1.5 us a row and
    # direction.
    dataclasses.replace(_H100, name="8 H100, rows in one kernel", row_s=3e-6),
    dataclasses.replace(_H100, name="64 H100, 8 hosts", devices=64),
    Machine(
        name="256 TPU v5e, one slice",
        devices=256,
        host=256,
        peak_flops=197e12,
        memory_bytes_per_s=819e9,
        share=0.3,
        inner=_ICI,
        outer=_ICI,
        row_s=_OF_A_ROW * _TPU_OPERATION_S,
        rest_s=_OF_THE_REST * _TPU_OPERATION_S,
        sources="Google's figures of a v5e chip: bfloat16, 819 GB/s of memory, inter-chip links "
        "400 GB/s in both directions together",
    ),
)

BATCHES = (128, 1_024, 8_192, 32_768)
SEEDS, STEPS, SIDE_BY_SIDE = 10_000, 781, 256


@dataclass(frozen=True)
class Work:
    """What a step of one run needs.

    Attributes:
        flops: operations per example, executed.
        example_bytes: that an example moves through memory.
        gradient_bytes: that are summed over devices.
        rows: of an image, one after the other.
    """

    flops: float
    example_bytes: float
    gradient_bytes: float
    rows: int


def work(shape: Shape) -> Work:
    """What the network of this shape needs.

    Memory is that of the program as it is: a row writes once and reads once its input beside the
    hidden state (F + H + 1), five residuals of width H and the gradient of the gates (4H).

    >>> work(Shape()).gradient_bytes, round(work(Shape()).flops * 128 / 1e9, 2)
    (546344, 1.62)
    """
    floats = 2 * (shape.features + shape.hidden + 1 + 5 * shape.hidden + 4 * shape.hidden)
    return Work(
        flops=flops.training(shape).executed,
        example_bytes=4 * shape.rows * floats,
        gradient_bytes=4 * parameters(shape),
        rows=shape.rows,
    )


def parameters(shape: Shape) -> int:
    """How many numbers are learned: projection, cell and readout, with their biases."""
    width = shape.projection or shape.features
    projection = (shape.features + 1) * shape.projection
    cell = (width + shape.hidden + 1) * 4 * shape.hidden
    return projection + cell + (shape.hidden + 1) * shape.classes


def step_seconds(machine: Machine, work: Work, batch: int, devices: int, members: int = 1) -> float:
    """Of a step in which `devices` share the batch of a run, or each has `members` runs at once.

    The rows come one after the other on every device, whatever its share. Adam reads and writes
    eight times the parameters of each member.
    """
    examples = members * batch / devices
    moved = examples * work.example_bytes + 8 * members * work.gradient_bytes
    compute = max(
        examples * work.flops / machine.peak_flops,
        moved / machine.memory_bytes_per_s,
    )
    return (
        sequential_seconds(machine, work)
        + compute / machine.share
        + all_reduce_seconds(machine, work, devices)
    )


def sequential_seconds(machine: Machine, work: Work) -> float:
    """Of a step of a batch so small that only the order of its operations counts."""
    return work.rows * machine.row_s + machine.rest_s


def all_reduce_seconds(machine: Machine, work: Work, devices: int) -> float:
    """Of one sum over devices: the bytes of a ring, the exchanges of a tree there and back.

    >>> all_reduce_seconds(MACHINES[0], work(Shape()), 1)
    0.0
    """
    if devices == 1:
        return 0.0
    inside = min(devices, machine.host)
    link = machine.inner if devices <= machine.host else machine.outer
    ring = 2 * (devices - 1) / devices * work.gradient_bytes / link.bytes_per_s
    hops = math.log2(inside) * machine.inner.hop_s
    hops += math.log2(devices / inside) * machine.outer.hop_s
    return ring + 2 * hops


def strong_scaling(machine: Machine, work: Work, batch: int) -> dict[str, Any]:
    """One run on 1, 2, 4, ... devices: where its speed-up has its peak.

    ``worth_devices`` is how far doubling them has saved a tenth of the step, each time.
    """
    counts = _doublings(min(machine.devices, batch))
    steps = {n: step_seconds(machine, work, batch, n) for n in counts}
    best = min(steps, key=lambda n: (steps[n], n))
    worth = 1
    while 2 * worth in steps and steps[2 * worth] <= 0.9 * steps[worth]:
        worth *= 2
    return {
        "machine": machine.name,
        "batch": batch,
        "step_s": {str(n): taken for n, taken in steps.items()},
        "best_devices": best,
        "worth_devices": worth,
        "speedup": steps[1] / steps[best],
        "speedup_all": steps[1] / steps[counts[-1]],
    }


def pays_from(machine: Machine, work: Work, efficiency: float) -> int:
    """The smallest batch, a power of two, at which all devices reach an efficiency.

    That is the speed-up over one device, divided by the number of devices.
    """
    batch = machine.devices
    while True:
        one, all_of_them = (step_seconds(machine, work, batch, n) for n in (1, machine.devices))
        if one / all_of_them >= efficiency * machine.devices:
            return batch
        batch *= 2


def many_seeds(machine: Machine, work: Work, batch: int) -> dict[str, Any]:
    """Wall time of 10,000 notebook runs, divided evenly, up to 256 at once on each device."""
    share = math.ceil(SEEDS / machine.devices)
    stacks = [min(SIDE_BY_SIDE, share - begun) for begun in range(0, share, SIDE_BY_SIDE)]
    taken = [STEPS * step_seconds(machine, work, batch, 1, members=size) for size in stacks]
    examples = SEEDS * STEPS * batch
    return {
        "machine": machine.name,
        "per_device": share,
        "wall_s": sum(taken),
        "examples_per_s": examples / sum(taken),
        "sequential_share": len(stacks) * STEPS * sequential_seconds(machine, work) / sum(taken),
    }


def predict(shape: Shape | None = None) -> dict[str, Any]:
    """All predictions, for the notebook's network, with the assumptions behind them."""
    of_a_step = work(shape or Shape())
    return {
        "work": dataclasses.asdict(of_a_step),
        "machines": [dataclasses.asdict(machine) for machine in MACHINES],
        "one_run": [strong_scaling(m, of_a_step, batch) for m in MACHINES for batch in BATCHES],
        "half_efficiency_batch": {m.name: pays_from(m, of_a_step, 0.5) for m in MACHINES},
        "seeds": [many_seeds(machine, of_a_step, 128) for machine in MACHINES],
    }


def _doublings(most: int) -> list[int]:
    return [2**power for power in range(most.bit_length())]
