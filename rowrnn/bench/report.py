"""What a suite found, as tables that fit a terminal of 80 columns."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rowrnn.bench import record
from rowrnn.bench.compare import Comparison
from rowrnn.bench.timing import NOISY
from rowrnn.lab.shown import percent, show_trimmed

Document = Mapping[str, Any]
Entry = Mapping[str, Any]
Piece = str | Table

_CASE = ("backend", "mode", "hidden", "batch", "length", "seeds")


def show(document: Document, console: Console | None = None) -> None:
    """Prints a document of `rowrnn.bench.run`, on stderr where no console is given."""
    _print(pieces(document), console)


def pieces(document: Document) -> Iterator[Piece]:
    """What there is to say of a document: tables, and lines between them in rich's markup."""
    yield (
        f"[bold]bench {escape(document['suite'])}[/]  {escape(document['device_kind'])}, "
        f"{document['cores']} cores, jax {document['versions']['jax']}, "
        f"commit {(document['git_commit'] or 'unknown')[:12]}"
    )
    yield from _PIECES[document["suite"]](document)
    for entry in document["figures"]:
        if "wrong" in entry:
            reason = escape(f"{entry['name']}: {entry['wrong']}")
            yield f"[red]wrong, not timed:[/] {reason}"
    for line in _skipped(document):
        yield f"skipped: {escape(line)}"
    if noisy := len(document["noisy"]):
        yield (
            f"[yellow]warning:[/] {noisy} of {len(document['figures'])} figures, marked !, have "
            f"an IQR of more than {percent(NOISY)} of the median"
        )
    for line in document["warnings"]:
        yield f"[yellow]warning:[/] {escape(line)}"


def show_comparison(comparison: Comparison, console: Console | None = None) -> None:
    """Prints a comparison, the largest slowdown first; on stderr where no console is given."""
    _print(_comparison_pieces(comparison), console)


def _comparison_pieces(comparison: Comparison) -> Iterator[Piece]:
    for note in comparison.notes:
        yield f"note: {escape(note)}"
    changes = sorted(comparison.changes, key=lambda change: -change.slowdown)
    rows = [
        (
            escape(change.name),
            f"{100 * change.slowdown:+.1f} %",
            f"{100 * change.low:+.1f} to {100 * change.high:+.1f} %",
            "[red]regression[/]" if change.regressed else "",
        )
        for change in [*changes, comparison.overall]
    ]
    yield _table(("figure", "slower by", "interval", ""), rows)
    for name in comparison.newly_wrong:
        yield f"[red]wrong now, was right before:[/] {escape(name)}"
    verdict = "[red]slower than allowed[/]" if comparison.regressed else "no regression"
    yield f"{verdict} (allowed: {percent(comparison.fail_above)})"


def _print(found: Iterable[Piece], console: Console | None) -> None:
    console = console if console is not None else _stderr()
    for piece in found:
        show_trimmed(console, piece)


def _lstm_pieces(document: Document) -> Iterator[Piece]:
    groups = record.grouped(
        record.timed(document), lambda entry: (entry["case"]["type"], entry["case"]["rows"])
    )
    headings = ("backend", "mode", *"HBTS", "ms", "IQR", "examples/s", "TFLOP/s", "share")
    for (kind, rows), entries in groups.items():
        what = f"{document['settings']['features']} pixels" if rows == "pixels" else "H floats"
        yield f"\n{kind}, rows of {what}"
        yield _table(headings, [
            (
                *(str(entry["case"][key]) for key in _CASE), *_time(entry), _rate(entry),
                f"{entry['tflops']['executed']:.3f}", percent(entry["share_of_ceiling"]),
            )
            for entry in entries
        ])  # fmt: skip
    yield (
        "\nTFLOP/s and share: executed (folded) operations; the share is of the best product of "
        f"that type, {_rates(document['gemm_gflops'])}"
    )


