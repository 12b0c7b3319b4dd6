"""A stack of members: trained together in one loop, to a record of each."""

import dataclasses
import shutil
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from rowrnn import parallel
from rowrnn.core.experiment import Experiment
from rowrnn.core.metrics import Metrics
from rowrnn.core.state import TrainState
from rowrnn.errors import DamagedError, StoppedError, count
from rowrnn.lab import loop
from rowrnn.lab.display import Display
from rowrnn.lab.interrupt import StopRequest
from rowrnn.lab.loop import Job, Loop, Progress
from rowrnn.lab.trainer import Trainer, first256_accuracy, stack_members
from rowrnn.store import checkpoint, ledger
from rowrnn.store.checkpoint import CheckpointWriter
from rowrnn.store.ledger import Key, Record
from rowrnn.store.members import Member


class Outcome(NamedTuple):
    """What the end of a member leaves.

    Attributes:
        record: for the ledger.
        state: the last one, [1, ...] on the host; None of a member that has diverged.
        progress: where it stands, as of a run of its own.
    """

    record: Record
    state: TrainState | None
    progress: Progress


@dataclass
class Tally:
    """What a sweep has done so far, and shows.

    Attributes:
        display: shows it.
        members: of the sweep.
        recorded: members that have ended, `failed` of them by divergence.
        to_do: examples that the ledger lacks at the start; `done` of them, also in a stack that was
            in progress.
        earlier_s: seconds that earlier sessions took.
        examples: trained in this session, in `train_s` seconds.
        estimate: what is known of the accuracy, in words.
    """

    display: Display
    members: int
    recorded: int = 0
    failed: int = 0
    done: int = 0
    to_do: int = 0
    earlier_s: float = 0.0
    examples: int = 0
    train_s: float = 0.0
    estimate: str = ""

    @property
    def examples_per_s(self) -> float:
        """Throughput over all members; 0 where nothing was trained."""
        return self.examples / self.train_s if self.train_s else 0.0

    @property
    def facts(self) -> str:
        """A line on the sweep.

        >>> known = {"examples": 123_456, "train_s": 10.0, "estimate": "mean 0.9812 ± 0.0004"}
        >>> Tally(Display(), 8, 3, 1, **known).facts
        '3/8 members, 1 failed  mean 0.9812 ± 0.0004  12,346 seed·examples/s'
        """
        ended = f"{self.recorded}/{self.members} members"
        ended += f", {self.failed} failed" if self.failed else ""
        rate = f"{self.examples_per_s:,.0f} seed·examples/s" if self.examples_per_s else ""
        return "  ".join(filter(None, (ended, self.estimate, rate)))

    def show(self) -> None:
        """Shows where the sweep stands."""
        self.display.advance(self.done, self.facts)


