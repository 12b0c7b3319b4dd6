"""A comparison as a table for a paper: Markdown, LaTeX or CSV."""

import csv
import io
import re
from typing import Literal

from rowrnn.lab.compare import Side, SweepComparison
from rowrnn.lab.stats import Interval

Format = Literal["markdown", "latex", "csv"]

_HEADINGS = ("setting", "seeds", "test accuracy, %", "difference, points", "p", "verdict")
_CSV = ("setting", "seeds", "mean", "low", "high", "against", "difference", "difference_low",
        "difference_high", "p", "verdict")  # fmt: skip
_SPECIAL = re.compile(r"([#$%&_{}])")


def render(found: SweepComparison, form: Format) -> str:
    """A line for each side that is compared; accuracies and differences ± half their 95 % interval.

    `p` is corrected for the number of comparisons. CSV has shares and both ends of each interval.

    >>> from rowrnn.lab.compare import judge, side_of
    >>> from rowrnn.lab import stats
    >>> a, b = [0.91, 0.92, 0.90, 0.93, 0.91, 0.92], [0.94, 0.95, 0.95, 0.96, 0.94, 0.96]
    >>> verdict = judge([(side_of("old", a), side_of("new", b), stats.compare(a, b, paired=True))])
    >>> print(render(SweepComparison(verdict, [], []), "markdown"))
    | setting | seeds | test accuracy, % | difference, points | p | verdict |
    |---|---|---|---|---|---|
    | old | 6 | 91.50 ± 1.10 |  |  |  |
    | new | 6 | 95.00 ± 0.94 | +3.50 ± 1.00 | 0.0312 | better |
    """
    if form == "csv":
        return _csv(found)
    rows, named = [], set()
    for pair in found.pairs:
        if pair.a not in named:
            named.add(pair.a)
            rows.append((*_side(pair.side_a), "", "", ""))
        change = 100 * pair.comparison.difference
        about = f"{change:+.2f}{_half(pair.comparison.interval)}"
        rows.append((*_side(pair.side_b), about, f"{pair.adjusted_p:.3g}", pair.verdict))
    return _markdown(rows) if form == "markdown" else _latex(rows)


def _side(side: Side) -> tuple[str, ...]:
    mean = f"{100 * side.summary.mean:.2f}{_half(side.summary.interval)}"
    return side.name, f"{side.summary.count}", mean


def _half(interval: Interval | None) -> str:
    return "" if interval is None else f" ± {50 * (interval[1] - interval[0]):.2f}"


def _markdown(rows: list[tuple[str, ...]]) -> str:
    lines = [_HEADINGS, tuple("---" for _ in _HEADINGS), *rows]
    cells = (["---" if cell == "---" else f" {_bare(cell)} " for cell in line] for line in lines)
    return "\n".join(f"|{'|'.join(line)}|" for line in cells)


def _bare(text: str) -> str:
    return text.replace("|", "\\|")


def _latex(rows: list[tuple[str, ...]]) -> str:
    """For the package booktabs."""
    lines = [r"\begin{tabular}{lrrrrl}", r"\toprule", _line(_HEADINGS), r"\midrule"]
    return "\n".join([*lines, *map(_line, rows), r"\bottomrule", r"\end{tabular}"])


def _line(cells: tuple[str, ...]) -> str:
    text = " & ".join(_SPECIAL.sub(r"\\\1", cell) for cell in cells)
    return text.replace(" ± ", r" $\pm$ ") + r" \\"


def _csv(found: SweepComparison) -> str:
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(_CSV)
    named: set[str] = set()
    for pair in found.pairs:
        if pair.a not in named:
            table.writerow([*_numbers(pair.side_a), "", "", "", "", "", ""])
            named.add(pair.a)
        c = pair.comparison
        about = [pair.a, c.difference, *c.interval, pair.adjusted_p, pair.verdict]
        table.writerow([*_numbers(pair.side_b), *about])
    return text.getvalue().rstrip("\n")


def _numbers(side: Side) -> list[object]:
    low, high = side.summary.interval or ("", "")
    return [side.name, side.summary.count, side.summary.mean, low, high]
