"""What the devices of a compiled program say to each other, read from its text.

XLA's optimized HLO is the last word: the compiler merges collectives, moves them out of loops and
adds its own. Each is counted as often as its loops run, as far as their length is known; the one
loop of a chunk whose length is not is that over steps.
"""

import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

# Bytes on the wire of each device for a byte of its operand, among n devices in a ring.
_ON_THE_WIRE: dict[str, Callable[[int], float]] = {
    "all-reduce": lambda n: 2 * (n - 1) / n,
    "all-gather": lambda n: n - 1,
    "reduce-scatter": lambda n: (n - 1) / n,
    "all-to-all": lambda n: (n - 1) / n,
    "collective-permute": lambda n: 1,
    "collective-broadcast": lambda n: 1,
}

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
# The name, the type and the operation; types hold blanks and comments, but no word before a "(".
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*?) ([a-z][\w\-]*)\((.*)$")
_ARRAY = re.compile(r"\b([a-z]+\d*(?:e\d+m\d+\w*)?)\[([\d,]*)\]")
_CALLED = re.compile(
    r"\b(?:body|condition|calls|to_apply|true_computation|false_computation)=%?([\w.\-]+)"
)
_BRANCHES = re.compile(r"\bbranch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')


@dataclass(frozen=True)
class Collective:
    """An operation between devices.

    Attributes:
        op: such as ``all-reduce``.
        bytes: of its operands on each device.
        devices: how many exchange them with each other.
        times: how often it runs, in a turn of the loop of unknown length or, outside of that, in
            a call of the program.
        in_step: whether it is inside that loop.
    """

    op: str
    bytes: int
    devices: int
    times: int
    in_step: bool

    @property
    def wire_bytes(self) -> float:
        """Bytes that each device sends for it where the devices form a ring."""
        return self.bytes * _ON_THE_WIRE[self.op](self.devices)


@dataclass(frozen=True)
class _Instruction:
    type: str
    op: str
    rest: str
    """Operands, with what follows them."""


def find(text: str) -> list[Collective]:
    """All collectives that a program runs, from ``compiled.as_text()``."""
    computations, entry = _parse(text)
    everyone = math.prod(
        int(found[1])
        for name in ("num_partitions", "replica_count")
        if (found := re.search(rf"\b{name}=(\d+)", text.split("\n", 1)[0]))
    )
    return list(_walk(computations, entry, everyone, times=1, in_step=False))


def per_step(found: Iterable[Collective]) -> dict[str, float]:
    """Sums over a step: ``collectives``, ``bytes`` of operands and ``wire_bytes`` of a device."""
    inside = [each for each in found if each.in_step]
    return {
        "collectives": sum(each.times for each in inside),
        "bytes": sum(each.times * each.bytes for each in inside),
        "wire_bytes": sum(each.times * each.wire_bytes for each in inside),
    }


def _parse(text: str) -> tuple[dict[str, dict[str, _Instruction]], str]:
    """Instructions by name of each computation by name, and the name of the entry."""
    computations: dict[str, dict[str, _Instruction]] = {}
    entry, current = "", {}
    for line in text.splitlines():
        if header := _COMPUTATION.match(line):
            current = computations.setdefault(header[2], {})
            entry = header[2] if header[1] else entry
        elif found := _INSTRUCTION.match(line):
            current[found[1]] = _Instruction(found[2], found[3], found[4])
    return computations, entry


def _walk(
    computations: dict[str, dict[str, _Instruction]],
    name: str,
    everyone: int,
    *,
    times: int,
    in_step: bool,
) -> Iterator[Collective]:
    """The collectives of a computation and of all that it calls."""
    instructions = computations[name]
    for each in instructions.values():
        op = each.op.removesuffix("-start")
        if op in _ON_THE_WIRE:
            size = sum(_bytes(instructions[operand].type) for operand in _operands(each.rest))
            yield Collective(op, size, _group(op, each.rest, everyone), times, in_step)
        trips, inside = times, in_step
        if each.op == "while":
            known = _TRIPS.search(each.rest)
            trips, inside = (times * int(known[1]), in_step) if known else (times, True)
        for called in _called(each.rest):
            yield from _walk(computations, called, everyone, times=trips, in_step=inside)


def _operands(rest: str) -> list[str]:
    """Names of the operands, of which types may be printed too."""
    depth = 1
    for end, character in enumerate(rest):
        depth += (character == "(") - (character == ")")
        if depth == 0:
            return re.findall(r"%([\w.\-]+)", rest[:end])
    return []


def _called(rest: str) -> list[str]:
    names = _CALLED.findall(rest)
    for branches in _BRANCHES.findall(rest):
        names += re.findall(r"%?([\w.\-]+)", branches)
    return names


def _bytes(kind: str) -> int:
    """Of a type such as ``f32[128,10]{1,0}``, or of a tuple of such."""
    return sum(
        math.ceil(_bits(dtype) * math.prod(int(n) for n in shape.split(",") if n) / 8)
        for dtype, shape in _ARRAY.findall(kind)
    )


def _bits(dtype: str) -> int:
    """Of an element: ``f32`` has 32, ``f8e4m3fn`` 8, ``pred`` a byte."""
    digits = re.match(r"[a-z]+(\d+)", dtype)
    return int(digits[1]) if digits else 8


def _group(op: str, rest: str, everyone: int) -> int:
    """How many devices take part in one exchange; all of them where none are named."""
    if op == "collective-permute":
        return 2
    if listed := re.search(r"replica_groups=\{\{([\d,]+)\}", rest):
        return listed[1].count(",") + 1
    # [groups, devices in each]<=[...]
    if counted := re.search(r"replica_groups=\[\d+,(\d+)\]<=", rest):
        return int(counted[1])
    return everyone
