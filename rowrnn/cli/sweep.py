"""``rowrnn sweep``."""

import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

from rowrnn.cli.report import report_at_end
from rowrnn.cli.start import config_of, directory_of, tell_service
from rowrnn.cli.terminal import (
    Common,
    Flag,
    console,
    duration,
    given_options,
    parse,
    plain,
    say,
    table,
    tell,
    tell_mixture,
)
from rowrnn.config import Config
from rowrnn.errors import ConfigError, count, shown
from rowrnn.jax_settings import require_jax
from rowrnn.lab.shown import percent, show_trimmed
from rowrnn.store import members
from rowrnn.store.members import Spec, Vary

if TYPE_CHECKING:
    from rich.console import Console

    from rowrnn.lab.sweep import Plan, SweepResult, SweepSettings

PART_FAILED = 6
"""Exit code of a sweep in which members have diverged."""

_PEEKED = (
    "seeds were added to {known} whose results were known. Where that is repeated until a "
    "difference shows, chance shows one too often: compare with rowrnn compare --sequential"
)


@dataclass(frozen=True, kw_only=True)
class SweepArguments(Common):
    """Train one member for each seed and each point of a grid; say how their accuracy spreads.

    Member k is what rowrnn train --train.seed k gives. Any value of the config can be given as a
    flag. Ctrl-C saves and stops; --resume runs what is missing, and takes more --seeds too. The
    exit code is 6 where members have diverged; they are in no statistic.
    """

    config_file: Annotated[Positional[Path | None], arg(metavar="[CONFIG]")] = None
    """The config that all members have in common."""
    seeds: Annotated[str, arg(metavar="SEEDS")] = ""
    """0:64 for the 64 seeds from 0 to 63; 3,5,7 for these."""
    grid: Annotated[tuple[str, ...], arg(metavar="NAME=VALUE,VALUE")] = ()
    """Values to try, such as optimizer.learning_rate=1e-3,3e-3; all combinations are run."""
    vary: Vary = "both"
    """What a seed decides: all, the initial parameters alone, or all but these."""
    strategy: Literal["auto", "map", "vmap"] = "auto"
    """map: one by one, with a solo run's bits. vmap: at once. auto: vmap on accelerators."""
    chunk: Annotated[int | None, arg(metavar="N")] = None
    """Members that a device has in hand at a time; without it, chosen."""
    keep: Literal["best", "all", "none"] = "best"
    """Whose last states are kept; the best is by validation, without it by training loss."""
    plan: Flag = False
    """Show what would be done, and do not do it."""
    run_dir: Annotated[Path | None, arg(metavar="DIR")] = None
    """Where the sweep is kept; without it, runs/NAME-sweep-TIME."""
    resume: Annotated[Path | None, arg(metavar="DIR")] = None
    """The directory of a sweep to go on with."""
    overwrite: Flag = False
    """Replace what lies in --run-dir."""
    groups: Annotated[Path | None, arg(metavar="FILE")] = None
    """An integer a test image, such as its writer (CSV, NPY, QMNIST's labels)."""
    config: Annotated[Config, arg(name="")] = Config()


def main(arguments: Sequence[str]) -> int:
    """Runs a sweep, goes on with one, or shows its plan."""
    given = parse("sweep", SweepArguments, arguments)
    _check(given, arguments)
    config = config_of(given, arguments, "sweep")
    seeds = members.parse_seeds(given.seeds) if given.seeds else None
    grid = members.parse_grid(given.grid) if given.grid else None
    if seeds is not None:
        # Wrong seeds and grids are told before jax is loaded.
        members.make_members(Spec(config, seeds, grid or {}, given.vary))
    with directory_of(given, config, ending="-sweep", reads=given.plan) as run_dir:
        return _run(given, arguments, config, seeds, grid, run_dir)


def _run(
    given: SweepArguments,
    arguments: Sequence[str],
    config: Config,
    seeds: tuple[int, ...] | None,
    grid: dict[str, tuple[Any, ...]] | None,
    run_dir: Path,
) -> int:
    """Sweeps in a directory, or shows the plan, and reports."""
    require_jax()
    from rowrnn import parallel
    from rowrnn.lab import sweep as runner

    if given.resume:
        spec, saved = runner.reopen(given.resume, config, seeds, grid)
        settings = _settings(given, arguments, saved)
    else:
        spec = Spec(config, seeds or (), grid or {}, given.vary)
        settings = runner.SweepSettings(given.strategy, given.chunk, given.keep)
    if given.plan:
        made = runner.make_plan(spec, settings, given.resume)
        if parallel.is_process_0():
            _show_plan(made)
            given.answer(dataclasses.asdict(made))
        return 0
    known = _known_seeds(given.resume)
    result = runner.sweep(
        spec.config,
        spec.seeds,
        grid=spec.grid,
        vary=spec.vary,
        settings=settings,
        run_dir=None if given.resume else run_dir,
        resume=given.resume,
        overwrite=given.overwrite,
        groups=given.groups,
        tell=_show_plan,
    )
    if parallel.is_process_0():
        _report(result)
        if known and not known.issuperset(spec.seeds):
            say(_PEEKED.format(known=len(known)))
        tell_service(result.run_dir)
        report_at_end(result.run_dir)
        given.answer(result.summary)
    return PART_FAILED if result.failed else 0


