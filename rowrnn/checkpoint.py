"""Saving and restoring states; the only user of Orbax.

A checkpoint holds the arrays of a `TrainState` under dotted names (``params.lstm_0.kernel``) and
*facts* about them: whatever JSON the caller gives, and the SHA-256 of every array. Orbax does not
notice a flipped bit in its data files, so every restore is compared with these digests; a
checkpoint that fails is set aside by name and the next older one is used.
"""

import functools
import hashlib
import json
import os
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from orbax.checkpoint import v1 as ocp

from rowrnn.errors import DivergedError, RunError
from rowrnn.state import TrainState

Facts = dict[str, Any]
Arrays = dict[str, np.ndarray]

_KEY = "key"


class CheckpointWriter:
    """Saves states into one directory and keeps the latest few and the best.

    Args:
        directory: where the checkpoints lie, one numbered directory for each step.
        keep: how many of the latest stay; the best on validation stays beside them.
    """

    def __init__(self, directory: Path, keep: int):
        policies = ocp.training.preservation_policies
        best = policies.BestN(
            get_metric_fn=lambda metrics: metrics["validation_accuracy"],
            n=1,
            keep_checkpoints_without_metrics=False,
        )
        self._checkpointer = ocp.training.Checkpointer(
            str(directory.absolute()),
            preservation_policy=policies.AnyPreservationPolicy(  # pyright: ignore[reportArgumentType]
                [policies.LatestN(keep), best]
            ),
            # What a killed save left behind.
            cleanup_tmp_directories=True,
        )

    def save(self, state: TrainState, facts: Facts, validation_accuracy: float | None) -> None:
        """Saves a state and returns when it is durable; a step that is there already stays.

        The state may be that of a stack, with a leading axis of members; its step is then that of
        the furthest.

        Raises `RunError` where the save fails and `DivergedError` where an array is not finite.
        """
        arrays = to_arrays(state)
        step = int(arrays["step"].max())
        for name, array in arrays.items():
            if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
                raise DivergedError(f"step {step}: {name} is not finite; the state was not saved")
        latest = self._checkpointer.latest
        if latest is not None and latest.step == step:
            return
        text = json.dumps(facts | {"sha256": {name: digest(a) for name, a in arrays.items()}})
        metrics: Any = None
        if validation_accuracy is not None:
            metrics = {"validation_accuracy": validation_accuracy}
        try:
            self._checkpointer.save(
                step,
                arrays,
                metrics=metrics,
                custom_metadata={"facts": text, "facts_sha256": _sha256(text.encode())},
            )
        except (OSError, ValueError, ocp.training.errors.StepAlreadyExistsError) as error:
            raise RunError(
                f"{self._checkpointer.directory}: step {step} was not saved: {error}"
            ) from error

    def close(self) -> None:
        """Lets go of the directory."""
        self._checkpointer.close()


def restore(
    directory: Path,
    make_abstract: Callable[[Facts], TrainState],
    which: str = "last",
) -> tuple[TrainState, Facts] | None:
    """The newest intact state of a directory, its arrays on the host, and its facts.

    Args:
        directory: where a `CheckpointWriter` saved.
        make_abstract: from the facts to the shapes and dtypes of the state, as `jax.eval_shape`
            gives them; nothing larger than this is ever allocated.
        which: "last", "best" (highest validation accuracy) or a step.

    Returns:
        The state with NumPy arrays and its facts, or None where nothing was saved yet.

    Raises:
        RunError: there are checkpoints but none of those asked for is intact.
    """
    paths = _candidates(directory, which)
    problems = []
    for path in paths:
        try:
            return _restore_one(path, make_abstract)
        except _DamagedError as error:
            problems.append(f"checkpoint {path} is damaged: {error}")
            if which == "last":
                warnings.warn(f"{problems[-1]}; trying the one before it", stacklevel=2)
    if problems:
        raise RunError("; ".join(problems) + "; no intact checkpoint is left to restore")
    return None


def newest_facts(directory: Path) -> Facts | None:
    """The facts of the newest checkpoint whose facts are intact; None where there is none."""
    for path in _steps(directory):
        try:
            return _read_facts(path)
        except _DamagedError:
            continue
    return None


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
            target.parent.mkdir(exist_ok=True)
            path.rename(target)
            moved.append(target)
    return moved


def to_arrays(state: TrainState) -> Arrays:
    """The arrays of a state on the host, by dotted name; the key as its raw data."""
    return {
        name: np.array(jax.random.key_data(leaf) if name == _KEY else leaf)
        for name, leaf in _named_leaves(state)
    }


def digest(array: np.ndarray) -> str:
    """SHA-256 of an array: its dtype, its shape and its bytes."""
    header = f"{array.dtype.str}{array.shape}".encode()
    return hashlib.sha256(header + np.ascontiguousarray(array).tobytes()).hexdigest()


