"""What a suite found, as tables that fit a terminal of 80 columns."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rowrnn.bench.compare import Comparison
from rowrnn.bench.timing import NOISY

Document = Mapping[str, Any]
Piece = str | Table


def show(document: Document, console: Console | None = None) -> None:
    """Prints a document of `rowrnn.bench.run`, on stderr where no console is given."""
    console = console if console is not None else _stderr()
    for piece in pieces(document):
        console.print(piece)


def pieces(document: Document) -> Iterator[Piece]:
    """What there is to say of a document: tables, and lines between them in rich's markup."""
    yield (
        f"[bold]bench {escape(document['suite'])}[/]  {escape(document['device_kind'])}, "
        f"{document['cores']} cores, jax {document['versions']['jax']}, "
        f"commit {(document['git_commit'] or 'unknown')[:12]}"
    )
    yield from _TABLES[document["suite"]](document)
    for entry in document["figures"]:
        if "wrong" in entry:
            reason = escape(f"{entry['name']}: {entry['wrong']}")
            yield f"[red]wrong, not timed:[/] {reason}"
    for line in _skipped(document):
        yield f"skipped: {escape(line)}"
    if noisy := len(document["noisy"]):
        yield (
            f"[yellow]warning:[/] {noisy} of {len(document['figures'])} figures, marked !, have "
            f"an IQR of more than {NOISY:.0%} of the median"
        )
    for line in document["warnings"]:
        yield f"[yellow]warning:[/] {escape(line)}"


def show_comparison(comparison: Comparison, console: Console | None = None) -> None:
    """Prints a comparison, the largest slowdown first."""
    console = console if console is not None else _stderr()
    for note in comparison.notes:
        console.print(f"note: {escape(note)}")
    table = _table("figure", "slower by", "interval", "")
    changes = sorted(comparison.changes, key=lambda change: -change.slowdown)
    for change in [*changes, comparison.overall]:
        table.add_row(
            escape(change.name),
            f"{change.slowdown:+.1%}",
            f"{change.low:+.1%} to {change.high:+.1%}",
            "[red]regression[/]" if change.regressed else "",
        )
    console.print(table)
    for name in comparison.newly_wrong:
        console.print(f"[red]wrong now, was right before:[/] {name}")
    verdict = "[red]slower than allowed[/]" if comparison.regressed else "no regression"
    console.print(f"{verdict} (allowed: {comparison.fail_above:.0%})")


def _lstm_pieces(document: Document) -> Iterator[Piece]:
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for entry in _timed(document):
        groups.setdefault((entry["case"]["type"], entry["case"]["rows"]), []).append(entry)
    for (kind, rows), entries in groups.items():
        table = _table("backend", "mode", *"HBTS", "ms", "IQR", "examples/s", "TFLOP/s", "share")
        for entry in entries:
            case = entry["case"]
            table.add_row(
                case["backend"],
                case["mode"],
                *(str(case[key]) for key in ("hidden", "batch", "length", "seeds")),
                f"{entry['median'] * 1e3:.3g}",
                _spread(entry),
                f"{entry['examples_per_s']:,.0f}",
                f"{entry['tflops']['executed']:.3f}",
                f"{entry['share_of_ceiling']:.0%}",
            )
        what = f"{document['settings']['features']} pixels" if rows == "pixels" else "H floats"
        yield f"\n{kind}, rows of {what}"
        yield table
    yield (
        "\nTFLOP/s and share: executed (folded) operations; the share is of the best product of "
        f"that type, {_rates(document['gemm_gflops'])}"
    )


def _train_pieces(document: Document) -> Iterator[Piece]:
    table = _table("setting", "ms", "IQR", "examples/s", "model", "executed", "of sgemm")
    for entry in _timed(document):
        low, high = entry["share_interval"]
        table.add_row(
            entry["name"],
            f"{entry['median'] * 1e3:.3g}",
            _spread(entry),
            f"{entry['examples_per_s']:,.0f}",
            f"{entry['tflops']['model']:.3f}",
            f"{entry['tflops']['executed']:.3f}",
            f"{entry['share_of_ceiling']:.0%} ({low:.0%}-{high:.0%})",
        )
    yield table
    rates = f"sgemm {document['sgemm_gflops']:.0f} GFLOP/s"
    if document["one_core"]["sgemm_gflops"]:
        rates += f", on one core {document['one_core']['sgemm_gflops']:.0f}"
    yield f"model, executed: TFLOP/s. {rates}, timed in turns with each setting."
    if document.get("sweep"):
        yield from _sweep_pieces(document["sweep"])
    if "program" in document:
        yield from _program_pieces(document["program"])


