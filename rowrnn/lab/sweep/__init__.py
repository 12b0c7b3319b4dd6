"""A sweep over seeds and values: stacks of members on all devices, a ledger, a distribution."""

import contextlib
import dataclasses
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jax.sharding import Mesh

from rowrnn import config as configs
from rowrnn import files, parallel
from rowrnn.config import Config
from rowrnn.core.dataset import Dataset
from rowrnn.data.groups import read as read_groups
from rowrnn.errors import ConfigError, RunError, count, shown
from rowrnn.files import Rate, Seconds, Size, as_path
from rowrnn.jax_settings import pinned
from rowrnn.lab.display import Display, ProgressDisplay
from rowrnn.lab.interrupt import StopRequest
from rowrnn.lab.loop import open_directory
from rowrnn.lab.sweep import outcome, plan, states
from rowrnn.lab.sweep.outcome import SweepResult
from rowrnn.lab.sweep.plan import Group, Plan
from rowrnn.lab.sweep.stack import Stack, Tally, discard, saved_keys
from rowrnn.lab.sweep.states import Keeper
from rowrnn.lab.trainer import Trainer, config_for
from rowrnn.store import ledger, members, rundir, services
from rowrnn.store.ledger import Ledger, Record
from rowrnn.store.members import Member, Spec, Vary
from rowrnn.store.rundir import RunDir

__all__ = [
    "Plan", "SweepResult", "SweepSettings", "extract", "make_plan", "reopen", "sweep",
]  # fmt: skip


@dataclass(frozen=True)
class _Earlier:
    """What the sessions before this one took, as the summary of a sweep says it."""

    wall_s: Seconds
    examples_per_s: Rate | None = None


@dataclass(frozen=True)
class SweepSettings:
    """How a sweep is run, beside what its members are; ``sweep.json`` holds it.

    Attributes:
        strategy: "map" runs the members of a device one after the other, each as a solo run does,
            to the bit; "vmap" runs them at once; "auto" takes vmap on accelerators, map on CPUs.
        chunk: members that a device has in hand at a time; None chooses.
        keep: whose last states are kept: "best" (on validation; without a validation part by
            training loss), "all" or "none".
    """

    strategy: Literal["auto", "map", "vmap"] = "auto"
    chunk: Size | None = None
    keep: Literal["best", "all", "none"] = "best"


@pinned
def sweep(
    config: Config | None = None,
    seeds: Iterable[int] | None = None,
    *,
    grid: Mapping[str, Sequence[Any]] | None = None,
    vary: Vary = "both",
    settings: SweepSettings | None = None,
    run_dir: str | Path | None = None,
    resume: str | Path | None = None,
    overwrite: bool = False,
    groups: str | Path | None = None,
    tell: Callable[[Plan], None] | None = None,
    dataset: Dataset | None = None,
) -> SweepResult:
    """Trains a member for each seed and each point of a grid, and says how they are distributed.

    Args:
        config: what all members have in common.
        seeds: of the members, such as ``range(64)``.
        grid: values to try, by dotted name: ``{"optimizer.learning_rate": [1e-3, 3e-3]}``.
        vary: what a seed decides: "both", "init" (the parameters) or "data" (the rest); with
            `resume`, what it did before.
        settings: strategy, chunk of seeds and which states are kept.
        run_dir: where the sweep is kept; ``runs/sweep-<time>`` where not given.
        resume: the directory of a sweep to go on with; only what its ledger lacks is run. What is
            given beside it replaces what the sweep was started with: more seeds, another grid.
        overwrite: whether a run in `run_dir` may be replaced.
        groups: a file with an integer for each test image, such as its writer, as `evaluate` takes
            it; it is not kept, and given again to a sweep that goes on.
        tell: is called with the plan before the first member starts.
        dataset: what `Dataset.from_arrays` gave, instead of what `config.data` names; a sweep that
            is resumed needs the same.

    Members that diverge are in the result with that status and in no statistic.

    Raises:
        ConfigError: a value is out of range or does not fit the data.
        DataError: the data or the groups are missing or damaged.
        RunError: the run directory cannot be used.
        StoppedError: a signal came; the members in progress are saved.
    """
    if config is not None:
        configs.check(config)
    began = time.perf_counter()
    if dataset is not None:
        config = config_for(dataset, config, resume)
    if resume is not None:
        path = as_path(resume, "resume")
        rundir.require_same_variables(path)
        if vary not in ("both", members.read_sweep(path).vary):
            raise ConfigError(f"vary = {vary!r}: a resumed sweep varies what it was started with")
        spec, settings = reopen(path, config, seeds, grid, settings)
    elif seeds is not None:
        path = None if run_dir is None else as_path(run_dir, "run_dir")
        settings = settings or SweepSettings()
        spec = Spec(config or Config(), _as_seeds(seeds), _as_grid(grid), vary)
    else:
        raise ConfigError("seeds: must be given, such as range(64) or --seeds 0:64")
    everyone, mesh, strategy = _prepare(spec, settings)
    spec = dataclasses.replace(spec, config=configs.without_job(spec.config))
    parallel.require_same(
        config=configs.dump(spec.config),
        seeds=str(spec.seeds),
        grid=str(spec.grid),
        settings=str((spec.vary, settings)),
    )
    planned, of_images = None, None
    if resume is None:
        # All that can be refused is refused before a run is overwritten.
        planned = _make_groups(everyone, mesh, Ledger(), dataset)
        of_images = _read_groups(groups, planned)
        path = path or rundir.default_path("sweep", take=parallel.is_process_0())
        run = open_directory(path, spec.config, overwrite=overwrite)
    else:
        run = open_directory(as_path(resume, "resume"))
    with run, StopRequest() as stop:
        if planned is None:
            planned = _make_groups(everyone, mesh, Ledger(run.path / "members"), dataset)
            of_images = _read_groups(groups, planned)
        made = _Sweep(run, spec, settings, planned, mesh, strategy, stop, began, of_images)
        return made.run(tell)


