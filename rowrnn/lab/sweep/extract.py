"""A member of a sweep as a single run, which `rowrnn train --resume` goes on with."""

import shutil
from pathlib import Path

from rowrnn import config as configs
from rowrnn.errors import ConfigError, RunError
from rowrnn.lab import stack, trainer
from rowrnn.lab.sweep import keep, loop
from rowrnn.store import members, rundir
from rowrnn.store.ledger import make_key
from rowrnn.store.members import Member, Spec
from rowrnn.store.rundir import RunDir


def extract(sweep_dir: Path, spec: Spec, name: str, to: Path) -> None:
    """See `rowrnn.extract`; `spec` is what the sweep was started with."""
    everyone = {member.name: member for member in members.make_members(spec)}
    if name not in everyone:
        hint = configs.nearest(
            name, everyone, f"; its members are named like {next(iter(everyone))}"
        )
        raise ConfigError(f"{sweep_dir} has no member {configs.shown(name)}{hint}")
    member = everyone[name]
    # Whoever trains it at the moment would change it meanwhile.
    with RunDir.reopen(sweep_dir):
        kept = rundir.kept_state(sweep_dir, member)
        if kept is not None:
            _copy(kept, member, to)
        else:
            _take_from_stack(sweep_dir, member, to)


def _copy(kept: Path, member: Member, to: Path) -> None:
    """A member that has ended and whose state was kept is a run already."""
    with RunDir.create(to, member.config) as run:
        try:
            shutil.copytree(kept / "checkpoints", run.path / "checkpoints")
        except OSError as error:
            raise RunError(f"{to} was not written: {error}") from error


def _take_from_stack(sweep_dir: Path, member: Member, to: Path) -> None:
    """A member of the stack that was in progress when the sweep was stopped."""
    partial = sweep_dir / "partial"
    prepared = trainer.prepare(member.config)
    key, keys = make_key(member, prepared.dataset.fingerprint), loop.saved(partial)
    restored = loop.restore(partial, prepared) if key in keys else None
    if restored is None:
        train = member.config.train
        seeds = f"--train.seed {train.seed}"
        if train.init_seed is not None:
            seeds += f" --train.init-seed {train.init_seed}"
        raise RunError(
            f"{sweep_dir} holds no state of {member.name}: it was not in progress when the sweep "
            "was last saved, and not kept when it ended (rowrnn sweep --keep all keeps every "
            f"one); rowrnn train {seeds} with its values trains it"
        )
    (state, progress), index = restored, keys.index(key)
    if index in progress.diverged:
        raise RunError(f"{member.name} has diverged at step {progress.diverged[index]}")
    accuracies = progress.curves[index].get("validation_accuracy", [])
    validation_step, accuracy = accuracies[-1] if accuracies else (None, None)
    train_losses = progress.curves[index].get("train_loss", [])
    seconds = progress.wall_s / len(keys)
    facts = {
        "step": progress.step,
        "loss_sum": float(progress.sums.loss_sum[index]),
        "correct": int(progress.sums.correct[index]),
        "count": int(progress.sums.count[index]),
        "train_loss": train_losses[-1][1] if train_losses else 0.0,
        "validation_accuracy": accuracy,
        "validation_step": validation_step,
        "best_accuracy": max((value for _, value in accuracies), default=-1.0),
        "train_s": seconds,
        "wall_s": seconds,
    }
    with RunDir.create(to, member.config) as run:
        _log(run, progress.curves[index], member, prepared.epoch_steps)
        at_step = accuracy if validation_step == progress.step else None
        keep.save(to, prepared, member, stack.member_of(state, index), facts, at_step)


def _log(
    run: RunDir, curve: dict[str, list[tuple[int, float]]], member: Member, epoch_steps: int
) -> None:
    """The curve so far, as a single run logs it but for the seconds, which nobody knows."""
    by_step: dict[int, dict[str, float]] = {}
    for name, points in curve.items():
        for step, value in points:
            by_step.setdefault(step, {})[name] = value
    for step, values in sorted(by_step.items()):
        examples = step * member.config.train.batch_size
        run.log({"step": step, "examples": examples, "epoch": step / epoch_steps}, values)
