"""The host loop of a stack: many members, chunk after chunk, to records."""

import dataclasses
import shutil
import signal
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from rowrnn import files, parallel
from rowrnn.core import state as states
from rowrnn.core.experiment import Events, Experiment, Values
from rowrnn.core.metrics import Metrics
from rowrnn.core.state import TrainState
from rowrnn.errors import RunError, StoppedError
from rowrnn.lab import stack
from rowrnn.lab.display import SweepDisplay
from rowrnn.lab.interrupt import StopRequest
from rowrnn.lab.stack import StackPrograms
from rowrnn.lab.trainer import Splits
from rowrnn.store import checkpoint, ledger
from rowrnn.store.checkpoint import CheckpointWriter, Facts
from rowrnn.store.ledger import Key, Record
from rowrnn.store.members import Member

# Between two looks at the signals and the display; chunks are cut to about this length.
CHUNK_SECONDS = 0.5

# A stack that takes longer than this is saved on the way, unless the config says when.
SAVE_SECONDS = 60.0


class Outcome(NamedTuple):
    """What the end of a member leaves.

    Attributes:
        record: for the ledger.
        state: the last one, on the host; None of a member that has diverged.
        predicted: classes of the test images, [N].
    """

    record: Record
    state: TrainState | None
    predicted: np.ndarray


@dataclass
class Clock:
    """Seconds spent in training chunks and examples trained in them, over a whole sweep."""

    train_s: float = 0.0
    examples: int = 0

    @property
    def examples_per_s(self) -> float:
        """Throughput, over all members."""
        return self.examples / self.train_s if self.train_s else 0.0


@dataclass(frozen=True)
class Loop:
    """What the members of a group are trained with; the loop does not change it.

    Attributes:
        prepared: the experiment that the members have in common.
        mesh: the devices.
        splits: the data on them.
        programs: compiled for a stack.
        partial: directory for the stack that is in progress.
        display: shows progress.
        stop: whether a signal has come.
        clock: counts, for the whole sweep.
    """

    prepared: Experiment
    mesh: Mesh
    splits: Splits
    programs: StackPrograms
    partial: Path
    display: SweepDisplay
    stop: StopRequest
    clock: Clock


@dataclass(frozen=True)
class _StackFacts:
    """A `_Stack` in JSON's types."""

    sums: dict[str, list[float]]
    curves: list[dict[str, list[tuple[int, float]]]]
    step: int
    diverged: dict[str, int]
    validation: list[float | None]
    wall_s: float


@dataclass
class _Stack:
    """Where a stack stands, on the host; a checkpoint keeps all of it but the members.

    Attributes:
        step: updates done by the members that have not diverged.
        sums: metrics since the last log entry, arrays [S].
        diverged: for each member that has diverged, at which step.
        validation: accuracies of the last evaluation, [S].
        curves: of each member, by name a list of (step, value).
        wall_s: seconds until the last save.
    """

    sums: Metrics
    curves: list[dict[str, list[tuple[int, float]]]]
    step: int = 0
    diverged: dict[int, int] = field(default_factory=dict)
    validation: list[float | None] = field(default_factory=list)
    wall_s: float = 0.0

    @classmethod
    def of(cls, size: int) -> "_Stack":
        return cls(stack.zeros(size), [{} for _ in range(size)], validation=[None] * size)

    def to_facts(self) -> dict[str, Any]:
        sums = {name: np.asarray(leaf).tolist() for name, leaf in vars(self.sums).items()}
        diverged = {str(index): step for index, step in self.diverged.items()}
        return vars(self) | {"sums": sums, "diverged": diverged}

    @classmethod
    def from_facts(cls, facts: dict[str, Any], size: int) -> "_Stack":
        """What `to_facts` gave; raises `ValueError` where it is not that of `size` members."""
        saved, kinds = files.build(_StackFacts, facts), vars(stack.zeros(size))
        diverged = {int(index): step for index, step in saved.diverged.items()}
        lengths = {len(part) for part in (saved.curves, saved.validation, *saved.sums.values())}
        if lengths != {size} or set(saved.sums) != set(kinds) or diverged.keys() - {*range(size)}:
            raise ValueError(f"it is not of {size} members")
        sums = Metrics(**{k: jnp.array(v, kinds[k].dtype) for k, v in saved.sums.items()})
        return cls(**vars(saved) | {"sums": sums, "diverged": diverged})

    def among(self, members: int, size: int) -> "_Stack":
        """The same members in a stack of another number of places."""
        idle = size - members
        return dataclasses.replace(
            self,
            sums=jax.tree.map(lambda leaf: leaf[_places(members, size)], self.sums),
            curves=self.curves[:members] + [{} for _ in range(idle)],
            validation=self.validation[:members] + [None] * idle,
        )

    def runs(self, members: int) -> np.ndarray:
        """Which of the S places hold a member that has not diverged, bool [S]."""
        places = np.arange(len(self.curves))
        return (places < members) & ~np.isin(places, list(self.diverged))

    def log(self, index: int, **values: float) -> None:
        """Adds figures to the curve of a member."""
        for name, value in values.items():
            self.curves[index].setdefault(name, []).append((self.step, value))