@pinned
def make_plan(spec: Spec, settings: SweepSettings, resume: Path | None = None) -> Plan:
    """What a sweep would do: compiles its first group and times a few steps, and trains nothing."""
    found = Ledger()
    if resume is not None:
        rundir.require_same_variables(resume)
        found = Ledger(resume / "members")
    everyone, mesh, strategy = _prepare(spec, settings)
    groups = _make_groups(everyone, mesh, found)
    first = next((group for group in groups if group.pending), None)
    trainer = None
    if first is not None:
        trainer = plan.make_trainer(first, mesh, vmap=strategy == "vmap", chunk=settings.chunk)
    return plan.make(groups, mesh, trainer, strategy=strategy)


def reopen(
    path: Path,
    config: Config | None = None,
    seeds: Iterable[int] | None = None,
    grid: Mapping[str, Sequence[Any]] | None = None,
    settings: SweepSettings | None = None,
) -> tuple[Spec, SweepSettings]:
    """What a sweep was started with, and in its place what is given now."""
    started = members.read_sweep(path)
    try:
        settings = settings or files.build(SweepSettings, started.settings)
    except ValueError as error:
        raise RunError(
            f"{path / 'sweep.json'} does not say how the sweep is run ({error}); start a new one"
        ) from error
    spec = started.spec(config or rundir.read_config(path))
    if seeds is not None:
        spec = dataclasses.replace(spec, seeds=_as_seeds(seeds))
    if grid is not None:
        spec = dataclasses.replace(spec, grid=_as_grid(grid))
    return spec, settings


@pinned
def extract(
    sweep_dir: str | Path, member: str, to: str | Path, *, dataset: Dataset | None = None
) -> Path:
    """Takes a member of a sweep out as a single run, which `train` can go on with.

    Args:
        sweep_dir: the sweep; nobody may be writing to it.
        member: its name, such as ``seed=3`` or ``learning_rate=0.001,seed=3``.
        to: the new run directory.
        dataset: the data of a sweep on arrays, for a member that was in progress.

    Returns `to`. A member that was in progress when the sweep was stopped ends with the bits of a
    run of its own; one that has ended was kept (`SweepSettings.keep`), or there is nothing to take.

    Raises:
        ConfigError: there is no such member.
        RunError: there is no intact state of it, or a directory cannot be used.
    """
    path, to = as_path(sweep_dir, "sweep_dir"), as_path(to, "to")
    spec, _ = reopen(path)
    states.extract(path, spec, member, to, dataset)
    return to