def params_digest(params: Any) -> str:
    """SHA-256 over the digests of all parameters, in the order of their names."""
    digests = [f"{name} {digest(np.asarray(leaf))}\n" for name, leaf in _named_leaves(params)]
    return _sha256("".join(sorted(digests)).encode())


class _DamagedError(Exception):
    """One checkpoint is not what was saved."""


def _restore_one(path: Path, make_abstract: Callable[[Facts], TrainState]):
    """The state and facts of one checkpoint; raises `_DamagedError`."""
    facts = _read_facts(path)
    abstract = make_abstract(facts)
    arrays = _load(path, _empty_arrays(abstract))
    for name, array in arrays.items():
        if digest(np.asarray(array)) != facts["sha256"].get(name):
            raise _DamagedError(f"{name} does not match its SHA-256")
    leaves = [jax.random.wrap_key_data(jnp.asarray(arrays[_KEY])) if name == _KEY else arrays[name]
              for name, _ in _named_leaves(abstract)]  # fmt: skip
    return jax.tree.unflatten(jax.tree.structure(abstract), leaves), facts


def _load(path: Path, arrays: Arrays) -> Arrays:
    """The arrays of one checkpoint, in the shapes of those given; raises `_DamagedError`."""
    _silence_late_reads()
    try:
        return ocp.load(str(path.absolute()), arrays)
    except Exception as error:  # Orbax and TensorStore raise whatever the damage leads them to.
        problem = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise _DamagedError(problem[:200]) from error


@functools.cache
def _silence_late_reads() -> None:
    """Keeps quiet what TensorStore's threads have to say after a load has failed.

    They report to an event loop that Orbax has closed by then, and Python prints each of the
    errors that this raises, long after the one that matters.
    """
    report = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            report(unraisable)

    sys.unraisablehook = hook


def _read_facts(path: Path) -> Facts:
    """The facts of one checkpoint, verified; raises `_DamagedError`."""
    for folder, folders, files in os.walk(path):
        for name in folders + files:
            if (Path(folder) / name).is_symlink():
                raise _DamagedError(f"{name} is a link, and links are not followed")
    try:
        metadata: Mapping[str, Any] = ocp.metadata(str(path.absolute())).custom_metadata  # type: ignore
        text = metadata["facts"]
        intact = _sha256(text.encode()) == metadata["facts_sha256"]
    except Exception as error:  # As above: damaged files raise anything.
        raise _DamagedError(f"its metadata cannot be read ({type(error).__name__})") from error
    if not intact:
        raise _DamagedError("its metadata does not match its SHA-256")
    return json.loads(text)


def _candidates(directory: Path, which: str) -> list[Path]:
    """The checkpoints to try, in this order."""
    paths = _steps(directory)
    if which == "last" or not paths:
        return paths
    if which == "best":
        scored = {path: _validation_accuracy(path) for path in paths}
        best = max(paths, key=lambda path: scored[path])
        if scored[best] < 0:
            raise RunError(
                f"{directory} has no best checkpoint: nothing in it was evaluated on a "
                "validation part (data.validation_size); take last, or a step"
            )
        return [best]
    chosen = [path for path in paths if path.name == which]
    if not chosen:
        steps = ", ".join(path.name for path in reversed(paths))
        raise RunError(f"{directory} has no checkpoint {which}; there are {steps}, last and best")
    return chosen


def _validation_accuracy(path: Path) -> float:
    """The accuracy a checkpoint was saved with; -1 where there was none."""
    try:
        accuracy = _read_facts(path).get("validation_accuracy")
    except _DamagedError as error:
        warnings.warn(f"checkpoint {path} is damaged: {error}; left out", stacklevel=2)
        return -1.0
    return -1.0 if accuracy is None else accuracy


def _steps(directory: Path) -> list[Path]:
    """The finished checkpoints, newest first."""
    if not directory.is_dir():
        return []
    paths = [path for path in directory.iterdir() if path.name.isdecimal()]
    return sorted(paths, key=lambda path: int(path.name), reverse=True)


def _empty_arrays(abstract: TrainState) -> Arrays:
    """What Orbax restores into: dictionaries of NumPy arrays, the key as its raw data."""
    key_data = jax.eval_shape(jax.random.key_data, abstract.key)
    return {
        name: np.empty(*((key_data.shape, key_data.dtype) if name == _KEY
                         else (leaf.shape, leaf.dtype)))
        for name, leaf in _named_leaves(abstract)
    }  # fmt: skip


def _named_leaves(tree: Any) -> Iterator[tuple[str, Any]]:
    """The leaves with their dotted names."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        yield jax.tree_util.keystr(path, simple=True, separator="."), leaf


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
