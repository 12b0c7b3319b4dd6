"""The examples in docstrings, run as they stand, one module at a time."""

import doctest
import importlib
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "rowrnn"
# Whose examples compile programs of their own.
SLOW = {
    *("rowrnn.core.augment", "rowrnn.core.experiment", "rowrnn.core.model"),
    *("rowrnn.show.read", "rowrnn.show.report", "rowrnn.show.web"),
}
MODULES = sorted(
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
    for path in PACKAGE.rglob("*.py")
    if ">>>" in path.read_text(encoding="utf-8")
)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in MODULES],
)
def test_the_examples_are_true(name):
    found = doctest.testmod(importlib.import_module(name))
    assert found.attempted > 0
    assert found.failed == 0
