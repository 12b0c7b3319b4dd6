"""What there is to show of a record of ``rowrnn bench``."""

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rowrnn.bench import plots, record
from rowrnn.bench import report as terminal
from rowrnn.errors import ConfigError, count
from rowrnn.figures import Drawing
from rowrnn.lab.shown import percent
from rowrnn.show.report import page
from rowrnn.show.report.page import Content, Table

# Most figures that are drawn, each on a line; no suite has as many.
_MOST_FIGURES = 2_000
_WHERE = ("device_kind", "platform", "devices", "processor", "cores", "system", "python",
          "versions", "flags", "git_commit", "date", "command")  # fmt: skip
_INCHES = 5.6


def read(path: Path) -> Content:
    """All that can be shown of a record; raises `ConfigError` where the file is none."""
    from rich.errors import MarkupError

    document = record.read(path)
    try:
        return _content(path, document)
    # A record has no types that could be checked beforehand, and anybody may have made it.
    except (
        ArithmeticError, AttributeError, LookupError, MarkupError, TypeError, ValueError
    ) as error:  # fmt: skip
        raise ConfigError(
            f"{path}: not a whole result of `rowrnn bench` ({type(error).__name__}: "
            f"{str(error)[:100]}); measure it again"
        ) from error


def _content(path: Path, document: dict[str, Any]) -> Content:
    found = len(document["figures"])
    if found > _MOST_FIGURES:
        raise ValueError(f"{found:,} figures; a page shows at most {_MOST_FIGURES:,}")
    drawn = _figures(document, _INCHES)
    return Content(
        template="bench.html",
        kind=f"bench {document['suite']}",
        title=path.name,
        verdict=_verdict(document),
        missing=[],
        parts={
            "figures": list(drawn.values()),
            "pieces": list(_pieces(document)),
            "where": page.facts({name: document[name] for name in _WHERE if name in document}),
        },
        draw=functools.partial(_figures, document),
    )


def _figures(document: dict[str, Any], inches: float) -> dict[str, Drawing]:
    """The plots of a suite, with their titles taken out of the pictures."""
    drawn = {}
    for name, figure in plots.figures(document).items():
        drawn[name] = Drawing(title=figure.get_suptitle())
        figure.suptitle("")
        figure.supxlabel("")  # It says where this was measured, as the page does.
        figure.set_figwidth(inches)
        drawn[name].take(figure)
    return drawn


def _pieces(document: dict[str, Any]) -> Iterator[str | Table]:
    """The tables and the lines between them; a line above a table is its title."""
    from rich.table import Table as RichTable
    from rich.text import Text

    waiting = ""
    pieces = terminal.pieces(document)
    next(pieces)  # The page has a head of its own.
    for piece in pieces:
        if isinstance(piece, RichTable):
            headings = [str(column.header) for column in piece.columns]
            rows = list(zip(*(map(str, column.cells) for column in piece.columns), strict=True))
            titled = waiting.startswith("\n")
            if waiting and not titled:
                yield waiting.strip()
            yield Table(headings, rows, title=waiting.strip() if titled else "")
            waiting = ""
            continue
        if waiting.strip():
            yield waiting.strip()
        waiting = Text.from_markup(piece).plain
    if waiting.strip():
        yield waiting.strip()


def _verdict(document: dict[str, Any]) -> str:
    """The main thing, in one sentence."""
    where = f"{document['device_kind']}, {count(document['cores'], 'core')}"
    timed = [entry for entry in document["figures"] if "samples" in entry]
    if ratios := document.get("ratios"):
        medians = [ratio[0] for batches in ratios.values() for ratio in batches.values()]
        others = "1 other library" if len(ratios) == 1 else f"{len(ratios)} other libraries"
        return (
            f"rowrnn has {min(medians):.2f} to {max(medians):.2f} times the throughput of "
            f"{others} on {where}, in {count(len(medians), 'paired comparison')}."
        )
    if rates := document.get("gemm_gflops"):
        best = max(rates, key=rates.get)
        products = f"matrix products reach {rates[best]:,.0f} GFLOP/s ({best})"
    else:
        products = ""
    # Evaluation is faster and says less.
    training = [
        entry for entry in timed if entry.get("case", {}).get("mode") in ("train", "training")
    ]
    fastest = max(training or timed, key=lambda entry: entry.get("examples_per_s", 0), default={})
    if "examples_per_s" in fastest:
        part = fastest.get("share_of_ceiling")
        of = f", {percent(part)} of what matrix products reach" if part else ""
        rate = f"{fastest['examples_per_s']:,.0f} examples/s"
        return f"The fastest on {where}: {fastest['name']}, {rate}{of}."
    if products:
        return f"On {where} {products}."
    return f"{count(len(timed), 'figure')} on {where}."
