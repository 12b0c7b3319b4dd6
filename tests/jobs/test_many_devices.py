"""What one device computes, many do."""

import json
import os
import subprocess
import sys
from pathlib import Path

import compiler
import many_devices
import pytest


@pytest.mark.parametrize(
    ("dtype", "counts", "tolerance"),
    [
        # Two devices in other tests: in one process here, in two beside this one.
        pytest.param("float32", "1,8", 1e-5, marks=pytest.mark.slow),
        pytest.param("float32", "1,2,4,8", 1e-5, marks=pytest.mark.soak),
        pytest.param("float64", "1,2,4,8", 1e-10, marks=pytest.mark.soak),
    ],
)
def test_the_same_curve_on_any_number_of_devices(dtype, counts, tolerance):
    """The limit is for what would otherwise be a hang: devices that wait for each other."""
    # Most of it is compiling. How devices share the work is decided before this comes in.
    environment = os.environ | {"XLA_FLAGS": compiler.FLAGS}
    done = subprocess.run(
        [sys.executable, str(Path(many_devices.__file__)), dtype, counts],
        capture_output=True,
        text=True,
        timeout=240,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["dtype"] == dtype
    # Not the same bits, or the devices would not have shared the work.
    assert all(0 < difference < tolerance for difference in found["differences"])
    assert min(found["same_predictions"]) >= 0.999
    assert found["same_bits_again"]
    if dtype == "float32":
        assert max(found["sweep"]) < tolerance
