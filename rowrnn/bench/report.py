"""What a suite found, as tables that fit a terminal of 80 columns."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rowrnn.bench.compare import Comparison
from rowrnn.bench.timing import NOISY

Document = Mapping[str, Any]


def show(document: Document, console: Console | None = None) -> None:
    """Prints a document of `rowrnn.bench.run`, on stderr where no console is given."""
    console = console if console is not None else _stderr()
    console.print(
        f"[bold]bench {document['suite']}[/]  {document['device_kind']}, "
        f"{document['cores']} cores, jax {document['versions']['jax']}, "
        f"commit {(document['git_commit'] or 'unknown')[:12]}"
    )
    _TABLES[document["suite"]](document, console)
    for entry in document["figures"]:
        if "wrong" in entry:
            reason = escape(f"{entry['name']}: {entry['wrong']}")
            console.print(f"[red]wrong, not timed:[/] {reason}")
    for line in _skipped(document):
        console.print(f"skipped: {escape(line)}")
    if noisy := len(document["noisy"]):
        console.print(
            f"[yellow]warning:[/] {noisy} of {len(document['figures'])} figures, marked !, have "
            f"an IQR of more than {NOISY:.0%} of the median"
        )
    for line in document["warnings"]:
        console.print(f"[yellow]warning:[/] {escape(line)}")


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


def _show_lstm(document: Document, console: Console) -> None:
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
        console.print(f"\n{kind}, rows of {what}", table, sep="\n")
    console.print(
        "\nTFLOP/s and share: executed (folded) operations; the share is of the best product of "
        f"that type, {_rates(document['gemm_gflops'])}"
    )


def _show_train(document: Document, console: Console) -> None:
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
    console.print(table)
    rates = f"sgemm {document['sgemm_gflops']:.0f} GFLOP/s"
    if document["one_core"]["sgemm_gflops"]:
        rates += f", on one core {document['one_core']['sgemm_gflops']:.0f}"
    console.print(f"model, executed: TFLOP/s. {rates}, timed in turns with each setting.")
    if document.get("sweep"):
        _show_sweep(document["sweep"], console)
    if "program" in document:
        _show_program(document["program"], console)


def _show_sweep(sweep: Mapping[str, Any], console: Console) -> None:
    console.print(
        f"a sweep, B={sweep['batch']}: {sweep['examples_per_s']['a sweep']:,.0f} examples/s"
    )
    for rival, (median, low, high) in sweep["over"].items():
        console.print(f"  {median:.2f} times {rival} ({low:.2f}-{high:.2f})")


def _show_program(program: Mapping[str, Any], console: Console) -> None:
    reached = "reached" if program["reached"] else "not reached"
    console.print(
        f"whole program: accuracy {program['target']:.0%} on mnist_sample {reached} after "
        f"{program['epochs']} epochs, {program['seconds_to_target']:.1f} s from the shell; "
        f"{program['reported_examples_per_s']:,.0f} examples/s by its own account, "
        f"{program['slope_examples_per_s']:,.0f} by the watch"
    )


def _show_peers(document: Document, console: Console) -> None:
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
    console.print(table)


def _show_startup(document: Document, console: Console) -> None:
    table = _table("process", "median s", "min s", "IQR")
    for entry in _timed(document):
        table.add_row(
            entry["name"], f"{entry['median']:.2f}", f"{entry['min']:.2f}", _spread(entry)
        )
    console.print(table)
    table = _table("program", "trace s", "lower s", "XLA s")
    for name, stages in document["compile"].items():
        table.add_row(name, *(f"{stages[key]:.2f}" for key in ("trace_s", "lower_s", "backend_s")))
    console.print(table)


def _show_ceiling(document: Document, console: Console) -> None:
    table = _table("figure", "ms", "IQR", "GFLOP/s", "GB/s")
    for entry in _timed(document):
        table.add_row(
            entry["name"],
            f"{entry['median'] * 1e3:.3g}",
            _spread(entry),
            f"{entry['gflops']:,.0f}" if "gflops" in entry else "",
            f"{entry['gb_per_s']:,.0f}" if "gb_per_s" in entry else "",
        )
    console.print(table)
    console.print(
        f"best: {_rates(document['gemm_gflops'])}; copy {document['copy_gb_per_s']:.0f} GB/s"
    )


_TABLES: dict[str, Callable[[Document, Console], None]] = {
    "lstm": _show_lstm,
    "train": _show_train,
    "peers": _show_peers,
    "startup": _show_startup,
    "ceiling": _show_ceiling,
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
