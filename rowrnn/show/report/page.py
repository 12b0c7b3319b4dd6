"""From what there is to show to HTML."""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rowrnn.figures import Drawing

# Characters of a value that a stranger may have made as long as a file may be, and how many values.
_MOST_CHARACTERS, _MOST_ROWS = 400, 200


@dataclass(frozen=True)
class Content:
    """What a page says.

    Attributes:
        template: which of the templates sets it.
        kind: of what it is a report, in a word.
        title: the name of it.
        verdict: what came out, in one sentence.
        missing: what could not be shown, and why.
        parts: all else, as the template takes it.
    """

    template: str
    kind: str
    title: str
    verdict: str
    missing: list[str]
    parts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Table:
    """A table of words: headings [N], rows of N cells, and a line about it."""

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""


@dataclass(frozen=True)
class Figure:
    """A drawing with its words."""

    drawing: Drawing
    title: str
    caption: str

    @property
    def least_pixels(self) -> int:
        """The width below which its text could not be read."""
        return round(64 * self.drawing.inches)


def render(content: Content) -> str:
    """The page, with every value in it escaped."""
    import jinja2
    from markupsafe import Markup, escape

    def checked(value: Any) -> Any:
        if isinstance(value, Markup) or not isinstance(value, str):
            return value
        return plain(value).replace(" %", "\u00a0%")  # Which no line shall break.

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=checked,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # The only markup that is not in a template: it comes from matplotlib, which escapes its text.
    environment.filters["svg"] = lambda drawing: Markup(drawing.svg)
    # Pictures and paths of our own, which are as long as they are.
    environment.filters["whole"] = escape
    return environment.get_template(content.template).render(
        kind=content.kind,
        title=content.title,
        verdict=content.verdict,
        missing=content.missing,
        **content.parts,
    )


def plain(text: str) -> str:
    """Text of a bounded length without control characters, and of characters that UTF-8 has.

    >>> plain("one\\u202etwo\\n\\x00")
    'one\\\\u202etwo\\n\\\\x00'
    """
    cut = text if len(text) <= 20 * _MOST_CHARACTERS else text[: 20 * _MOST_CHARACTERS] + "…"
    return "".join(
        c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in cut
    )


def facts(table: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Names and values of a JSON object, with those of the tables in it, in words.

    >>> facts({"python": "3.11", "command": ["a b", "c"], "versions": {"jax": "0.10"}})
    [('python', '3.11'), ('command', "'a b' c"), ('versions jax', '0.10')]
    """
    found = []
    for name, value in table.items():
        inner = value if isinstance(value, Mapping) else {"": value}
        for key, part in inner.items():
            found.append((_cut(f"{name} {key}".strip()), _cut(_words(part))))
            if len(found) == _MOST_ROWS:
                return found
    return found


def _words(value: Any) -> str:
    match value:
        case None:
            return "not known"
        case str():
            return value
        case [*parts] if all(isinstance(part, str) for part in parts):
            return shlex.join(parts)
        case _:
            try:
                return json.dumps(value)
            except RecursionError:
                return "nested too deeply"


def _cut(text: str) -> str:
    return text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]}…"


def share(value: float, digits: int = 2) -> str:
    """A share as people say it.

    >>> share(0.977)
    '97.70 %'
    """
    return f"{100 * value:.{digits}f} %"


def count(number: int, noun: str) -> str:
    """A number of things.

    >>> count(1, "seed"), count(1200, "seed")
    ('1 seed', '1,200 seeds')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def duration(seconds: float) -> str:
    """Seconds in a unit that fits.

    >>> duration(7.25), duration(1592)
    ('7.2 s', '26.5 min')
    """
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
