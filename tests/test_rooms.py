"""Imports point downward only; modules of one floor do not import each other."""

import ast
from pathlib import Path

import pytest

import rowrnn
from rowrnn import ledger

PACKAGE = Path(rowrnn.__file__).parent

# From the ground up. A module may import those of the floors below its own, and a package is one
# room: what its modules import of each other is its own affair.
FLOORS = [
    {"errors"},
    {"files", "launch"},
    {"config"},
    {
        *("lstm", "data", "stats", "figures", "interrupt", "members", "logs", "loggers"),
        "program_cache",
    },
    {"augment", "model", "optimizer", "display", "rundir", "ledger"},
    {"metrics", "state"},
    {"step", "checkpoint", "weights"},
    {"parallel"},
    {"experiment", "classifier"},
    {"stack", "web", "onnx"},
    {
        *("runners.__init__", "runners.train", "runners.evaluate", "runners.predict"),
        *("runners.export", "runners.read", "runners.rows", "runners.runs"),
        *("runners.sweep", "runners.compare", "bench"),
    },
    {"runners.report"},
    {"cli"},
]
LEVEL = {room: level for level, floor in enumerate(FLOORS) for room in floor}


def room_of(path):
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:2]) if parts[0] == "runners" else parts[0]


def imported_rooms(path):
    """The rooms that a module imports anywhere, but not for type checkers alone."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            node.body = []
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "rowrnn" and len(parts) > 1:
                yield ".".join(parts[1:3]) if parts[1] == "runners" else parts[1]


# The package's own __init__ only names what it offers.
MODULES = sorted(set(PACKAGE.rglob("*.py")) - {PACKAGE / "__init__.py"})


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_downward(path):
    room = room_of(path)
    for other in imported_rooms(path):
        assert other == room or LEVEL[other] < LEVEL[room], f"{room} imports {other}"


def test_a_record_is_decided_by_all_code_that_computes():
    files, reached = {}, {"stack"}
    for path in MODULES:
        files.setdefault(room_of(path), []).append(path)
    while True:
        found = {
            other for room in reached for path in files[room] for other in imported_rooms(path)
        }
        if found <= reached:
            break
        reached |= found
    # These read, say and start; config and data are in the key themselves.
    silent = {"config", "data", "errors", "files", "launch", "program_cache"}
    assert {name.removesuffix(".py") for name in ledger._DECIDING} == reached - silent


@pytest.mark.parametrize(
    ("library", "rooms"),
    [
        ("tyro", {"cli"}),
        ("orbax", {"checkpoint"}),
        ("tensorflow_datasets", {"data"}),
        ("filelock", {"rundir"}),
        ("safetensors", {"weights"}),
        ("jax2onnx", {"onnx"}),
        ("wandb", {"loggers"}),
        ("mlflow", {"loggers"}),
        ("tomllib", {"config", "bench"}),
    ],
)
def test_a_library_has_one_room(library, rooms):
    users = {
        room_of(path)
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([node.module or ""] if isinstance(node, ast.ImportFrom)
                     else [alias.name for alias in node.names])
        if name.split(".")[0] == library
    }  # fmt: skip
    assert users
    assert users <= rooms
