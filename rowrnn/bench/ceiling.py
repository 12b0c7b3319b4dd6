"""What the device can do at most: matrix products over a grid of shapes, and copy bandwidth.

A kernel that beats the best of these has not been timed properly, and one that comes near it has
nothing left to gain. The products are done by jax, with the same library calls as the network's.
"""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from rowrnn.bench import record, timing
from rowrnn.bench.child import Child, can_pin, cores
from rowrnn.bench.suites import Ceiling
from rowrnn.bench.turns import SGEMM

_MIB = 2**20


def run(suite: Ceiling, *, quick: bool) -> dict[str, Any]:
    """Measures the ceiling of this process, and of one held to a single core."""
    figures, one_core = [], []
    device = record.this_device()
    with timing.Stop(lambda: figures) as stop:
        for entry in _measure(suite):
            timing.progress(entry["name"])
            figures.append(entry)
        if suite.one_core and device["platform"] == "cpu" and can_pin():
            timing.progress("one core")
            with Child(__name__, {}, cpus=cores()[:1]) as child:
                settings = dataclasses.replace(suite, types=(SGEMM,))
                one_core = child.ask("measure", dataclasses.asdict(settings))
    results = summary(figures) | ({"one_core": summary(one_core)} if one_core else {})
    figures += [entry | {"name": f"one core · {entry['name']}"} for entry in one_core]
    return record.document(
        suite, quick=quick, device=device, figures=figures, stopped=stop.came, **results
    )


def measure(suite: Ceiling) -> list[dict[str, Any]]:
    """The figures of all shapes and types, and of all copies, in this process."""
    return list(_measure(suite))


def _measure(suite: Ceiling) -> Iterator[dict[str, Any]]:
    for kind in suite.types:
        yield from _products(suite, kind)
    for mib in suite.copy_mib:
        yield _copy(suite, mib)


def summary(figures: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The best rates among figures: ``sgemm_gflops``, ``gemm_gflops`` by type, ``copy_gb_per_s``.

    ``sgemm_gflops`` is that of float32 throughout, whatever shortcuts the device offers, and
    ``copy_gb_per_s`` that of the largest array, which no cache holds; each is None where none was
    measured.
    """
    rates: dict[str, float] = {}
    bandwidth, largest = None, 0
    for entry in figures:
        kind = entry["case"]["type"]
        if kind == "copy":
            if entry["case"]["mib"] > largest:
                bandwidth, largest = entry["gb_per_s"], entry["case"]["mib"]
        else:
            rates[kind] = max(rates.get(kind, 0.0), entry["gflops"])
    return {
        "sgemm_gflops": rates.get(SGEMM),
        "gemm_gflops": rates,
        "copy_gb_per_s": bandwidth,
    }


def product(shape: Sequence[int], kind: str) -> Any:
    """A call without arguments that multiplies two matrices of random numbers.

    Sums are in float32 whatever the operands, as in the network. That matters: a product of
    bfloat16 into bfloat16 can take another path, on some CPUs one that is six times slower.

    Args:
        shape: (m, k, n).
        kind: "dtype/precision", as `jax.lax.Precision` names the second.
    """
    m, k, n = shape
    dtype, precision = kind.split("/")
    left, right = jax.random.split(jax.random.key(0))
    a = jax.random.normal(left, (m, k), dtype)
    b = jax.random.normal(right, (k, n), dtype)

    @jax.jit
    def multiply(a, b):
        return jnp.dot(a, b, precision=precision, preferred_element_type=jnp.float32)

    return lambda: multiply(a, b)


def _products(suite: Ceiling, kind: str) -> Iterator[dict[str, Any]]:
    best = 0.0
    for m, k, n in sorted(suite.products, key=math.prod):
        flops = 2 * m * k * n
        # Two calls to warm up and three samples, at the best rate so far.
        if best and 5 * flops / (best * 1e9) > suite.limit_s:
            break
        samples = timing.measure(product((m, k, n), kind), suite)
        case = {"type": kind, "shape": [m, k, n]}
        entry = record.figure(f"product {m}×{k}×{n} {kind}", case, samples)
        best = max(best, flops / entry["median"] / 1e9)
        yield entry | {"gflops": flops / entry["median"] / 1e9}


def _copy(suite: Ceiling, mib: int) -> dict[str, Any]:
    """Reads an array and writes its negative in its place, so that no page is new."""
    array = jax.random.normal(jax.random.key(0), (mib * _MIB // 4,))
    negate = jax.jit(jnp.negative, donate_argnums=0)

    def call():
        nonlocal array
        array = negate(array)
        return array

    samples = timing.measure(call, suite)
    entry = record.figure(f"copy {mib} MiB", {"type": "copy", "mib": mib}, samples)
    return entry | {"gb_per_s": 2 * mib * _MIB / entry["median"] / 1e9}


class _Served:
    """The ceiling of a child process."""

    def __init__(self) -> None:
        self.facts = record.this_device() | {"devices": jax.device_count()}

    def measure(self, settings: dict[str, Any]) -> list[dict[str, Any]]:
        """The figures of a `Ceiling` of these settings."""
        return measure(Ceiling(**settings))

    def prepare(self, shape: list[int], kind: str) -> None:
        """Chooses the product that `multiply` repeats."""
        self._call = product(shape, kind)
        timing.seconds_of(self._call, 2)

    def multiply(self, calls: int) -> None:
        """Multiplies so many times and waits for the last."""
        timing.seconds_of(self._call, calls)


def start() -> _Served:
    """For `rowrnn.bench.worker`."""
    return _Served()
