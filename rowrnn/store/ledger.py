"""The ledger of a sweep: what each member gave, in a file of its own, written when it is known.

A record is found by what decides it: the configuration (with its seed), the data and the code. So
a sweep that is resumed runs what is missing and nothing else, and one whose code or data has
changed does not take old results for new ones. A file is complete or absent, and carries a SHA-256
of what it says; one that is damaged is set aside, and its member is run again.
"""

import base64
import dataclasses
import functools
import hashlib
import importlib.metadata
import json
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from rowrnn import config as configs
from rowrnn import files
from rowrnn.config import Seed
from rowrnn.errors import ConfigError, RunError
from rowrnn.files import Count, Loss, Seconds, Share
from rowrnn.jax_settings import deciding_variables
from rowrnn.store.members import Member

COMPLETED, DIVERGED = "completed", "diverged"

# The rooms whose code decides what a run computes.
DECIDING = ("core", "lab/trainer.py", "parallel", "jax_settings.py")
# Not jax itself: clusters are mixed, and a record says which it was made with.
_PACKAGES = ("flax", "optax")

# Reading a file that is no record, or a forged one, may raise these.
_DAMAGE = (ValueError, TypeError, KeyError, AttributeError, OverflowError, ConfigError)

Key = dict[str, Any]
"""What decides a record: ``config``, ``data`` and ``code``, each a SHA-256 in hex, and ``seed``."""


@dataclass(frozen=True, repr=False)
class Record:
    """What one member gave.

    Attributes:
        key: what decides it.
        name: point and seed in words.
        seed: as the sweep counts them.
        varied: its values of the grid, by dotted name.
        status: "completed", or "diverged" where loss or update were not finite at step `steps`.
        steps: updates done.
        train_loss: mean over the last log interval.
        validation_accuracy: of the last state; None without that part.
        test_accuracy, test_loss, first256_accuracy: of the last state on the test part; the last
            is the notebook's figure, None of other protocols.
        params_sha256: of the last parameters.
        correct: which test images were classified correctly, packed bits in base64.
        curve: figures on the way: by name, a list of (step, value).
        wall_s: seconds from the start of its chunk of seeds to the end, shared by its members.
        machine: what it was trained on, as `rundir.machine_of` says; empty where nobody knows, and
            with "; " between them where it went on on another.

    A diverged member has None for what is not known of it.
    """

    key: Key
    name: str
    seed: Seed
    varied: dict[str, Any]
    status: Literal["completed", "diverged"]
    steps: Count
    train_loss: Loss | None
    validation_accuracy: Share | None
    test_accuracy: Share | None
    test_loss: Loss | None
    first256_accuracy: Share | None
    params_sha256: str | None
    correct: str | None
    curve: dict[str, list[tuple[Count, Loss]]]
    wall_s: Seconds
    machine: str = ""

    def __repr__(self) -> str:
        names = ("name", "status", "steps", "validation_accuracy", "test_accuracy")
        facts = {name: getattr(self, name) for name in names}
        words = (f"{n}={v:.4f}" if isinstance(v, float) else f"{n}={v!r}" for n, v in facts.items())
        return f"Record({', '.join(words)})"


