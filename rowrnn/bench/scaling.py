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

from rowrnn.bench import flops, record, suites
from rowrnn.bench.child import Child, can_pin, cores
from rowrnn.bench.peers.task import EXAMPLES
from rowrnn.bench.timing import Stop, progress
from rowrnn.bench.turns import Contender, Product, ratio_interval, start_product, take_turns
from rowrnn.errors import ConfigError

_ROLE = "rowrnn.bench.peers.rowrnn"


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where a run or a sweep lies.

    Attributes:
        mode: "solo" or "sweep".
        scaling: "weak" or "strong".
        devices: how many, of all processes together.
        processes: how many share the devices, each with as many.
        batch: examples in a step of each member.
        members: how many a sweep has; 1 for a run.
        shared: how many devices share each batch, where there are so many.
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
        """What reports call it; unique."""
        return f"{self.group} n={self.devices} p={self.processes}"

    @property
    def group(self) -> str:
        """Name of the layouts that take turns, which differ in devices and processes alone."""
        together = f" {self.shared} a batch" if self.mode == "sweep" and self.shared > 1 else ""
        return f"{self.mode} {self.scaling}{together} H={self.hidden}"

    @property
    def data(self) -> int:
        """Devices that share a batch."""
        return min(self.shared, self.devices)

    @property
    def examples(self) -> int:
        """Examples in a step of all members."""
        return self.members * self.batch


def groups(suite: suites.Scaling) -> list[list[Layout]]:
    """The layouts that take turns, one device first in each list.

    Raises `ConfigError` where a batch cannot be divided over the devices or is larger than the
    data.
    """
    counts, processes = sorted({1, *suite.devices}), dict.fromkeys(suite.processes)
    pairs = [(1, 1), *((n, p) for n in counts[1:] for p in processes if n % p == 0)]
    _check(suite, [n for n, _ in pairs])
    first, batch, members = suite.hidden[0], suite.batch, suite.members
    fits = math.lcm(*(n for n, _ in pairs))  # Members that divide over any of these devices.

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


def _check(suite: suites.Scaling, devices: Sequence[int]) -> None:
    most = max(devices)
    if most == 1:
        raise ConfigError(f"devices = {list(suite.devices)}: must have more than one, such as 2")
    for n in {*devices, *suite.shared}:
        if suite.batch % n:
            raise ConfigError(
                f"batch = {suite.batch}: must be a multiple of {n}, of how many devices share it"
            )
    if suite.batch * most > EXAMPLES:
        raise ConfigError(
            f"batch = {suite.batch}: {most} devices with so many each make a batch of "
            f"{suite.batch * most}; there are {EXAMPLES} images, take {EXAMPLES // most} at most"
        )


def run(suite: suites.Scaling, *, quick: bool) -> dict[str, Any]:
    """Measures all groups."""
    wanted = groups(suite)
    figures, skipped = [], []
    with contextlib.ExitStack() as stack:
        product = start_product(stack, suite.sample_s, cores()[:1] if can_pin() else None)
        device = product.children[0].facts
        with Stop(lambda: figures) as stop:
            for group in wanted:
                reasons = [why_not(layout, device) for layout in group]
                possible = [each for each, why in zip(group, reasons, strict=True) if not why]
                skipped += filter(None, reasons)
                if len(possible) > 1:
                    progress(f"{group[-1].group}: {len(possible)} layouts")
                    figures += _measure(suite, possible, product)
    return record.document(
        suite,
        quick=quick,
        device=device,
        figures=figures,
        stopped=stop.came,
        sgemm_gflops=product.gflops,
        skipped=list(dict.fromkeys(skipped)),
    )


def why_not(layout: Layout, device: dict[str, Any]) -> str:
    """Why this machine cannot have a layout; empty where it can, as with fake devices always."""
    if device["platform"] != "cpu" and layout.processes > 1:
        return f"{layout.processes} processes: they would have to share an accelerator"
    if device["platform"] != "cpu" and layout.devices > device["devices"]:
        return f"{layout.devices} devices: there are {device['devices']}"
    return ""


