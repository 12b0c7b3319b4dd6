"""How fast this device, this jax and this change are: the suites of ``rowrnn bench``.

- `run` measures a suite and returns its JSON;
- `show` prints it as tables, `rowrnn.bench.plots.save` draws it;
- `compare` holds two such files of one machine against each other.

Nothing here imports jax before a suite and `out` are found good: what is timed runs, wherever it
can, in processes of its own.
"""

import dataclasses
import importlib
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rowrnn.bench import suites
from rowrnn.bench.child import taken_by_others
from rowrnn.bench.compare import Comparison, compare
from rowrnn.bench.report import show, show_comparison
from rowrnn.errors import ConfigError
from rowrnn.jax_settings import require_jax

# Cores that other programs may use before a result is doubted.
_QUIET_CORES = 0.1

__all__ = ["Comparison", "compare", "run", "show", "show_comparison"]


def run(
    suite: str,
    *,
    quick: bool = False,
    out: str | Path | None = None,
    targets: Sequence[str] = (),
) -> dict[str, Any]:
    """Measures a suite.

    Args:
        suite: ``lstm``, ``train``, ``peers``, ``startup``, ``ceiling``, ``scaling`` or ``aot``, or
            the path of a TOML file that names one of them and changes its grid.
        quick: whether to cut the grid and the effort down.
        out: where to write the JSON; plots go beside it.
        targets: of the suite ``aot``, in place of its own.

    Returns:
        The document that `rowrnn.bench.record` describes. On Ctrl-C it holds what was finished by
        then, and says so under ``stopped``; where nothing was, `KeyboardInterrupt` is raised.

    Raises `ConfigError`, before anything is measured, where the suite is unknown, its file is no
    good, `out` cannot be written to, or jax does not start with a variable of the environment.
    """
    settings = suites.load(suite)
    if quick:
        settings = settings.quick()
    if targets:
        if not isinstance(settings, suites.Aot):
            raise ConfigError(f"--target {targets[0]}: only the suite aot compiles for a target")
        settings = dataclasses.replace(settings, targets=tuple(targets))
    if out is not None:
        _check_writable(Path(out))
    require_jax()
    module = importlib.import_module(f"rowrnn.bench.{suites.name_of(settings)}")
    began, before = time.perf_counter(), taken_by_others()
    document = module.run(settings, quick=quick)
    after, others = taken_by_others(), None
    if before is not None and after is not None:
        others = max(0.0, (after - before) / (time.perf_counter() - began))
    document["other_cores"] = others
    if others is not None and others > _QUIET_CORES:
        document["warnings"].append(
            f"other programs used {others:.1f} cores: measure again on a quiet machine"
        )
    if out is not None:
        from rowrnn.bench import plots

        Path(out).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        plots.save(document, Path(out))
    return document


def _check_writable(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        is_new = not path.exists()
        with path.open("a", encoding="utf-8"):
            pass
        if is_new:  # Nothing shall be left of a suite that comes to nothing.
            path.unlink()
    except OSError as error:
        raise ConfigError(f"--out {path}: {error.strerror}; give a file to write to") from error
