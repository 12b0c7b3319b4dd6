"""The whole training step, evaluation, and the whole program.

Each setting runs in processes of its own and takes turns with matrix products that run under the
same conditions, so that its share of the ceiling is a ratio of neighbours:

- one run on the whole machine, on one device or several;
- one run held to a single core (on a CPU);
- one run on each core at once (on a CPU), and in turns with that a sweep (`side_by_side`).
"""

import contextlib
import dataclasses
import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rowrnn import config as configs
from rowrnn.bench import flops, record, side_by_side, suites
from rowrnn.bench.child import Child, can_pin, cores, run_program
from rowrnn.bench.peers.task import EVAL_BATCH, Task, make_task
from rowrnn.bench.timing import progress
from rowrnn.bench.turns import Contender, best_product, ratio_interval, take_turns

_OWN = "rowrnn.bench.peers.rowrnn"
_CEILING = "rowrnn.bench.ceiling"
_SGEMM = "float32/highest"
_PROJECTION = 128
_NO_CACHE = {"JAX_ENABLE_COMPILATION_CACHE": "false"}


@dataclasses.dataclass(frozen=True)
class Setting:
    """Where a run lies.

    Attributes:
        name: in words.
        devices: that share a batch; 0 for every accelerator.
        pinned: the cores of each process, one list for each; empty for one process on all.
    """

    name: str
    devices: int = 1
    pinned: tuple[tuple[int, ...], ...] = ()


def run(suite: suites.Train, *, quick: bool) -> dict[str, Any]:
    """Measures all settings, and the program."""
    if suite.program:
        configs.load(suite.config)  # Not only when all else is measured.
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        task = make_task(directory / "task.npz", projection=_PROJECTION, hidden=suite.hidden)
        products, facts = _start_products(stack, suite)
        figures = []
        for setting in settings(suite, facts["platform"]):
            one_core = len(setting.pinned) == 1
            rival = products["one core" if one_core else "all cores"]
            for batch in suite.batch:
                progress(f"{setting.name}, B={batch}")
                figures += _measure(suite, setting, batch, task, directory, rival)
        results = _headline(figures, suite.batch[0])
        if facts["platform"] == "cpu":
            progress("a sweep")
            path = directory / "task.npz"
            results["sweep"] = side_by_side.measure(suite, path, suite.batch[0])
    if suite.program:
        progress("the whole program")
        results["program"] = program(suite)
    return record.document(suite, quick=quick, device=facts, figures=figures, **results)


def settings(suite: suites.Train, platform: str) -> list[Setting]:
    """The settings that make sense on a platform, the headline first."""
    if platform != "cpu":
        return [Setting("one run", devices=0)]
    found = [Setting(_in_words(devices), devices) for devices in suite.devices]
    if can_pin() and len(cores()) > 1:
        each = tuple((core,) for core in cores())
        found += [Setting("one core", pinned=each[:1]), Setting("one run on each core", 1, each)]
    return found


def _in_words(devices: int) -> str:
    return "one run" if devices == 1 else f"one run on {devices} devices"


def _start_products(
    stack: contextlib.ExitStack, suite: suites.Train
) -> tuple[dict[str, Contender], dict[str, Any]]:
    """Processes that multiply matrices: on all cores, and where there are several, on one.

    Each multiplies the shape that it is fastest at.
    """
    child = stack.enter_context(Child(_CEILING, {}))
    children, facts = {"all cores": child}, child.facts
    if facts["platform"] == "cpu" and can_pin() and len(cores()) > 1:
        children["one core"] = stack.enter_context(Child(_CEILING, {}, cpus=cores()[:1]))
    contenders = {}
    for name, child in children.items():
        best, _ = best_product(child)
        child.ask("prepare", best, _SGEMM)
        contender = Contender("×".join(map(str, best)), [child], "multiply")
        # A fraction of a sample is enough: the product repeats itself exactly.
        contender.calibrate(suite.sample_s / 2)
        contenders[name] = contender
    return contenders, facts


def _measure(
    suite: suites.Train,
    setting: Setting,
    batch: int,
    task: Task,
    directory: Path,
    product: Contender,
) -> list[dict[str, Any]]:
    """Figures of training and, with the first batch size, of evaluation in one setting."""
    options = {
        "task": str(directory / "task.npz"),
        "batch": batch,
        "devices": setting.devices,
        "backend": suite.backend,
    }
    with contextlib.ExitStack() as stack:
        children = [
            stack.enter_context(Child(_OWN, options, cpus=list(cpus) or None))
            for cpus in setting.pinned or ((),)
        ]
        figures = [_turns(suite, setting, batch, task, Contender("", children, "train"), product)]
        if batch == suite.batch[0]:
            granule = len(task.labels) // EVAL_BATCH
            evaluation = Contender("", children, "evaluate", granule)
            figures.append(_turns(suite, setting, batch, task, evaluation, product))
    return figures