def _as_seeds(seeds: Iterable[int]) -> tuple[int, ...]:
    """Seeds as a tuple, also those of NumPy; what is no integer stays, and is refused by name."""
    try:
        return tuple(map(_as_plain, seeds))
    except TypeError as error:
        raise ConfigError(f"seeds = {shown(seeds)}: must be integers, such as range(64)") from error


def _as_plain(value: Any) -> Any:
    """A value of Python, where it is one of NumPy."""
    return value.item() if isinstance(value, np.generic) else value


def _as_grid(grid: Mapping[str, Sequence[Any]] | None) -> dict[str, tuple[Any, ...]]:
    try:
        return {str(name): tuple(map(_as_plain, values)) for name, values in (grid or {}).items()}
    except (AttributeError, TypeError) as error:
        raise ConfigError(
            f"grid = {shown(grid)}: must be lists of values by name, such as "
            '{"model.hidden_size": [64, 128]}'
        ) from error


def _prepare(
    spec: Spec, settings: SweepSettings
) -> tuple[list[Member], Mesh, Literal["map", "vmap"]]:
    """Members, devices and strategy; raises what can be refused without looking at the data."""
    config = configs.without_job(spec.config)
    everyone = members.make_members(dataclasses.replace(spec, config=config))
    if not isinstance(settings, SweepSettings):
        raise ConfigError(f"settings = {shown(settings)}: must be a rowrnn.SweepSettings")
    try:
        files.build(SweepSettings, vars(settings))
    except ValueError as error:
        raise ConfigError(str(error)) from error
    configs.check(spec.config)
    services.require(spec.config.train.logger)
    asked_for_vmap = settings.strategy == "vmap"
    parallel.start_sweep(spec.config.parallel)
    only_alone = any(member.config.model.backend == "cudnn" for member in everyone)
    if only_alone and asked_for_vmap:
        raise ConfigError(
            "model.backend = 'cudnn': cannot run several members at once; --strategy map (in "
            "Python SweepSettings('map')) runs them one after the other"
        )
    at_once = settings.strategy == "auto" and parallel.on_accelerator() and not only_alone
    vmap = asked_for_vmap or at_once
    mesh = parallel.process_0_first(lambda: parallel.make_sweep_mesh(spec.config.parallel))
    return everyone, mesh, "vmap" if vmap else "map"


def _make_groups(
    everyone: Sequence[Member], mesh: Mesh, found: Ledger, dataset: Dataset | None = None
) -> list[Group]:
    """The groups of a sweep with what the ledger has of them, checked to fit data and devices."""

    def make() -> list[Group]:
        groups = plan.make_groups(everyone, found, dataset)
        for group in groups:
            parallel.check_divides(mesh, group.prepared.config.train.batch_size)
        return groups

    # Process 0 comes first, and sets aside what is damaged.
    return parallel.process_0_first(make)


def _read_groups(path: str | Path | None, planned: Sequence[Group]) -> np.ndarray | None:
    """The groups of the test images, [N], which all members must have in common."""
    if path is None:
        return None
    found = None
    for dataset in {
        id(group.prepared.dataset): group.prepared.dataset for group in planned
    }.values():
        found = read_groups(path, dataset.test.labels)
    return found


