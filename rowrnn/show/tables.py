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
_SIGNED = re.compile(r"(?<!\w)[+-][\d.]+")


def render(found: SweepComparison, form: Format) -> str:
    """A line for each side that is compared; accuracies and differences with their 95 % intervals.

    `p` is corrected for the number of comparisons. CSV has shares.

    >>> from rowrnn.lab.compare import judge, side_of
    >>> from rowrnn.lab import stats
    >>> a, b = [0.91, 0.92, 0.90, 0.93, 0.91, 0.92], [0.94, 0.95, 0.95, 0.96, 0.94, 0.96]
    >>> verdict = judge([(side_of("old", a), side_of("new", b), stats.compare(a, b, paired=True))])
    >>> print(render(SweepComparison(verdict, [], []), "markdown"))
    | setting | seeds | test accuracy, % | difference, points | p | verdict |
    |---|---|---|---|---|---|
    | old | 6 | 91.50 [90.40, 92.60] |  |  |  |
    | new | 6 | 95.00 [94.06, 95.94] | +3.50 [+3.00, +5.00] | 0.0312 | better |
    """
    if form == "csv":
        return _csv(found)
    rows, named = [], set()
    for pair in found.pairs:
        if pair.a not in named:
            named.add(pair.a)
            rows.append((*_side(pair.side_a), "", "", ""))
        about = _percent(pair.comparison.difference, pair.comparison.interval, "+")
        rows.append((*_side(pair.side_b), about, f"{pair.adjusted_p:.3g}", pair.verdict))
    return _markdown(rows) if form == "markdown" else _latex(rows)


def _side(side: Side) -> tuple[str, ...]:
    mean = _percent(side.summary.mean, side.summary.interval)
    return side.name, f"{side.summary.count}", mean


def _percent(share: float, interval: Interval | None, sign: str = "") -> str:
    """A share and both ends of its interval, which may be lopsided."""
    form = f"{{:{sign}.2f}}".format
    ends = "" if interval is None else " [{}, {}]".format(*(form(100 * end) for end in interval))
    return form(100 * share) + ends


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
    name, *others = (_SPECIAL.sub(r"\\\1", cell) for cell in cells)
    # A minus outside of mathematics is a hyphen.
    return " & ".join([name, *(_SIGNED.sub(r"$\g<0>$", cell) for cell in others)]) + r" \\"


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
