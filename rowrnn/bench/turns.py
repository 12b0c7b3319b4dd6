"""Taking turns: A B A B, so that what disturbs the machine disturbs both.

Two figures taken one after the other on a machine that drifts say little about each other. Taken
in turns, each pair of neighbours gives a ratio of its own, and the drift cancels.
"""

import dataclasses
import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

from rowrnn.bench.child import Child
from rowrnn.bench.suites import Ceiling
from rowrnn.bench.timing import Effort

# After a sample its threads may look for more work for a moment before they sleep.
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

    def calibrate(self, sample_s: float) -> float:
        """Warms up, sets `calls` so that a sample lasts `sample_s`, and returns seconds per call.

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
        return took / calls

    def sample(self) -> float:
        """Seconds per call, over one sample."""
        return self.seconds(self.calls) / self.calls


def take_turns(contenders: Sequence[Contender], repeats: int) -> list[list[float]]:
    """Samples of each contender, seconds per call; sample k of all of them were neighbours."""
    rounds = [[contender.sample() for contender in contenders] for _ in range(repeats)]
    return [list(samples) for samples in zip(*rounds, strict=True)]


def best_product(child: Child) -> tuple[list[int], float]:
    """The shape of float32 product that a process of `rowrnn.bench.ceiling` is fastest at.

    Returns the shape (m, k, n) and the rate in GFLOP/s.
    """
    effort = Effort(repeats=3, sample_s=0.05, limit_s=0.5)
    grid = child.ask("measure", Ceiling().products, (), dataclasses.astuple(effort))
    best = max(grid, key=lambda entry: entry["gflops"])
    return best["case"]["shape"], best["gflops"]


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
