"""Nine rooms on the ground: imports point downward only, and each library has its room."""

import ast
import functools
from pathlib import Path

import pytest

import rowrnn
from rowrnn.store import ledger

PACKAGE = Path(rowrnn.__file__).parent

# From the ground up. A module may import those of the floors below its own, and a package is one
# room: what its modules import of each other is its own affair.
FLOORS = [
    {"errors"},
    {"checks", "files"},
    {"jax_settings"},
    {"config"},
    {"core", "figures"},
    {"data"},
    {"parallel"},
    {"store"},
    {"lab"},
    {"bench"},
    {"show"},
    {"cli"},
    {"__main__"},
]
LEVEL = {room: level for level, floor in enumerate(FLOORS) for room in floor}

# The package's own __init__ only names what it offers.
MODULES = sorted(set(PACKAGE.rglob("*.py")) - {PACKAGE / "__init__.py"})


def room_of(path):
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


@functools.cache
def imported(path):
    """Dotted names that a module imports anywhere, but not for type checkers alone."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            node.body = []
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def imported_rooms(path):
    for name in imported(path):
        first, *rest = name.split(".")
        if first == "rowrnn" and rest:
            yield rest[0]


def test_nothing_else_is_at_the_top_level():
    rooms = {path.stem for path in PACKAGE.iterdir() if path.name != "__pycache__"}
    assert rooms == set(LEVEL) | {"__init__", "py"}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_downward(path):
    room = room_of(path)
    for other in imported_rooms(path):
        assert other == room or LEVEL[other] < LEVEL[room], f"{room} imports {other}"


@pytest.mark.parametrize(
    "path", sorted((PACKAGE / "core").rglob("*.py")), ids=lambda path: path.stem
)
def test_the_core_is_pure(path):
    allowed = {"jax", "flax", "optax", "numpy", "rowrnn"}
    allowed |= {"collections", "dataclasses", "functools", "typing"}
    assert {name.split(".")[0] for name in imported(path)} <= allowed
    assert "jax.sharding" not in {name.rpartition(".")[0] for name in imported(path)}


def test_the_core_is_read_in_one_sitting():
    # The backends that are for one kind of device are not counted.
    devices = {"cudnn", "pallas", "split"}
    files = [path for path in (PACKAGE / "core").rglob("*.py") if path.stem not in devices]
    assert sum(len(path.read_text().splitlines()) for path in files) < 1_500


def test_a_record_is_decided_by_all_code_that_computes():
    # The trainer says which of the core's functions run, and `parallel` how.
    decided = {path for room in ledger.DECIDING for path in _modules(PACKAGE / room)}
    reached, pending = set(), [PACKAGE / "lab" / "trainer.py"]
    while pending:
        path = pending.pop()
        if path not in reached:
            reached.add(path)
            pending += [found for name in imported(path) for found in _files_of(name)]
    # These read and say; config and data are in the key themselves.
    silent = {"checks", "config", "data", "errors", "files"}
    assert {path for path in reached if room_of(path) not in silent} <= decided


def _modules(path):
    return set(path.rglob("*.py")) if path.is_dir() else {path}


def _files_of(name):
    """The modules of rowrnn that an import of a dotted name reaches."""
    parts = name.split(".")
    if parts[0] != "rowrnn":
        return
    for end in range(2, len(parts) + 1):
        path = PACKAGE.joinpath(*parts[1:end])
        for file in (path.with_suffix(".py"), path / "__init__.py"):
            if file.is_file():
                yield file


@pytest.mark.parametrize(
    ("library", "rooms"),
    [
        ("tyro", {"cli"}),
        ("orbax", {"store"}),
        ("tensorflow_datasets", {"data"}),
        ("filelock", {"store"}),
        ("safetensors", {"store"}),
        ("matplotlib", {"figures", "bench"}),
        ("jax2onnx", {"show"}),
        ("wandb", {"store"}),
        ("mlflow", {"store"}),
        ("tomllib", {"config", "bench"}),
    ],
)
def test_a_library_has_one_room(library, rooms):
    users = {
        room_of(path)
        for path in MODULES
        for name in imported(path)
        if name.split(".")[0] == library
    }
    assert users
    assert users <= rooms
