"""What a config compiles to on a device that is not there: kernels, collectives, memory, cycles.

The programs of the trainer are compiled from shapes alone, for TPUs by ``libtpu`` (``pip install
'rowrnn[tpu]'``) and for NVIDIA GPUs by jax's plugin and NVIDIA's ``ptxas`` (``pip install
'rowrnn[cuda13-local]'``, Python 3.12 or newer). What needs the device itself, the backend ``cudnn``
and measured choices between products, is left out.

Counts are read from the text of the compiled program and are of one step, which is what the loop
over steps repeats; those of command buffers (CUDA graphs) from what XLA writes of a program's
thunks. A TPU's compiler estimates cycles for all but Pallas kernels.
"""

import contextlib
import importlib.resources
import importlib.util
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh

from rowrnn import config as configs
from rowrnn import parallel
from rowrnn.bench import record, suites, timing
from rowrnn.core.experiment import Experiment
from rowrnn.errors import ConfigError, nearest
from rowrnn.lab.sweep import plan
from rowrnn.lab.trainer import Compiler, prepare

GIGA = 10**9
# Memory of a chip, in bytes, by the vendor (cloud.google.com/tpu/docs).
_TPU_MEMORY = {"v4": 32 * GIGA, "v5e": 16 * GIGA, "v5p": 95 * GIGA, "v6e": 32 * GIGA}
_GPUS = ("a100", "h100", "h200", "l4")
# Devices of a target that a run or a sweep is divided over at most.
_MOST_DEVICES = 8

