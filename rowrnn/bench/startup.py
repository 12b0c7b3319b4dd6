"""From the shell to the first step: every second before training begins, each in a fresh process.

- import: what the interpreter itself, jax, and rowrnn's command line take;
- first step: from the start of the process to the end of the first training step, with an empty
  compilation cache (cold) and with the cache that the cold start left (warm);
- compile: tracing, lowering and XLA, program by program, of the cold start.
"""

import sys
import tempfile
import time
from typing import Any

from rowrnn import config as configs
from rowrnn.bench import record, suites, timing
from rowrnn.bench.child import Child, run_program

_IMPORTS = {
    "python": "pass",
    "import rowrnn": "import rowrnn",
    "rowrnn's command line": "import rowrnn.cli",
    "import jax": "import jax",
    "rowrnn's training": "import rowrnn.lab.train",
}


def run(suite: suites.Startup, *, quick: bool) -> dict[str, Any]:
    """Starts processes, one after the other."""
    configs.load(suite.config)  # A mistake in it is told before anything is measured.
    figures = []
    cold, warm, facts = [], [], {}
    # Two samples are the fewest that a figure can be made of.
    with timing.Stop(lambda: warm[1:]) as stop:
        for name, code in _IMPORTS.items():
            timing.progress(name)
            _import(code)  # Brings the files into the page cache.
            samples = [_import(code) for _ in timing.track(suite.repeats)]
            figures.append(record.figure(name, {"what": "import"}, samples))
        for repeat in range(suite.repeats):
            timing.progress(f"first step, cold and warm, {repeat + 1} of {suite.repeats}")
            with tempfile.TemporaryDirectory() as cache:
                seconds, facts = _first_step(suite.config, cache)
                cold.append(seconds)
                warm.append(_first_step(suite.config, cache)[0])
    figures += [
        record.figure("first step, cold", {"what": "first step"}, cold),
        record.figure("first step, warm compilation cache", {"what": "first step"}, warm),
    ]
    return record.document(
        suite,
        quick=quick,
        device=facts["device"],
        figures=figures,
        stopped=stop.came,
        compile=facts["compile"],
        cold_s=min(cold),
        warm_s=min(warm),
    )


def _import(code: str) -> float:
    began = time.perf_counter()
    run_program([sys.executable, "-c", code], env={})
    return time.perf_counter() - began


def _first_step(config: str, cache: str) -> tuple[float, dict[str, Any]]:
    """Seconds from starting a process until it says that it has taken a step."""
    env = {
        "JAX_COMPILATION_CACHE_DIR": cache,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    began = time.perf_counter()
    with Child("rowrnn.bench.program", {}, env=env) as child:
        facts = child.ask("first_step", config)
        return time.perf_counter() - began, facts