def _sweep_pieces(sweep: Mapping[str, Any]) -> Iterator[Piece]:
    yield f"a sweep, B={sweep['batch']}: {sweep['examples_per_s']['a sweep']:,.0f} examples/s"
    for rival, (median, low, high) in sweep["over"].items():
        yield f"  {median:.2f} times {rival} ({low:.2f}-{high:.2f})"


def _program_pieces(program: Mapping[str, Any]) -> Iterator[Piece]:
    reached = "reached" if program["reached"] else "not reached"
    yield (
        f"whole program: accuracy {program['target']:.0%} on mnist_sample {reached} after "
        f"{program['epochs']} epochs, {program['seconds_to_target']:.1f} s from the shell; "
        f"{program['reported_examples_per_s']:,.0f} examples/s by its own account, "
        f"{program['slope_examples_per_s']:,.0f} by the watch"
    )


def _peers_pieces(document: Document) -> Iterator[Piece]:
    table = _table("rowrnn against", "batch", "rowrnn/s", "peer/s", "ratio", "interval")
    entries = {entry["name"]: entry for entry in _timed(document)}
    for peer, ratios in document["ratios"].items():
        for batch, (median, low, high) in ratios.items():
            table.add_row(
                peer,
                batch,
                f"{entries[f'rowrnn against {peer}, {batch}']['examples_per_s']:,.0f}",
                f"{entries[f'{peer}, {batch}']['examples_per_s']:,.0f}",
                f"{median:.2f}×",
                f"{low:.2f} to {high:.2f}",
            )
    yield table


def _startup_pieces(document: Document) -> Iterator[Piece]:
    table = _table("process", "median s", "min s", "IQR")
    for entry in _timed(document):
        table.add_row(
            entry["name"], f"{entry['median']:.2f}", f"{entry['min']:.2f}", _spread(entry)
        )
    yield table
    table = _table("program", "trace s", "lower s", "XLA s")
    for name, stages in document["compile"].items():
        table.add_row(name, *(f"{stages[key]:.2f}" for key in ("trace_s", "lower_s", "backend_s")))
    yield table


def _ceiling_pieces(document: Document) -> Iterator[Piece]:
    table = _table("figure", "ms", "IQR", "GFLOP/s", "GB/s")
    for entry in _timed(document):
        table.add_row(
            entry["name"],
            f"{entry['median'] * 1e3:.3g}",
            _spread(entry),
            f"{entry['gflops']:,.0f}" if "gflops" in entry else "",
            f"{entry['gb_per_s']:,.0f}" if "gb_per_s" in entry else "",
        )
    yield table
    yield f"best: {_rates(document['gemm_gflops'])}; copy {document['copy_gb_per_s']:.0f} GB/s"


def _scaling_pieces(document: Document) -> Iterator[Piece]:
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for entry in _timed(document):
        groups.setdefault(entry["group"], []).append(entry)
    for group, entries in groups.items():
        table = _table("n", "p", "ms", "IQR", "× one", "interval", "efficiency", "sums", "MB",
                       "sent MB")  # fmt: skip
        for entry in entries:
            median, low, high = entry["throughput_ratio"]
            table.add_row(
                str(entry["case"]["devices"]),
                str(entry["case"]["processes"]),
                f"{entry['median'] * 1e3:.3g}",
                _spread(entry),
                f"{median:.2f}",
                f"{low:.2f}-{high:.2f}",
                f"{entry['efficiency']:.0%}",
                f"{entry['collectives_per_step']:g}",
                f"{entry['bytes'] / 1e6:.2f}",
                f"{entry['wire_bytes'] / 1e6:.2f}",
            )
        yield f"\n{group}"
        yield table
    yield (
        "\nn devices in p processes. × one: throughput over that of one device, pair by pair; "
        "efficiency: that over the devices. sums: collectives of a step, MB: of their operands on "
        "each device, read from the compiled program; sent: by each in a ring."
    )
    if document["platform"] == "cpu":
        yield (
            f"[bold]The devices are fake:[/] those beyond {document['cores']} cores share them, "
            "and efficiency is over the cores that a layout has. It shows what dividing the work "
            "costs; absolute figures on fake devices mean little."
        )
    yield from _fit_pieces(document)
    yield from _predictions_pieces(document["predictions"])


def _fit_pieces(document: Document) -> Iterator[Piece]:
    fit = document["cost_model"]
    if fit is None:
        return
    table = _table("cost model, fitted here", "price")
    for name, cost in fit["costs"].items():
        table.add_row(name, _price(name, cost))
    yield ""
    yield table
    for what, error in (
        ("fitted layouts", fit["fitted_error"]),
        ("layouts held out", fit["held_out_error"]),
        ("the most devices, by a fit without them", fit["extrapolation_error"]),
    ):
        if error is not None:
            median, largest = error
            yield f"  off by {median:.0%} (largest {largest:.0%}): {what}"
    yield f"  a matrix product on one core: {document['sgemm_gflops']:.0f} GFLOP/s"


