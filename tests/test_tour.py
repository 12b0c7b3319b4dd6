"""The tour: a script and the notebook that was made of it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TOUR = Path(__file__).parents[1] / "experiments" / "tour.py"


def cells_of_script():
    """Kind and source of each cell."""
    _, *cells = TOUR.read_text(encoding="utf-8").split("\n# %%")
    for cell in cells:
        head, _, source = cell.partition("\n")
        if "[markdown]" in head:
            source = "\n".join(
                line.removeprefix("#").removeprefix(" ") for line in source.split("\n")
            )
            yield "markdown", source.strip()
        else:
            yield "code", source.strip()


def test_the_notebook_is_the_script():
    notebook = json.loads(TOUR.with_suffix(".ipynb").read_text(encoding="utf-8"))
    cells = [(cell["cell_type"], "".join(cell["source"]).strip()) for cell in notebook["cells"]]
    assert cells == list(cells_of_script())


def test_the_notebook_was_executed_in_order_and_shows_pictures():
    notebook = json.loads(TOUR.with_suffix(".ipynb").read_text(encoding="utf-8"))
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell["outputs"]]
    assert not [output for output in outputs if output["output_type"] == "error"]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 3


@pytest.mark.soak
def test_the_tour_runs(tmp_path):
    environment = os.environ | {"MPLBACKEND": "agg", "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, str(TOUR)], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "mean 0." in done.stdout
