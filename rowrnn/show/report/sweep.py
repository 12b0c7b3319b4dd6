"""What there is to show of a sweep, from its ledger: also of one that is not finished."""

import base64
import dataclasses
import functools
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rowrnn import config as configs
from rowrnn.errors import count
from rowrnn.figures import Drawing
from rowrnn.figures.drawing import WIDTH
from rowrnn.lab.over_images import ANOTHER_SEED, BOTH
from rowrnn.lab.shown import percent
from rowrnn.lab.sweep import outcome
from rowrnn.lab.sweep.outcome import SweepResult
from rowrnn.show.curves import Curve
from rowrnn.show.report import page
from rowrnn.show.report.page import Content, Table
from rowrnn.store import members, rundir
from rowrnn.store.ledger import Ledger, Record, machines_of, unpack
from rowrnn.store.members import Member, Spec

# Lines of a table that a reader still looks at.
_MOST_LINES = 200

_TITLES = {
    "accuracy": "Test accuracy",
    "first256": "The notebook's own figure: the first 256 test images",
    "train_loss": "Training loss",
    "validation_accuracy": "Validation accuracy",
    "grid": "Mean {part} accuracy by setting",
    "grid_lines": "Mean {part} accuracy along a setting",
}


def read_curves(path: Path) -> dict[str, dict[str, Curve]]:
    """The curves of a sweep by name and by point of its grid."""
    spec = members.read_sweep(path).spec(rundir.read_config(path))
    found, _ = Ledger(path / "members").read_all()
    return outcome.curves(_of_members(members.make_members(spec), found))


def read(path: Path) -> Content:
    """All that can be shown of a sweep; raises `RunError` where there is none."""
    start = members.read_sweep(path)
    spec = start.spec(rundir.read_config(path))
    everyone = members.make_members(spec)
    found, damaged = Ledger(path / "members").read_all()
    records = _of_members(everyone, found)
    missing = [f"Record {file.name}: it is damaged." for file in damaged]
    if left := len(everyone) - len(records):
        missing.append(
            f"{count(left, 'member')} of {len(everyone):,}: not trained yet. Go on with: "
            f"rowrnn sweep --resume {shlex.quote(str(path))}"
        )
    environment = page.read_environment(path, missing)
    sizes = _test_sizes(records)
    summary = outcome.summarize(records, max(sizes.values(), default=0))
    result = SweepResult(path, records, summary, sizes)
    drawn = _figures(result, spec)
    return Content(
        template="sweep.html",
        kind="sweep",
        title=path.resolve().name,
        verdict=_verdict(result, spec),
        missing=missing,
        parts={
            "figures": _key_figures(result, spec),
            "distributions": _present(drawn, "accuracy", "first256"),
            "statistics": _statistics(result),
            "curves": _present(drawn, "train_loss", "validation_accuracy"),
            "grid": _present(drawn, "grid_lines", "grid"),
            "failed": _failed(result.failed),
            "config": page.config_table(spec.config),
            "environment": page.facts(environment),
            "repeat": _repeat(path, spec, start.settings, environment),
        },
        draw=functools.partial(_figures, result, spec),
    )


def _of_members(everyone: Sequence[Member], found: Sequence[Record]) -> list[Record]:
    """The record of each member, the last where there are several, in the order of the sweep.

    Records that were made by other code than the last one, or on other data, do not count: a sweep
    that goes on trains those members again. A rowrnn that knows more settings has other digests;
    where all records were made by such a one, they are found by name and values of the grid.
    """
    if not found:
        return []
    asked = {(configs.digest(member.config), member.seed): member for member in everyone}
    found = [record for record in found if record.key.get("code") == found[-1].key.get("code")]
    by_config = {(str(record.key.get("config")), record.seed): record for record in found}
    data = {
        member.config.data: record.key.get("data")
        for record in found
        if (member := asked.get((str(record.key.get("config")), record.seed)))
    }
    current = [
        # The record has the name that the member had in the grid in which it was trained.
        dataclasses.replace(record, name=member.name, varied=dict(member.varied))
        for key, member in asked.items()
        if (record := by_config.get(key)) and record.key.get("data") == data[member.config.data]
    ]
    by_name = {(record.name, record.seed): record for record in found}
    return current or [
        by_name[member.name, member.seed]
        for member in everyone
        if (member.name, member.seed) in by_name
        and by_name[member.name, member.seed].varied == dict(member.varied)
    ]


