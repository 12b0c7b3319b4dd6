"""The JSON that a suite writes: what was measured, on what, and with which settings."""

import dataclasses
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from msgspec import Meta

from rowrnn import files
from rowrnn.bench import suites, timing
from rowrnn.bench.child import cores
from rowrnn.bench.flops import Flops
from rowrnn.errors import ConfigError
from rowrnn.lab.shown import percent
from rowrnn.store import rundir

_Key = TypeVar("_Key")

FORMAT = 1
"""Raised when the meaning of a key changes."""


def figure(
    name: str,
    case: Mapping[str, Any],
    samples: Sequence[float],
    *,
    examples: int = 0,
    flops: Flops | None = None,
    ceiling_gflops: float | None = None,
    **facts: Any,
) -> dict[str, Any]:
    """One figure: seconds per call with their statistics, and what follows from the median.

    Args:
        name: unique in the document; `compare` finds the same figure by it.
        case: what was measured, by its settings.
        samples: seconds per call.
        examples: examples in a call.
        flops: operations per example.
        ceiling_gflops: rate that the executed operations are a share of, in GFLOP/s.
        facts: anything else, such as ``compile`` or ``memory``.
    """
    entry = {"name": name, "case": dict(case), "unit": "s"} | timing.summary(samples)
    if examples:
        entry["examples_per_s"] = examples / entry["median"]
    if flops is not None:
        rates = {
            "model": flops.model * examples / entry["median"] / 1e12,
            "executed": flops.executed * examples / entry["median"] / 1e12,
        }
        entry["tflops"] = rates
        if ceiling_gflops:
            entry["share_of_ceiling"] = rates["executed"] * 1e3 / ceiling_gflops
    return entry | facts


def this_device() -> dict[str, Any]:
    """The device that jax computes on in this process, as `document` takes it."""
    import jax

    device = jax.devices()[0]
    return {"platform": device.platform, "kind": device.device_kind, "devices": 1}


def timed(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The figures of a document that have samples: not those that were wrong."""
    return [entry for entry in document["figures"] if "samples" in entry]


def grouped(entries: Iterable[Any], key: Callable[[Any], _Key]) -> dict[_Key, list[Any]]:
    """Figures by what a function gives for each, in the order in which that first appears."""
    groups: dict[_Key, list[Any]] = {}
    for entry in entries:
        groups.setdefault(key(entry), []).append(entry)
    return groups


def document(
    suite: suites.Suite,
    *,
    quick: bool,
    device: Mapping[str, Any],
    figures: Sequence[Mapping[str, Any]],
    versions: Mapping[str, str] | None = None,
    stopped: bool = False,
    **results: Any,
) -> dict[str, Any]:
    """The whole of a suite's JSON.

    Args:
        suite: the settings.
        quick: whether they were cut down.
        device: ``platform`` and ``kind`` of the device, and how many ``devices``.
        figures: what `figure` gave.
        versions: of libraries beyond rowrnn's own.
        stopped: whether Ctrl-C has ended it, so that these are some of the figures.
        results: what this suite has beyond its figures, by name.
    """
    environment = rundir.environment()
    beyond = [
        f"{entry['name']}: {percent(entry['share_of_ceiling'])} of the ceiling, which was measured "
        "too low: is the machine quiet?"
        for entry in figures
        if entry.get("share_of_ceiling", 0) > 1
    ]
    if stopped:
        results["stopped"] = True
        beyond.append("stopped by Ctrl-C: this is what was finished by then")
    wrong = [entry["name"] for entry in figures if entry.get("wrong")]
    return {
        "format": FORMAT,
        "suite": suites.name_of(suite),
        "quick": quick,
        "date": environment["time"],
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "git_commit": environment["git_commit"],
        "platform": device["platform"],
        "device_kind": device["kind"],
        "devices": device["devices"],
        "processor": environment["processor"],
        "cores": len(cores()),
        "python": environment["python"],
        "system": environment["system"],
        "versions": environment["versions"] | dict(versions or {}),
        "flags": environment["flags"],
        "settings": dataclasses.asdict(suite),
        "warnings": beyond,
        "noisy": [entry["name"] for entry in figures if entry.get("noisy")],
        "wrong": wrong,
        **results,
        "figures": list(figures),
    }


@dataclass(frozen=True)
class _Document:
    """What is checked of a document, whatever else it holds."""

    suite: str
    settings: dict[str, Any]
    wrong: list[str]
    figures: list[dict[str, Any]]


@dataclass(frozen=True)
class _Timed:
    """What is checked of a figure that has samples: seconds, or ratios."""

    name: str
    case: dict[str, Any]
    unit: Literal["s", "ratio"]
    samples: list[Annotated[float, Meta(ge=1e-12, le=1e12)]]


def read(path: Path) -> dict[str, Any]:
    """The document in a file; raises `ConfigError` where there is none in this format.

    Of the document, what `_Document` and `_Timed` name is sound; who uses more of it must expect
    anything.
    """
    try:
        document = files.read_json(path)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; give a file of `rowrnn bench`") from error
    except ValueError as error:
        raise ConfigError(f"{path}: not JSON: {error}; give a file of `rowrnn bench`") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise ConfigError(
            f"{path}: not a result of `rowrnn bench` in format {FORMAT}; measure it again"
        )
    try:
        found = files.pick(_Document, document)
        timed = [files.pick(_Timed, figure) for figure in found.figures if "samples" in figure]
        if any(len(figure.samples) < 2 for figure in timed):
            raise ValueError("a figure of fewer than two samples")
        names = [figure.name for figure in timed]
        if not all(map(str.isprintable, [*names, *found.wrong])):
            raise ValueError("a name of characters that cannot be printed")
        if len(set(names)) < len(names):
            raise ValueError("two figures of one name")
    except ValueError as error:
        raise ConfigError(
            f"{path}: not a whole result of `rowrnn bench` ({error}); measure it again"
        ) from error
    return document
