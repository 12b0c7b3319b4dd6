"""What a step takes on many devices: operations / rate + bytes / bandwidth + latencies.

    python experiments/cost_model.py [experiments/results/scaling.json]

Shows: the prices of that sum, fitted to a record of `rowrnn bench scaling`, and how far it is off
for layouts that it was not fitted to; then, from kernels and bytes that `rowrnn bench aot` counted
(results/aot.json) and prices that are assumed, where data parallelism stops paying on accelerators
and how long 10,000 seeds take; and the same of the one accelerator that was measured, beside that.
Nothing that was fitted enters a prediction: only the form of the sum is tested.
Last result: off by 23 % (median, largest 34 %) for layouts held out; a step on one H200 takes 1.02
to 1.21 times what is predicted; at B=128 one run is 1.08 times as fast on 8 H100 as on one; 10,000
seeds take 59 s on 8 (experiments/results/scaling.md).
"""

import json
import math
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import numpy as np
from scipy.optimize import nnls

from rowrnn.bench import flops

RECORD = Path(__file__).parent / "results" / "scaling.json"
MEASURED = RECORD.with_name("accelerator-h200.json")
TERMS = ("compute", "step", "collective within", "collective between", "bytes within",
         "bytes between")  # fmt: skip


def main():
    """Fits, checks and predicts."""
    record = json.loads(Path(sys.argv[1] if sys.argv[1:] else RECORD).read_text(encoding="utf-8"))
    show_fit(record)
    show_predictions()
    show_measured()


def terms(entry):
    """What a step of a figure needs of each core or accelerator, in the order of `TERMS`.

    Fake devices that share a core take turns on it, so that it does the work of all of them: their
    operations, their steps one after the other, and their part in each collective. Within a process
    devices exchange through memory, between processes through sockets, at another price.
    """
    case, turns = entry["case"], entry["case"]["devices"] / entry["workers"]
    groups = case["devices"] / min(case["shared"], case["devices"])
    exchanged = np.array([entry["collectives_per_step"], entry["wire_bytes"]]) * turns
    within = case["processes"] == 1
    compute = entry["tflops"]["executed"] * 1e12 * entry["median"] / entry["workers"]
    sums, sent = ((part * within, part * (not within)) for part in exchanged)
    return [compute, case["members"] / groups * turns, *sums, *sent]


def fit(needs, seconds):
    """Seconds for a unit of each term: non-negative, least squares of the relative errors.

    A term that is nowhere needed, or that only noise would call for, costs nothing.

    Args:
        needs: of each layout, [layouts, terms].
        seconds: of a step of each, [layouts].
    """
    matrix = needs / seconds[:, None]
    # Operations come in billions and steps one by one: of one size, they are solved as well.
    sizes = matrix.max(axis=0)
    sizes[sizes == 0] = 1
    return nnls(matrix / sizes, np.ones(len(seconds)))[0] / sizes


def errors(prices, needs, seconds):
    """Median and largest of |predicted / measured - 1|."""
    off = np.abs(needs @ prices / seconds - 1)
    return np.median(off), off.max()


def show_fit(record):
    """The prices of the machine of a record; every third layout by name is held out."""
    entries = sorted(record["figures"], key=lambda entry: entry["name"])
    needs = np.array([terms(entry) for entry in entries])
    seconds = np.array([entry["quiet_s"] for entry in entries])
    held_out = np.arange(len(entries)) % 3 == 1
    devices = np.array([entry["case"]["devices"] for entry in entries])
    prices = fit(needs[~held_out], seconds[~held_out])
    rows = [(name, price_in_words(name, price)) for name, price in zip(TERMS, prices, strict=True)]
    show_table(("fitted", "price"), rows)
    most = devices == devices.max()
    without = fit(needs[~most], seconds[~most])
    for what, fitted, checked in (
        ("fitted layouts", prices, ~held_out),
        ("layouts held out", prices, held_out),
        ("the most devices, by a fit without them", without, most),
    ):
        median, largest = errors(fitted, needs[checked], seconds[checked])
        print(f"  off by {median:.0%} (largest {largest:.0%}): {what}")
    print(f"  a matrix product on one core: {record['sgemm_gflops']:.0f} GFLOP/s\n")


def price_in_words(name, price):
    """What a unit of a term costs, in the unit that people know."""
    if price == 0:
        return "nothing"
    if name == "compute":
        return f"{1e-9 / price:,.0f} GFLOP/s a core"
    return f"{1e-9 / price:,.2f} GB/s" if name.startswith("bytes") else f"{price * 1e3:.3g} ms each"