def _train_pieces(document: Document) -> Iterator[Piece]:
    rows = [
        (
            entry["name"], *_time(entry), _rate(entry),
            f"{entry['tflops']['model']:.3f}", f"{entry['tflops']['executed']:.3f}",
            percent(entry["share_of_ceiling"])
            + " ({:.0f}-{:.0f} %)".format(*(100 * end for end in entry["share_interval"])),
        )
        for entry in record.timed(document)
    ]  # fmt: skip
    yield _table(("setting", "ms", "IQR", "examples/s", "model", "executed", "of sgemm"), rows)
    rates = f"sgemm {document['sgemm_gflops']:.0f} GFLOP/s"
    if document["one_core"]["sgemm_gflops"]:
        rates += f", on one core {document['one_core']['sgemm_gflops']:.0f}"
    yield f"model, executed: TFLOP/s. {rates}, timed in turns with each setting."
    if sweep := document.get("sweep"):
        yield f"a sweep, B={sweep['batch']}: {sweep['examples_per_s']['a sweep']:,.0f} examples/s"
        for rival, (median, low, high) in sweep["over"].items():
            yield f"  {median:.2f} times {rival} ({low:.2f}-{high:.2f})"
    if "program" in document:
        program = document["program"]
        reached = "reached" if program["reached"] else "not reached"
        watched = program["slope_examples_per_s"]
        watch = f"{watched:,.0f} by the watch" if watched else "the watch cannot tell, try again"
        yield (
            f"whole program: accuracy {percent(program['target'])} on mnist_sample {reached} "
            f"after {program['epochs']} epochs, {program['seconds_to_target']:.1f} s from the "
            f"shell; {program['reported_examples_per_s']:,.0f} examples/s by its own account, "
            + watch
        )


def _peers_pieces(document: Document) -> Iterator[Piece]:
    entries = {entry["name"]: entry for entry in record.timed(document)}
    rows = [
        (
            peer, batch, _rate(entries[f"rowrnn against {peer}, {batch}"]),
            _rate(entries[f"{peer}, {batch}"]), f"{median:.2f}×", f"{low:.2f} to {high:.2f}",
        )
        for peer, ratios in document["ratios"].items()
        for batch, (median, low, high) in ratios.items()
    ]  # fmt: skip
    yield _table(("rowrnn against", "batch", "rowrnn/s", "peer/s", "ratio", "interval"), rows)


def _startup_pieces(document: Document) -> Iterator[Piece]:
    rows = [
        (entry["name"], f"{entry['median']:.2f}", f"{entry['min']:.2f}", _spread(entry))
        for entry in record.timed(document)
    ]
    yield _table(("process", "median s", "min s", "IQR"), rows)
    rows = [
        (name, *(f"{stages[key]:.2f}" for key in ("trace_s", "lower_s", "backend_s")))
        for name, stages in document["compile"].items()
    ]
    yield _table(("program", "trace s", "lower s", "XLA s"), rows)


def _ceiling_pieces(document: Document) -> Iterator[Piece]:
    rows = [
        (
            entry["name"],
            *_time(entry),
            f"{entry['gflops']:,.0f}" if "gflops" in entry else "",
            f"{entry['gb_per_s']:,.0f}" if "gb_per_s" in entry else "",
        )
        for entry in record.timed(document)
    ]
    yield _table(("figure", "ms", "IQR", "GFLOP/s", "GB/s"), rows)
    copied = document["copy_gb_per_s"]
    copy = f"copy {copied:.0f} GB/s" if copied else ""
    yield f"best: {'; '.join(filter(None, (_rates(document['gemm_gflops']), copy)))}"


