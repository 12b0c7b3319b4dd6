"""Clocks: what a call costs in steady state, what compiling it cost, and what the program needs.

A sample is the mean time of a few calls in a row, and the clock stops only when their results
are there. The samples themselves are kept, so that whoever doubts a median can look.
"""

import contextlib
import math
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from rowrnn.bench.suites import Suite

# The type of the result and the operation, of an instruction that may run beside others.
_COLLECTIVE = re.compile(
    r" = (\(*[a-z].*?) (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)"
    r"(?:-start)?\("
)

NOISY = 0.10
"""Above this IQR/median a figure carries a warning."""

_STAGES = {
    "/jax/core/compile/jaxpr_trace_duration": "trace_s",
    "/jax/core/compile/jaxpr_to_mlir_module_duration": "lower_s",
    "/jax/core/compile/backend_compile_duration": "backend_s",
}


def measure(call: Callable[[], Any], suite: Suite) -> list[float]:
    """Seconds per call of a function that returns arrays of jax, one value for each sample.

    The first call warms up (buffers, caches, thread pools) and the second says how many calls
    make a sample. A figure that would take longer than ``limit_s`` has fewer samples than
    ``repeats``, but at least three.
    """
    seconds_of(call, 1)
    once = seconds_of(call, 1)
    calls = max(1, round(suite.sample_s / once))
    fits = int(suite.limit_s / (calls * once))
    repeats = min(suite.repeats, max(3, fits))
    return [seconds_of(call, calls) / calls for _ in track(repeats)]


def seconds_of(call: Callable[[], Any], calls: int) -> float:
    """Seconds that this many calls take until the result of the last one is there."""
    import jax

    began = time.perf_counter()
    for _ in range(calls - 1):
        call()
    jax.block_until_ready(call())
    return time.perf_counter() - began


def summary(samples: Sequence[float]) -> dict[str, Any]:
    """Median, interquartile range, minimum and number of samples, and whether they are noisy.

    >>> summary([1.0, 2.0, 3.0, 4.0, 5.0])["median"], summary([1.0, 2.0, 3.0, 4.0, 5.0])["iqr"]
    (3.0, 2.0)
    """
    median = statistics.median(samples)
    low, _, high = statistics.quantiles(samples, n=4, method="inclusive")
    return {
        "median": median,
        "iqr": high - low,
        "min": min(samples),
        "repeats": len(samples),
        "noisy": high - low > NOISY * median,
        "samples": list(samples),
    }


def progress(text: str) -> None:
    """A line on stderr, so that a long suite is seen to move."""
    print(f"bench: {text}", file=sys.stderr, flush=True)


def track(repeats: int) -> Iterable[int]:
    """Counts samples, and shows on a terminal how many there are to come."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    # Drawn between samples alone, where it disturbs none.
    return track(
        range(repeats), "samples", console=console, transient=True, auto_refresh=False,
        disable=not console.is_terminal,
    )  # fmt: skip


class Stop:
    """Lets Ctrl-C end a block in which figures are made, where something is worth keeping.

    Attributes:
        came: whether it has.
    """

    def __init__(self, worth_keeping: Callable[[], Any]):
        self.came, self._worth_keeping = False, worth_keeping

    def __enter__(self) -> "Stop":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        self.came = kind is KeyboardInterrupt and bool(self._worth_keeping())
        return self.came


@contextlib.contextmanager
def compile_times() -> Iterator[dict[str, dict[str, float]]]:
    """Collects the seconds that jax spends on each program that is compiled within the block.

    The dictionary has an entry for each function by its name, and in it ``trace_s`` (Python to
    jaxpr), ``lower_s`` (jaxpr to StableHLO) and ``backend_s`` (XLA), as `jax.monitoring` reports
    them. Compilations of functions of the same name are added up.
    """
    from jax import monitoring

    programs: dict[str, dict[str, float]] = {}

    def listen(event: str, duration_secs: float, **facts: str | int) -> None:
        stage = _STAGES.get(event)
        if stage is not None:
            name = str(facts.get("fun_name", "")).removeprefix("jit(").removesuffix(")")
            stages = programs.setdefault(name, dict.fromkeys(_STAGES.values(), 0.0))
            stages[stage] += duration_secs

    monitoring.register_event_duration_secs_listener(listen)
    try:
        yield programs
    finally:
        monitoring.unregister_event_duration_listener(listen)


@contextlib.contextmanager
def without_compilation_cache() -> Iterator[None]:
    """Within the block every program is really compiled, so that the time of it can be told."""
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    before = jax.config.values["jax_enable_compilation_cache"]
    jax.config.update("jax_enable_compilation_cache", False)
    # jax looks once whether there is a cache, and remembers it; this makes it look again.
    compilation_cache.reset_cache()
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", before)
        compilation_cache.reset_cache()


def memory(compiled: Any) -> dict[str, int]:
    """Bytes that a compiled program needs: arguments, results, temporaries and their sum.

    Results that take the place of a donated argument count once. Where the device keeps count,
    ``device_peak`` is the most it had in use since the process began.
    """
    import jax

    facts: dict[str, int] = {}
    analysis = compiled.memory_analysis()
    if analysis is not None:
        facts["arguments"] = analysis.argument_size_in_bytes
        facts["results"] = analysis.output_size_in_bytes - analysis.alias_size_in_bytes
        facts["temporaries"] = analysis.temp_size_in_bytes
        facts["peak"] = sum(facts.values())
    stats = jax.local_devices()[0].memory_stats()
    if stats and "peak_bytes_in_use" in stats:
        facts["device_peak"] = stats["peak_bytes_in_use"]
    return facts


def collectives(text: str) -> list[dict[str, Any]]:
    """What devices exchange in a step, read from the optimized HLO of a chunk of training.

    XLA has the last word: it merges collectives and moves them out of the loop over steps, which is
    the one loop whose length it does not know. Those right in its body are returned, each with
    ``op`` and the ``bytes`` of its result on each device, for a sum as many as its operands have.

    Args:
        text: as ``compiled.as_text()`` gives it.
    """
    loops = [line for line in text.splitlines() if " while(" in line]
    body = next(re.search(r"body=%?([\w.\-]+)", line) for line in loops if "known_trip" not in line)
    assert body is not None
    start = re.search(rf"^%?{re.escape(body[1])} \(.*$", text, re.MULTILINE)
    assert start is not None
    inside = text[start.end() : text.index("\n}", start.end())]
    return collectives_in(inside)


def collectives_in(text: str) -> list[dict[str, Any]]:
    """The collectives among instructions, each with ``op`` and ``bytes``."""
    # A collective that is started on a GPU is a pair, ((operands), results).
    return [
        {"op": op, "bytes": _bytes(kind.split("), ", 1)[-1] if kind.startswith("((") else kind)}
        for kind, op in _COLLECTIVE.findall(text)
    ]


def _bytes(kind: str) -> int:
    """Bytes of a type such as ``f32[128,10]{1,0}``, or of a tuple of such."""
    return sum(
        # ``pred`` has no number in it and takes a byte.
        int(bits or 8) // 8 * math.prod(int(n) for n in shape.split(",") if n)
        for bits, shape in re.findall(r"\b[a-z]+(\d*)\w*\[([\d,]*)\]", kind)
    )