def _turns(
    suite: suites.Train,
    setting: Setting,
    batch: int,
    task: Task,
    contender: Contender,
    product: Contender,
) -> dict[str, Any]:
    """The figure of a contender that takes turns with matrix products."""
    contender.calibrate(suite.sample_s)
    seconds, product_seconds = take_turns([contender, product], suite.repeats)
    m, k, n = map(int, product.name.split("×"))
    rates = [2 * m * k * n / s / 1e9 for s in product_seconds]
    training = contender.do == "train"
    examples = (batch if training else EVAL_BATCH) * len(contender.children)
    _, rows, features = task.images.shape
    classes = task.weights["readout_bias"].size
    shape = flops.Shape(rows, features, _PROJECTION, suite.hidden, classes)
    count = flops.training(shape) if training else flops.forward(shape)
    shares = [
        count.executed * examples / s / 1e9 / rate for s, rate in zip(seconds, rates, strict=True)
    ]
    facts = contender.children[0].facts
    label = f"B={batch}" if training else f"evaluation, B={EVAL_BATCH}"
    program = "chunk" if training else "evaluate"
    entry = record.figure(
        f"{setting.name}, {label}",
        {"setting": setting.name, "batch": batch if training else EVAL_BATCH, "mode": contender.do,
         "hidden": suite.hidden, "processes": len(contender.children), "devices": facts["devices"]},
        seconds,
        examples=examples,
        flops=count,
        backend=facts["backend"],
        compile=facts["compile"][program],
        memory=facts["memory"][program],
    )  # fmt: skip
    # The median of the paired shares, not the share of the medians.
    median, low, high = ratio_interval(shares)
    return entry | {
        "share_of_ceiling": median,
        "share_interval": [low, high],
        "sgemm_gflops": statistics.median(rates),
    }


def _headline(figures: Sequence[dict[str, Any]], batch: int) -> dict[str, Any]:
    """The figures of one run at the first batch size, and the best sgemm rate that was met."""
    first = next(entry for entry in figures if entry["case"]["batch"] == batch)
    rates: dict[str, float] = {}
    for entry in figures:
        kind = "one core" if entry["case"]["setting"] == "one core" else "all cores"
        rates[kind] = max(rates.get(kind, 0.0), entry["sgemm_gflops"])
    return {
        "examples_per_s": first["examples_per_s"],
        "share_of_ceiling": first["share_of_ceiling"],
        "sgemm_gflops": rates["all cores"],
        "one_core": {"sgemm_gflops": rates.get("one core")},
    }


def program(suite: suites.Train) -> dict[str, Any]:
    """Times the whole program: to an accuracy, and per example from outside."""
    with tempfile.TemporaryDirectory() as directory:
        return time_to_target(suite) | slope(suite, Path(directory))


def time_to_target(suite: suites.Train) -> dict[str, Any]:
    """Seconds from the start of the process until the test accuracy is reached.

    The test part is looked at after each epoch, which is part of the time. Without a compilation
    cache: a first run.
    """
    began = time.perf_counter()
    with Child("rowrnn.bench.program", {}, env=_NO_CACHE) as child:
        answer = child.ask("train_to", suite.config, suite.target, timeout=600)
    return answer | {"target": suite.target, "seconds_to_target": time.perf_counter() - began}


def slope(suite: suites.Train, directory: Path) -> dict[str, Any]:
    """Examples per second of the program in two ways: what it says, and what a watch says.

    A short and a long run are timed from outside; what the longer one does more, over the time it
    takes more, is a throughput in which start-up has no part, and that the program has no say in.
    It includes all that happens between chunks: logs, checkpoints.
    """

    def timed(name: str, epochs: int) -> tuple[float, dict[str, Any]]:
        command = [sys.executable, "-P", "-m", "rowrnn.cli", "train", suite.config]
        command += ["--train.epochs", str(epochs), "--train.display", "none", "--json"]
        command += ["--run-dir", str(directory / name)]
        began = time.perf_counter()
        # Both runs compile everything, so that the difference leaves it out.
        output = run_program(command, env=_NO_CACHE, timeout=600)
        return time.perf_counter() - began, json.loads(output.splitlines()[-1])

    short_s, short = timed("short", 1)
    wanted = suite.slope_s * short["examples_per_s"]
    long_s, long = timed("long", 1 + math.ceil(wanted / short["examples"]))
    rate = (long["examples"] - short["examples"]) / (long_s - short_s)
    return {
        "reported_examples_per_s": long["examples_per_s"],
        "slope_examples_per_s": rate,
        "slope_over_reported": rate / long["examples_per_s"],
    }