def _check(given: SweepArguments, arguments: Sequence[str]) -> None:
    """Raises `ConfigError` where the arguments of a sweep do not go together."""
    if given.resume and given.vary != "both":
        raise ConfigError(f"--vary {given.vary}: a resumed sweep varies what it was started with")
    if not given.resume and not given.seeds:
        raise ConfigError("a sweep needs seeds: --seeds 0:64")
    if given.chunk is not None and given.chunk < 1:
        raise ConfigError(f"--chunk {shown(given.chunk)}: must be at least 1 member")
    # tyro would take the last of several, and none of an empty one.
    if sum(option == "--grid" for option, _ in given_options(arguments)) != bool(given.grid):
        raise ConfigError(
            "--grid: must be given once, with all its axes after it, such as "
            "--grid optimizer.learning_rate=1e-3,3e-3 model.hidden_size=64,128"
        )


def _known_seeds(path: Path | None) -> set[int]:
    """The seeds of a sweep whose results have been seen."""
    if path is None or not (path / "results.json").exists():
        return set()
    return set(members.read_sweep(path).seeds)


def _settings(
    given: SweepArguments, arguments: Sequence[str], saved: "SweepSettings"
) -> "SweepSettings":
    """Those of the sweep to resume, and in their place what is given now."""
    options = {option for option, _ in given_options(arguments)}
    names = [spec.name for spec in dataclasses.fields(saved) if f"--{spec.name}" in options]
    return dataclasses.replace(saved, **{name: getattr(given, name) for name in names})


def _show_plan(plan: "Plan") -> None:
    """A line for each group and one for all, on stderr."""
    points = f" at {plan.points} points" if plan.points > 1 else ""
    reused = "all" if plan.reused == plan.members else plan.reused
    known = f", {reused} of them recorded already" if plan.reused else ""
    lines = [f"Sweep of {count(plan.members, 'member')}{points}{known}"]
    if plan.examples:
        lines.append(
            f"{plan.strategy} on {count(plan.devices, 'device')}, "
            f"{count(plan.compilations, 'compilation')}, {count(plan.examples, 'example')}, "
            f"about {duration(plan.seconds)} without compiling"
        )
    for group in plan.groups if plan.examples else ():
        memory = ""
        if group.bytes_per_device is not None:
            memory = (
                f", {group.stack} at once in {group.bytes_per_device / 2**20:,.0f} MiB a device"
            )
        left = group.members - group.reused
        label = group.label or "all"
        lines.append(f"  {label}: {left} to run{memory}, about {duration(group.seconds)}")
    for line in lines:
        tell(plain(line), sys.stderr)


def _report(result: "SweepResult") -> None:
    """The statistics as a table, and where everything lies."""
    from rowrnn.lab.sweep import outcome

    summary = result.summary
    screen = console(stderr=True)
    names = list(result.members[0].varied)
    headings = [*map(members.short, names), "seeds", "mean", "95 % interval", "sd", "range"]
    rows = []
    for group in summary["groups"]:
        figures = ("-",) * 4
        if group["completed"]:
            low_high, sd = group["interval"], group["sd"]
            figures = (
                f"{group['mean']:.4f}",
                "-" if low_high is None else f"{low_high[0]:.4f} to {low_high[1]:.4f}",
                "-" if sd is None else f"{sd:.4f}",
                f"{group['min']:.4f} to {group['max']:.4f}",
            )
        values = (plain(str(group[name])) for name in names)
        rows.append((*values, str(group["completed"]), *figures))
    screen.print("\nTest accuracy over seeds")
    _print_table(screen, headings, rows)
    for line in outcome.in_words(result):
        tell(line, sys.stderr)
    for group in summary["groups"]:
        if group["completed"] and group["failure_rate"]:
            tell(_failures(group), sys.stderr)
    if summary["examples_per_s"]:
        throughput, time = summary["examples_per_s"], duration(summary["wall_s"])
        tell(f"{throughput:,.0f} seed·examples/s, {time} in all", sys.stderr)
    for record in result.failed:
        say(f"{record.name} diverged at step {record.steps}; it is in no statistic")
    tell_mixture(summary["machines"])
    kept = plain(str(result.run_dir))
    tell(
        f"The sweep is kept in {kept}: results.csv, points.csv, results.json, figures/", sys.stderr
    )


def _failures(group: dict[str, Any]) -> str:
    """How many seeds of a group failed, and which figures to read then."""
    low, high = group["failure_rate_interval"]
    where = f"{plain(group['point'])}: " if group["point"] else ""
    text = (
        f"{where}{group['failed'] + group['far_below']} of {group['members']} seeds failed "
        f"({percent(group['failure_rate'], 1)}, 95 % interval {percent(low, 1)} to "
        f"{percent(high, 1)}), "
        f"{group['failed']} diverged and {group['far_below']} far below the others. Read that "
        f"beside the interquartile mean, {group['iqm']:.4f}"
    )
    if group["iqm_interval"] is not None:
        text += " ({:.4f} to {:.4f})".format(*group["iqm_interval"])
    return f"{text}; the interval of the mean does not hold with failed seeds in it"


def _print_table(screen: "Console", headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table, closer where the terminal is narrow; a sentence for each row where it is too narrow.

    No figure is ever cut.
    """
    made = table(headings, rows)
    unbounded = screen.options.update(width=10_000)
    for close in (False, True):
        made.pad_edge, made.collapse_padding = not close, close
        if screen.measure(made, options=unbounded).maximum <= screen.width:
            show_trimmed(screen, made)
            return
    for row in rows:
        tell(", ".join(map(" ".join, zip(headings, row, strict=True))), sys.stderr)