_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_STEPS = re.compile(r' while\(.*op_name="[^"]*steps\)*/while"')
_TRIPS = re.compile(r'known_trip_count":\{"n":"(\d+)"')
_NO_KERNEL = {
    *("get-tuple-element", "bitcast", "constant", "parameter", "tuple", "while", "after-all"),
    *("copy-done", "all-reduce-done", "partition-id", "replica-id"),
}
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?[\w.\-]+ = (?:\(.*?\)|\S+) ([\w\-]+)\(")


def run(suite: suites.Aot, *, quick: bool) -> dict[str, Any]:
    """Compiles every program for every target."""
    # No device of this machine is looked for; libtpu would, for minutes.
    jax.config.update("jax_platforms", "cpu")
    config = configs.load(suite.config)
    values = {"model.backend": suite.backend} if suite.backend else {}
    experiment = prepare(configs.replace(config, values))
    figures, skipped, kinds = [], [], []
    with _thunks_written(any(name in _GPUS for name in suite.targets)) as written:
        for name in suite.targets:
            try:
                target = find(name)
            except ConfigError as error:
                skipped.append(str(error))
                continue
            kinds.append(target.devices[0].device_kind)
            for program in programs(target, experiment, suite.members):
                if suite.programs and program.name not in suite.programs:
                    continue
                timing.progress(f"{name}, {program.name}")
                try:
                    found = facts(target, program, written)
                except jax.errors.JaxRuntimeError as error:
                    if not parallel.is_out_of_memory(error):
                        raise
                    found = {"out_of_memory": True}
                figures.append({"name": f"{name}, {program.name}"} | found)
    if not figures:
        raise ConfigError("; ".join(skipped))
    return record.document(
        suite,
        quick=quick,
        device={"platform": "none", "kind": ", ".join(kinds), "devices": 0},
        figures=figures,
        skipped=skipped,
    )


class Target(NamedTuple):
    """Devices that need not be there.

    Attributes:
        name: as it is asked for.
        devices: of the topology.
        memory: bytes of each.
    """

    name: str
    devices: Sequence[Any]
    memory: int

    def mesh(self, seed: int, data: int) -> Mesh:
        """The first devices as a mesh."""
        grid = np.array(self.devices[: seed * data]).reshape(seed, data)
        return Mesh(grid, ("seed", "data"), axis_types=(AxisType.Auto, AxisType.Auto))


def find(name: str) -> Target:
    """The target of a name: ``v5e:2x4`` and the like, ``h100``, ``h200``, ``a100``, ``l4``.

    Raises `ConfigError` where there is none of that name, or its compiler is not installed.
    """
    chip = name.partition(":")[0]
    if chip in _TPU_MEMORY:
        # Or libtpu asks a server of Google's cloud, and refuses a second process.
        os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
        os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
        topology = _topology(name, "tpu", platform="tpu", topology_name=name)
        return Target(name, topology.devices, _TPU_MEMORY[chip])
    if name not in _GPUS:
        known = [f"{chip}:2x4" for chip in _TPU_MEMORY] + list(_GPUS)
        raise ConfigError(f"target {name!r}: no such device{nearest(name, known)}")
    file = importlib.resources.files("rowrnn.bench") / "targets" / f"{name}.txtpb"
    text = file.read_text(encoding="utf-8")
    if not _finds_ptxas():
        raise ConfigError(
            f"target {name}: NVIDIA's ptxas was not found, without which XLA would crash; "
            "pip install 'rowrnn[cuda13-local]'"
        )
    topology = _topology(
        name, "cuda13-local", platform="cuda", topology_name=name, target_config=text,
        topology=f"1x1x{_MOST_DEVICES}",
    )  # fmt: skip
    memory = re.search(r"device_memory_size: (\d+)", text)
    assert memory is not None
    return Target(name, topology.devices, int(memory[1]))


def _finds_ptxas() -> bool:
    """Whether the assembler is where XLA looks for it."""
    installed = importlib.util.find_spec("nvidia")
    packages = installed.submodule_search_locations or () if installed else ()
    places = [*(f"{path}/cu13/bin" for path in packages), "/usr/local/cuda/bin"]
    return any(shutil.which("ptxas", path=path) for path in (None, os.pathsep.join(places)))


def _topology(name: str, extra: str, **options: Any) -> Any:
    try:
        return topologies.get_topology_desc(**options)
    except Exception as error:  # Whatever jax raises where a plugin is missing.
        reason = (str(error).splitlines() or [""])[0][:200]
        raise ConfigError(
            f"target {name}: cannot be compiled for ({reason}); pip install 'rowrnn[{extra}]'"
        ) from error


class Program(NamedTuple):
    """A program to compile.

    Attributes:
        name: for the report.
        experiment: what the members have in common.
        seed, data: devices on each axis.
        members: S; with `vmap` all those of a device at once.
        part: which of the trainer's programs; the chunk is the one that has steps.
    """

    name: str
    experiment: Experiment
    seed: int = 1
    data: int = 1
    members: int = 1
    vmap: bool = False
    part: str = "chunk"


def programs(target: Target, experiment: Experiment, members: int) -> Iterator[Program]:
    """One run with all its programs, data × n, a sweep under ``map`` and ``vmap``, both axes."""
    count = min(_MOST_DEVICES, len(target.devices))
    while experiment.config.train.batch_size % count:
        count -= 1
    yield Program("one run", experiment)
    for part in ("init", "order", "evaluation"):
        yield Program(f"one run, {part}", experiment, part=part)
    if count > 1:
        yield Program(f"one run on {count} devices", experiment, data=count)
    if experiment.config.model.backend != "cudnn":
        yield Program(f"{members} members, map", experiment, members=members)
        yield Program(f"{members} members, vmap", experiment, members=members, vmap=True)
        if count > 1 and count % 2 == 0:
            half = count // 2
            name = f"{half} members on {count} devices"
            yield Program(name, experiment, half, 2, half, vmap=True)


def facts(target: Target, program: Program, written: Path | None = None) -> dict[str, Any]:
    """What compiling a program shows; None where nobody can tell.

    `written` is where XLA writes of thunks.
    """
    experiment, mesh = program.experiment, target.mesh(program.seed, program.data)
    compiler = Compiler(experiment, mesh, program.members, program.vmap)
    given = (experiment.dataset.test,) if program.part == "evaluation" else ()
    began = time.perf_counter()
    with timing.without_compilation_cache():
        compiled = getattr(compiler, program.part)(*given)
    seconds = time.perf_counter() - began
    on_target = isinstance(compiled, jax.stages.Compiled)
    memory = timing.memory(compiled) if on_target else {}
    found = {
        "target": target.name,
        "program": program.name,
        "on": "target" if on_target else "host",
        "kernels_per_step": None,
        "command_buffers_per_step": None,
        "estimated_cycles": None,
        "collectives_per_step": None,
        "collective_bytes": None,
        "bytes": {name: memory.get(name) for name in ("arguments", "results", "temporaries")},
        "bytes_per_member": None,
        "members_that_fit": None,
        "compile_s": round(seconds, 2),
    }
    if program.part != "chunk":
        return found
    text = compiled.as_text() or ""
    step = step_of(text)
    found |= {
        "kernels_per_step": step.kernels,
        "estimated_cycles": step.cycles,
        "collectives_per_step": len(step.collectives),
        "collective_bytes": sum(entry["bytes"] for entry in step.collectives),
    }
    if written and target.name in _GPUS:
        found["command_buffers_per_step"] = command_buffers(text, *_thunks_of_chunk(written))
    if program.vmap and program.data == 1 and program.members > 2:
        half = program.members // 2
        fewer = Compiler(experiment, mesh, half, vmap=True).chunk()
        for_one, found["members_that_fit"] = plan.members_that_fit(
            (half, parallel.device_bytes(fewer)),
            (program.members, parallel.device_bytes(compiled)),
            target.memory,
        )
        found["bytes_per_member"] = round(for_one)
    return found


@contextlib.contextmanager
def _thunks_written(wanted: bool) -> Iterator[Path | None]:
    """A directory in which XLA writes of each program that it compiles within the block."""
    if not wanted:
        yield None
        return
    before = os.environ.get("XLA_FLAGS")
    with tempfile.TemporaryDirectory() as directory:
        os.environ["XLA_FLAGS"] = f"{before or ''} --xla_dump_to={directory}"
        try:
            yield Path(directory)
        finally:
            os.environ.pop("XLA_FLAGS")
            os.environ.update({} if before is None else {"XLA_FLAGS": before})


def _thunks_of_chunk(written: Path) -> tuple[str, str]:
    """The sequence and the names of the thunks of the chunk that was compiled last."""
    kinds = ("thunk_sequence_after_thunk_passes", "thunk_metadata")
    files = [sorted(written.glob(f"*jit_chunk*.{kind}.txt")) for kind in kinds]
    if not all(files):  # The process had read its flags before they were set.
        return "", ""
    sequence, names = (found[-1].read_text(encoding="utf-8") for found in files)
    return sequence, names


def command_buffers(text: str, sequence: str, names: str) -> int | None:
    """How many command buffers a step starts; None where that is not known.

    Args:
        text: of the compiled program.
        sequence: its thunks, one a line, those of a loop further in.
        names: of the instructions that thunks come from, by their numbers, in text format.
    """
    numbers = dict(re.findall(r'profile_annotation: "([^"]+)"\s+thunk_id: (\d+)', names))
    loops = {
        line.split(" = ")[0].strip(" %"): line for line in text.splitlines() if " while(" in line
    }
    by_number = {int(numbers[name]): line for name, line in loops.items() if name in numbers}
    count: int | None = None
    inside: list[tuple[int, int]] = []
    for depth, number, kind in re.findall(r"^( *)(\d+): (k\w+)", sequence, re.MULTILINE):
        # The loops around this thunk, from that over steps on, and how often each is run in a step.
        inside = [loop for loop in inside if loop[0] < len(depth)]
        line = by_number.get(int(number), "") if kind == "kWhile" else ""
        if inside and kind == "kCommandBuffer":
            count = (count or 0) + inside[-1][1]
        elif inside and kind == "kWhile":
            trips = _TRIPS.search(line)
            inside.append((len(depth), inside[-1][1] * (int(trips[1]) if trips else 1)))
        elif _STEPS.search(line):
            count, inside = 0, [(len(depth), 1)]
    return count


class Step(NamedTuple):
    """What one step of a compiled chunk does.

    Attributes:
        kernels: operations that are started one after the other.
        cycles: as the compiler estimates them, without Pallas kernels; None where it does not.
        collectives: each with ``op`` and ``bytes``.
    """

    kernels: int
    cycles: int | None
    collectives: list[dict[str, Any]]


def step_of(text: str) -> Step:
    """Reads the body of the loop over steps, which has its name from `core.step.run_chunk`.

    A loop inside it counts as often as it runs, where the text says how often, or once.
    """
    bodies = _computations(text)
    outer = next(line for lines in bodies.values() for line in lines if _STEPS.search(line))
    body = re.search(r"body=%?([\w.\-]+)", outer)
    assert body is not None
    lines = list(_lines(bodies, body[1]))
    cycles = [int(found[1]) * times for line, times in lines if (found := _CYCLES.search(line))]
    kernels = 0
    for line, times in lines:
        found = _INSTRUCTION.match(line)
        if found and found[1] not in _NO_KERNEL:
            kernels += times
    return Step(
        kernels, sum(cycles) or None, timing.collectives_in("\n".join(line for line, _ in lines))
    )


def _computations(text: str) -> dict[str, list[str]]:
    """The lines of each computation, by its name, in the order of the text."""
    found: dict[str, list[str]] = {}
    name = ""
    for line in text.splitlines():
        if not line.startswith(" ") and line.endswith("{") and "(" in line:
            name = line.removeprefix("ENTRY ").lstrip("%").split(" ")[0].split("(")[0]
            found[name] = []
        elif line.startswith("}"):
            name = ""
        elif name:
            found[name].append(line)
    return found


def _lines(bodies: dict[str, list[str]], name: str, times: int = 1) -> Iterator[tuple[str, int]]:
    """The lines of a computation and of what it calls, each with how often it is run."""
    for line in bodies.get(name, []):
        yield line, times
        if " while(" in line:
            trips = _TRIPS.search(line)
            inner = re.search(r"body=%?([\w.\-]+)", line)
            assert inner is not None
            yield from _lines(bodies, inner[1], times * (int(trips[1]) if trips else 1))
        elif " call(" in line or " conditional(" in line:
            called = re.search(r"(?:to_apply|true_computation)=%?([\w.\-]+)", line)
            if called:
                yield from _lines(bodies, called[1], times)
