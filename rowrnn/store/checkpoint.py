"""Saving and restoring states; the only user of Orbax.

A checkpoint is a directory of Orbax, which appears complete or not at all. In it
``state/arrays.safetensors`` holds the arrays of a `TrainState` under dotted names
(``params.lstm_0.kernel``) and `Facts` about them, among which is the SHA-256 of every array. Every
restore is compared with these digests; a checkpoint that fails is set aside by name and the next
older one is used.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import shutil
import threading
import time
import warnings
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from msgspec import Meta
from orbax.checkpoint import v1 as ocp
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as to_safetensors

from rowrnn import config as configs
from rowrnn import files
from rowrnn.checks import check_class_names
from rowrnn.core.state import TrainState, named_leaves
from rowrnn.errors import NAME, DamagedError, DivergedError, RunError, shown
from rowrnn.files import Sha256, Share, Size

Arrays = dict[str, np.ndarray]

_Found = TypeVar("_Found")

_KEY = "key"

# Orbax counts its saves for the whole process, and those of several threads wait for each other.
_ORBAX = threading.Lock()

# Seconds for which a checkpoint that is being pruned by the run that saves is looked at again.
_PRUNING_S = 1.0

# The part of a checkpoint that Orbax is given, and the file in it.
_PART, _FILE = "state", "arrays.safetensors"


@dataclass(frozen=True, kw_only=True)
class About:
    """What a network is and what it was trained on, as is kept beside its parameters.

    Attributes:
        config: the experiment, as nested tables; of a sweep what its members have in common.
        dataset: name of the data.
        fingerprint: of the data.
        shape: rows and pixels of an image, (T, F).
        classes: number of classes, C.
        class_names: in the order of the labels; none where there are no other names than these.
    """

    config: dict[str, Any]
    dataset: str
    fingerprint: Sha256
    shape: tuple[Size, Size]
    classes: Size
    class_names: list[str] = dataclasses.field(default_factory=list)

    @classmethod
    def of(cls, values: Any) -> Self:
        """From JSON; raises `ValueError` where it is none, or of other data than its config."""
        about = files.build(cls, values)
        name = configs.restore(about.config).data.dataset
        if about.dataset != name and (name != "arrays" or not re.fullmatch(NAME, about.dataset)):
            raise ValueError(f"its data is {shown(about.dataset)}, and {name} in its config")
        check_class_names(about.class_names, about.classes)
        return about


@dataclass(frozen=True, kw_only=True)
class Facts(About):
    """What a checkpoint says beside its arrays, so that it can be loaded without its run.

    Attributes:
        steps: length of the run.
        members: on the leading axis of all arrays, S.
        keys: of their records in the ledger of a sweep; none for a single run.
        progress: where the host loop stood.
        validation_accuracy: at this step; None where it was not evaluated there.
        sha256: of each array, by name.
    """

    steps: Annotated[int, Meta(ge=1, le=2**53)]
    members: Size
    keys: list[dict[str, Any]]
    progress: dict[str, Any]
    validation_accuracy: Share | None
    sha256: dict[str, str]


class CheckpointWriter:
    """Saves states into one directory and keeps the latest few and the best.

    The directory is made at the first save.

    Args:
        directory: where the checkpoints lie, one numbered directory for each step.
        keep: how many of the latest stay; the best on validation stays beside them.
        check: raises an error where the directory is not the one to save to; called before each
            save, since Orbax would make it anew, and after it.
    """

    def __init__(self, directory: Path, keep: int, check: Callable[[], None] = lambda: None):
        self._directory, self._keep, self._check = directory, keep, check
        self._opened: ocp.training.Checkpointer | None = None
        self._accuracies: dict[int, float] = {}
        self._failed = False

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> Sequence[bool]:
        """Which checkpoints stay, in their order: what Orbax asks its ``preservation_policy``."""
        steps = [checkpoint.step for checkpoint in checkpoints]
        known = [step for step in steps if step in self._accuracies]
        # The latest of the best.
        best = max(reversed(known), key=self._accuracies.__getitem__, default=None)
        return [step in steps[-self._keep :] or step == best for step in steps]

    def _open(self) -> ocp.training.Checkpointer:
        for path in _steps(self._directory):
            with contextlib.suppress(_DamagedError), _open_file(path, settled=True) as file:
                self._note(int(path.name), _read_facts(file).validation_accuracy)
        try:
            return ocp.training.Checkpointer(
                str(self._directory.absolute()),
                preservation_policy=self,
                # A killed save leaves such directories behind.
                cleanup_tmp_directories=True,
            )
        except OSError as error:
            raise RunError(f"{self._directory} cannot be written to: {error.strerror}") from error
        except (ValueError, TypeError, RecursionError) as error:
            raise DamagedError(
                f"{self._directory}: Orbax cannot read what it noted of a checkpoint there "
                f"({type(error).__name__}: {str(error)[:100]}); remove _CHECKPOINT_METADATA and "
                "metrics from each, which are whole without them, and go on"
            ) from error

    def save(self, state: TrainState, facts: dict[str, Any]) -> None:
        """Saves a state and returns when it is durable; a step that is there already stays.

        Args:
            state: of members [S, ...]; its step is that of the furthest.
            facts: what `Facts` holds, but for the digests.

        Raises `RunError` where the save fails and `DivergedError` where an array is not finite.
        """
        arrays = to_arrays(state)
        step = int(arrays["step"].max())
        for name, array in arrays.items():
            if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
                raise DivergedError(f"step {step}: {name} is not finite; the state was not saved")
        self._check()
        with _ORBAX:
            self._opened = self._opened or self._open()
            latest = self._opened.latest
        if latest is not None and latest.step == step:
            return
        text = json.dumps(facts | {"sha256": {name: digest(a) for name, a in arrays.items()}})
        self._note(step, facts["validation_accuracy"])
        about = {"facts": text, "facts_sha256": _sha256(text.encode())}
        part = _File(to_safetensors(arrays, about))
        try:
            with _ORBAX:
                self._opened.save_checkpointables(step, {_PART: part})
        except (OSError, ValueError) as error:
            self._failed = True
            self._check()
            if jax.process_count() > 1 and not getattr(error, "errno", None):
                raise  # Another process of the job was lost, about which jax knows more.
            reason = getattr(error, "strerror", None) or str(error).splitlines()[0][:200]
            raise RunError(
                f"{self._directory}: step {step} was not saved: {reason}; "
                "what was saved before is good"
            ) from error
        self._check()

    def _note(self, step: int, accuracy: float | None) -> None:
        if accuracy is not None:
            self._accuracies[step] = accuracy

    def close(self) -> None:
        """Lets go of the directory."""
        if self._opened is not None:
            # Orbax raises the error of a failed save once more.
            with _ORBAX, contextlib.suppress(*((OSError, ValueError) if self._failed else ())):
                self._opened.close()


class _File:
    """What Orbax calls to save one part of a checkpoint: here the content of a file.

    Orbax's own way to save arrays is not used: after an error its threads print pages, at a time
    of their own.
    """

    def __init__(self, content: bytes):
        self._content = content

    async def save(self, directory: Any) -> Awaitable[None]:
        async def write() -> None:
            path = await directory.await_creation()
            if jax.process_index() == 0:
                with open(path / _FILE, "xb") as file:
                    file.write(self._content)
                    file.flush()
                    os.fsync(file.fileno())

        return write()

    async def load(self, directory: Any) -> Awaitable[None]:
        raise NotImplementedError("a part is read without Orbax")


def restore(
    directory: Path,
    make_abstract: Callable[[Facts], TrainState],
    which: str = "last",
) -> tuple[TrainState, Facts] | None:
    """The newest intact state of a directory, its arrays [S, ...] on the host, and its facts.

    Args:
        directory: where a `CheckpointWriter` saved.
        make_abstract: from the facts to the shapes and dtypes of the state, as `jax.eval_shape`
            gives them, or `ValueError` where the facts are not what they should be; nothing larger
            than this is ever allocated.
        which: "last", "best" (highest validation accuracy) or a step.

    Returns:
        The state with NumPy arrays and its facts, or None where nothing was saved yet.

    Raises:
        DamagedError: there are checkpoints but none of those asked for is intact.
        RunError: one cannot be read for another reason.
    """

    problems: list[str] = []

    def read(settled: bool) -> tuple[TrainState, Facts] | None:
        problems.clear()
        for path in _candidates(directory, which, settled):
            try:
                return _restore_one(path, make_abstract, settled)
            except _DamagedError as error:
                problems.append(f"checkpoint {path} is damaged: {error}")
        if problems:
            raise DamagedError("; ".join(problems) + "; no intact checkpoint is left to restore")
        return None

    try:
        return _while_it_changes(directory, read)
    finally:
        for problem in problems if which == "last" else []:
            warnings.warn(f"{problem}; trying the one before it", stacklevel=2)


def newest_facts(directory: Path) -> Facts | None:
    """The facts of the newest checkpoint whose facts are intact; None where there is none."""

    def read(settled: bool) -> Facts | None:
        for path in _steps(directory):
            with contextlib.suppress(_DamagedError), _open_file(path, settled) as file:
                return _read_facts(file)
        return None

    return _while_it_changes(directory, read)


def set_aside_newer(directory: Path, step: int) -> list[Path]:
    """Moves the checkpoints after `step` out of the way, so that these steps can be saved again.

    Only damaged ones are newer than the one that was restored. They go to ``damaged/`` beside
    the directory; returns where.
    """
    moved = []
    for path in _steps(directory):
        if int(path.name) > step:
            target = directory.parent / "damaged" / path.name
            shutil.rmtree(target, ignore_errors=True)
            try:
                target.parent.mkdir(exist_ok=True)
                path.rename(target)
            except OSError as error:
                raise RunError(f"{path} is damaged, and stays: {error.strerror}") from error
            moved.append(target)
    return moved


def to_arrays(state: TrainState) -> Arrays:
    """The arrays of a state on the host, by dotted name; the key as its raw data."""
    return {
        name: np.array(jax.random.key_data(leaf) if name == _KEY else leaf)
        for name, leaf in named_leaves(state)
    }


def digest(array: np.ndarray) -> str:
    """SHA-256 of an array: its dtype, its shape and its bytes."""
    header = f"{array.dtype.str}{array.shape}".encode()
    return hashlib.sha256(header + np.ascontiguousarray(array).tobytes()).hexdigest()


def params_digest(params: Any) -> str:
    """SHA-256 over the digests of all parameters, in the order of their names."""
    digests = [f"{name} {digest(np.asarray(leaf))}\n" for name, leaf in named_leaves(params)]
    return _sha256("".join(sorted(digests)).encode())


class _DamagedError(Exception):
    """One checkpoint is not what was saved."""


class _GoneError(Exception):
    """One checkpoint is not there any more, or not whole: the run that saves may prune it."""


def _while_it_changes(directory: Path, read: Callable[[bool], _Found]) -> _Found:
    """What `read` gives, which looks again where a run that saves has changed the directory.

    It is told whether the directory has stayed as it is for so long that what is missing there is
    damage.
    """
    last_change = time.monotonic()
    while True:
        before = _steps(directory)
        try:
            return read(time.monotonic() - last_change > _PRUNING_S)
        except (DamagedError, _GoneError) as error:
            changed = _steps(directory) != before
            if isinstance(error, DamagedError) and not changed:
                raise
            if changed:
                last_change = time.monotonic()
            time.sleep(0.02)


def _restore_one(path: Path, make_abstract: Callable[[Facts], TrainState], settled: bool):
    """The state and facts of one checkpoint; raises `_DamagedError`.

    The file stays open from the facts to the arrays: it is whole also where it is pruned meanwhile.
    """
    with _open_file(path, settled) as file:
        facts = _read_facts(file)
        try:
            abstract = make_abstract(facts)
        except (KeyError, TypeError, ValueError) as error:
            raise _DamagedError(f"its metadata says what cannot be: {error}") from error
        arrays = _load(file, abstract)
    for name, array in arrays.items():
        if digest(array) != facts.sha256.get(name):
            raise _DamagedError(f"{name} does not match its SHA-256")
    if int(arrays["step"].max()) != int(path.name):
        raise _DamagedError(f"it holds step {int(arrays['step'].max())}")
    leaves = [jax.random.wrap_key_data(jnp.asarray(arrays[_KEY])) if name == _KEY else arrays[name]
              for name, _ in named_leaves(abstract)]  # fmt: skip
    return jax.tree.unflatten(jax.tree.structure(abstract), leaves), facts


@contextlib.contextmanager
def _open_file(path: Path, settled: bool) -> Iterator[Any]:
    """The file of one checkpoint; raises `_DamagedError`, and `_GoneError` where it is not settled
    that nobody prunes it. What the system refuses is a `RunError`."""
    try:
        files.require_plain(path)
    except RunError as error:
        raise _DamagedError(str(error)) from error
    file = path / _PART / _FILE
    try:
        # safetensors does not tell these errors from one another.
        with files.open_plain(file, follow=False):
            pass
        opened = safe_open(file, framework="np")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise (_DamagedError if settled else _GoneError)(f"{_FILE} is missing") from error
    except OSError as error:
        raise RunError(f"{file} cannot be read: {error.strerror or error}") from error
    except (SafetensorError, ValueError) as error:
        raise _DamagedError(f"its metadata cannot be read ({type(error).__name__})") from error
    with opened as found:
        yield found


def _load(file: Any, abstract: TrainState) -> Arrays:
    """The arrays of an open checkpoint, in the shapes of those given; raises `_DamagedError`.

    No more memory is taken than these need.
    """
    wanted, arrays = _abstract_arrays(abstract), {}
    try:
        if set(file.keys()) != set(wanted):
            raise ValueError(f"it has other arrays than {', '.join(sorted(wanted))}")
        for name, array in wanted.items():
            shape = tuple(file.get_slice(name).get_shape())
            if shape != array.shape:
                raise ValueError(f"{name} is {shape}, not {array.shape}")
            arrays[name] = file.get_tensor(name)
    except (MemoryError, OSError):
        raise  # It may be as whole as it was.
    except Exception as error:  # safetensors raises whatever the damage leads it to.
        problem = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise _DamagedError(problem[:200]) from error
    return arrays


def _read_facts(file: Any) -> Facts:
    """The facts of an open checkpoint, verified; raises `_DamagedError`."""
    try:
        about = file.metadata()
        text = about["facts"]
        intact = _sha256(text.encode()) == about["facts_sha256"]
        values = files.parse_json(text)
    except (MemoryError, OSError):
        raise
    except Exception as error:  # As in `_load`.
        raise _DamagedError(f"its metadata cannot be read ({type(error).__name__})") from error
    if not intact:
        raise _DamagedError("its metadata does not match its SHA-256")
    try:
        return Facts.of(values)
    except (TypeError, ValueError) as error:
        raise _DamagedError(f"its metadata says what cannot be: {error}") from error


def _candidates(directory: Path, which: str, settled: bool) -> list[Path]:
    """The checkpoints to try, in this order."""
    paths = _steps(directory)
    if which == "last" or not paths:
        return paths
    if which == "best":
        scored = {path: _validation_accuracy(path, settled) for path in paths}
        best = max(paths, key=lambda path: scored[path])
        if scored[best] < 0:
            raise RunError(
                f"{directory} has no best checkpoint: nothing in it was evaluated on a "
                "validation part (data.validation_size); take last, or a step"
            )
        return [best]
    chosen = [path for path in paths if path.name == str(which)]
    if not chosen:
        steps = ", ".join(path.name for path in reversed(paths))
        raise RunError(f"{directory} has no checkpoint {which}; there are {steps}, last and best")
    return chosen


def _validation_accuracy(path: Path, settled: bool) -> float:
    """The accuracy a checkpoint was saved with; -1 where there was none."""
    try:
        with _open_file(path, settled) as file:
            accuracy = _read_facts(file).validation_accuracy
    except _DamagedError as error:
        warnings.warn(f"checkpoint {path} is damaged: {error}; left out", stacklevel=2)
        return -1.0
    return -1.0 if accuracy is None else accuracy


def _steps(directory: Path) -> list[Path]:
    """The finished checkpoints, newest first."""
    try:
        paths = [directory / name for name in os.listdir(directory)]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise RunError(f"{directory} cannot be read: {error.strerror}") from error
    paths = [path for path in paths if path.name.isascii() and path.name.isdecimal()]
    return sorted(paths, key=lambda path: int(path.name), reverse=True)


def _abstract_arrays(abstract: TrainState) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and dtypes of what `to_arrays` gives, the key as its raw data."""
    key_data = jax.eval_shape(jax.random.key_data, abstract.key)
    return {name: key_data if name == _KEY else leaf for name, leaf in named_leaves(abstract)}


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
