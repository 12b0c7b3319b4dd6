"""Files that a kill has cut off or a stranger has made."""

import ast
import dataclasses
import importlib
import os
import socket
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import pytest
from msgspec import Meta

import rowrnn
from rowrnn import files
from rowrnn.bench import suites
from rowrnn.config import Config
from rowrnn.errors import RunError
from rowrnn.lab.train import TrainResult
from rowrnn.store.ledger import Record


def make_link(path):
    path.symlink_to(path.parent / "target")


def make_pipe(path):
    os.mkfifo(path)


def make_socket(path):
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(path))


@pytest.mark.parametrize("make", [make_link, make_pipe, make_socket])
def test_only_plain_files_are_let_in_at_any_depth(tmp_path, make):
    (tmp_path / "target").write_text("x")
    inner = tmp_path / "run" / "a" / "b"
    inner.mkdir(parents=True)
    (inner / "file").write_text("x")
    files.require_plain(tmp_path / "run")
    make(inner / "s")
    with pytest.raises(RunError, match=f"{inner / 's'} is (a link|not a plain file)"):
        files.require_plain(tmp_path / "run")


def test_the_directory_itself_may_be_a_link(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "run")
    files.require_plain(tmp_path / "link")


def test_reading_follows_no_link_waits_for_no_writer_and_is_bounded(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("Größe")
    assert files.read_text(tmp_path / "file") == "Größe"
    make_link(tmp_path / "link")
    with pytest.raises(OSError, match="symbolic links"):
        files.read_text(tmp_path / "link")
    make_pipe(tmp_path / "pipe")
    with pytest.raises(OSError, match="Not a plain file"):
        files.read_text(tmp_path / "pipe")
    monkeypatch.setattr(files, "MOST_BYTES", 6)
    with pytest.raises(ValueError, match="it has more than 6 bytes"):
        files.read_text(tmp_path / "file")


def test_writing_replaces_a_link_and_leaves_what_it_led_to(tmp_path):
    target = tmp_path / "target"
    target.write_text("mine")
    for name in ("file", ".file.partial"):
        (tmp_path / name).symlink_to(target)
    files.write_whole(tmp_path / "file", "new")
    assert target.read_text() == "mine"
    assert not (tmp_path / "file").is_symlink()
    assert (tmp_path / "file").read_text() == "new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "target"]


def test_what_could_not_be_written_leaves_nothing(tmp_path):
    (tmp_path / "file").mkdir()
    with pytest.raises(IsADirectoryError):
        files.write_whole(tmp_path / "file", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to(os.devnull)])
def test_a_pipe_or_a_device_is_no_place_for_a_file(tmp_path, make):
    make(tmp_path / "file")
    before = (tmp_path / "file").lstat()
    with pytest.raises(OSError, match="Not a plain file"):
        files.write_whole(tmp_path / "file", "new")
    assert (tmp_path / "file").lstat() == before
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@dataclasses.dataclass
class Thing:
    number: int
    share: float
    name: str | None
    kind: Literal["a", "b"]
    pair: tuple[int, int]
    curve: dict[str, list[tuple[int, float]]]
    anything: Any = None


GOOD = {
    "number": 1,
    "share": 2,
    "name": None,
    "kind": "a",
    "pair": [1, 2],
    "curve": {"loss": [[1, 0.5]]},
}


def test_what_fits_is_built():
    built = files.build(Thing, GOOD)
    assert built == Thing(1, 2.0, None, "a", (1, 2), {"loss": [(1, 0.5)]})
    assert type(built.share) is float
    assert files.build(Thing, GOOD | {"anything": [{}]}).anything == [{}]


@pytest.mark.parametrize(
    "change",
    [
        {"number": True}, {"number": 1.0}, {"number": None}, {"share": "1"}, {"share": False},
        {"name": 1}, {"kind": "c"}, {"kind": ["a"]}, {"pair": [1]}, {"pair": [1, 2, 3]},
        {"pair": [1, "2"]}, {"pair": 1}, {"curve": []}, {"curve": {"loss": [[1]]}},
        {"curve": {"loss": [["1", 2]]}}, {"other": 1},
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        files.build(Thing, GOOD | change)


def test_a_missing_field_and_no_table_are_refused():
    with pytest.raises(ValueError, match="is missing"):
        files.build(Thing, {name: value for name, value in GOOD.items() if name != "number"})
    with pytest.raises(ValueError, match="is no Thing"):
        files.build(Thing, [1])


def read_kinds():
    """The dataclasses that are named where the package makes one of what it has read."""
    for path in sorted(Path(rowrnn.__file__).parent.rglob("*.py")):
        if "peers" in path.parts:  # They need libraries of their own, and read no file.
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            called = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if called not in ("build", "pick", "read_result", "_read"):
                continue
            place = path.relative_to(Path(rowrnn.__file__).parents[1]).with_suffix("").parts
            names = (part.id for part in node.args if isinstance(part, ast.Name))
            for name in (name for name in names if name.lstrip("_")[0].isupper()):
                module = importlib.import_module(".".join(place).removesuffix(".__init__"))
                kind = getattr(module, name, None)
                if isinstance(kind, type) and dataclasses.is_dataclass(kind):
                    yield kind


def unbounded(hint):
    """Whether a type lets numbers in without a range; what is `Any` is checked where it is used."""
    if get_origin(hint) is Annotated:
        return not any(isinstance(mark, Meta) for mark in get_args(hint))
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return any(map(unbounded, files.types_of(hint).values()))
    return hint in (int, float) or any(map(unbounded, get_args(hint)))


def test_every_number_that_is_read_has_a_range():
    kinds = {*read_kinds(), *suites.SUITES.values(), *map(type, vars(Config()).values())}
    assert {TrainResult, Record} < kinds
    found = [(kind.__name__, name) for kind in kinds
             for name, hint in files.types_of(kind).items() if unbounded(hint)]  # fmt: skip
    assert found == []
