"""The plots of a suite, as PNG beside its JSON."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from rowrnn.bench import record
from rowrnn.figures import drawing, frame
from rowrnn.figures.frame import COLOURS
from rowrnn.lab.shown import percent

Document = Mapping[str, Any]

# They say once more what colours say.
_MARKERS = "osD^vPX*"


def save(document: Document, out: Path) -> list[Path]:
    """Draws what a document has to show; returns the files written, named after `out`."""
    paths = []
    for name, figure in figures(document).items():
        path = out.with_name(f"{out.stem}-{name}.png")
        drawing.save(figure, path)
        paths.append(path)
    return paths


def figures(document: Document) -> dict[str, Figure]:
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


def throughput(document: Document, along: str, fixed: str) -> Figure | None:
    """Examples per second of training along an axis of the grid, the other near 128."""
    entries = [
        entry
        for entry in record.timed(document)
        if entry["case"]["mode"] == "training" and entry["case"]["rows"] == "pixels"
    ]
    ticks = {entry["case"][along] for entry in entries}
    if len(ticks) < 2:
        return None
    at = min((entry["case"][fixed] for entry in entries), key=lambda value: abs(value - 128))

    def label(entry: Mapping[str, Any]) -> str:
        case = entry["case"]
        seeds = f", {case['seeds']} seeds" if case["seeds"] > 1 else ""
        return f"{case['backend']} {case['type']}{seeds}"

    lines = record.grouped((each for each in entries if each["case"][fixed] == at), label)
    words = {"batch": "batch size B", "hidden": "hidden size H"}
    figure, axes = _figure(f"LSTM, forward and backward, {words[fixed]} = {at}", document)
    for index, (name, line) in enumerate(sorted(lines.items())):
        points = sorted((entry["case"][along], entry["examples_per_s"]) for entry in line)
        axes.plot(*zip(*points, strict=True), label=name, **_style(index))
    axes.set(xscale="log", yscale="log", xlabel=words[along], ylabel="examples/s")
    _label_ticks(axes.xaxis, ticks)
    _label_decades(axes.yaxis)
    _legend_below(axes)
    return figure


def roofline(document: Document) -> Figure | None:
    """Executed operations per second against operations per byte, under the measured limits.

    Bytes are the least that a program must move: arguments and results once, temporaries written
    and read. Caches may serve them faster than the copy bandwidth, so a point can lie above the
    slope, but none above the flat part.
    """
    entries = [entry for entry in record.timed(document) if "peak" in entry["memory"]]
    if not entries:
        return None

    def point(entry: Mapping[str, Any]) -> tuple[float, float]:
        memory = entry["memory"]
        moved = memory["arguments"] + memory["results"] + 2 * memory["temporaries"]
        operations = entry["tflops"]["executed"] * 1e12 * entry["median"]
        return operations / moved, entry["tflops"]["executed"] * 1e3

    figure, axes = _figure("Roofline", document)
    groups = record.grouped(
        entries, lambda entry: "{backend} {mode} {type}".format(**entry["case"])
    )
    for index, (name, group) in enumerate(sorted(groups.items())):
        style = _style(index, linestyle="none", alpha=0.8)
        axes.plot(*zip(*map(point, group), strict=True), label=name, **style)
    _draw_limits(axes, document, [point(entry)[0] for entry in entries])
    axes.set(
        xscale="log", yscale="log", xlabel="operations per byte moved", ylabel="GFLOP/s, executed"
    )
    _label_decades(axes.xaxis)
    _label_decades(axes.yaxis)
    _legend_below(axes)
    return figure


def _draw_limits(axes: Axes, document: Document, intensities: list[float]) -> None:
    """What copies and the products of each type allow."""
    peaks = sorted(document["gemm_gflops"].items(), key=lambda item: -item[1])
    bandwidth = document["copy_gb_per_s"]
    knees = [peak / bandwidth for _, peak in peaks]
    left, right = min(*intensities, *knees) / 3, 2 * max(*intensities, *knees)
    for index, ((kind, peak), knee) in enumerate(zip(peaks, knees, strict=True)):
        xs, ys = [left, knee, right], [bandwidth * left, peak, peak]
        axes.plot(xs, ys, color="0.35", linestyle=("-", "--", ":")[index % 3], linewidth=1.2)
        # The highest is labelled above its line, the others below: they may lie close together.
        above = index == 0
        axes.annotate(
            f"{kind} products, {peak:,.0f} GFLOP/s", (right, peak), fontsize=8, color="0.25",
            xytext=(0, 3 if above else -3), textcoords="offset points", ha="right",
            va="bottom" if above else "top",
        )  # fmt: skip


def bars(document: Document) -> Figure:
    """Examples per second of each setting, with the interquartile range."""
    entries = record.timed(document)[::-1]
    figure, axes = _figure("Training step and evaluation", document, 1.4 + 0.4 * len(entries))
    for place, entry in enumerate(entries):
        rate = entry["examples_per_s"]
        spread = rate * entry["iqr"] / entry["median"] / 2
        colour = COLOURS[0] if entry["case"]["mode"] == "train" else COLOURS[4]
        axes.barh(place, rate, xerr=spread, color=colour, height=0.65, ecolor="0.2")
        text = f"{rate:,.0f}  ({percent(entry['share_of_ceiling'])} of sgemm)"
        _beside(axes, rate + spread, place, text)
    axes.set_yticks(range(len(entries)), [entry["name"] for entry in entries])
    axes.set_xlabel("examples/s ± half of the interquartile range")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    # Room for the text beside the longest bar.
    axes.set_xlim(0, 1.6 * max(entry["examples_per_s"] for entry in entries))
    axes.grid(visible=False, axis="y")
    return figure


def ratios(document: Document) -> Figure | None:
    """How many times faster rowrnn is than each peer, with the interval of the paired ratios."""
    if not document["ratios"]:
        return None
    rows = [
        (f"{peer}, {batch}", batch, ratio)
        for peer, batches in document["ratios"].items()
        for batch, ratio in batches.items()
    ][::-1]
    figure, axes = _figure("rowrnn's throughput over the peer's", document, 1.4 + 0.32 * len(rows))
    order = list(dict.fromkeys(batch for _, batch, _ in rows[::-1]))
    for place, (_, batch, (median, low, high)) in enumerate(rows):
        style = _style(order.index(batch), capsize=3)
        axes.errorbar(median, place, xerr=[[median - low], [high - median]], **style)
        _beside(axes, high, place, f"{median:.2f}×")
    axes.axvline(1, color="0.35", linewidth=1)
    axes.set_yticks(range(len(rows)), [label for label, _, _ in rows])
    axes.set_xlim(0, 1.15 * max(high for _, _, (_, _, high) in rows))
    axes.set_xlabel("median ratio of the pairs, with an interval of at least 90 %")
    return figure


def products(document: Document) -> Figure:
    """The rate of each matrix product."""

    def label(entry: Mapping[str, Any]) -> str:
        where = "one core" if entry["name"].startswith("one core") else "all cores"
        return f"{entry['case']['type']}, {where}"

    entries = [entry for entry in record.timed(document) if "gflops" in entry]
    figure, axes = _figure("Matrix products", document)
    for index, (name, group) in enumerate(record.grouped(entries, label).items()):
        operations = [2 * m * k * n for m, k, n in (entry["case"]["shape"] for entry in group)]
        # Open, so that none hides another.
        style = _style(index, linestyle="none", markerfacecolor="none")
        axes.plot(operations, [entry["gflops"] for entry in group], label=name, **style)
    axes.set(xscale="log", xlabel="operations in the product", ylabel="GFLOP/s")
    axes.set_ylim(0, 1.1 * max(entry["gflops"] for entry in entries))
    _legend_below(axes)
    return figure


def scaling(document: Document) -> Figure | None:
    """Throughput over that of one device against the number of devices, with its interval."""

    def label(entry: Mapping[str, Any]) -> str:
        processes = entry["case"]["processes"]
        return f"{entry['group']}, {processes} process{'es' if processes > 1 else ''}"

    entries = record.timed(document)
    if not entries:
        return None
    figure, axes = _figure("Throughput over that of one device", document, height=5.6)
    groups = list(dict.fromkeys(entry["group"] for entry in entries))
    for name, line in record.grouped(entries, label).items():
        devices = [entry["case"]["devices"] for entry in line]
        medians, lows, highs = zip(*(entry["throughput_ratio"] for entry in line), strict=True)
        below = [median - low for median, low in zip(medians, lows, strict=True)]
        above = [high - median for median, high in zip(medians, highs, strict=True)]
        dashed = "--" if line[0]["case"]["processes"] > 1 else "-"
        style = _style(groups.index(line[0]["group"]), linestyle=dashed, capsize=2)
        axes.errorbar(devices, medians, [below, above], label=name, **style)
    ideal = sorted({entry["case"]["devices"]: entry["workers"] for entry in entries}.items())
    style = {"color": "0.35", "linewidth": 1, "linestyle": ":", "label": "ideal"}
    axes.plot(*zip(*ideal, strict=True), **style)
    fake = ": fake ones, which share the cores" if document["platform"] == "cpu" else ""
    axes.set(xscale="log", yscale="log", xlabel=f"devices{fake}", ylabel="times one device")
    _label_ticks(axes.xaxis, [devices for devices, _ in ideal])
    _label_decades(axes.yaxis)
    _legend_below(axes)
    return figure


def _figure(title: str, document: Document, height: float = 4.4) -> tuple[Figure, Axes]:
    figure, axes = frame.begin(title, 7, height)
    commit = (document["git_commit"] or "unknown")[:12]
    frame.caption(
        figure,
        f"{document['device_kind']}, {document['cores']} cores, {document['date'][:10]}, "
        f"commit {commit}",
    )
    return figure, axes


def _beside(axes: Axes, x: float, y: float, text: str) -> None:
    """Small text to the right of a point."""
    place: Any = {"xytext": (5, 0), "textcoords": "offset points", "va": "center"}
    axes.annotate(text, (x, y), fontsize=8, **place)


def _label_ticks(axis: Axis, values: Iterable[int]) -> None:
    """Labels these values alone, in plain numbers."""
    axis.set_minor_locator(NullLocator())
    axis.set_ticks(sorted(values), [str(value) for value in sorted(values)])


def _label_decades(axis: Axis) -> None:
    """Labels 1, 2 and 5 of each decade in plain numbers."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter("{x:,g}")


def _legend_below(axes: Axes) -> None:
    """A legend under the axes, where it hides no point."""
    axes.legend(fontsize=8, frameon=False, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.15))


def _style(index: int, **changes: Any) -> dict[str, Any]:
    return {
        "color": COLOURS[index % len(COLOURS)],
        "marker": _MARKERS[index % len(_MARKERS)],
        "markersize": 5,
        "linewidth": 1.4,
    } | changes