@dataclass
class Stack(Job):
    """Members of a group that are trained together.

    Attributes:
        trainer: has a place for each; places that are left over stand idle.
        members: that are trained.
        keys: of their records.
        partial: directory for what is in progress.
        check: raises an error where the directory of the sweep is not there any more.
        machine: that it runs on now, as `rundir.machine_of` says.
        tally: of the sweep.
    """

    trainer: Trainer
    members: Sequence[Member]
    keys: Sequence[Key]
    partial: Path
    check: Callable[[], None]
    machine: str
    tally: Tally

    def train(self, stop: StopRequest) -> list[Outcome]:
        """Trains to the end and evaluates; goes on where the same members were saved.

        Raises `StoppedError` when a signal has come and all is saved.
        """
        began = time.perf_counter()
        state, progress = self._first_state()
        progress.machines = list(dict.fromkeys([*progress.machines, self.machine]))
        began -= progress.wall_s
        self.tally.earlier_s += progress.wall_s
        with closing(CheckpointWriter(self.partial, 2, self.check)) as writer:
            work = Loop(self.trainer, self, writer, stop, began, self.keys)
            state = work.run(state, progress)
        outcomes = self._evaluate(state, progress)
        seconds = round((time.perf_counter() - began) / len(self.members), 3)
        return [
            outcome._replace(record=dataclasses.replace(outcome.record, wall_s=seconds))
            for outcome in outcomes
        ]

    def advanced(self, progress: Progress, sums: Metrics, steps: int, seconds: float) -> None:
        """Counts and shows examples over all members that have not diverged."""
        examples = steps * self._batch_size * len(progress.running)
        self.tally.train_s += seconds
        self.tally.examples += examples
        self.tally.done += examples
        self.tally.show()

    def stopped(self, progress: Progress, by: str) -> StoppedError:
        """See `Job.stopped`."""
        return StoppedError(
            f"stopped by {by} with {self.tally.recorded} of {count(self.tally.members, 'member')} "
            f"done and {len(self.members)} at step {progress.step:,} of "
            f"{self.trainer.experiment.steps:,}, which is saved; go on with: rowrnn sweep --resume "
            f"{self.partial.parent} (in Python resume=)"
        )

    @property
    def _batch_size(self) -> int:
        return self.trainer.experiment.config.train.batch_size

    def _first_state(self) -> tuple[TrainState, Progress]:
        """The stack as it was saved, or before its first step."""
        # Places that stand idle do what the last member does.
        places = np.minimum(np.arange(self.trainer.members), len(self.members) - 1)
        found = saved_keys(self.partial)
        reason = "is of other members" if found else ""
        # A save whose very facts cannot be read is restored too: that says why.
        if found in ([], list(self.keys)):
            try:
                restored = loop.restore(self.partial, self.trainer.experiment)
            except DamagedError as error:
                restored, reason = None, f"cannot be used ({error})"
            if restored is not None:
                state, progress, _ = restored
                self.tally.done += progress.step * self._batch_size * len(self.members)
                self.tally.show()
                state = jax.tree.map(lambda leaf: leaf[places], state)
                return self.trainer.put(state), progress
        if reason and parallel.is_process_0():
            warnings.warn(
                f"checkpoint {self.partial} {reason}; what was in progress starts again",
                stacklevel=2,
            )
        discard(self.partial)
        experiments = [
            experiment_of(self.trainer.experiment, self.members[place]) for place in places
        ]
        return self.trainer.init(*stack_members(experiments)), Progress.start(len(self.members))

    def _evaluate(self, state: TrainState, progress: Progress) -> list[Outcome]:
        """Evaluates the last states on the test part and makes the records."""
        trainer = self.trainer
        sums, predicted = trainer.fetch(trainer.test(state))
        state = trainer.fetch(state)
        bad = loop.not_finite(state) | ~np.isfinite(sums.loss_sum)
        for index in progress.running:
            if bad[index]:
                progress.diverged[index] = int(state.step[index])
        right = predicted == trainer.experiment.dataset.test.labels[None]
        outcomes = []
        for index, (member, key) in enumerate(zip(self.members, self.keys, strict=True)):
            common: dict[str, Any] = {
                "key": key,
                "name": member.name,
                "seed": member.seed,
                "varied": dict(member.varied),
                "curve": progress.curves[index],
                "wall_s": 0.0,
                "machine": "; ".join(progress.machines),
            }
            step = progress.diverged[index]
            if step is not None:
                outcomes.append(Outcome(_diverged(common, step), None, progress.only(index)))
                continue
            last = jax.tree.map(lambda leaf, index=index: leaf[index : index + 1], state)
            params = jax.tree.map(lambda leaf: leaf[0], last.params)
            record = Record(
                **common,
                status=ledger.COMPLETED,
                steps=progress.step,
                train_loss=progress.last(index, "train_loss"),
                validation_accuracy=progress.last(index, "validation_accuracy"),
                test_accuracy=float(sums.correct[index] / sums.count[index]),
                test_loss=float(sums.loss_sum[index] / sums.count[index]),
                first256_accuracy=first256_accuracy(member.config, right[index]),
                params_sha256=checkpoint.params_digest(params),
                correct=ledger.pack(right[index]),
            )
            outcomes.append(Outcome(record, last, progress.only(index)))
        return outcomes


def experiment_of(group: Experiment, member: Member) -> Experiment:
    """The experiment of one member of a group."""
    return dataclasses.replace(group, config=member.config)


def saved_keys(partial: Path) -> list[Key]:
    """The members of the stack that was saved in progress; empty without one."""
    facts = checkpoint.newest_facts(partial)
    return [] if facts is None else facts.keys


def discard(partial: Path) -> None:
    """Removes what was saved of a stack in progress."""
    parallel.on_process_0(lambda: shutil.rmtree(partial, ignore_errors=True))


def _diverged(common: dict[str, Any], step: int) -> Record:
    fields = {field.name for field in dataclasses.fields(Record)}
    unknown = dict.fromkeys(fields - common.keys() - {"status", "steps"})
    return Record(**common, **unknown, status=ledger.DIVERGED, steps=step)  # type: ignore[arg-type]
