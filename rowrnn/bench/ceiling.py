"""What the device can do at most: matrix products over a grid of shapes, and copy bandwidth.

A kernel that beats the best of these has not been timed properly, and one that comes near it has
nothing left to gain. The products are done by jax, with the same library calls as the network's.
"""

from collections.abc import Sequence
from dataclasses import astuple
from typing import Any

import jax
import jax.numpy as jnp

from rowrnn.bench import record, timing
from rowrnn.bench.child import Child, can_pin, cores
from rowrnn.bench.suites import Ceiling
from rowrnn.bench.timing import Effort

_MIB = 2**20


def run(suite: Ceiling, *, quick: bool) -> dict[str, Any]:
    """Measures the ceiling of this process, and of one held to a single core."""
    figures = measure(suite)
    results = summary(figures)
    device = jax.devices()[0]
    if suite.one_core and device.platform == "cpu" and can_pin() and len(cores()) > 1:
        with Child(__name__, {}, cpus=cores()[:1]) as child:
            one_core = child.ask("measure", suite.products, suite.copy_mib, astuple(suite.effort))
        results["one_core"] = summary(one_core)
        figures += [entry | {"name": f"one core · {entry['name']}"} for entry in one_core]
    facts = {"platform": device.platform, "kind": device.device_kind, "devices": 1}
    return record.document(suite, quick=quick, device=facts, figures=figures, **results)


def measure(suite: Ceiling) -> list[dict[str, Any]]:
    """The figures of all shapes and types, and of all copies, in this process."""
    figures = []
    for kind in suite.types:
        figures += _products(suite.products, kind, suite.effort)
    return figures + [_copy(mib, suite.effort) for mib in suite.copy_mib]


def summary(figures: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The best rates among figures: ``sgemm_gflops``, ``gemm_gflops`` by type, ``copy_gb_per_s``.

    ``sgemm_gflops`` is that of float32 throughout, whatever shortcuts the device offers.
    """
    rates: dict[str, float] = {}
    bandwidth = 0.0
    for entry in figures:
        kind = entry["case"]["type"]
        if kind == "copy":
            bandwidth = max(bandwidth, entry["gb_per_s"])
        else:
            rates[kind] = max(rates.get(kind, 0.0), entry["gflops"])
    return {
        "sgemm_gflops": rates.get("float32/highest"),
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


def _products(shapes: Sequence[Sequence[int]], kind: str, effort: Effort) -> list[dict[str, Any]]:
    figures: list[dict[str, Any]] = []
    for m, k, n in sorted(shapes, key=lambda shape: shape[0] * shape[1] * shape[2]):
        flops = 2 * m * k * n
        best = max((entry["gflops"] for entry in figures), default=0.0)
        # Two calls to warm up and three samples, at the best rate so far.
        if best and 5 * flops / (best * 1e9) > effort.limit_s:
            break
        samples = timing.measure(product((m, k, n), kind), effort)
        case = {"type": kind, "shape": [m, k, n]}
        entry = record.figure(f"product {m}×{k}×{n} {kind}", case, samples)
        figures.append(entry | {"gflops": flops / entry["median"] / 1e9})
    return figures


def _copy(mib: int, effort: Effort) -> dict[str, Any]:
    """Reads an array and writes its negative in its place, so that no page is new."""
    array = jax.random.normal(jax.random.key(0), (mib * _MIB // 4,))
    negate = jax.jit(jnp.negative, donate_argnums=0)

    def call():
        nonlocal array
        array = negate(array)
        return array

    entry = record.figure(
        f"copy {mib} MiB", {"type": "copy", "mib": mib}, timing.measure(call, effort)
    )
    return entry | {"gb_per_s": 2 * mib * _MIB / entry["median"] / 1e9}


class _Served:
    """The ceiling of a child process."""

    def __init__(self) -> None:
        device = jax.devices()[0]
        self.facts = {
            "platform": device.platform,
            "kind": device.device_kind,
            "devices": jax.device_count(),
        }

    def measure(self, products: list, copy_mib: list[int], effort: list) -> list[dict[str, Any]]:
        """The figures of float32 products and copies."""
        figures = _products(products, "float32/highest", Effort(*effort))
        return figures + [_copy(mib, Effort(*effort)) for mib in copy_mib]

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