def _price(name: str, cost: float) -> str:
    """What a unit of a term costs, in the unit that people know."""
    if cost == 0:
        return "nothing"
    if name == "compute":
        return f"{1e-9 / cost:,.0f} GFLOP/s a core"
    return f"{1e-9 / cost:,.2f} GB/s" if name.startswith("bytes") else f"{cost * 1e3:.3g} ms each"


def _predictions_pieces(predictions: Mapping[str, Any]) -> Iterator[Piece]:
    table = _table("predicted: one run", "B", "one, ms", "best n", "ms", "faster", "worth n")
    for row in predictions["one_run"]:
        steps = row["step_s"]
        table.add_row(
            row["machine"],
            f"{row['batch']:,}",
            f"{steps['1'] * 1e3:.3g}",
            str(row["best_devices"]),
            f"{steps[str(row['best_devices'])] * 1e3:.3g}",
            f"{row['speedup']:.2f}",
            str(row["worth_devices"]),
        )
    yield ""
    yield table
    yield "worth n: devices as long as doubling them saves a tenth of the step."
    table = _table("predicted: 10,000 seeds", "a device", "wall s", "examples/s", "B for half")
    for row in predictions["seeds"]:
        table.add_row(
            row["machine"],
            f"{row['per_device']:,}",
            f"{row['wall_s']:.1f}",
            f"{row['examples_per_s'] / 1e6:,.0f} M",
            f"{predictions['half_efficiency_batch'][row['machine']]:,}",
        )
    yield ""
    yield table
    yield (
        "781 steps of 128 each, training alone. B for half: smallest batch at which all devices "
        "share one run with half their efficiency."
    )
    yield from _assumptions_pieces(predictions["machines"])


def _assumptions_pieces(machines: Sequence[Mapping[str, Any]]) -> Iterator[Piece]:
    table = _table("assumed of a device", "TFLOP/s", "GB/s", "share", "link GB/s", "hop µs",
                   "row µs", "rest µs")  # fmt: skip
    for machine in machines:
        links = [machine["inner"]]
        if machine["devices"] > machine["host"]:
            links.append(machine["outer"])
        table.add_row(
            machine["name"],
            f"{machine['peak_flops'] / 1e12:.0f}",
            f"{machine['memory_bytes_per_s'] / 1e9:,.0f}",
            f"{machine['share']:.0%}",
            ", ".join(f"{link['bytes_per_s'] / 1e9:.0f}" for link in links),
            ", ".join(f"{link['hop_s'] * 1e6:g}" for link in links),
            f"{machine['row_s'] * 1e6:g}",
            f"{machine['rest_s'] * 1e6:g}",
        )
    yield ""
    yield table
    yield (
        "No such machine was measured. TFLOP/s and GB/s of memory are the vendor's and reached in "
        "part (share); link: 70% of the vendor's figure; hop: one exchange of a collective; row, "
        "rest: the least that a row, and all else in a step, takes, one operation after the other. "
        "Sources: rowrnn/bench/cost_model.py."
    )


_TABLES: dict[str, Callable[[Document], Iterator[Piece]]] = {
    "lstm": _lstm_pieces,
    "train": _train_pieces,
    "peers": _peers_pieces,
    "startup": _startup_pieces,
    "ceiling": _ceiling_pieces,
    "scaling": _scaling_pieces,
}


def _stderr() -> Console:
    return Console(stderr=True, highlight=False)


def _table(first: str, *others: str) -> Table:
    """A plain table, its first column to the left and the others to the right."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(first, overflow="fold")
    for name in others:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _timed(document: Document) -> list[Mapping[str, Any]]:
    return [entry for entry in document["figures"] if "samples" in entry]


def _spread(entry: Mapping[str, Any]) -> str:
    """IQR over median, marked where it is too wide to trust."""
    return f"{entry['iqr'] / entry['median']:.0%}{'!' if entry['noisy'] else ''}"


def _rates(rates: Mapping[str, float]) -> str:
    return ", ".join(f"{kind} {rate:,.0f} GFLOP/s" for kind, rate in rates.items())


def _skipped(document: Document) -> Sequence[str]:
    skipped = document.get("skipped", [])
    if isinstance(skipped, Mapping):
        return [f"{name}: {reason}" for name, reason in skipped.items()]
    return skipped
