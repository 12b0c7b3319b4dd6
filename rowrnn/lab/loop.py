"""The host loop: chunks of steps on the devices, and what happens on the host between them.

It trains the members of a `Trainer` together: one for a single run, many for a sweep. What is told
of them on the way, and what becomes of a member that diverges, is the business of a `Job`.
"""

import dataclasses
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rowrnn import files, parallel
from rowrnn.config import Config
from rowrnn.core.experiment import Experiment
from rowrnn.core.metrics import Metrics
from rowrnn.core.state import TrainState
from rowrnn.errors import StoppedError
from rowrnn.files import Count, Loss, Seconds
from rowrnn.lab.interrupt import StopRequest
from rowrnn.lab.trainer import Trainer, abstract_state
from rowrnn.store import checkpoint
from rowrnn.store.checkpoint import CheckpointWriter, Facts
from rowrnn.store.rundir import RunDir

CHUNK_SECONDS = 0.5
"""Between two looks at signals and display; chunks are cut to about this length."""


class Events(NamedTuple):
    """At which steps a host loop has something to do: multiples of these, and the last.

    Attributes:
        total: length of the run.
        epoch: one pass over the training part.
        log: between two entries of the metrics log.
        evaluate: between two evaluations on the validation part.
        save: between two checkpoints; 0 where they are saved by time.
    """

    total: int
    epoch: int
    log: int
    evaluate: int
    save: int

    @classmethod
    def of(cls, experiment: Experiment) -> "Events":
        """The events of an experiment."""
        config, epoch = experiment.config, experiment.epoch_steps
        every_epoch = epoch if config.checkpoint.every_epoch else 0
        return cls(
            total=experiment.steps,
            epoch=epoch,
            log=config.train.log_every_steps,
            evaluate=config.train.eval_every_steps or epoch,
            save=config.checkpoint.every_steps or every_epoch,
        )

    def after(self, step: int) -> int:
        """The next step at which something is due; a chunk never crosses it."""
        periods = filter(None, (self.epoch, self.log, self.evaluate, self.save))
        return min(self.total, *(step - step % period + period for period in periods))

    def due(self, step: int, period: int) -> bool:
        """Whether an event of this period falls on a step; all fall on the last."""
        return step == self.total or (period > 0 and step % period == 0)


Curve = dict[str, list[tuple[Count, Loss]]]
"""Figures of a member on the way, by name a list of (step, value)."""


@dataclass
class Progress:
    """Where members stand, on the host; a checkpoint keeps all of it.

    Attributes:
        curves: of each member.
        diverged: for each member the step at which it has diverged; None where it has not.
        step: updates done by the members that have not diverged.
        train_s: seconds spent in chunks, over all sessions.
        wall_s: seconds from the start to the last save, over all sessions.
        machines: of the members of a sweep, what they were trained on, as `rundir.machine_of` says.
    """

    curves: list[Curve]
    diverged: list[Count | None]
    step: Count = 0
    train_s: Seconds = 0.0
    wall_s: Seconds = 0.0
    machines: list[str] = field(default_factory=list)

    @classmethod
    def start(cls, members: int) -> "Progress":
        """Before the first step."""
        return cls([{} for _ in range(members)], [None] * members)

    @classmethod
    def of(cls, facts: Facts) -> "Progress":
        """From a checkpoint; raises `ValueError` where it does not fit the members there."""
        saved = files.build(cls, facts.progress)
        if not 0 < len(saved.curves) == len(saved.diverged) <= facts.members:
            raise ValueError(f"its progress is of {len(saved.curves)} members")
        if saved.step and not saved.train_s:
            raise ValueError(f"train_s = 0.0 after {saved.step} steps")
        return saved

    @property
    def members(self) -> int:
        """How many there are."""
        return len(self.curves)

    @property
    def running(self) -> list[int]:
        """The members that have not diverged."""
        return [index for index, step in enumerate(self.diverged) if step is None]

    def log(self, index: int, values: dict[str, float]) -> None:
        """Adds figures of this step to the curve of a member."""
        for name, value in values.items():
            self.curves[index].setdefault(name, []).append((self.step, value))

    def last(self, index: int, name: str) -> float | None:
        """The last figure of a name; None where there is none yet."""
        curve = self.curves[index].get(name)
        return curve[-1][1] if curve else None

    def best(self, index: int) -> float:
        """The highest validation accuracy so far; -1 before the first evaluation."""
        accuracies = self.curves[index].get("validation_accuracy", [])
        return max((value for _, value in accuracies), default=-1.0)

    def accuracy_now(self, index: int) -> float | None:
        """The validation accuracy at this very step; None where it was not evaluated here."""
        step, accuracy = next(
            reversed(self.curves[index].get("validation_accuracy", [])), (None, None)
        )
        return accuracy if step == self.step else None

    def only(self, index: int) -> "Progress":
        """The progress of one member as that of a run of its own, with its share of the time."""
        share = 1 / self.members
        return Progress(
            [self.curves[index]], [self.diverged[index]],
            self.step, self.train_s * share, self.wall_s * share,
        )  # fmt: skip


