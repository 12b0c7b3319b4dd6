"""The plots of a suite, as PNG beside its JSON."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from rowrnn.figures import drawing
from rowrnn.figures.frame import COLOURS

Entry = Mapping[str, Any]

# They say once more what colours say.
_MARKERS = "osD^vPX*"


def save(document: Mapping[str, Any], out: Path) -> list[Path]:
    """Draws what a document has to show; returns the files written, named after `out`."""
    paths = []
    for name, figure in figures(document).items():
        path = out.with_name(f"{out.stem}-{name}.png")
        drawing.save(figure, path)
        paths.append(path)
    return paths


def figures(document: Mapping[str, Any]) -> dict[str, Figure]:
    """What a document has to show, by name."""
    found: dict[str, Figure | None] = {}
    match document["suite"]:
        case "lstm":
            found["batch"] = throughput(document, "batch", "hidden")
            found["hidden"] = throughput(document, "hidden", "batch")
            found["roofline"] = roofline(document)
        case "train":
            found["throughput"] = bars(document)
        case "peers":
            found["ratios"] = ratios(document)
        case "ceiling":
            found["products"] = products(document)
        case "scaling":
            found["ratios"] = scaling(document)
    return {name: figure for name, figure in found.items() if figure is not None}


def throughput(document: Mapping[str, Any], along: str, fixed: str) -> Figure | None:
    """Examples per second of training along an axis of the grid, the other near 128."""
    entries = [
        entry
        for entry in _timed(document)
        if entry["case"]["mode"] == "training" and entry["case"]["rows"] == "pixels"
    ]
    values = {entry["case"][fixed] for entry in entries}
    if len({entry["case"][along] for entry in entries}) < 2:
        return None
    at = min(values, key=lambda value: abs(value - 128))
    lines: dict[str, list[Entry]] = {}
    for entry in entries:
        case = entry["case"]
        if case[fixed] == at:
            seeds = f", {case['seeds']} seeds" if case["seeds"] > 1 else ""
            lines.setdefault(f"{case['backend']} {case['type']}{seeds}", []).append(entry)
    words = {"batch": "batch size B", "hidden": "hidden size H"}
    figure, axes = _figure(f"LSTM, forward and backward, {words[fixed]} = {at}", document)
    for index, (label, line) in enumerate(sorted(lines.items())):
        line = sorted(line, key=lambda entry: entry["case"][along])
        axes.plot(
            [entry["case"][along] for entry in line],
            [entry["examples_per_s"] for entry in line],
            label=label,
            **_style(index),
        )
    axes.set(xscale="log", yscale="log", xlabel=words[along], ylabel="examples/s")
    ticks = sorted({entry["case"][along] for entry in entries})
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    _label_decades(axes.yaxis)
    _legend_below(axes)
    return figure


def roofline(document: Mapping[str, Any]) -> Figure | None:
    """Executed operations per second against operations per byte, under the measured limits.

    Bytes are the least that a program must move: arguments and results once, temporaries written
    and read. Caches may serve them faster than the copy bandwidth, so a point can lie above the
    slope, but none above the flat part.
    """
    entries = [entry for entry in _timed(document) if "peak" in entry["memory"]]
    if not entries:
        return None
    figure, axes = _figure("Roofline", document)
    groups: dict[str, list[tuple[float, float]]] = {}
    for entry in entries:
        memory = entry["memory"]
        moved = memory["arguments"] + memory["results"] + 2 * memory["temporaries"]
        operations = entry["tflops"]["executed"] * 1e12 * entry["median"]
        case = entry["case"]
        point = (operations / moved, entry["tflops"]["executed"] * 1e3)
        groups.setdefault(f"{case['backend']} {case['mode']} {case['type']}", []).append(point)
    for index, (label, points) in enumerate(sorted(groups.items())):
        style = _style(index, linestyle="none", alpha=0.8)
        axes.plot(*zip(*points, strict=True), label=label, **style)
    intensities = [point[0] for points in groups.values() for point in points]
    peaks = dict(sorted(document["gemm_gflops"].items(), key=lambda item: -item[1]))
    bandwidth = document["copy_gb_per_s"]
    knees = [peak / bandwidth for peak in peaks.values()]
    left, right = min(*intensities, *knees) / 3, 2 * max(*intensities, *knees)
    for index, ((kind, peak), knee) in enumerate(zip(peaks.items(), knees, strict=True)):
        xs, ys = [left, knee, right], [bandwidth * left, peak, peak]
        axes.plot(xs, ys, color="0.35", linestyle=("-", "--", ":")[index % 3], linewidth=1.2)
        # The highest is labelled above its line, the others below: they may lie close together.
        above = index == 0
        axes.annotate(
            f"{kind} products, {peak:,.0f} GFLOP/s", (right, peak), fontsize=8, color="0.25",
            xytext=(0, 3 if above else -3), textcoords="offset points", ha="right",
            va="bottom" if above else "top",
        )  # fmt: skip
    axes.set(
        xscale="log", yscale="log", xlabel="operations per byte moved", ylabel="GFLOP/s, executed"
    )
    _label_decades(axes.xaxis)
    _label_decades(axes.yaxis)
    _legend_below(axes)
    return figure


def bars(document: Mapping[str, Any]) -> Figure:
    """Examples per second of each setting, with the interquartile range."""
    entries = _timed(document)
    figure, axes = _figure(
        "Training step and evaluation", document, height=1.4 + 0.4 * len(entries)
    )
    for place, entry in enumerate(reversed(entries)):
        rate = entry["examples_per_s"]
        spread = rate * entry["iqr"] / entry["median"] / 2
        colour = COLOURS[0] if entry["case"]["mode"] == "train" else COLOURS[4]
        axes.barh(place, rate, xerr=spread, color=colour, height=0.65, ecolor="0.2")
        axes.annotate(
            f"{rate:,.0f}  ({entry['share_of_ceiling']:.0%} of sgemm)", (rate + spread, place),
            xytext=(4, 0), textcoords="offset points", va="center", fontsize=8,
        )  # fmt: skip
    axes.set_yticks(range(len(entries)), [entry["name"] for entry in reversed(entries)])
    axes.set_xlabel("examples/s ± half of the interquartile range")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    # Room for the text beside the longest bar.
    axes.set_xlim(0, 1.6 * max(entry["examples_per_s"] for entry in entries))
    axes.grid(visible=False, axis="y")
    return figure


def ratios(document: Mapping[str, Any]) -> Figure | None:
    """How many times faster rowrnn is than each peer, with the interval of the paired ratios."""
    if not document["ratios"]:
        return None
    rows = [
        (f"{peer}, {batch}", batch, ratio)
        for peer, batches in document["ratios"].items()
        for batch, ratio in batches.items()
    ]
    figure, axes = _figure("rowrnn's throughput over the peer's", document, 1.4 + 0.32 * len(rows))
    order = list(dict.fromkeys(batch for _, batch, _ in rows))
    for place, (_, batch, (median, low, high)) in enumerate(reversed(rows)):
        style = _style(order.index(batch), capsize=3)
        axes.errorbar(median, place, xerr=[[median - low], [high - median]], **style)
        axes.annotate(
            f"{median:.2f}×", (high, place), xytext=(6, 0), textcoords="offset points",
            va="center", fontsize=8,
        )  # fmt: skip
    axes.axvline(1, color="0.35", linewidth=1)
    axes.set_yticks(range(len(rows)), [label for label, _, _ in reversed(rows)])
    axes.set_xlim(0, 1.15 * max(high for _, _, (_, _, high) in rows))
    axes.set_xlabel("median ratio of the pairs, with an interval of at least 90 %")
    return figure


def products(document: Mapping[str, Any]) -> Figure:
    """The rate of each matrix product."""
    entries = [entry for entry in _timed(document) if "gflops" in entry]
    figure, axes = _figure("Matrix products", document)
    groups: dict[str, list[tuple[float, float]]] = {}
    for entry in entries:
        m, k, n = entry["case"]["shape"]
        where = "one core" if entry["name"].startswith("one core") else "all cores"
        label = f"{entry['case']['type']}, {where}"
        groups.setdefault(label, []).append((2 * m * k * n, entry["gflops"]))
    for index, (label, points) in enumerate(groups.items()):
        # Open, so that none hides another.
        style = _style(index, linestyle="none", markerfacecolor="none")
        axes.plot(*zip(*points, strict=True), label=label, **style)
    axes.set(xscale="log", xlabel="operations in the product", ylabel="GFLOP/s")
    axes.set_ylim(0, 1.1 * max(entry["gflops"] for entry in entries))
    _legend_below(axes)
    return figure


def scaling(document: Mapping[str, Any]) -> Figure | None:
    """Throughput over that of one device against the number of devices, with its interval."""
    lines: dict[str, list[Entry]] = {}
    for entry in _timed(document):
        processes = entry["case"]["processes"]
        label = f"{entry['group']}, {processes} process{'es' if processes > 1 else ''}"
        lines.setdefault(label, []).append(entry)
    if not lines:
        return None
    figure, axes = _figure("Throughput over that of one device", document, height=5.6)
    groups = list(dict.fromkeys(line[0]["group"] for line in lines.values()))
    for label, line in lines.items():
        medians, lows, highs = zip(*(entry["throughput_ratio"] for entry in line), strict=True)
        errors = [
            [median - low for median, low in zip(medians, lows, strict=True)],
            [high - median for median, high in zip(medians, highs, strict=True)],
        ]
        devices = [entry["case"]["devices"] for entry in line]
        dashed = "--" if line[0]["case"]["processes"] > 1 else "-"
        style = _style(groups.index(line[0]["group"]), linestyle=dashed, capsize=2)
        axes.errorbar(devices, medians, errors, label=label, **style)
    ticks = sorted({entry["case"]["devices"] for entry in _timed(document)})
    workers = [
        next(e["workers"] for e in _timed(document) if e["case"]["devices"] == n) for n in ticks
    ]
    axes.plot(ticks, workers, color="0.35", linewidth=1, linestyle=":", label="ideal")
    fake = ": fake ones, which share the cores" if document["platform"] == "cpu" else ""
    axes.set(xscale="log", yscale="log", xlabel=f"devices{fake}", ylabel="times one device")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    _label_decades(axes.yaxis)
    _legend_below(axes)
    return figure


def _figure(title: str, document: Mapping[str, Any], height: float = 4.4) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(7, height), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_title(title, fontsize=11, loc="left")
    axes.grid(visible=True, color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    where = f"{document['device_kind']}, {document['cores']} cores, {document['date'][:10]}"
    commit = (document["git_commit"] or "unknown")[:12]
    figure.supxlabel(f"{where}, commit {commit}", fontsize=7, color="0.4")
    return figure, axes


def _label_decades(axis: Axis) -> None:
    """Labels 1, 2 and 5 of each decade in plain numbers."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter("{x:,g}")


def _legend_below(axes: Axes) -> None:
    """A legend under the axes, where it hides no point."""
    axes.legend(fontsize=8, frameon=False, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.13))


def _style(index: int, **changes: Any) -> dict[str, Any]:
    return {
        "color": COLOURS[index % len(COLOURS)],
        "marker": _MARKERS[index % len(_MARKERS)],
        "markersize": 5,
        "linewidth": 1.4,
    } | changes


def _timed(document: Mapping[str, Any]) -> Sequence[Entry]:
    return [entry for entry in document["figures"] if "samples" in entry]