class _Sweep:
    """A sweep that has its directory."""

    def __init__(
        self,
        run: RunDir,
        spec: Spec,
        settings: SweepSettings,
        groups: list[Group],
        mesh: Mesh,
        strategy: Literal["map", "vmap"],
        stop: StopRequest,
        began: float,
        of_images: np.ndarray | None,
    ):
        self._run, self._spec, self._settings = run, spec, settings
        self._mesh, self._strategy = mesh, strategy
        self._stop, self._began, self._of_images = stop, began, of_images
        self._ledger = Ledger(run.path / "members")
        self._partial = run.path / "partial"
        self._saved = saved_keys(self._partial)
        # First the group of what was saved in progress, which would be lost to any other.
        self._groups = sorted(
            groups, key=lambda group: not any(key in group.keys for key in self._saved)
        )
        self._reused = [record for group in groups for record in group.records if record]
        self._keeper = Keeper(run.path / "states", settings.keep, self._reused)
        self._compilations = 0
        self._most: int | None = None
        self._trainer: Trainer | None = None
        self._estimated_at = 0.0

    def run(self, tell: Callable[[Plan], None] | None) -> SweepResult:
        """Trains what is missing, group by group, and writes what came out."""
        groups = [group for group in self._groups if group.pending]
        earlier = self._read_earlier()
        self._write_start(goes_on=bool(groups))
        made = self._plan(groups)
        if tell is not None and parallel.is_process_0():
            tell(made)
        shown = self._spec.config.train.display != "none" and parallel.is_process_0()
        display = ProgressDisplay(made.examples) if shown and groups else Display()
        tally = Tally(display, made.members, made.reused, to_do=made.examples)
        tally.earlier_s = earlier.wall_s
        with contextlib.closing(display):
            for group in groups:
                self._train_group(group, tally)
        # A session that trains nothing takes nothing away from what is known.
        rate = tally.examples_per_s if groups else earlier.examples_per_s
        seconds = time.perf_counter() - self._began if groups else 0.0
        return self._finish(_Earlier(tally.earlier_s + seconds, rate))

    def _plan(self, groups: list[Group]) -> Plan:
        """The plan, for which the trainer of the first group runs a moment."""
        while True:
            try:
                trainer = self._make_trainer(groups[0]) if groups else None
                return plan.make(self._groups, self._mesh, trainer, strategy=self._strategy)
            except Exception as error:
                self._halve_or_raise(error)

    def _read_earlier(self) -> _Earlier:
        """What was told when the sweep had ended; of one that was cut off, what its ledger says."""

        def read() -> dict[str, Any]:
            with contextlib.suppress(RunError):  # It is made anew.
                found = rundir.read_result(self._run.path, _Earlier)
                if found is not None:
                    return dataclasses.asdict(found)
            return {"wall_s": sum(record.wall_s for record in self._reused)}

        # Process 0 removes it next.
        return _Earlier(**(parallel.broadcast(parallel.on_process_0(read)) or {}))

    def _write_start(self, *, goes_on: bool) -> None:
        spec, settings = self._spec, self._settings
        # They may be of other members than those that are asked for now; the ledger has all.
        self._run.remove("results.json", "results.csv")
        if goes_on:
            self._run.write_environment(parallel.describe(self._mesh))
        self._run.write("config.toml", configs.dump(spec.config))
        started = {
            "seeds": spec.seeds,
            "grid": spec.grid,
            "vary": spec.vary,
            # The strategy that was chosen is kept: a sweep that goes on elsewhere never mixes two.
            "settings": dataclasses.asdict(settings) | {"strategy": self._strategy},
        }
        self._run.write("sweep.json", json.dumps(started))
        # The log tells what the ledger holds: after a kill, in its words alone.
        self._run.restart_log()
        for record in self._reused:
            self._run.log_member(record.name, record.curve)
        self._run.start_logger(spec.config.train.logger)

    def _make_trainer(self, group: Group) -> Trainer:
        """The trainer of a group: the last one where it is that, otherwise a new one."""
        last = self._trainer
        if last is not None and last.experiment is group.prepared:
            return last
        same_data = last is not None and last.experiment.dataset is group.prepared.dataset
        splits = last.splits if last is not None and same_data else None
        # The last trainer goes before the next is made, which needs its memory.
        self._trainer = last = None
        self._compilations += 1
        in_progress = len(self._saved) if self._saved and self._saved[0] in group.keys else 0
        self._trainer = plan.make_trainer(
            group,
            self._mesh,
            vmap=self._strategy == "vmap",
            chunk=self._settings.chunk,
            most=self._most,
            in_progress=in_progress,
            splits=splits,
        )
        return self._trainer

    def _train_group(self, group: Group, tally: Tally) -> None:
        """Trains what is missing of a group, and what was in progress first."""
        while group.pending:
            try:
                self._train_stack(group, self._make_trainer(group), tally)
            except Exception as error:
                self._halve_or_raise(error)

    def _train_stack(self, group: Group, trainer: Trainer, tally: Tally) -> None:
        places = _next_stack(group, trainer.members, self._saved)
        chosen, keys = [group.members[k] for k in places], [group.keys[k] for k in places]
        run = self._run
        run.require_in_place()
        outcomes = Stack(
            trainer, chosen, keys, self._partial, run.require_in_place, run.machine, tally
        ).train(self._stop)
        run.require_in_place()
        self._keeper.take(group.prepared, chosen, outcomes)
        for place, (record, _, _) in zip(places, outcomes, strict=True):
            if parallel.is_process_0():
                self._ledger.write(record)
            group.records[place] = record
            self._run.log_member(record.name, record.curve)
        discard(self._partial)
        tally.recorded += len(outcomes)
        # Also the steps that members which have diverged did not take.
        left = sum(group.examples * len(group.pending) for group in self._groups)
        tally.done = tally.to_do - left
        tally.failed += sum(end.record.status == ledger.DIVERGED for end in outcomes)
        # An estimate takes a while with many members: at most one a second, and one at the end.
        if not left or time.perf_counter() - self._estimated_at >= 1.0:
            self._estimated_at = time.perf_counter()
            tally.estimate = outcome.estimate(self._records())
        tally.show()

    def _halve_or_raise(self, error: Exception) -> None:
        """Allows half as many members at once where memory was too small; otherwise raises."""
        devices = self._mesh.shape["seed"]
        each = (self._trainer.members // devices if self._trainer else self._most or 1) // 2
        if not parallel.is_out_of_memory(error) or each < 1:
            raise error
        self._most, self._trainer = each, None
        self._saved = []  # It is too large as well.

    def _records(self) -> list[Record]:
        """What is known, in the order of the sweep."""
        return [record for group in self._groups for record in group.records if record]

    def _finish(self, took: _Earlier) -> SweepResult:
        spec = self._spec
        order = {member.name: place for place, member in enumerate(members.make_members(spec))}
        records = sorted(self._records(), key=lambda record: order[record.name])
        points = outcome.by_point(records)
        data = {
            member.point: group.prepared.dataset
            for group in self._groups
            for member in group.members
        }
        sizes = {point: len(dataset.test.labels) for point, dataset in data.items()}
        result = SweepResult(self._run.path, records, {}, sizes, self._of_images)
        parts = {point: dataclasses.asdict(part) for point, part in result.variance.items()}
        reused = {record.name for record in self._reused}
        summary = {
            "run_dir": str(self._run.path),
            **outcome.summarize(records, max(sizes.values())),
            **(result.images_of(*points) if len(points) == 1 else {}),
            "selected": result.selected,
            "reused": len(reused),
            "strategy": self._strategy,
            "devices": self._mesh.shape["seed"],
            "machines": ledger.machines_of(records),
            "compilations": self._compilations,
            **dataclasses.asdict(took),
            "groups": [
                {"point": point, **of_point[0].varied,
                 **outcome.summarize(of_point, sizes[point]),
                 **result.images_of(point),
                 "validation_mean": getattr(result.validation.get(point), "mean", None),
                 "data": data[point].fingerprint, "test_images": sizes[point],
                 "reused": sum(record.name in reused for record in of_point),
                 "variance": parts.get(point)}
                for point, of_point in points.items()
            ],
        }  # fmt: skip
        result = dataclasses.replace(result, summary=summary)
        config = spec.config
        title = f"{count(len(records), 'member')}, {count(len(spec.seeds), 'seed')}"
        if "data.dataset" not in spec.grid:
            title += f" of {configs.data_name(config.data.dataset, config.data.dir)}"
        title += {"both": "", "init": ", initial parameters vary", "data": ", data order varies"}[
            spec.vary
        ]
        if parallel.is_process_0():
            outcome.write(self._run, result, title, notebook=outcome.is_notebook(config))
        self._run.finish_logger("finished")
        return result


def _next_stack(group: Group, size: int, saved: list[ledger.Key]) -> list[int]:
    """The members of the next stack: those that were saved in progress, where they fit."""
    pending = group.pending
    places = [group.keys.index(key) for key in saved if key in group.keys]
    if len(places) == len(saved) <= size and set(places) <= set(pending) and places:
        return places
    return pending[:size]
