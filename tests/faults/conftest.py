"""How often a fault is tried, and where the full count is written down.

Each test of a row of ``experiments/results/reliability.md`` is tried a few times with all other
tests, and as often as the row says under ``-m soak``. Where ``ROWRNN_FAULTS`` names a directory, a
soak test that has passed writes there what it has seen, and is not repeated while that is there:
so a soak that was cut goes on row by row (``python experiments/reliability.py``).
"""

import json
import os
import re
import time
from pathlib import Path

import pytest

import rowrnn
from rowrnn.store import rundir


def pytest_generate_tests(metafunc):
    """Gives ``count`` from ``@pytest.mark.row(number, few, full)``; few may be ``slow=True``."""
    mark = metafunc.definition.get_closest_marker("row")
    if mark is not None:
        _, few, full = mark.args
        marks = [pytest.mark.slow] if mark.kwargs.get("slow") else []
        counts = [pytest.param(few, marks=marks), pytest.param(full, marks=pytest.mark.soak)]
        metafunc.parametrize("count", counts, ids=["few", "full"])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.when == "call":
        item.passed = report.passed
    return report


@pytest.fixture
def without_jax(tmp_path):
    """The environment of a process in which jax cannot be imported."""
    (tmp_path / "blocked").mkdir()
    (tmp_path / "blocked" / "jax.py").write_text("raise ImportError('jax was imported')")
    package = Path(rowrnn.__file__).parents[1]
    return os.environ | {"PYTHONPATH": f"{tmp_path / 'blocked'}:{package}", "COLUMNS": "80"}


@pytest.fixture
def record(request):
    """A dictionary for what a test has seen, such as how many kills fell into a save."""
    directory = os.environ.get("ROWRNN_FAULTS")
    mark = request.node.get_closest_marker("row")
    if directory is None or request.node.callspec.params["count"] != mark.args[2]:
        yield {}
        return
    name = re.sub(r"\W+", "-", request.node.name).strip("-").replace("-full", "", 1)
    path = Path(directory) / f"{name}.json"
    if path.exists():
        pytest.skip(f"{path} has it already")
    began, seen = time.monotonic(), {}
    yield seen
    if request.node.passed:
        row, _, full = mark.args
        entry = {
            "row": row,
            "test": name,
            "what": request.node.function.__doc__,
            "count": full,
            "seen": seen,
            "minutes": round((time.monotonic() - began) / 60, 1),
            "date": time.strftime("%Y-%m-%d"),
            "commit": rundir.environment()["git_commit"],
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(entry, indent=1) + "\n")