def _test_sizes(records: Sequence[Record]) -> dict[str, int]:
    """Images in the test part by point of the grid; 0 for a point without finished members."""
    return {
        point: next(filter(None, map(_test_size, of_point)), 0)
        for point, of_point in outcome.by_point(records).items()
    }


def _test_size(record: Record) -> int:
    """Images in the test part, as the number and the share of right answers give it, or 0."""
    if not record.correct or not record.test_accuracy:
        return 0
    bits = len(base64.b64decode(record.correct)) * 8
    right = int(unpack(record.correct, bits).sum())
    size = round(min(right / record.test_accuracy, 1e9))
    # Packed bits are filled up to whole bytes. In a forged record nothing need fit.
    return size if 0 <= bits - size < 8 else 0


def _figures(result: SweepResult, spec: Spec, inches: float = WIDTH) -> dict[str, Drawing]:
    """The figures of the sweep by name, each with the title that it has in the page."""
    drawings: dict[str, Drawing] = {}

    def target(name: str) -> Drawing:
        return drawings.setdefault(name, Drawing(inches=inches))

    outcome.draw(result, "", target, notebook=outcome.is_notebook(spec.config))
    for name, drawing in drawings.items():
        part = "validation" if result.validation else "test"
        drawing.title = _TITLES[name].format(part=part)
    return drawings


def _present(drawn: dict[str, Drawing], *names: str) -> list[Drawing]:
    return [drawn[name] for name in names if name in drawn]


def _verdict(result: SweepResult, spec: Spec) -> str:
    """The main thing, in one sentence."""
    summary, failed = result.summary, len(result.failed)
    place = spec.config.data
    name = configs.data_name(place.dataset, place.dir)
    data = "" if "data.dataset" in spec.grid else f" on {name}"
    members_ = count(len(result.members), "member")
    if not summary["completed"]:
        ended = "all have diverged" if failed else "none has finished yet"
        return f"{members_}{data}: {ended}."
    points = outcome.by_point(result.members)
    statistics = result.statistics
    best = result.selected or next(iter(statistics))
    one = statistics[best]
    seeds = count(one.count, "seed")
    text = f"Over {seeds}{data} the mean test accuracy is {percent(one.mean, 2)}"
    if len(points) > 1:
        if len(statistics) == 1:
            text = (
                f"Of {len(points):,} settings{data}, {best} alone has finished: mean test accuracy "
                f"{percent(one.mean, 2)} over {seeds}"
            )
        elif result.selected is None:
            means = [summary.mean for summary in statistics.values()]
            return (
                f"{len(points):,} settings{data}: mean test accuracy {percent(min(means), 2)} to "
                f"{percent(max(means), 2)}. {outcome.about_selection(result)}."
            )
        else:
            text = (
                f"Of {len(points):,} settings{data}, {best} has the highest mean validation "
                f"accuracy, {percent(result.validation[best].mean, 2)}; over {seeds} its mean test "
                f"accuracy is {percent(one.mean, 2)}"
            )
    if one.interval is not None:
        text += f" ({page.interval(one.interval)} for another seed on these images"
        if best in result.over_images:
            text += f", {page.bounds_of(result.over_images[best])} on other images"
        text += ")"
    if one.count > 1:
        text += f"; single seeds lie between {percent(one.min, 2)} and {percent(one.max, 2)}"
    if failed:
        text += f"; {failed:,} of {members_} diverged"
    if len(machines := machines_of(result.members)) > 1:
        text += f"; trained on {len(machines)} kinds of machine ({'; '.join(machines)})"
    return f"{text}."


