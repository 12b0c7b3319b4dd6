import dataclasses
import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rowrnn import config as configs
from rowrnn.config import Config
from rowrnn.errors import RunError
from rowrnn.store import ledger
from rowrnn.store.ledger import Ledger, Record
from rowrnn.store.members import Member

KEY = {"config": "c" * 64, "data": "d" * 64, "seed": 3, "code": "e" * 64}
RECORD = Record(
    key=KEY,
    name="learning_rate=0.1,seed=3",
    seed=3,
    varied={"optimizer.learning_rate": 0.1},
    status=ledger.COMPLETED,
    steps=10,
    train_loss=2.0,
    validation_accuracy=None,
    test_accuracy=0.1 + 0.2,
    test_loss=1e-30,
    first256_accuracy=0.5,
    params_sha256="f" * 64,
    correct=ledger.pack(np.arange(10) % 3 == 0),
    curve={"train_loss": [(5, 2.5), (10, 2.0)]},
    wall_s=1.5,
)


def only_file(directory):
    (path,) = directory.iterdir()
    return path


def test_what_is_written_is_read_to_the_bit(tmp_path):
    Ledger(tmp_path / "members").write(RECORD)
    other = KEY | {"seed": 4}
    assert Ledger(tmp_path / "members").read([other, KEY]) == [None, RECORD]
    assert only_file(tmp_path / "members").suffix == ".json"


def test_without_a_directory_there_is_nothing(tmp_path):
    assert Ledger().read([KEY]) == [None]
    assert Ledger(tmp_path / "none").read([KEY]) == [None]


@pytest.mark.parametrize("part", ["config", "data", "seed", "code"])
def test_each_part_of_the_key_decides(tmp_path, part):
    Ledger(tmp_path).write(RECORD)
    assert Ledger(tmp_path).read([KEY | {part: "0" if part != "seed" else 0}]) == [None]


def test_a_key_says_what_decides_a_member():
    def key(config=None, fingerprint="x", seed=0):
        return ledger.make_key(Member(config or Config(), seed, {}), fingerprint)

    other = configs.replace(Config(), {"optimizer.learning_rate": 0.5})
    free = configs.replace(Config(), {"train.display": "none", "parallel.devices": 2})
    assert key() == key() == key(free)
    assert key() not in (key(other), key(fingerprint="y"), key(seed=1))
    assert len(ledger.code_version()) == 64


def test_the_code_version_follows_files_packages_and_variables(tmp_path, monkeypatch):
    version = ledger.code_version.__wrapped__
    package = tmp_path / "rowrnn"
    files = ("lab/trainer.py", "core/lstm/deep.py", "parallel/deep.py", "jax_settings.py")
    for file in files:
        (package / file).parent.mkdir(parents=True, exist_ok=True)
        (package / file).write_text("x = 1\n")
    monkeypatch.setattr(ledger, "__file__", str(package / "store" / "ledger.py"))
    seen = [version()]
    assert version() == seen[0]
    for file in files:
        (package / file).write_text("z = 2\n")
        seen.append(version())
    monkeypatch.setattr(ledger.importlib.metadata, "version", lambda _: "0")
    seen.append(version())
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    seen.append(version())
    assert len(set(seen)) == len(files) + 3


def test_a_file_is_complete_or_absent(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", full)
        with pytest.raises(RunError, match="was not written: No space left on device"):
            Ledger(tmp_path).write(RECORD)
    assert not list(tmp_path.glob("*.json"))
    assert Ledger(tmp_path).read([KEY]) == [None]
    Ledger(tmp_path).write(RECORD)
    assert Ledger(tmp_path).read([KEY]) == [RECORD]


def assert_set_aside(directory, content):
    """A record with other content is no record, and is called damaged."""
    Ledger(directory).write(RECORD)
    path = only_file(directory)
    path.write_bytes(content)
    with pytest.warns(UserWarning, match=rf"record {path} is damaged .*; it is now {path.stem}\.d"):
        assert Ledger(directory).read([KEY]) == [None]
    assert only_file(directory) == path.with_suffix(".damaged")
    assert path.with_suffix(".damaged").read_bytes() == content
    # It is said once.
    assert Ledger(directory).read([KEY]) == [None]


def written():
    text = json.dumps(dataclasses.asdict(RECORD))
    return json.dumps({"sha256": ledger._sha256(text), "record": text}).encode()


def signed(record):
    text = record if isinstance(record, str) else json.dumps(record)
    return json.dumps({"sha256": ledger._sha256(text), "record": text}).encode()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"null",
        b"{}",
        b"[" * 100_000,
        b"\xff\xfe",
        written()[:-1],
        written().replace(b"2.5", b"2.4"),
        signed("null"),
        signed("[]"),
        signed({}),
        signed(dataclasses.asdict(RECORD) | {"key": KEY | {"seed": 4}}),
        signed(dataclasses.asdict(RECORD) | {"more": 1}),
        signed(dataclasses.asdict(RECORD) | {"curve": {"train_loss": [1]}}),
        signed(dataclasses.asdict(RECORD) | {"curve": [1]}),
        signed(dataclasses.asdict(RECORD) | {"curve": None}),
        signed(dataclasses.asdict(RECORD) | {"seed": "1"}),
        signed(dataclasses.asdict(RECORD) | {"varied": []}),
        signed(dataclasses.asdict(RECORD) | {"wall_s": float("nan")}),
        signed(dataclasses.asdict(RECORD) | {"test_accuracy": 1.5}),
        b'{"sha256": 1, "record": 2}',
        b'{"sha256": "", "record": "\\ud800"}',
    ],
    ids=lambda content: repr(content[:30]),
)
def test_a_damaged_record_is_set_aside(tmp_path, content):
    assert_set_aside(tmp_path, content)


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_no_bytes_do_more_than_warn(tmp_path_factory, data):
    directory = tmp_path_factory.mktemp("ledger")
    good = written()
    place = data.draw(st.integers(0, len(good) - 1))
    flipped = bytearray(good)
    flipped[place] ^= data.draw(st.integers(1, 255))
    content = data.draw(st.binary(max_size=50) | st.sampled_from([bytes(flipped), good[:place]]))
    Ledger(directory).write(RECORD)
    path = only_file(directory)
    path.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        (found,) = Ledger(directory).read([KEY])
    # A flipped bit may leave the JSON the same, such as a space that becomes a tab.
    assert found in (None, RECORD)
    assert path.exists() == (found is not None)


def test_correct_answers_are_kept_to_the_bit():
    right = np.random.default_rng(0).random(1001) < 0.5
    np.testing.assert_array_equal(ledger.unpack(ledger.pack(right), 1001), right)