@dataclass(frozen=True)
class Machine:
    """Accelerators, with all that is assumed of them.

    Attributes:
        name: in words.
        devices: in all.
        host: devices that the inner link joins; the outer link joins groups of so many.
        peak_flops: operations per second of one device, as its vendor states it.
        memory_bytes_per_s: of one device, as stated.
        inner: bytes per second of a link within a host, out of one device, and the seconds of one
            exchange, however small.
        outer: the same between hosts.
        target: whose programs of `AOT` it runs.
        share: of both peaks that the products and passes of this network reach: a guess.
    """

    name: str
    devices: int
    host: int
    peak_flops: float
    memory_bytes_per_s: float
    inner: tuple[float, float]
    outer: tuple[float, float]
    target: str
    share: float = 0.3


# A long message reaches this share of what a vendor states of a link.
OF_A_LINK = 0.7
# Seconds of a kernel, however small, in a command buffer: 0.5 µs until the next one starts (kernels
# of 2.9 µs take 3.4: developer.nvidia.com/blog/cuda-graphs), and 1 µs that it runs: assumed, with
# the H200 measured already.
KERNEL_S = 1.5e-6
# Cycles per second of a TPU v5e, in which its compiler counts.
CLOCK = 1.5e9

# NVIDIA's figures of the H100 SXM: TF32 dense (half of what is stated with sparsity), 3.35 TB/s of
# memory, NVLink 900 GB/s in both directions together; InfiniBand NDR, 400 Gbit/s for each GPU.
H100 = Machine(
    "1 H100", 1, 8, 494.7e12, 3.35e12,
    (OF_A_LINK * 450e9, 3e-6), (OF_A_LINK * 50e9, 5e-6), "h100",
)  # fmt: skip
# The same with 4.8 TB/s of memory.
H200 = replace(H100, name="1 H200", memory_bytes_per_s=4.8e12)
# Google's figures of a v5e chip: bfloat16, 819 GB/s of memory, inter-chip links 400 GB/s in both
# directions together.
V5E = Machine(
    "256 TPU v5e, one slice", 256, 256, 197e12, 819e9, (OF_A_LINK * 200e9, 1e-6), (0.0, 0.0),
    "v5e:2x4",
)  # fmt: skip
MACHINES = (
    H100,
    replace(H100, name="8 H100, one host", devices=8),
    replace(H100, name="64 H100, 8 hosts", devices=64),
    V5E,
)

SHAPE = flops.Shape()
FLOPS = flops.training(SHAPE).executed
BATCH, BATCHES = 128, (128, 1_024, 8_192, 32_768)
SEEDS, STEPS, SIDE_BY_SIDE = 10_000, 781, 256

# What `bench aot` counted, by target and program, at this batch.
AOT = {
    (entry["target"], entry["program"]): entry
    for entry in json.loads((RECORD.parent / "aot.json").read_text(encoding="utf-8"))["figures"]
}
GRADIENT_BYTES = AOT["v5e:2x4", "one run on 8 devices"]["collective_bytes"]


def waiting_seconds(machine, members=1):
    """Of a step that has nothing to compute: its kernels, which follow each other.

    A TPU's compiler estimates the cycles of a whole step; what is computed in it is subtracted.
    """
    one, many = (AOT[machine.target, name] for name in ("one run", "8 members, vmap"))
    if one["estimated_cycles"]:
        return max(0.0, one["estimated_cycles"] / CLOCK - computing_seconds(machine, BATCH, 1))
    return (one if members == 1 else many)["kernels_per_step"] * KERNEL_S


def computing_seconds(machine, examples, members):
    """Of the products of a step, or of what they move, whichever is longer.

    What a member needs of memory is written and read once, but for parameters and moments: Adam
    reads and writes eight times the parameters.
    """
    of_a_member = AOT[machine.target, "8 members, vmap"]["bytes_per_member"] - 3 * GRADIENT_BYTES
    moved = examples * 2 * of_a_member / BATCH + 8 * members * GRADIENT_BYTES
    longer = max(examples * FLOPS / machine.peak_flops, moved / machine.memory_bytes_per_s)
    return longer / machine.share


def step_seconds(machine, batch, devices, members=1):
    """Of a step in which `devices` share the batch of a run, or each has `members` runs at once.

    Kernels come one after the other on every device, whatever its share.
    """
    computing = computing_seconds(machine, members * batch / devices, members)
    waiting = waiting_seconds(machine, members)
    return waiting + computing + all_reduce_seconds(machine, devices)


