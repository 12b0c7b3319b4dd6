"""Many runs on the cores of one machine: a sweep against its rivals, in turns.

A sweep in one process, a member on each core; a process for each run, held to a core of its own;
and a single run that shares its batches between the cores, which is the most that one run reaches.
"""

import contextlib
import statistics
from typing import Any

from rowrnn.bench import flops, suites
from rowrnn.bench.child import Child, can_pin, cores
from rowrnn.bench.turns import Contender, ratio_interval, take_turns


def start_rowrnn(
    suite: suites.Train,
    batch: int,
    devices: int,
    cpus: list[int] | None = None,
    *,
    sweep: bool = False,
    precision: str = "highest",
    within: Child | None = None,
) -> Child:
    """rowrnn in a process: a run that devices share, or a sweep with a member on each of them."""
    options = {
        "batch": batch,
        "hidden": suite.hidden,
        "projection": flops.Shape.projection,
        "devices": devices,
        "members": devices if sweep else 0,
        "backend": suite.backend,
        "precision": precision,
    }
    return Child("rowrnn.bench.peers.rowrnn", options, cpus=cpus, within=within)


def measure(suite: suites.Train) -> dict[str, Any] | None:
    """Throughput of the three, and the paired ratios of the sweep's to those of the others.

    None where there is a single core, or the system cannot hold a process to one.
    """
    if not can_pin():
        return None
    count, batch = len(cores()), suite.batch[0]
    with contextlib.ExitStack() as stack:

        def start(*chosen: Any, sweep: bool = False) -> Child:
            return stack.enter_context(start_rowrnn(suite, batch, *chosen, sweep=sweep))

        # A single run takes as many devices as can each take an equal share of the batch.
        shared = max(n for n in range(1, count + 1) if batch % n == 0)
        contenders = [
            Contender("a sweep", [start(count, sweep=True)], "train"),
            Contender("a process on each core", [start(1, [c]) for c in cores()], "train"),
            Contender(f"one run on {shared} devices", [start(shared)], "train"),
        ]
        for contender in contenders:
            contender.calibrate(suite.sample_s)
        samples = take_turns(contenders, suite.repeats)
    # Examples in a call, which is a step of every run.
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