def _places(members: int, size: int) -> np.ndarray:
    """Which member is in each place of a stack, [S]; in those that stand idle, the last one."""
    return np.minimum(np.arange(size), members - 1)


@dataclass(frozen=True)
class _Saved:
    """What the checkpoint of a stack says beside its arrays."""

    keys: list[Key]
    size: int
    stack: dict[str, Any]
    sha256: dict[str, str]


def train(loop: Loop, members: Sequence[Member], keys: Sequence[Key]) -> list[Outcome]:
    """Trains one stack to its end and evaluates it; goes on with it where it was saved.

    Args:
        loop: what to train with.
        members: at most as many as the stack has places; the others stand idle.
        keys: of their records.

    Raises `StoppedError` when a signal has come and the stack is saved.
    """
    began = time.perf_counter()
    padded = [members[place] for place in _places(len(members), loop.programs.size)]
    values = parallel.stack_on(
        loop.mesh, stack.stack_values([_values(loop, member) for member in padded])
    )
    state, progress = _first_state(loop, padded, keys)
    began -= progress.wall_s
    state = _train_steps(loop, len(members), keys, state, values, progress, began)
    outcomes = _finish(loop, members, keys, state, values, progress)
    seconds = round((time.perf_counter() - began) / len(members), 3)
    return [
        outcome._replace(record=dataclasses.replace(outcome.record, wall_s=seconds))
        for outcome in outcomes
    ]


def saved(partial: Path) -> list[Key]:
    """The members of the stack that was saved in progress; empty without one."""
    try:
        return files.build(_Saved, checkpoint.newest_facts(partial)).keys
    except ValueError:  # There is none, or it is of something else.
        return []


