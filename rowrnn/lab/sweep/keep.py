"""The states that a sweep keeps, each as a run of its own that `eval` and `predict` take."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rowrnn import config as configs
from rowrnn import parallel
from rowrnn.core.experiment import Experiment
from rowrnn.core.state import TrainState
from rowrnn.errors import RunError
from rowrnn.lab.sweep.loop import Outcome
from rowrnn.store import ledger
from rowrnn.store.checkpoint import CheckpointWriter
from rowrnn.store.ledger import Record
from rowrnn.store.members import Member

KEEP = ("best", "all", "none")


class Keeper:
    """Writes the states that are to be kept, a directory for each member.

    Args:
        directory: where they go.
        keep: "all", "best" or "none"; best is the highest validation accuracy, or without a
            validation part the lowest training loss. The test part has no say in it.
        records: what is known from before.
    """

    def __init__(self, directory: Path, keep: str, records: Sequence[Record]):
        self._directory, self._keep = directory, keep
        completed = [record for record in records if record.status == ledger.COMPLETED]
        self._best = max(map(_merit, completed), default=float("-inf"))

    def take(
        self, prepared: Experiment, members: Sequence[Member], outcomes: Sequence[Outcome]
    ) -> None:
        """Keeps what is to be kept of a stack; called before its members are recorded."""
        for member, (record, state, _) in zip(members, outcomes, strict=True):
            if state is None or self._keep == "none":
                continue
            if self._keep == "best":
                if _merit(record) <= self._best:
                    continue
                self._best = _merit(record)
            before = parallel.on_first(lambda: list(self._directory.glob("*"))) or []
            self._write(prepared, member, record, state)
            if self._keep == "best":
                for path in before:
                    if path.name != member.directory:
                        shutil.rmtree(path)

    def _write(
        self, prepared: Experiment, member: Member, record: Record, state: TrainState
    ) -> None:
        path = self._directory / member.directory
        progress = {
            "step": record.steps,
            "train_loss": record.train_loss,
            "validation_accuracy": record.validation_accuracy,
            "validation_step": None if record.validation_accuracy is None else record.steps,
            "train_s": record.wall_s,
            "wall_s": record.wall_s,
        }
        parallel.on_first(lambda: _begin(path, member))
        save(path, prepared, member, state, progress, record.validation_accuracy)


def save(
    path: Path,
    prepared: Experiment,
    member: Member,
    state: TrainState,
    progress: dict[str, Any],
    validation_accuracy: float | None,
) -> None:
    """Writes the state of a member into a run directory, as the run of its own would have.

    Args:
        path: the run directory, which has its config.
        prepared: the experiment of the member's group.
        member: whose state it is.
        state: with arrays on the host.
        progress: where the host loop of a single run would stand.
        validation_accuracy: at this step; None where it was not evaluated there.
    """
    single = Experiment(member.config, prepared.dataset, prepared.steps, prepared.epoch_steps)
    facts = {"progress": progress, "validation_accuracy": validation_accuracy}
    writer = CheckpointWriter(path / "checkpoints", keep=1)
    try:
        writer.save(state, single.facts | facts, validation_accuracy)
    finally:
        writer.close()


def _begin(path: Path, member: Member) -> None:
    """A new directory for a member."""
    shutil.rmtree(path, ignore_errors=True)
    try:
        path.mkdir(parents=True)
        (path / "config.toml").write_text(configs.dump(member.config), encoding="utf-8")
    except OSError as error:
        raise RunError(f"{path} was not written: {error.strerror}") from error


def _merit(record: Record) -> float:
    if record.validation_accuracy is not None:
        return record.validation_accuracy
    return -(record.train_loss or 0.0)