def all_reduce_seconds(machine, devices):
    """Of one sum of all gradients: the bytes of a ring, the exchanges of a tree there and back."""
    inside = min(devices, machine.host)
    bandwidth = (machine.inner if devices <= machine.host else machine.outer)[0]
    ring = 2 * (devices - 1) / devices * GRADIENT_BYTES / bandwidth
    hops = math.log2(inside) * machine.inner[1] + math.log2(devices / inside) * machine.outer[1]
    return ring + 2 * hops


def strong_scaling(machine, batch):
    """Seconds of a step on 1, 2, 4, ... devices, and how far doubling them saves a tenth of it."""
    most = min(machine.devices, batch)
    steps = {2**k: step_seconds(machine, batch, 2**k) for k in range(most.bit_length())}
    worth = 1
    while 2 * worth in steps and steps[2 * worth] <= 0.9 * steps[worth]:
        worth *= 2
    return steps, worth


def half_efficiency_batch(machine):
    """The smallest batch, a power of two, with half of the ideal speed-up on all devices."""
    batch, everyone = machine.devices, machine.devices
    while step_seconds(machine, batch, 1) < everyone / 2 * step_seconds(machine, batch, everyone):
        batch *= 2
    return batch


def many_seeds(machine):
    """Seeds for each device, and the seconds of all their steps, up to 256 members at once."""
    each = math.ceil(SEEDS / machine.devices)
    stacks = [min(SIDE_BY_SIDE, each - begun) for begun in range(0, each, SIDE_BY_SIDE)]
    return each, STEPS * sum(step_seconds(machine, BATCH, 1, members=size) for size in stacks)


def show_predictions():
    """One run on more and more devices, and many seeds."""
    rows = []
    for machine in MACHINES:
        for batch in BATCHES:
            steps, worth = strong_scaling(machine, batch)
            best = min(steps, key=lambda n: (steps[n], n))
            one, fastest = steps[1] * 1e3, steps[best] * 1e3
            rows.append((machine.name, f"{batch:,}", f"{one:.3g}", best, f"{fastest:.3g}",
                         f"{one / fastest:.2f}", worth))  # fmt: skip
    show_table(("predicted: one run", "B", "one, ms", "best n", "ms", "faster", "worth n"), rows)
    print("worth n: devices as long as doubling them saves a tenth of the step.\n")
    rows = []
    for machine in MACHINES:
        each, wall_s = many_seeds(machine)
        rate = SEEDS * STEPS * BATCH / wall_s / 1e6
        batch = half_efficiency_batch(machine)
        rows.append((machine.name, f"{each:,}", f"{wall_s:.1f}", f"{rate:,.0f} M", f"{batch:,}"))
    show_table(("predicted: 10,000 seeds", "a device", "wall s", "examples/s", "B for half"), rows)
    print(
        f"{STEPS} steps of {BATCH} each, training alone. B for half: smallest batch at which all\n"
        "devices share one run with half their efficiency.\n"
    )


def show_measured():
    """What is predicted of the one accelerator that was measured, in TF32, beside what it did."""
    parts = json.loads(MEASURED.read_text(encoding="utf-8"))["parts"]
    found = [
        (f"one run, B={entry['batch']}", step_seconds(H200, entry["batch"], 1), entry["median_us"])
        for entry in parts["steps"]["steps"]
        if (entry["backend"], entry["type"]) == ("split", "float32/default")
    ]
    found += [
        (f"{entry['members']} members, B={BATCH}",
         step_seconds(H200, BATCH, 1, entry["members"]), median(entry["step_us"]))
        for entry in parts["sweeps"]["sweeps"]
        if entry["backend"] == "fast"
    ]  # fmt: skip
    rows = [
        (name, f"{seconds * 1e6:,.0f}", f"{us:,.0f}", f"{seconds * 1e6 / us:.2f}")
        for name, seconds, us in found
    ]
    show_table((f"a step on {H200.name}", "predicted, us", "measured, us", "ratio"), rows)


def show_table(headings, rows):
    """Columns as wide as they must be, the first to the left."""
    rows = [headings, *(tuple(map(str, row)) for row in rows)]
    first, *widths = (max(map(len, column)) for column in zip(*rows, strict=True))
    for name, *cells in rows:
        numbers = (f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
        print(f"{name:<{first}}  {'  '.join(numbers)}")


if __name__ == "__main__":
    main()
