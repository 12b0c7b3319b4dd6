"""Many runs on the cores of one machine: a sweep against its rivals, in turns.

A sweep in one process, a member on each core; a process for each run, held to a core of its own;
and a single run that shares its batches between the cores, which is the most that one run reaches.
"""

import contextlib
import statistics
from pathlib import Path
from typing import Any

from rowrnn.bench import suites
from rowrnn.bench.child import Child, can_pin, cores
from rowrnn.bench.turns import Contender, ratio_interval, take_turns

_OWN = "rowrnn.bench.peers.rowrnn"


def measure(suite: suites.Train, task: Path, batch: int) -> dict[str, Any] | None:
    """Throughput of the three, and the paired ratios of the sweep's to those of the others.

    None where there is a single core or none can be chosen.
    """
    if not can_pin():
        return None
    count = len(cores())
    options = {"task": str(task), "batch": batch, "backend": suite.backend}
    with contextlib.ExitStack() as stack:

        def start(devices: int, cpus: list[int] | None = None, *, sweep: bool = False) -> Child:
            chosen = options | {"devices": devices, "sweep": sweep}
            return stack.enter_context(Child(_OWN, chosen, cpus=cpus))

        # Of which each does an equal share of the batch.
        shared = max(n for n in range(1, count + 1) if batch % n == 0)
        contenders = [
            Contender("a sweep", [start(count, sweep=True)], "train"),
            Contender("a process on each core", [start(1, [c]) for c in cores()], "train"),
            Contender(f"one run on {shared} devices", [start(shared)], "train"),
        ]
        for contender in contenders:
            contender.calibrate(suite.sample_s)
        samples = take_turns(contenders, suite.repeats)
    # A call is a step of every run: with so many examples.
    examples = [count * batch, count * batch, batch]
    rates = {
        contender.name: [of_a_call / second for second in seconds]
        for contender, seconds, of_a_call in zip(contenders, samples, examples, strict=True)
    }
    own, *others = rates
    return {
        "batch": batch,
        "examples_per_s": {name: statistics.median(each) for name, each in rates.items()},
        "over": {
            name: ratio_interval([a / b for a, b in zip(rates[own], rates[name], strict=True)])
            for name in others
        },
        "samples": rates,
    }