class Job:
    """What a loop tells of its members; this one listens to nothing."""

    def advanced(self, progress: Progress, sums: Metrics, steps: int, seconds: float) -> None:
        """A chunk has ended; `sums` [S] are those since the last log entry."""

    def logged(self, progress: Progress, index: int, values: dict[str, float]) -> None:
        """A member has figures at this step."""

    def interval_ended(self, progress: Progress, state: TrainState, order: jax.Array) -> None:
        """A log interval has ended at this step."""

    def diverged(self, progress: Progress, what: str) -> None:
        """Members have diverged, since this was not finite; `progress` says which and when."""

    def stopped(self, progress: Progress, by: str) -> StoppedError:
        """The error of a loop that Ctrl-C, or a signal, has stopped; the state is saved."""
        return StoppedError(f"stopped by {by} at step {progress.step}, which is saved")


@dataclass
class Loop:
    """What the members of a trainer are trained with.

    Attributes:
        trainer: runs them.
        job: is told of them.
        writer: of checkpoints.
        stop: whether a signal has come.
        began: when the first session would have, had there been no pause.
        keys: of the members' records in a ledger; none for a single run.
        keeps_best: whether the best state on validation is saved too.
        saved: when the last checkpoint was.
        best: state and facts of a best state that is not saved yet.
    """

    trainer: Trainer
    job: Job
    writer: CheckpointWriter
    stop: StopRequest
    began: float
    keys: Sequence[dict[str, Any]] = ()
    keeps_best: bool = False
    saved: float = field(default_factory=time.perf_counter)
    best: tuple[TrainState, dict[str, Any]] | None = None

    def run(self, state: TrainState, progress: Progress) -> TrainState:
        """Trains to the last step and returns the last state; keeps `progress` up to date.

        Raises `StoppedError` when a signal has come, in whatever process, and all is saved.
        """
        trainer = self.trainer
        events = Events.of(trainer.experiment)
        every_s = trainer.experiment.config.checkpoint.every_seconds
        order, steps_at_once = None, 1
        trainer.place()
        (stopped_by,) = parallel.max_over_processes(self.stop.number)
        while progress.step < events.total and progress.running:
            if stopped_by:
                self.save(state, progress)
                number = signal.Signals(int(stopped_by))
                by = "Ctrl-C" if number == signal.SIGINT else number.name
                raise self.job.stopped(progress, by)
            chunk_began = time.perf_counter()
            if order is None or progress.step % events.epoch == 0:
                order = trainer.order(state, progress.step // events.epoch)
            steps = min(events.after(progress.step) - progress.step, steps_at_once)
            state = trainer.run(state, order, steps)
            sums = trainer.fetch(state.metrics)
            seconds = time.perf_counter() - chunk_began
            progress.step += steps
            progress.train_s += seconds
            self._note_divergence(state, progress, sums.nonfinite > 0, "the loss or an update")
            if events.due(progress.step, events.log):
                state = self._log(state, order, progress, sums)
            if events.due(progress.step, events.evaluate):
                self._validate(state, progress)
            # Last, so that what is shown is the validation of now.
            self.job.advanced(progress, sums, steps, seconds)
            waited = time.perf_counter() - self.saved
            longest, waited, stopped_by = parallel.max_over_processes(
                seconds, waited, self.stop.number
            )
            steps_at_once = max(1, int(CHUNK_SECONDS / longest * steps))
            by_time = not events.save and waited >= every_s
            if progress.step < events.total and (by_time or events.due(progress.step, events.save)):
                self.save(state, progress)
        return state

    def save(self, state: TrainState, progress: Progress) -> None:
        """Saves all members in one checkpoint; returns when it is durable."""
        progress.wall_s = time.perf_counter() - self.began
        host = self.trainer.fetch(state)
        self._note_divergence(state, progress, not_finite(host), "the state")
        if self.best is not None:
            (best, facts), self.best = self.best, None
            if facts["progress"]["step"] < progress.step:
                self.writer.save(best, facts)
        self.writer.save(_without(host, progress), self._facts(progress))
        self.saved = time.perf_counter()

    def _facts(self, progress: Progress) -> dict[str, Any]:
        return facts_of(self.trainer.experiment, self.trainer.members, progress, self.keys)

    def _note_divergence(
        self, state: TrainState, progress: Progress, bad: np.ndarray, what: str
    ) -> None:
        """Of members that are still running; `bad` is bool [S]."""
        found = [index for index in progress.running if bad[index]]
        if found:
            # Each has stopped at a step of its own.
            steps = self.trainer.fetch(state.step)
            for index in found:
                progress.diverged[index] = int(steps[index])
            self.job.diverged(progress, what)

    def _log(
        self, state: TrainState, order: jax.Array, progress: Progress, sums: Metrics
    ) -> TrainState:
        """Logs the training metrics, and begins to count anew."""
        for index in progress.running:
            count = int(sums.count[index])
            values = {
                "train_loss": float(sums.loss_sum[index]) / count,
                "train_accuracy": int(sums.correct[index]) / count,
            }
            progress.log(index, values)
            self.job.logged(progress, index, values)
        self.job.interval_ended(progress, state, order)
        # A member that has diverged stays as it is.
        stays = np.zeros(self.trainer.members, np.int32)
        stays[[i for i, step in enumerate(progress.diverged) if step is not None]] = 1
        zeros = jax.tree.map(np.zeros_like, sums)
        zeros = dataclasses.replace(zeros, nonfinite=stays)
        return state._replace(metrics=self.trainer.put_members(zeros))

    def _validate(self, state: TrainState, progress: Progress) -> None:
        evaluated = self.trainer.validate(state)
        if evaluated is None:
            return
        sums = self.trainer.fetch(evaluated[0])
        bad = ~np.isfinite(sums.loss_sum)
        self._note_divergence(state, progress, bad, "the loss on the validation part")
        for index in progress.running:
            accuracy = int(sums.correct[index]) / int(sums.count[index])
            improved = accuracy > progress.best(index)
            values = {
                "validation_loss": float(sums.loss_sum[index] / sums.count[index]),
                "validation_accuracy": accuracy,
            }
            progress.log(index, values)
            self.job.logged(progress, index, values)
            if self.keeps_best and improved:
                progress.wall_s = time.perf_counter() - self.began
                self.best = self.trainer.fetch(state), self._facts(progress)


def facts_of(
    experiment: Experiment, members: int, progress: Progress, keys: Sequence[dict[str, Any]] = ()
) -> dict[str, Any]:
    """What a checkpoint of so many members says beside its arrays."""
    accuracy = progress.accuracy_now(0) if progress.members == 1 else None
    return experiment.facts | {
        "members": members,
        "keys": list(keys),
        "progress": dataclasses.asdict(progress),
        "validation_accuracy": accuracy,
    }


def open_directory(path: Path, config: Config | None = None, *, overwrite: bool = False) -> RunDir:
    """Opens a run directory in every process of a job, of which process 0 alone writes to it.

    Args:
        path: the directory; that of process 0 counts.
        config: of a new run, as for `RunDir.create`; without it the directory is reopened.
        overwrite: as for `RunDir.create`.
    """
    path = Path(parallel.broadcast(str(path)))

    def on_process_0() -> RunDir:
        if config is None:
            return RunDir.reopen(path)
        return RunDir.create(path, config, overwrite=overwrite)

    return parallel.on_process_0(on_process_0) or RunDir(path, writes=False)


def restore(
    directory: Path, experiment: Experiment, check: Callable[[Facts], None] = lambda _: None
) -> tuple[TrainState, Progress, Facts] | None:
    """The newest intact state of a directory, on the host, and where it stands.

    However many devices it was on, and whichever they were. None where nothing was saved; raises
    `RunError` where nothing that was saved is intact, and what `check` raises of its facts.
    """

    def make_abstract(facts: Facts) -> TrainState:
        Progress.of(facts)
        check(facts)
        return abstract_state(experiment, facts.members)

    restored = checkpoint.restore(directory, make_abstract)
    if restored is None:
        return None
    state, facts = restored
    progress = Progress.of(facts)
    parallel.on_process_0(lambda: checkpoint.set_aside_newer(directory, int(state.step.max())))
    return state, progress, facts


def not_finite(state: TrainState) -> np.ndarray:
    """Whose arrays are not finite, bool [S]; the state lies on the host.

    Loss and update can be finite all the same: a second moment overflows, or parameters do at the
    very last step.
    """
    floats = [
        np.asarray(leaf)
        for leaf in jax.tree.leaves(state._replace(key=state.step))
        if jnp.issubdtype(leaf.dtype, jnp.floating)
    ]
    found = [~np.isfinite(array).reshape(len(array), -1).all(axis=1) for array in floats]
    return np.logical_or.reduce(found)


def _without(state: TrainState, progress: Progress) -> TrainState:
    """A state with zeros for members that have diverged and for places that stand idle: they stay
    where they are anyway, and no checkpoint holds what is not finite."""
    cleared = sorted(set(range(len(state.step))) - set(progress.running))
    if not cleared:
        return state

    def clear(leaf):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            return leaf
        array = np.array(leaf)
        array[cleared] = 0
        return array

    return jax.tree.map(clear, state)