class Ledger:
    """The records in one directory; without a directory there are none."""

    def __init__(self, directory: Path | None = None):
        self._directory = directory

    def write(self, record: Record) -> None:
        """Keeps a record; it appears complete or not at all."""
        assert self._directory is not None
        text = json.dumps(dataclasses.asdict(record), allow_nan=False)
        path = self._directory / _name(record.key)
        with files.writing(path):
            self._directory.mkdir(exist_ok=True)
            files.write_whole(path, json.dumps({"sha256": _sha256(text), "record": text}))

    def read(self, keys: Iterable[Key]) -> list[Record | None]:
        """The record of each key, None where there is none that is intact.

        Warns of damaged ones and sets them aside.
        """
        return [self._read_one(key) for key in keys]

    def read_all(self) -> tuple[list[Record], list[Path]]:
        """All intact records, also of other code and data, the last written last; and the damaged.

        Nothing is set aside.
        """
        if self._directory is None or not self._directory.is_dir():
            return [], []
        paths = [path for path in self._directory.glob("seed-*.json") if path.is_file()]
        records, damaged = [], []
        for path in sorted(paths, key=lambda path: (path.stat().st_mtime_ns, path.name)):
            try:
                record = _read(path)
                if path.name != _name(record.key):
                    raise ValueError("it has the name of another")
            except OSError as error:
                raise RunError(f"{path} cannot be read: {error.strerror}") from error
            except _DAMAGE:
                damaged.append(path)
            else:
                records.append(record)
        return records, damaged

    def _read_one(self, key: Key) -> Record | None:
        if self._directory is None:
            return None
        path = self._directory / _name(key)
        try:
            record = _read(path)
            if record.key != key:
                raise ValueError("it belongs to another member")
            return record
        except FileNotFoundError:
            return None
        except OSError as error:
            raise RunError(f"{path} cannot be read: {error.strerror}") from error
        except _DAMAGE as error:
            aside = path.with_suffix(".damaged")
            try:
                path.replace(aside)
            except OSError as refused:
                raise RunError(f"{path} is damaged, and stays: {refused.strerror}") from refused
            warnings.warn(
                f"record {path} is damaged ({str(error)[:100]}); it is now {aside.name}, and its "
                "member is run again",
                stacklevel=3,
            )
            return None


def make_key(member: Member, fingerprint: str) -> Key:
    """What decides the record of a member that is trained on the data of this fingerprint."""
    return {
        "config": configs.digest(member.config),
        "data": fingerprint,
        "seed": member.seed,
        "code": code_version(),
    }


@functools.cache
def code_version() -> str:
    """SHA-256, in hex, of the code that decides what a run computes, and of the versions and
    `deciding_variables` below it."""
    digest = hashlib.sha256()
    package = Path(__file__).parents[1]
    for room in DECIDING:
        path = package / room
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            digest.update(file.relative_to(package).as_posix().encode() + file.read_bytes())
    for name in _PACKAGES:
        digest.update(f"{name} {importlib.metadata.version(name)}\n".encode())
    for name, value in deciding_variables().items():
        digest.update(f"{name}={value}\n".encode())
    return digest.hexdigest()


def machines_of(records: Iterable[Record]) -> list[str]:
    """The machines that records were made on, each once; more than one is a mixture."""
    return sorted({each for record in records for each in record.machine.split("; ")} - {""})


def pack(correct: np.ndarray) -> str:
    """Answers that were right, bool [N], as text."""
    return base64.b64encode(np.packbits(correct).tobytes()).decode("ascii")


def unpack(text: str, count: int) -> np.ndarray:
    """What `pack` was given; bool [count].

    >>> unpack(pack(np.array([True, False, True])), 3)
    array([ True, False,  True])
    """
    bits = np.frombuffer(base64.b64decode(text), np.uint8)
    return np.unpackbits(bits, count=count).astype(bool)


def _name(key: Key) -> str:
    return f"seed-{key['seed']}-{_sha256(json.dumps(key, sort_keys=True))[:20]}.json"


def _read(path: Path) -> Record:
    """The record in a file; raises `OSError`, or one of `_DAMAGE` where it is none."""
    outer = files.read_json(path)
    text = outer["record"]
    if _sha256(text) != outer["sha256"]:
        raise ValueError("it does not match its SHA-256")
    return _record_of(files.parse_json(text))


def _record_of(fields: Any) -> Record:
    """A record from JSON; raises errors of several kinds where it is none that can be."""
    record = files.build(Record, fields)
    for name, value in record.varied.items():
        configs.check_value(name, value)
    if record.status == COMPLETED:
        if record.test_accuracy is None:
            raise ValueError("it has no accuracy")
        unpack(record.correct, 1)  # type: ignore[arg-type]
    return record


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
