"""The whole training step, evaluation, and the whole program.

Each setting runs in processes of its own and takes turns with matrix products that run under the
same conditions, so that its share of the ceiling is a ratio of neighbours:

- one run on the whole machine, on one device or several;
- one run held to a single core (on a CPU);
- one run on each core at once (on a CPU), and in turns with that a sweep (`side_by_side`).

Products are in float32 throughout; on an accelerator also as a run has them by default, which takes
turns with products of that precision. There one process, which holds the device, does it all.
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
from typing import Any

from rowrnn import config as configs
from rowrnn.bench import flops, record, side_by_side, suites
from rowrnn.bench.child import Child, can_pin, cores, run_program
from rowrnn.bench.peers.task import EVAL_BATCH, EXAMPLES
from rowrnn.bench.side_by_side import start_rowrnn
from rowrnn.bench.timing import Stop, progress
from rowrnn.bench.turns import Contender, Product, ratio_interval, start_product, take_turns
from rowrnn.config import TrainConfig
from rowrnn.lab.shown import percent

# Precision of matrix products where the config of a run sets none.
_DEFAULT = TrainConfig.precision
_NO_CACHE = {"JAX_ENABLE_COMPILATION_CACHE": "false"}


@dataclasses.dataclass(frozen=True)
class Setting:
    """Where a run lies.

    Attributes:
        name: what reports call it.
        devices: how many share a batch; 0 for every accelerator.
        pinned: the cores of each process, one tuple for each; empty for one process on all cores.
        precision: of matrix products.
    """

    name: str
    devices: int = 1
    pinned: tuple[tuple[int, ...], ...] = ()
    precision: str = "highest"


def run(suite: suites.Train, *, quick: bool) -> dict[str, Any]:
    """Measures all settings, and the program."""
    if suite.program:
        configs.load(suite.config)  # A mistake in it is told before anything is measured.
    figures, results = [], {}
    with contextlib.ExitStack() as stack:
        progress("matrix products")
        product = start_product(stack, suite.sample_s)
        device = product.children[0].facts
        on_cpu = device["platform"] == "cpu"
        one_core = (
            start_product(stack, suite.sample_s, cores()[:1]) if on_cpu and can_pin() else None
        )
        by_default = None
        if not on_cpu:
            kind = f"float32/{_DEFAULT}"
            by_default = start_product(stack, suite.sample_s, kind=kind, within=product.holder)
        with Stop(lambda: figures) as stop:
            for setting in settings(suite, device["platform"]):
                rival = one_core if one_core and len(setting.pinned) == 1 else product
                if by_default and setting.precision == _DEFAULT:
                    rival = by_default
                for batch in suite.batch:
                    progress(f"{setting.name}, B={batch}")
                    figures += _measure(suite, setting, batch, rival)
            if on_cpu:
                progress("a sweep")
                results["sweep"] = side_by_side.measure(suite)
            stack.close()  # The program shares the cores with nobody.
            if suite.program:
                results["program"] = time_to_target(suite) | slope(suite)
    results |= _headline(figures, suite.batch[0])
    return record.document(
        suite, quick=quick, device=device, figures=figures, stopped=stop.came, **results
    )


def settings(suite: suites.Train, platform: str) -> list[Setting]:
    """The settings that make sense on a platform, the headline first."""
    # Every precision is float32 throughout on a CPU.
    if platform != "cpu":
        return [
            Setting("one run", devices=0),
            Setting("one run, default precision", devices=0, precision=_DEFAULT),
        ]
    found = [
        Setting("one run" if devices == 1 else f"one run on {devices} devices", devices)
        for devices in suite.devices
    ]
    if can_pin():
        each = tuple((core,) for core in cores())
        found += [Setting("one core", pinned=each[:1]), Setting("one run on each core", 1, each)]
    return found


def _measure(
    suite: suites.Train, setting: Setting, batch: int, product: Product
) -> list[dict[str, Any]]:
    """Figures of training and, with the first batch size, of evaluation in one setting."""
    with contextlib.ExitStack() as stack:
        children = [
            stack.enter_context(
                start_rowrnn(
                    suite,
                    batch,
                    setting.devices,
                    list(cpus) or None,
                    precision=setting.precision,
                    within=product.holder,
                )
            )
            for cpus in setting.pinned or ((),)
        ]
        contenders = [Contender(f"{setting.name}, B={batch}", children, "train")]
        if batch == suite.batch[0]:
            name = f"{setting.name}, evaluation, B={EVAL_BATCH}"
            contenders.append(Contender(name, children, "evaluate", EXAMPLES // EVAL_BATCH))
        return [_turns(suite, setting, batch, contender, product) for contender in contenders]


def _turns(
    suite: suites.Train, setting: Setting, batch: int, contender: Contender, product: Product
) -> dict[str, Any]:
    """The figure of a contender that takes turns with matrix products."""
    contender.calibrate(suite.sample_s)
    seconds, product_s = take_turns([contender, product], suite.repeats)
    rates = [product.flops / s / 1e9 for s in product_s]
    training, processes = contender.do == "train", len(contender.children)
    size = batch if training else EVAL_BATCH
    shape = flops.Shape(hidden=suite.hidden)
    count = flops.training(shape) if training else flops.forward(shape)
    work = count.executed * size * processes / 1e9
    facts = contender.children[0].facts
    program = "chunk" if training else "evaluate"
    entry = record.figure(
        contender.name,
        {"setting": setting.name, "batch": size, "mode": contender.do, "hidden": suite.hidden,
         "processes": processes, "devices": facts["devices"], "precision": setting.precision},
        seconds,
        examples=size * processes,
        flops=count,
        backend=facts["backend"],
        compile=facts["compile"][program],
        memory=facts["memory"][program],
    )  # fmt: skip
    # The median of the paired shares, not the share of the medians.
    median, low, high = ratio_interval(
        [work / s / rate for s, rate in zip(seconds, rates, strict=True)]
    )
    return entry | {
        "share_of_ceiling": median,
        "share_interval": [low, high],
        "sgemm_gflops": statistics.median(rates),
    }


def _headline(figures: Sequence[dict[str, Any]], batch: int) -> dict[str, Any]:
    """The figures of one run at the first batch size, and the best sgemm rates that were met."""
    first = next(entry for entry in figures if entry["case"]["batch"] == batch)

    def best(one_core: bool) -> float | None:
        rates = [
            entry["sgemm_gflops"]
            for entry in figures
            if (entry["case"]["setting"] == "one core") == one_core
            and entry["case"]["precision"] == "highest"
        ]
        return max(rates, default=None)

    return {
        "examples_per_s": first["examples_per_s"],
        "share_of_ceiling": first["share_of_ceiling"],
        "sgemm_gflops": best(one_core=False),
        "one_core": {"sgemm_gflops": best(one_core=True)},
    }


def time_to_target(suite: suites.Train) -> dict[str, Any]:
    """Seconds from the start of the process until the test accuracy is reached.

    The test part is looked at after each epoch, which is part of the time. Without a compilation
    cache: a first run.
    """
    progress(f"the whole program, to an accuracy of {percent(suite.target)}")
    began = time.perf_counter()
    with Child("rowrnn.bench.program", {}, env=_NO_CACHE) as child:
        answer = child.ask("train_to", suite.config, suite.target)
    return answer | {"target": suite.target, "seconds_to_target": time.perf_counter() - began}


def slope(suite: suites.Train) -> dict[str, Any]:
    """Examples per second of the program in two ways: what it says, and what a watch says.

    A short and a long run are timed from outside; what the longer one does more, over the time it
    takes more, is a throughput in which start-up has no part, and that the program has no say in.
    It includes all that happens between chunks: logs, checkpoints. It is None where the longer run
    took no longer.
    """

    def timed(epochs: int) -> tuple[float, dict[str, Any]]:
        progress(f"the whole program, epochs: {epochs}")
        command = [sys.executable, "-P", "-m", "rowrnn.cli", "train", suite.config]
        command += ["--train.epochs", str(epochs), "--train.display", "none", "--json"]
        with tempfile.TemporaryDirectory() as directory:
            began = time.perf_counter()
            # Both runs compile everything, so that the difference leaves it out.
            output = run_program([*command, "--run-dir", directory], env=_NO_CACHE)
            return time.perf_counter() - began, json.loads(output.splitlines()[-1])

    short_s, short = timed(1)
    wanted = suite.slope_s * short["examples_per_s"]
    long_s, long = timed(1 + math.ceil(wanted / short["examples"]))
    # The short run can take longer on a busy machine.
    more_s = long_s - short_s
    rate = (long["examples"] - short["examples"]) / more_s if more_s > 0 else None
    return {
        "reported_examples_per_s": long["examples_per_s"],
        "slope_examples_per_s": rate,
        "slope_over_reported": rate and rate / long["examples_per_s"],
    }