def _measure(
    suite: suites.Scaling, group: Sequence[Layout], product: Product
) -> list[dict[str, Any]]:
    """The figures of the layouts of a group, in turns."""
    platform = product.children[0].facts["platform"]
    with contextlib.ExitStack() as stack:
        contenders = [
            Contender(layout.name, _start(stack, suite, layout, product.holder), "train")
            for layout in group
        ]
        # All are ready before the first is timed.
        facts = [[child.facts for child in contender.children] for contender in contenders]
        for contender in contenders:
            contender.calibrate(suite.sample_s)
        product_s, *samples = take_turns([product, *contenders], suite.repeats)
    alone_s = [seconds / group[0].examples for seconds in samples[0]]
    return [
        figure(suite, layout, each[0]["collectives"], seconds, alone_s, product_s, platform)
        for layout, each, seconds in zip(group, facts, samples, strict=True)
    ]


def _start(
    stack: contextlib.ExitStack, suite: suites.Scaling, layout: Layout, holder: Child | None
) -> list[Child]:
    """The processes of a layout, which get ready beside those of the others.

    On an accelerator all layouts are roles of the `holder`.
    """
    coordinator = f"127.0.0.1:{_free_port()}"
    children = []
    for index, cpus in enumerate(pinned(layout, cores())):
        parallel: dict[str, Any] = {"processes": layout.processes}
        if layout.processes > 1:
            parallel |= {"coordinator": coordinator, "process": index}
        if layout.mode == "sweep":
            parallel |= {"data": layout.data, "seed": layout.devices // layout.data}
        options = {
            "batch": layout.batch,
            "hidden": layout.hidden,
            "projection": suite.projection,
            "devices": layout.devices // layout.processes,
            "members": layout.members if layout.mode == "sweep" else 0,
            "parallel": parallel,
        }
        held = cpus if holder is None and can_pin() else None
        children.append(stack.enter_context(Child(_ROLE, options, cpus=held, within=holder)))
    return children


def pinned(layout: Layout, cores: Sequence[int]) -> list[list[int]]:
    """The cores of each process, so that no device has more than one to itself."""
    used = cores[: layout.devices]
    return [
        list(used[index :: layout.processes]) or [used[index % len(used)]]
        for index in range(layout.processes)
    ]


def workers(layout: Layout, platform: str) -> int:
    """How many devices compute at the same time: of fake ones no more than cores."""
    return min(layout.devices, len(cores())) if platform == "cpu" else layout.devices


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def figure(
    suite: suites.Scaling,
    layout: Layout,
    found: Sequence[dict[str, Any]],
    seconds: Sequence[float],
    alone_s: Sequence[float],
    product_s: Sequence[float],
    platform: str,
) -> dict[str, Any]:
    """The figure of a layout beside one device.

    `found` are the `timing.collectives` of its program. Of the same rounds as its samples are the
    seconds of an example on one device and those of a matrix product.

    ``throughput_ratio`` is the median with its interval, ``efficiency`` the median over `workers`.
    ``quiet_s`` is the median of a step in matrix products of the same round, times their best.
    ``bytes`` are those of the collectives of a step on each device, ``wire_bytes`` what each sends
    for them where they are sums in a ring.
    """
    ratios = [layout.examples * alone / s for alone, s in zip(alone_s, seconds, strict=True)]
    median, low, high = ratio_interval(ratios)
    count = workers(layout, platform)
    in_products = [s / product for s, product in zip(seconds, product_s, strict=True)]
    # The members of each group of devices come one after the other.
    members = layout.members * layout.data // layout.devices
    moved = members * sum(each["bytes"] for each in found)
    shape = flops.Shape(projection=suite.projection, hidden=layout.hidden)
    return record.figure(
        layout.name,
        dataclasses.asdict(layout),
        seconds,
        examples=layout.examples,
        flops=flops.training(shape),
        group=layout.group,
        workers=count,
        throughput_ratio=[median, low, high],
        efficiency=median / count,
        quiet_s=statistics.median(in_products) * min(product_s),
        collectives=found,
        collectives_per_step=members * len(found),
        bytes=moved,
        wire_bytes=moved * 2 * (layout.data - 1) / layout.data,
    )
