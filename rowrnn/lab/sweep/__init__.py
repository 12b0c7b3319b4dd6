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
from rowrnn.errors import ConfigError, RunError
from rowrnn.lab import stack, trainer
from rowrnn.lab.display import SweepDisplay
from rowrnn.lab.interrupt import StopRequest
from rowrnn.lab.stack import StackPrograms
from rowrnn.lab.sweep import extract as extracting
from rowrnn.lab.sweep import loop, outcome, plan
from rowrnn.lab.sweep.keep import KEEP, Keeper
from rowrnn.lab.sweep.loop import Clock, Loop, Outcome
from rowrnn.lab.sweep.outcome import SweepResult
from rowrnn.lab.sweep.plan import Group, Plan
from rowrnn.lab.trainer import Splits
from rowrnn.store import ledger, loggers, members, rundir
from rowrnn.store.ledger import Ledger, Record
from rowrnn.store.members import Member, Spec, Vary
from rowrnn.store.rundir import RunDir, WatchedRunDir

__all__ = [
    "STRATEGIES", "Plan", "SweepResult", "SweepSettings", "extract", "make_plan", "reopen", "sweep",
]  # fmt: skip

STRATEGIES = ("auto", "map", "vmap")


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

    strategy: str = "auto"
    chunk: int | None = None
    keep: str = "best"


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
    tell: Callable[[Plan], None] | None = None,
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
        tell: is called with the plan before the first member starts.

    Members that diverge are in the result with that status and in no statistic.

    Raises:
        ConfigError: a value is out of range or does not fit the data.
        DataError: the data is missing or damaged.
        RunError: the run directory cannot be used.
        StoppedError: a signal came; the members in progress are saved.
    """
    began = time.perf_counter()
    if resume is not None:
        path = Path(resume)
        if vary not in ("both", rundir.read_sweep(path).vary):
            raise ConfigError(f"vary = {vary!r}: a resumed sweep varies what it was started with")
        spec, settings = reopen(path, config, seeds, grid, settings)
    elif seeds is not None:
        path = Path(run_dir) if run_dir is not None else rundir.default_path("sweep")
        settings = settings or SweepSettings()
        spec = Spec(config or Config(), tuple(seeds), _as_grid(grid), vary)
    else:
        raise ConfigError("seeds: must be given, such as range(64) or --seeds 0:64")
    everyone, mesh, strategy = _prepare(spec, settings)
    spec = dataclasses.replace(spec, config=configs.without_job(spec.config))
    with parallel.waiting_for_others():
        parallel.require_same(
            config=configs.dump(spec.config),
            seeds=str(spec.seeds),
            grid=str(spec.grid),
            settings=str((spec.vary, settings)),
        )
        path = Path(parallel.from_first(str(path)))
        if resume is None:
            # All that can be refused is refused before a run is overwritten.
            groups = _make_groups(everyone, mesh, Ledger())
            run = parallel.on_first(lambda: RunDir.create(path, spec.config, overwrite=overwrite))
        else:
            groups = None
            run = parallel.on_first(lambda: RunDir.reopen(path))
        with run or WatchedRunDir(path) as run, StopRequest() as stop:
            groups = groups or _make_groups(everyone, mesh, Ledger(path / "members"))
            return _Sweep(run, spec, settings, groups, mesh, strategy, stop, began).run(tell)


def make_plan(spec: Spec, settings: SweepSettings, resume: Path | None = None) -> Plan:
    """What a sweep would do: compiles its first group and times a few steps, and trains nothing."""
    found = Ledger() if resume is None else Ledger(resume / "members")
    everyone, mesh, strategy = _prepare(spec, settings)
    groups = _make_groups(everyone, mesh, found)
    first = next((group for group in groups if group.pending), None)
    if first is None:
        return plan.make(groups, mesh, None, None, strategy=strategy)
    splits = trainer.put_splits(first.prepared.dataset, mesh)
    programs = plan.compile_group(
        first, mesh, splits, vmap=strategy == "vmap", chunk=settings.chunk
    )
    return plan.make(groups, mesh, splits, programs, strategy=strategy)


def reopen(
    path: Path,
    config: Config | None = None,
    seeds: Iterable[int] | None = None,
    grid: Mapping[str, Sequence[Any]] | None = None,
    settings: SweepSettings | None = None,
) -> tuple[Spec, SweepSettings]:
    """What a sweep was started with, and in its place what is given now."""
    started = rundir.read_sweep(path)
    try:
        settings = settings or files.build(SweepSettings, started.settings)
    except ValueError as error:
        raise RunError(
            f"{path / 'sweep.json'} does not say how the sweep is run ({error}); start a new one"
        ) from error
    spec = started.spec(config or rundir.read_config(path))
    if seeds is not None:
        spec = dataclasses.replace(spec, seeds=tuple(seeds))
    if grid is not None:
        spec = dataclasses.replace(spec, grid=_as_grid(grid))
    return spec, settings


def extract(sweep_dir: str | Path, member: str, to: str | Path) -> Path:
    """Takes a member of a sweep out as a single run, which `train` can go on with.

    Args:
        sweep_dir: the sweep; nobody may be writing to it.
        member: its name, such as ``seed=3`` or ``learning_rate=0.001,seed=3``.
        to: the new run directory.

    Returns `to`. A member that was in progress when the sweep was stopped ends with the bits of a
    run of its own; one that has ended was kept (`SweepSettings.keep`), or there is nothing to take.

    Raises:
        ConfigError: there is no such member.
        RunError: there is no intact state of it, or a directory cannot be used.
    """
    spec, _ = reopen(Path(sweep_dir))
    extracting.extract(Path(sweep_dir), spec, member, Path(to))
    return Path(to)


def _as_grid(grid: Mapping[str, Sequence[Any]] | None) -> dict[str, tuple[Any, ...]]:
    return {name: tuple(values) for name, values in (grid or {}).items()}


def _prepare(
    spec: Spec, settings: SweepSettings
) -> tuple[list[Member], Mesh, Literal["map", "vmap"]]:
    """Members, devices and strategy; raises what can be refused without looking at the data."""
    config = configs.without_job(spec.config)
    everyone = members.make_members(dataclasses.replace(spec, config=config))
    if settings.strategy not in STRATEGIES:
        raise ConfigError(
            f"strategy = {settings.strategy!r}: must be one of {', '.join(STRATEGIES)}"
        )
    if settings.keep not in KEEP:
        raise ConfigError(f"keep = {settings.keep!r}: must be one of {', '.join(KEEP)}")
    if settings.chunk is not None and settings.chunk < 1:
        raise ConfigError(f"chunk = {settings.chunk}: must be at least 1 member")
    configs.check(spec.config)
    loggers.require(spec.config.train.logger)
    asked_for_vmap = settings.strategy == "vmap"
    parallel.start_sweep(spec.config.parallel, vmap=asked_for_vmap)
    only_alone = any(member.config.model.backend == "cudnn" for member in everyone)
    if only_alone and asked_for_vmap:
        raise ConfigError(
            "model.backend = 'cudnn': cannot run several members at once; --strategy map runs them "
            "one after the other"
        )
    at_once = settings.strategy == "auto" and parallel.on_accelerator() and not only_alone
    vmap = asked_for_vmap or at_once
    mesh = parallel.make_sweep_mesh(spec.config.parallel, vmap=vmap)
    return everyone, mesh, "vmap" if vmap else "map"


def _make_groups(everyone: Sequence[Member], mesh: Mesh, found: Ledger) -> list[Group]:
    """The groups of a sweep with what the ledger has of them, checked to fit data and devices."""
    # Process 0 comes first, and sets aside what is damaged.
    groups = parallel.first_then_others(lambda: plan.make_groups(everyone, found))
    for group in groups:
        parallel.check_divides(mesh, group.prepared.config.train.batch_size)
    return groups


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
    ):
        self._run, self._spec, self._settings = run, spec, settings
        self._mesh, self._strategy = mesh, strategy
        self._stop, self._began = stop, began
        self._ledger = Ledger(run.path / "members")
        self._partial = run.path / "partial"
        self._saved = loop.saved(self._partial)
        # First the group of what was saved in progress, which would be lost to any other.
        self._groups = sorted(
            groups, key=lambda group: not any(key in group.keys for key in self._saved)
        )
        self._clock = Clock()
        self._reused = [record for group in groups for record in group.records if record]
        self._keeper = Keeper(run.path / "states", settings.keep, self._reused)
        self._compilations = 0
        self._most: int | None = None
        self._difference: dict[str, Any] | None = None
        self._shown_at = 0.0

    def run(self, tell: Callable[[Plan], None] | None) -> SweepResult:
        """Trains what is missing, group by group, and writes what came out."""
        self._write_start()
        groups = [group for group in self._groups if group.pending]
        splits = None
        if groups:
            splits = trainer.put_splits(groups[0].prepared.dataset, self._mesh)
        programs, made = self._plan(groups, splits)
        if tell is not None and parallel.is_first():
            tell(made)
        shown = self._spec.config.train.display != "none" and parallel.is_first()
        display = SweepDisplay(made.examples, made.members, made.reused, shown=shown)
        with contextlib.closing(display):
            on_devices = groups[0].prepared.dataset if groups else None
            for group in groups:
                if splits is None or group.prepared.dataset is not on_devices:
                    on_devices = group.prepared.dataset
                    splits = trainer.put_splits(on_devices, self._mesh)
                self._train_group(group, splits, programs, display)
                programs = None
        with parallel.busy():
            return self._finish()

    def _plan(
        self, groups: list[Group], splits: Splits | None
    ) -> tuple[StackPrograms | None, Plan]:
        """The programs of the first group and the plan, for which they run a moment."""
        while True:
            programs = None
            try:
                if splits is not None:
                    programs = self._compile(groups[0], splits)
                return programs, plan.make(
                    self._groups, self._mesh, splits, programs, strategy=self._strategy
                )
            except Exception as error:
                if not parallel.is_out_of_memory(error) or not self._halve(programs):
                    raise

    def _write_start(self) -> None:
        spec, settings = self._spec, self._settings
        # They may be of other members than those that are asked for now; the ledger has all.
        self._run.remove("results.json", "results.csv")
        self._run.write_environment(parallel.describe(self._mesh))
        self._run.write("config.toml", configs.dump(spec.config))
        started = {
            "seeds": spec.seeds,
            "grid": spec.grid,
            "vary": spec.vary,
            # What was chosen, so that a sweep that goes on elsewhere does not mix the two.
            "settings": dataclasses.asdict(settings) | {"strategy": self._strategy},
        }
        self._run.write("sweep.json", json.dumps(started))
        # The log tells what the ledger holds: after a kill, in its words alone.
        self._run.restart_log()
        for record in self._reused:
            self._run.log_member(record.name, record.curve)
        self._run.start_logger(spec.config.train.logger)

    def _compile(self, group: Group, splits: Splits) -> StackPrograms:
        self._compilations += 1
        in_progress = len(self._saved) if self._saved and self._saved[0] in group.keys else 0
        return plan.compile_group(
            group,
            self._mesh,
            splits,
            vmap=self._strategy == "vmap",
            chunk=self._settings.chunk,
            most=self._most,
            in_progress=in_progress,
        )

    def _train_group(
        self, group: Group, splits: Splits, programs: StackPrograms | None, display: SweepDisplay
    ) -> None:
        """Trains what is missing of a group, and what was in progress first."""
        while group.pending:
            try:
                programs = programs or self._compile(group, splits)
                places = _next_stack(group, programs.size, self._saved)
                worker = Loop(
                    group.prepared, self._mesh, splits, programs, self._partial, display,
                    self._stop, self._clock,
                )  # fmt: skip
                outcomes = self._train_stack(worker, group, places)
            except Exception as error:
                if not parallel.is_out_of_memory(error) or not self._halve(programs):
                    raise
                programs = None
                continue
            if self._strategy == "vmap" and self._difference is None:
                self._difference = self._compare_with_map(group, places, outcomes, worker)

    def _train_stack(self, worker: Loop, group: Group, places: list[int]) -> list[Outcome]:
        chosen = [group.members[place] for place in places]
        outcomes = loop.train(worker, chosen, [group.keys[place] for place in places])
        self._keeper.take(group.prepared, chosen, outcomes)
        for place, (record, _, _) in zip(places, outcomes, strict=True):
            if parallel.is_first():
                self._ledger.write(record)
            group.records[place] = record
            self._run.log_member(record.name, record.curve)
        loop.discard(self._partial)
        failed = sum(record.status == ledger.DIVERGED for record, _, _ in outcomes)
        worker.display.record(len(outcomes) - failed, failed, self._estimate())
        return outcomes

    def _estimate(self) -> str | None:
        """Of all members so far, at most once a second: a bootstrap of many takes a while."""
        if time.perf_counter() - self._shown_at < 1.0:
            return None
        self._shown_at = time.perf_counter()
        return outcome.estimate(self._records())

    def _halve(self, programs: StackPrograms | None) -> bool:
        """Allows half as many members at once; False where it was one already."""
        devices = self._mesh.shape["seed"]
        each = (programs.size // devices if programs else self._most or 1) // 2
        self._most = max(1, each)
        self._saved = []  # It is too large as well.
        return each >= 1

    def _compare_with_map(
        self, group: Group, places: list[int], outcomes: list[Outcome], worker: Loop
    ) -> dict[str, Any] | None:
        """How far a member under vmap is from the same one as a solo run, which it trains."""
        chosen = [
            index for index, end in enumerate(outcomes) if end.state is not None
        ][: self._mesh.shape["seed"]]  # fmt: skip
        if not chosen:
            return None
        programs = stack.compile_stack(
            group.prepared, self._mesh, worker.splits, self._mesh.shape["seed"], vmap=False
        )
        hidden = SweepDisplay(1, 1, 0, shown=False)
        alone = loop.train(
            dataclasses.replace(
                worker, programs=programs, display=hidden, clock=Clock(),
                partial=self._run.path / "check",
            ),
            [group.members[places[index]] for index in chosen],
            [group.keys[places[index]] for index in chosen],
        )  # fmt: skip
        loop.discard(self._run.path / "check")
        pairs = [(outcomes[index], other) for index, other in zip(chosen, alone, strict=True)]
        return {
            "members": len(pairs),
            "largest_parameter_difference": outcome.largest_difference(
                [(a.state, b.state) for a, b in pairs]
            ),
            "same_predictions": float(np.mean([a.predicted == b.predicted for a, b in pairs])),
        }

    def _records(self) -> list[Record]:
        """What is known, in the order of the sweep."""
        return [record for group in self._groups for record in group.records if record]

    def _finish(self) -> SweepResult:
        spec = self._spec
        order = {member.name: place for place, member in enumerate(members.make_members(spec))}
        records = sorted(self._records(), key=lambda record: order[record.name])
        points = outcome.by_point(records)
        sizes = {
            group.members[place].point: len(group.prepared.dataset.test.labels)
            for group in self._groups
            for place in range(len(group.members))
        }
        result = SweepResult(self._run.path, records, {}, sizes)
        parts = {point: dataclasses.asdict(part) for point, part in result.variance.items()}
        reused = {record.name for record in self._reused}
        summary = {
            "run_dir": str(self._run.path),
            **outcome.summarize(records),
            "reused": len(reused),
            "strategy": self._strategy,
            "devices": self._mesh.shape["seed"],
            "compilations": self._compilations,
            "examples_per_s": self._clock.examples_per_s,
            "wall_s": time.perf_counter() - self._began,
            "vmap_difference": self._difference,
            "groups": [
                {"point": point, **of_point[0].varied, **outcome.summarize(of_point),
                 "reused": sum(record.name in reused for record in of_point),
                 "variance": parts.get(point)}
                for point, of_point in points.items()
            ],
        }  # fmt: skip
        result = dataclasses.replace(result, summary=summary)
        config = spec.config
        title = f"{len(records)} members, {len(spec.seeds)} seeds"
        if "data.dataset" not in spec.grid:
            title += f" of {config.data.dataset}"
        title += {"both": "", "init": ", initial parameters vary", "data": ", data order varies"}[
            spec.vary
        ]
        if parallel.is_first():
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
