"""A run and a sweep on more and more devices of one or several processes.

All layouts of a group (a run or a sweep, weak or strong, one size) take turns, with one device
among them and a matrix product; what is told of a layout are ratios of neighbours. On a CPU,
devices are fake: a layout is held to as many cores as it has devices, as far as there are so many,
and devices beyond the cores share them. What is seen there is what dividing the work costs; how
fast it would be with real devices is not.
"""

import contextlib
import dataclasses
import math
import socket
import statistics
from collections.abc import Sequence
from typing import Any

from rowrnn.bench import cost_model, flops, record, suites
from rowrnn.bench.child import Child, can_pin, cores
from rowrnn.bench.cost_model import Point
from rowrnn.bench.timing import progress
from rowrnn.bench.turns import Contender, best_product, ratio_interval, take_turns
from rowrnn.errors import ConfigError

_ROLE = "rowrnn.bench.scaled"
_CEILING = "rowrnn.bench.ceiling"
_SGEMM = "float32/highest"
_EXAMPLES = 4_000


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where a run or a sweep lies.

    Attributes:
        mode: "solo" or "sweep".
        scaling: "weak" or "strong".
        devices: of all processes.
        processes: that have as many devices each.
        batch: examples in a step of each member.
        members: of a sweep; 1 for a run.
        shared: devices that share each batch, where there are so many.
        hidden: units.
    """

    mode: str
    scaling: str
    devices: int
    processes: int
    batch: int
    members: int
    shared: int
    hidden: int

    @property
    def name(self) -> str:
        """In words; unique."""
        return f"{self.group} n={self.devices} p={self.processes}"

    @property
    def group(self) -> str:
        """Those that take turns: the same but for devices and processes, and one device."""
        together = f" {self.shared} a batch" if self.mode == "sweep" and self.shared > 1 else ""
        return f"{self.mode} {self.scaling}{together} H={self.hidden}"

    @property
    def data(self) -> int:
        """Devices that share a batch."""
        return min(self.shared, self.devices)

    @property
    def examples(self) -> int:
        """In a step of all members."""
        return self.members * self.batch


def groups(suite: suites.Scaling) -> list[list[Layout]]:
    """The layouts that take turns, one device first in each list.

    Raises `ConfigError` where a batch cannot be divided over the devices or is larger than the
    data.
    """
    pairs = [
        (n, p) for n in sorted(set(suite.devices) | {1}) for p in suite.processes if n % p == 0
    ]
    pairs = [(1, 1), *dict.fromkeys(pair for pair in pairs if pair != (1, 1))]
    most = max(n for n, _ in pairs)
    _check(suite, most, [n for n, _ in pairs])
    first, batch, members = suite.hidden[0], suite.batch, suite.members
    fits = math.lcm(*(n for n, _ in pairs))  # As many members on any of these devices.

    def solo(scaling: str, hidden: int) -> list[Layout]:
        return [
            Layout("solo", scaling, n, p, batch * (n if scaling == "weak" else 1), 1, n, hidden)
            for n, p in pairs
        ]

    def sweep(scaling: str, shared: int) -> list[Layout]:
        return [
            Layout("sweep", scaling, n, p, batch, members * (n if scaling == "weak" else fits),
                   shared, first)
            for n, p in pairs
            if n == 1 or n % shared == 0
        ]  # fmt: skip

    found = [solo("weak", first), *(solo("strong", hidden) for hidden in suite.hidden)]
    found += [sweep("strong", 1), *(sweep("weak", shared) for shared in suite.shared)]
    return [group for group in found if len(group) > 1]


def _check(suite: suites.Scaling, most: int, devices: Sequence[int]) -> None:
    if most == 1:
        raise ConfigError(f"devices = {list(suite.devices)}: must have more than one, such as 2")
    for n in {*devices, *suite.shared}:
        if suite.batch % n:
            raise ConfigError(
                f"batch = {suite.batch}: must be a multiple of {n}, of how many devices share it"
            )
    if suite.batch * most > _EXAMPLES:
        raise ConfigError(
            f"batch = {suite.batch}: {most} devices with so many each make a batch of "
            f"{suite.batch * most}; there are {_EXAMPLES} images, take {_EXAMPLES // most} at most"
        )


def run(suite: suites.Scaling, *, quick: bool) -> dict[str, Any]:
    """Measures all groups, fits the cost model and says what it predicts."""
    wanted = groups(suite)
    figures, skipped = [], []
    with contextlib.ExitStack() as stack:
        product, gflops, facts = _start_product(stack, suite)
        for group in wanted:
            possible, reasons = _possible(group, facts)
            skipped += reasons
            if len(possible) > 1:
                progress(f"{group[-1].group}: {len(possible)} layouts")
                figures += _measure(suite, possible, product, facts["platform"])
    results = {
        "sgemm_gflops": gflops,
        "cost_model": cost_model.evaluate(points(figures)) if figures else None,
        "predictions": cost_model.predict(),
        "skipped": list(dict.fromkeys(skipped)),
    }
    return record.document(suite, quick=quick, device=facts, figures=figures, **results)


def _start_product(
    stack: contextlib.ExitStack, suite: suites.Scaling
) -> tuple[Contender, float, dict[str, Any]]:
    """A matrix product on one device, its best rate in GFLOP/s, and what the devices are."""
    child = stack.enter_context(Child(_CEILING, {}, cpus=cores()[:1] if can_pin() else None))
    best, gflops = best_product(child)
    child.ask("prepare", best, _SGEMM)
    product = Contender("product", [child], "multiply")
    product.calibrate(suite.sample_s / 2)
    return product, gflops, child.facts


def _possible(group: Sequence[Layout], facts: dict[str, Any]) -> tuple[list[Layout], list[str]]:
    """The layouts that this machine has devices for, and why not the others."""
    if facts["platform"] == "cpu":
        return list(group), []
    possible, reasons = [], []
    for layout in group:
        if layout.processes > 1:
            reasons.append(f"{layout.processes} processes: they would have to share an accelerator")
        elif layout.devices > facts["devices"]:
            reasons.append(f"{layout.devices} devices: there are {facts['devices']}")
        else:
            possible.append(layout)
    return possible, reasons


def _measure(
    suite: suites.Scaling, group: Sequence[Layout], product: Contender, platform: str
) -> list[dict[str, Any]]:
    """The figures of the layouts of a group, in turns."""
    with contextlib.ExitStack() as stack:
        contenders = [
            Contender(layout.name, _start(stack, suite, layout, platform), "train")
            for layout in group
        ]
        # All are ready before the first is timed.
        facts = [[child.facts for child in contender.children] for contender in contenders]
        for contender in contenders:
            contender.calibrate(suite.sample_s)
        samples = take_turns([product, *contenders], suite.repeats)
    product_s, one, *_ = samples
    return [
        _figure(suite, layout, each[0], seconds, one, group[0], product_s, platform)
        for layout, each, seconds in zip(group, facts, samples[1:], strict=True)
    ]


def _start(
    stack: contextlib.ExitStack, suite: suites.Scaling, layout: Layout, platform: str
) -> list[Child]:
    """The processes of a layout, which get ready beside those of the others."""
    coordinator = f"127.0.0.1:{_free_port()}"
    children = []
    for index, cpus in enumerate(pinned(layout, cores())):
        parallel: dict[str, Any] = {"devices": layout.devices // layout.processes}
        parallel |= {"processes": layout.processes}
        if layout.processes > 1:
            parallel |= {"coordinator": coordinator, "process": index}
        if layout.mode == "sweep":
            parallel |= {"data": layout.data, "seed": layout.devices // layout.data}
        options = {
            "mode": layout.mode,
            "batch": layout.batch,
            "members": layout.members,
            "hidden": layout.hidden,
            "projection": suite.projection,
            "parallel": parallel,
        }
        held = cpus if platform == "cpu" and can_pin() else None
        children.append(stack.enter_context(Child(_ROLE, options, cpus=held)))
    return children


def pinned(layout: Layout, cores: Sequence[int]) -> list[list[int]]:
    """The cores of each process, so that no device has more than one to itself."""
    used = cores[: layout.devices]
    return [
        list(used[index :: layout.processes]) or [used[index % len(used)]]
        for index in range(layout.processes)
    ]


def workers(layout: Layout, platform: str) -> int:
    """What computes at the same time: devices, but of fake ones no more than cores."""
    return min(layout.devices, len(cores())) if platform == "cpu" else layout.devices


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def _figure(
    suite: suites.Scaling,
    layout: Layout,
    facts: dict[str, Any],
    seconds: Sequence[float],
    one_s: Sequence[float],
    one: Layout,
    product_s: Sequence[float],
    platform: str,
) -> dict[str, Any]:
    """The figure of a layout beside one device.

    ``throughput_ratio`` is the median with its interval, ``efficiency`` the median over `workers`.
    ``quiet_s`` is the median of a step in matrix products of the same round, times their best.
    """
    scale = layout.examples / one.examples
    ratios = [scale * alone / s for alone, s in zip(one_s, seconds, strict=True)]
    median, low, high = ratio_interval(ratios)
    count = workers(layout, platform)
    in_products = [s / product for s, product in zip(seconds, product_s, strict=True)]
    shape = flops.Shape(projection=suite.projection, hidden=layout.hidden)
    entry = record.figure(
        layout.name,
        dataclasses.asdict(layout),
        seconds,
        examples=layout.examples,
        flops=flops.training(shape),
    )
    return entry | {
        "group": layout.group,
        "workers": count,
        "throughput_ratio": [median, low, high],
        "efficiency": median / count,
        "quiet_s": statistics.median(in_products) * min(product_s),
        "collectives": facts["collectives"],
        "collectives_per_step": facts["per_step"]["collectives"],
        "bytes": facts["per_step"]["bytes"],
        "wire_bytes": facts["per_step"]["wire_bytes"],
        "terms": terms(layout, facts["per_step"], flops.training(shape).executed, count),
    }


def terms(
    layout: Layout, per_step: dict[str, float], flops_per_example: int, workers: int
) -> dict[str, float]:
    """What a step needs in the words of the cost model, of each worker.

    Devices that share a core take turns on it, so that it does the work of all of them: their
    operations, their steps one after the other, and their part in each collective. Within a
    process devices exchange through memory, between processes through sockets, which costs another
    price.
    """
    turns = layout.devices / workers
    steps = layout.members * layout.data / layout.devices
    where = "between" if layout.processes > 1 else "within"
    return {
        "compute": flops_per_example * layout.examples / workers,
        "step": steps * turns,
        f"collective {where}": per_step["collectives"] * turns,
        f"bytes {where}": per_step["wire_bytes"] * turns,
    }


def points(figures: Sequence[dict[str, Any]]) -> list[Point]:
    """The figures for the cost model, each layout once."""
    return [
        Point(entry["name"], entry["case"]["devices"], entry["quiet_s"], entry["terms"])
        for entry in figures
    ]
