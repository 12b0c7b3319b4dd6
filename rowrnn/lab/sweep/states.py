"""The states that a sweep keeps, and members that are taken out: each a run of its own."""

import contextlib
import dataclasses
import json
import shutil
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import jax

from rowrnn import config as configs
from rowrnn import files, parallel
from rowrnn.core.dataset import Dataset
from rowrnn.core.experiment import Experiment
from rowrnn.core.state import TrainState
from rowrnn.errors import ConfigError, RunError, nearest, shown
from rowrnn.jax_settings import require_devices
from rowrnn.lab import loop
from rowrnn.lab.loop import Curve, Progress
from rowrnn.lab.sweep.stack import Outcome, experiment_of, saved_keys
from rowrnn.lab.train import TrainResult, make_result
from rowrnn.lab.trainer import prepare
from rowrnn.store import ledger, members, rundir
from rowrnn.store.checkpoint import CheckpointWriter
from rowrnn.store.ledger import Record, make_key
from rowrnn.store.members import Member, Spec
from rowrnn.store.rundir import RunDir

_ENVIRONMENT = "environment.json"


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
        self, group: Experiment, members: Sequence[Member], outcomes: Sequence[Outcome]
    ) -> None:
        """Keeps what is to be kept of a stack; called before its members are recorded."""
        for member, (record, state, progress) in zip(members, outcomes, strict=True):
            if state is None or self._keep == "none":
                continue
            if self._keep == "best":
                if _merit(record) <= self._best:
                    continue
                self._best = _merit(record)
            before = parallel.on_process_0(lambda: list(self._directory.glob("*"))) or []
            path = self._directory / member.directory
            parallel.on_process_0(
                lambda path=path, member=member, record=record: _begin(path, member, record.machine)
            )
            experiment = experiment_of(group, member)
            _save(path, experiment, state, progress)
            result = _result(path, experiment, record, state, progress)
            parallel.on_process_0(lambda path=path, result=result: _tell_result(path, result))
            if self._keep == "best":
                for other in before:
                    # A directory that is no state belongs to somebody else, and stays.
                    if other.name != member.directory and rundir.is_marked(other):
                        shutil.rmtree(other, ignore_errors=True)


def extract(
    sweep_dir: Path, spec: Spec, name: str, to: Path, dataset: Dataset | None = None
) -> None:
    """See `rowrnn.extract`; `spec` is what the sweep was started with."""
    everyone = {member.name: member for member in members.make_members(spec)}
    if name not in everyone:
        hint = nearest(name, everyone, f"; its members are named like {next(iter(everyone))}")
        raise ConfigError(f"{sweep_dir} has no member {shown(name)}{hint}")
    member = everyone[name]
    # The lock keeps out a process that would train the member meanwhile.
    with RunDir.reopen(sweep_dir):
        kept = members.kept_state(sweep_dir, member)
        if kept is not None:
            _copy(kept, member, to)
        else:
            _take_from_stack(sweep_dir, member, to, dataset)


def _copy(kept: Path, member: Member, to: Path) -> None:
    """Copies the state of a member that has ended, which is a run already."""
    with RunDir.create(to, member.config) as run, files.writing(to):
        shutil.copytree(kept / "checkpoints", run.path / "checkpoints")
        if (kept / _ENVIRONMENT).exists():
            shutil.copy(kept / _ENVIRONMENT, run.path)
        with contextlib.suppress(RunError):  # Without a result it is evaluated when it goes on.
            result = rundir.read_result(kept, TrainResult)
            if result is not None:
                _tell_result(to, dataclasses.replace(result, run_dir=str(to)))


def _take_from_stack(sweep_dir: Path, member: Member, to: Path, dataset: Dataset | None) -> None:
    """Takes a member out of the stack that was in progress when the sweep was stopped."""
    require_devices()
    rundir.require_same_variables(sweep_dir)
    partial = sweep_dir / "partial"
    experiment = prepare(member.config, dataset)
    key = make_key(member, experiment.dataset.fingerprint)
    restored = loop.restore(partial, experiment) if key in saved_keys(partial) else None
    if restored is None:
        train = member.config.train
        seeds = f"--train.seed {train.seed}"
        if train.init_seed is not None:
            seeds += f" --train.init-seed {train.init_seed}"
        raise RunError(
            f"{sweep_dir} holds no state of {member.name}: it was not in progress when the sweep "
            "was last saved, and not kept when it ended (rowrnn sweep --keep all, in Python "
            f"SweepSettings(keep='all'), keeps every one); rowrnn train {seeds} with its "
            "values trains it"
        )
    state, progress, facts = restored
    index = facts.keys.index(key)
    if progress.diverged[index] is not None:
        raise RunError(f"{member.name} has diverged at step {progress.diverged[index]}")
    with RunDir.create(to, member.config) as run:
        _log(run, progress.curves[index], experiment)
        _tell_environment(to, sweep_dir)
        alone = jax.tree.map(lambda leaf: leaf[index : index + 1], state)
        _save(to, experiment, alone, progress.only(index))


def _save(path: Path, experiment: Experiment, state: TrainState, progress: Progress) -> None:
    """Writes a state [1, ...] into a run directory that has its config."""
    with closing(CheckpointWriter(path / "checkpoints", keep=1)) as writer:
        writer.save(state, loop.facts_of(experiment, 1, progress))


def _result(
    path: Path, experiment: Experiment, record: Record, state: TrainState, progress: Progress
) -> TrainResult:
    """The result of a member as of a run of its own, which has no part in what compiling took."""
    names = ("test_accuracy", "test_loss", "first256_accuracy", "params_sha256", "wall_s")
    return make_result(
        experiment,
        path,
        progress,
        **{name: getattr(record, name) for name in names},
        params=sum(leaf.size for leaf in jax.tree.leaves(state.params)),
        devices=experiment.config.parallel.data or 1,
        compile_s=0.0,
        machines=record.machine.split("; "),
    )


def _tell_result(path: Path, result: TrainResult) -> None:
    with files.writing(path):
        files.write_whole(path / "result.json", json.dumps(dataclasses.asdict(result), indent=2))


def _begin(path: Path, member: Member, machine: str) -> None:
    """Makes a new directory for a member; `machine` is that of its `Record`."""
    shutil.rmtree(path, ignore_errors=True)
    with files.writing(path):
        path.mkdir(parents=True)
        (path / "config.toml").write_text(configs.dump(member.config), encoding="utf-8")
        _tell_environment(path, path.parents[1], {"machines": machine.split("; ")})


def _tell_environment(path: Path, sweep_dir: Path, more: dict[str, Any] | None = None) -> None:
    """Says in the directory of a member what its sweep ran on; whoever goes on with it asks."""
    with contextlib.suppress(OSError, ValueError, TypeError):  # Then nobody can tell.
        found = files.read_json(sweep_dir / _ENVIRONMENT) | (more or {})
        files.write_whole(path / _ENVIRONMENT, json.dumps(found, indent=2))


def _log(run: RunDir, curve: Curve, experiment: Experiment) -> None:
    """Logs the curve so far, as a single run does but for the seconds, which nobody knows."""
    by_step: dict[int, dict[str, float]] = {}
    for name, points in curve.items():
        for step, value in points:
            by_step.setdefault(step, {})[name] = value
    for step, values in sorted(by_step.items()):
        examples = step * experiment.config.train.batch_size
        run.log(
            {"step": step, "examples": examples, "epoch": step / experiment.epoch_steps}, values
        )


def _merit(record: Record) -> float:
    if record.validation_accuracy is not None:
        return record.validation_accuracy
    return -(record.train_loss or 0.0)