def _key_figures(result: SweepResult, spec: Spec) -> list[tuple[str, str, str]]:
    summary, statistics = result.summary, result.statistics
    found = [("Members", f"{len(result.members):,}", f"{summary['completed']:,} finished")]
    if len(statistics) == 1:
        (one,) = statistics.values()
        if one.interval is not None:
            found += [
                ("Mean", percent(one.mean, 2), f"{page.interval(one.interval)}, {ANOTHER_SEED}"),
                *(
                    ("With other images", page.bounds_of(both), f"95 % interval, {BOTH}")
                    for both in result.over_images.values()
                ),
                ("Standard deviation", f"{100 * (one.sd or 0):.2f}", "points, over seeds"),
            ]
        found.append(
            ("Median", percent(one.median, 2), f"interquartile mean {percent(one.iqm, 2)}")
        )
    decides = {
        "both": "everything",
        "init": "the initial parameters",
        "data": "all but the initial parameters",
    }[spec.vary]
    found.append(("Seeds", f"{len(spec.seeds):,}", f"a seed decides {decides}"))
    return found


def _statistics(result: SweepResult) -> Table:
    """A line for each point of the grid."""
    points = outcome.by_point(result.members)
    names = [members.short(name) for name in result.members[0].varied] if result.members else []
    headings = [*names, "seeds", "mean", "95 % interval", "with other images", "sd", "median",
                "IQM", "lowest", "highest", "failed"]  # fmt: skip
    rows = []
    for point, records in list(points.items())[:_MOST_LINES]:
        summary = outcome.summarize(records, result.test_size.get(point, 0))
        both = result.over_images.get(point)
        figures = ("–",) * 8
        if summary["completed"]:
            interval, sd = summary["interval"], summary["sd"]
            figures = (
                f"{summary['mean']:.4f}",
                "–" if interval is None else f"{interval[0]:.4f} to {interval[1]:.4f}",
                "–" if both is None else f"{both[0]:.4f} to {both[1]:.4f}",
                "–" if sd is None else f"{sd:.4f}",
                f"{summary['median']:.4f}",
                _around(summary["iqm"], summary["iqm_interval"]),
                f"{summary['min']:.4f} (seed {summary['min_seed']})",
                f"{summary['max']:.4f} (seed {summary['max_seed']})",
            )
        values = [str(value) for value in records[0].varied.values()]
        failed = str(summary["failed"])
        if summary["far_below"]:
            failed += f", and {summary['far_below']:,} far below: read the IQM"
        rows.append([*values, f"{summary['completed']:,}", *figures, failed])
    about = "".join(f"{line}. " for line in outcome.in_words(result))
    return Table(headings, rows, about.rstrip())


def _around(value: float, interval: tuple[float, float] | None) -> str:
    if interval is None:
        return f"{value:.4f}"
    return f"{value:.4f} ({interval[0]:.4f} to {interval[1]:.4f})"


def _failed(failed: Sequence[Record]) -> Table | None:
    if not failed:
        return None
    rows = [[record.name, f"{record.steps:,}"] for record in failed[:_MOST_LINES]]
    more = len(failed) - len(rows)
    caption = "They are in no statistic." + (f" {more:,} more are not shown." if more else "")
    return Table(["member", "diverged at step"], rows, caption)


def _repeat(
    path: Path, spec: Spec, settings: dict[str, Any], environment: dict[str, Any]
) -> list[str]:
    """The commands that repeat a sweep."""
    first, last = min(spec.seeds), max(spec.seeds)
    in_a_row = list(spec.seeds) == list(range(first, last + 1))
    seeds = f"{first}:{last + 1}" if in_a_row else ",".join(map(str, spec.seeds))
    words = ["rowrnn", "sweep", str(path / "config.toml"), "--seeds", seeds]
    if spec.grid:
        axes = (f"{name}={','.join(map(str, values))}" for name, values in spec.grid.items())
        words += ["--grid", *axes]
    if spec.vary != "both":
        words += ["--vary", spec.vary]
    # The strategy decides the last bits. Nothing but these two words may get into a shell.
    if (strategy := settings.get("strategy")) in ("map", "vmap"):
        words += ["--strategy", strategy]
    return [*page.checkout(environment), shlex.join([*words, "--run-dir", "AGAIN"])]
