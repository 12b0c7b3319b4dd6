"""Taking turns: A B A B, so that what disturbs the machine disturbs both.

Two figures taken one after the other on a machine that drifts say little about each other. Taken
in turns, each pair of neighbours gives a ratio of its own, and the drift cancels.
"""

import contextlib
import dataclasses
import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rowrnn.bench import timing
from rowrnn.bench.child import Child
from rowrnn.bench.suites import Ceiling

SGEMM = "float32/highest"
"""Type of the matrix products that others take turns with: float32 throughout."""

# The threads of a sample may look for more work for a moment before they sleep.
_PAUSE_S = 0.02


@dataclass
class Contender:
    """Processes that do the same thing at once, and how often they do it in a sample.

    Attributes:
        name: for the report.
        children: the processes; one, as a rule.
        do: the method they are asked for, with a number of calls as its argument.
        granule: calls come in multiples of this.
        calls: calls in a sample, set by `calibrate`.
    """

    name: str
    children: Sequence[Child]
    do: str
    granule: int = 1
    calls: int = 0

    def seconds(self, calls: int) -> float:
        """Seconds from the first question to the last answer."""
        time.sleep(_PAUSE_S)
        began = time.perf_counter()
        for child in self.children:
            child.send(self.do, calls)
        for child in self.children:
            child.receive()
        return time.perf_counter() - began

    def calibrate(self, sample_s: float) -> None:
        """Warms up and sets `calls` so that a sample lasts `sample_s` seconds.

        The last few milliseconds of the warm-up decide, so that lazy compilation does not.
        """
        for child in self.children:
            assert child.facts is not None
        self.seconds(self.granule)
        calls, took = self.granule, self.seconds(self.granule)
        while took < sample_s / 4:
            calls *= 2
            took = self.seconds(calls)
        granules = math.ceil(sample_s / took * calls / self.granule)
        self.calls = granules * self.granule

    def sample(self) -> float:
        """Seconds per call, over one sample."""
        return self.seconds(self.calls) / self.calls


@dataclass
class Product(Contender):
    """Matrix products of the shape that a process is fastest at.

    Attributes:
        flops: operations of a product.
        gflops: the best rate, in GFLOP/s.
    """

    flops: int = 0
    gflops: float = 0.0

    @property
    def holder(self) -> Child | None:
        """Whose process takes all other roles, since it holds the accelerator; None on a CPU."""
        child = self.children[0]
        return None if child.facts["platform"] == "cpu" else child


def start_product(
    stack: contextlib.ExitStack,
    sample_s: float,
    cpus: list[int] | None = None,
    kind: Any = SGEMM,
    within: Child | None = None,
) -> Product:
    """A process that multiplies matrices, on some cores or all, ready to take turns.

    Args:
        stack: ends the process.
        sample_s: seconds that a sample of its rivals lasts. Half of that is enough here: a product
            repeats itself exactly.
        cpus: the cores that it is held to; all where not given.
        kind: type of the products.
        within: see `Child`.
    """
    child = stack.enter_context(Child("rowrnn.bench.ceiling", {}, cpus=cpus, within=within))
    suite = Ceiling(types=(kind,), copy_mib=(), repeats=3, sample_s=0.05, limit_s=0.5)
    grid = child.ask("measure", dataclasses.asdict(suite))
    best = max(grid, key=lambda entry: entry["gflops"])
    shape = best["case"]["shape"]
    child.ask("prepare", shape, kind)
    product = Product("product", [child], "multiply", flops=2 * math.prod(shape))
    product.gflops = best["gflops"]
    product.calibrate(sample_s / 2)
    return product


def take_turns(contenders: Sequence[Contender], repeats: int) -> list[list[float]]:
    """Samples of each contender, seconds per call; sample k of all of them were neighbours."""
    rounds = [[contender.sample() for contender in contenders] for _ in timing.track(repeats)]
    return [list(samples) for samples in zip(*rounds, strict=True)]


def ratio_interval(ratios: Sequence[float]) -> tuple[float, float, float]:
    """The median of paired ratios, and the interval that covers it with at least 90 %.

    The interval is that of the sign test, between two of the ratios themselves: it assumes
    nothing about their distribution. With fewer than five ratios it is their whole range, which
    covers less.

    >>> ratio_interval([1.3, 1.2, 1.5, 1.4, 1.1])
    (1.3, 1.1, 1.5)
    """
    ordered, n = sorted(ratios), len(ratios)
    cut, tail = 0, 0.5**n
    # The median lies outside (cut+1-th, n-cut-th) with twice this probability.
    while cut + 1 < n / 2 and 2 * (tail + math.comb(n, cut + 1) * 0.5**n) <= 0.10:
        cut += 1
        tail += math.comb(n, cut) * 0.5**n
    return statistics.median(ordered), ordered[cut], ordered[n - 1 - cut]