def _scaling_pieces(document: Document) -> Iterator[Piece]:
    headings = ("n", "p", "ms", "IQR", "× one", "interval", "efficiency", "sums", "MB", "sent MB")
    groups = record.grouped(record.timed(document), lambda entry: entry["group"])
    for group, entries in groups.items():
        yield f"\n{group}"
        yield _table(headings, [
            (
                str(entry["case"]["devices"]), str(entry["case"]["processes"]), *_time(entry),
                f"{entry['throughput_ratio'][0]:.2f}",
                "{1:.2f}-{2:.2f}".format(*entry["throughput_ratio"]),
                percent(entry["efficiency"]), f"{entry['collectives_per_step']:g}",
                f"{entry['bytes'] / 1e6:.2f}", f"{entry['wire_bytes'] / 1e6:.2f}",
            )
            for entry in entries
        ])  # fmt: skip
    yield (
        "\nn devices in p processes. × one: throughput over that of one device, pair by pair; "
        "efficiency: that over the devices. sums: collectives of a step, MB: of their operands "
        "on each device, read from the compiled program; sent: by each in a ring."
    )
    if document["platform"] == "cpu":
        yield (
            f"[bold]The devices are fake:[/] those beyond {document['cores']} cores share them, "
            "and efficiency is over the cores that a layout has. It shows what dividing the work "
            "costs; absolute figures on fake devices mean little."
        )


def _aot_pieces(document: Document) -> Iterator[Piece]:
    def number(value: Any) -> str:
        return "-" if value is None else f"{value:,}"

    def collectives(entry: Entry) -> str:
        if entry["collectives_per_step"] is None:
            return "-"
        size = f" of {entry['collective_bytes'] / 1e6:.2f} MB" if entry["collective_bytes"] else ""
        return f"{entry['collectives_per_step']}{size}"

    compiled = [entry for entry in document["figures"] if "program" in entry]
    headings = ("program", "kernels", "buffers", "cycles", "collectives", "fit", "compile s")
    for target, entries in record.grouped(compiled, lambda entry: entry["target"]).items():
        yield f"\n{escape(target)}"
        yield _table(headings, [
            (
                entry["program"] + " (host)" * (entry["on"] == "host"),
                number(entry["kernels_per_step"]), number(entry["command_buffers_per_step"]),
                number(entry["estimated_cycles"]), collectives(entry),
                number(entry["members_that_fit"]), f"{entry['compile_s']:.1f}",
            )
            for entry in entries
        ])  # fmt: skip
    for entry in document["figures"]:
        if "out_of_memory" in entry:
            yield f"[yellow]does not fit:[/] {escape(entry['name'])}"
    yield (
        "kernels, command buffers (CUDA graphs), collectives and cycles (the compiler's\n"
        "estimate, without Pallas kernels) of a step; fit: members in the memory of a device"
    )


_PIECES: dict[str, Callable[[Document], Iterator[Piece]]] = {
    "aot": _aot_pieces,
    "lstm": _lstm_pieces,
    "train": _train_pieces,
    "peers": _peers_pieces,
    "startup": _startup_pieces,
    "ceiling": _ceiling_pieces,
    "scaling": _scaling_pieces,
}


def _stderr() -> Console:
    return Console(stderr=True, highlight=False)


def _spread(entry: Entry) -> str:
    """IQR over median, marked where it is too wide to trust."""
    return f"{percent(entry['iqr'] / entry['median'])}{'!' if entry['noisy'] else ''}"


def _time(entry: Entry) -> tuple[str, str]:
    return f"{entry['median'] * 1e3:.3g}", _spread(entry)


def _rate(entry: Entry) -> str:
    return f"{entry['examples_per_s']:,.0f}"


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """A plain table, its first column to the left and the others to the right."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    first, *others = headings
    table.add_column(first, overflow="fold")
    for name in others:
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table


def _rates(rates: Mapping[str, float]) -> str:
    return ", ".join(f"{kind} {rate:,.0f} GFLOP/s" for kind, rate in rates.items())


def _skipped(document: Document) -> Sequence[str]:
    skipped = document.get("skipped", [])
    if isinstance(skipped, Mapping):
        return [f"{name}: {reason}" for name, reason in skipped.items()]
    return skipped