def _train_steps(
    loop: Loop,
    members: int,
    keys: Sequence[Key],
    state: TrainState,
    values: Values,
    progress: _Stack,
    began: float,
) -> TrainState:
    """Runs chunk after chunk to the last step; keeps `progress` up to date."""
    events = Events.of(loop.prepared)
    batch = loop.prepared.config.train.batch_size
    save = _Saver(loop, keys, began)
    orders, steps_at_once = None, 1
    (stopped_by,) = parallel.largest(loop.stop.number)
    while progress.step < events.total and progress.runs(members).any():
        save.and_leave_if_stopped(state, progress, stopped_by)
        chunk_began = time.perf_counter()
        if orders is None or progress.step % events.epoch == 0:
            orders = loop.programs.order(state.key, np.int32(progress.step // events.epoch))
        steps = min(events.after(progress.step) - progress.step, steps_at_once)
        runs = progress.runs(members)
        sums, of_each = parallel.stack_on(
            loop.mesh, (progress.sums, np.where(runs, steps, 0).astype(np.int32))
        )
        state, sums = loop.programs.chunk(state, sums, values, loop.splits.train, orders, of_each)
        progress.sums = parallel.fetch(loop.mesh, sums)
        seconds = time.perf_counter() - chunk_began
        progress.step += steps
        _note_divergence(loop, state, progress, runs & (progress.sums.nonfinite > 0))
        examples = steps * batch * int(runs.sum())
        loop.clock.train_s += seconds
        loop.clock.examples += examples
        loop.display.advance(examples, loop.clock.examples_per_s)
        _handle_events(loop, events, members, state, values, progress)
        if events.due(progress.step, events.save):
            save.if_due(state, progress)
        longest, stopped_by = parallel.largest(seconds, loop.stop.number)
        steps_at_once = max(1, int(CHUNK_SECONDS / longest * steps))
    save.close()
    return state


def _note_divergence(loop: Loop, state: TrainState, progress: _Stack, bad: np.ndarray) -> None:
    """Of members that are still running, bool [S]; each has stopped at a step of its own."""
    if bad.any():
        steps = parallel.fetch(loop.mesh, state.step)
        progress.diverged |= {int(index): int(steps[index]) for index in np.flatnonzero(bad)}


def _not_finite(state: TrainState) -> np.ndarray:
    """Whose arrays are not finite, though loss and update were, bool [S]: a second moment that
    has overflowed, or parameters at the very last step."""
    arrays = map(np.asarray, jax.tree.leaves(state._replace(key=np.zeros(0, np.int32))))
    found = [~np.isfinite(array).reshape(len(array), -1).all(axis=1)
             for array in arrays if np.issubdtype(array.dtype, np.floating)]  # fmt: skip
    return np.logical_or.reduce(found)


def _handle_events(
    loop: Loop,
    events: Events,
    members: int,
    state: TrainState,
    values: Values,
    progress: _Stack,
) -> None:
    """Logs and evaluates, as is due after this step."""
    running = np.flatnonzero(progress.runs(members)).tolist()
    if events.due(progress.step, events.log):
        sums = progress.sums
        for index in running:
            count = int(sums.count[index])
            progress.log(
                index,
                train_loss=float(sums.loss_sum[index]) / count,
                train_accuracy=int(sums.correct[index]) / count,
            )
        progress.sums = stack.zeros(loop.programs.size)
    if loop.programs.validation is not None and events.due(progress.step, events.evaluate):
        params = states.evaluation_params(state)
        sums, _ = loop.programs.validation(params, values, loop.splits.validation)
        sums = parallel.fetch(loop.mesh, sums)
        bad = progress.runs(members) & ~np.isfinite(sums.loss_sum)
        _note_divergence(loop, state, progress, bad)
        for index in np.flatnonzero(progress.runs(members)).tolist():
            accuracy = int(sums.correct[index]) / int(sums.count[index])
            progress.validation[index] = accuracy
            progress.log(
                index,
                validation_loss=float(sums.loss_sum[index] / sums.count[index]),
                validation_accuracy=accuracy,
            )


class _Saver:
    """Saves a stack on the way, all members in one checkpoint."""

    def __init__(self, loop: Loop, keys: Sequence[Key], began: float):
        self._loop, self._keys, self._began = loop, list(keys), began
        self._last = time.perf_counter()
        self._writer: CheckpointWriter | None = None

    def if_due(self, state: TrainState, progress: _Stack) -> None:
        """Saves where the config says when, or where much would be lost otherwise."""
        asked = self._loop.prepared.config.checkpoint.every_steps > 0
        (waited,) = parallel.largest(time.perf_counter() - self._last)
        if asked or waited > SAVE_SECONDS:
            self.now(state, progress)

    def now(self, state: TrainState, progress: _Stack) -> None:
        """Saves; returns when it is durable."""
        # Imported and made only here: most stacks end before they are saved.
        if self._writer is None:
            self._writer = CheckpointWriter(self._loop.partial, keep=2)
        progress.wall_s = time.perf_counter() - self._began
        state = parallel.fetch(self._loop.mesh, state)
        bad = progress.runs(len(self._keys)) & _not_finite(state)
        _note_divergence(self._loop, state, progress, bad)
        size = self._loop.programs.size
        facts = {"keys": self._keys, "size": size, "stack": progress.to_facts()}
        self._writer.save(_without(state, progress.diverged), facts, None)
        self._last = time.perf_counter()

    def and_leave_if_stopped(self, state: TrainState, progress: _Stack, stopped_by: float) -> None:
        """Saves and raises `StoppedError` where a signal has asked for it, in whatever process."""
        if not stopped_by:
            return
        self.now(state, progress)
        self.close()
        raise StoppedError(
            f"stopped by {signal.Signals(int(stopped_by)).name} at step {progress.step} of "
            f"{self._loop.prepared.steps} of {len(self._keys)} members, which is saved; go on "
            f"with: rowrnn sweep --resume {self._loop.partial.parent}"
        )

    def close(self) -> None:
        """Lets go of the directory."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def _without(state: TrainState, diverged: dict[int, int]) -> TrainState:
    """A stack with zeros for members that have diverged: they stay where they are anyway, and no
    checkpoint holds what is not finite."""
    if not diverged:
        return state
    indices = list(diverged)

    def cleared(leaf):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            return leaf
        array = np.array(leaf)
        array[indices] = 0
        return array

    return jax.tree.map(cleared, state)


def _first_state(
    loop: Loop, padded: Sequence[Member], keys: Sequence[Key]
) -> tuple[TrainState, _Stack]:
    """The stack as it was saved, or before its first step."""
    seeds = [_with_config(loop, member).seeds for member in padded]
    columns = (np.array(column, np.uint32) for column in zip(*seeds, strict=True))
    size = loop.programs.size
    found = saved(loop.partial)
    restored, reason = None, "is of other members"
    if found == list(keys):
        try:
            restored = restore(loop.partial, loop.prepared)
        except RunError as error:
            reason = f"cannot be used ({error})"
    if restored is not None:
        state, progress = restored
        places = _places(len(keys), size)
        state = jax.tree.map(lambda leaf: leaf[places], state)
        parallel.on_first(lambda: checkpoint.set_aside_newer(loop.partial, int(state.step.max())))
        batch = loop.prepared.config.train.batch_size
        loop.display.advance(progress.step * batch * len(keys), None)
        return parallel.put_stack(loop.mesh, state), progress.among(len(keys), size)
    if found and parallel.is_first():
        warnings.warn(
            f"checkpoint {loop.partial} {reason}; what was in progress starts again",
            stacklevel=2,
        )
    discard(loop.partial)
    seeds = parallel.stack_on(loop.mesh, tuple(columns))
    return loop.programs.create(*seeds), _Stack.of(size)


def restore(partial: Path, prepared: Experiment) -> tuple[TrainState, _Stack] | None:
    """The stack that was saved in progress, on the host, and where it stands; None without one.

    However many devices it was on, and whichever they were. Raises `RunError` where none that was
    saved is intact.
    """

    def make_abstract(facts: Facts) -> TrainState:
        found = files.build(_Saved, facts)
        _Stack.from_facts(found.stack, found.size)
        return stack.abstract_state(prepared, found.size)

    restored = checkpoint.restore(partial, make_abstract)
    if restored is None:
        return None
    state, facts = restored
    return state, _Stack.from_facts(facts["stack"], facts["size"])


def discard(partial: Path) -> None:
    """Removes what was saved of a stack in progress."""
    parallel.on_first(lambda: shutil.rmtree(partial, ignore_errors=True))


def _finish(
    loop: Loop,
    members: Sequence[Member],
    keys: Sequence[Key],
    state: TrainState,
    values: Values,
    progress: _Stack,
) -> list[Outcome]:
    """Evaluates the last states on the test part and makes the records."""
    params = states.evaluation_params(state)
    sums, predicted = parallel.fetch(
        loop.mesh, loop.programs.test(params, values, loop.splits.test)
    )
    state = parallel.fetch(loop.mesh, state)
    bad = _not_finite(state) | ~np.isfinite(sums.loss_sum)
    _note_divergence(loop, state, progress, progress.runs(len(members)) & bad)
    right = predicted == loop.prepared.dataset.test.labels[None]
    last = [stack.member_of(state, index) for index in range(len(members))]
    outcomes = []
    for index, (member, key) in enumerate(zip(members, keys, strict=True)):
        common: dict[str, Any] = {
            "key": key,
            "name": member.name,
            "seed": member.seed,
            "varied": dict(member.varied),
            "curve": progress.curves[index],
            "wall_s": 0.0,
        }
        if index in progress.diverged:
            record = _diverged(common, progress.diverged[index])
            outcomes.append(Outcome(record, None, predicted[index]))
            continue
        record = Record(
            **common,
            status=ledger.COMPLETED,
            steps=progress.step,
            train_loss=progress.curves[index]["train_loss"][-1][1],
            validation_accuracy=progress.validation[index],
            test_accuracy=float(sums.correct[index] / sums.count[index]),
            test_loss=float(sums.loss_sum[index] / sums.count[index]),
            first256_accuracy=float(right[index, :256].mean()),
            params_sha256=checkpoint.params_digest(last[index].params),
            correct=ledger.pack(right[index]),
        )
        outcomes.append(Outcome(record, last[index], predicted[index]))
    return outcomes


def _diverged(common: dict[str, Any], step: int) -> Record:
    unknown = dict.fromkeys(
        (
            "train_loss",
            "validation_accuracy",
            "test_accuracy",
            "test_loss",
            "first256_accuracy",
            "params_sha256",
            "correct",
        )
    )
    return Record(**common, **unknown, status=ledger.DIVERGED, steps=step)  # type: ignore[arg-type]


def _values(loop: Loop, member: Member) -> dict[str, Any]:
    return _with_config(loop, member).values


def _with_config(loop: Loop, member: Member) -> Experiment:
    """The experiment of one member of the group."""
    prepared = loop.prepared
    return Experiment(member.config, prepared.dataset, prepared.steps, prepared.epoch_steps)
