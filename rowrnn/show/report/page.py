"""The page of a report as HTML, and what the reports of runs, sweeps and records share."""

import json
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rowrnn import config as configs
from rowrnn import files
from rowrnn.config import Config
from rowrnn.figures import Drawing

# Most characters of a value, and most values: a file of a stranger may be as long as he likes.
_MOST_CHARACTERS, _MOST_ROWS = 400, 200


@dataclass(frozen=True)
class Content:
    """What a page says.

    Attributes:
        template: which of the templates sets it.
        kind: what it is a report of, in a word.
        title: the name of the run, sweep or record.
        verdict: what came out, in one sentence.
        missing: what could not be shown, and why.
        parts: all else, as the template takes it.
        draw: the figures by name, for a width in inches.
    """

    template: str
    kind: str
    title: str
    verdict: str
    missing: list[str]
    parts: dict[str, Any]
    draw: Callable[[float], Mapping[str, Drawing]]


@dataclass(frozen=True)
class Table:
    """A table of words: headings [N], rows of N cells, a title above it and a line about it."""

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    title: str = ""


def render(content: Content) -> str:
    """The page, with every value in it escaped."""
    import jinja2
    from markupsafe import Markup, escape

    def checked(value: Any) -> Any:
        if isinstance(value, Markup) or not isinstance(value, str):
            return value
        return plain(value).replace(" %", "\u00a0%")  # No line shall break there.

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
    return environment.get_template(content.template).render(**vars(content), **content.parts)


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


def interval(bounds: tuple[float, float]) -> str:
    """The 95 % interval of a share.

    >>> interval((0.96, 0.98))
    '95 % interval 96.00 to 98.00 %'
    """
    return f"95 % interval {bounds_of(bounds)}"


def bounds_of(bounds: tuple[float, float]) -> str:
    """Both ends of an interval of a share.

    >>> bounds_of((0.96, 0.98))
    '96.00 to 98.00 %'
    """
    low, high = bounds
    return f"{100 * low:.2f} to {100 * high:.2f} %"


def duration(seconds: float) -> str:
    """Seconds in a unit that fits.

    >>> duration(7.25), duration(1592)
    ('7.2 s', '26.5 min')
    """
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def config_table(config: Config) -> list[dict[str, Any]]:
    """All values by section; those that are not the defaults are marked."""
    changed = {name for name, _, _ in configs.differences(Config(), config)}
    sections: dict[str, list[dict[str, Any]]] = {}
    for name in configs.fields():
        section, key = name.split(".")
        value = configs.value_of(config, name)
        sections.setdefault(section, []).append(
            {"name": key, "value": "unset" if value is None else str(value),
             "changed": name in changed}
        )  # fmt: skip
    return [{"name": name, "values": values} for name, values in sections.items()]


def read_environment(path: Path, missing: list[str]) -> dict[str, Any]:
    """``environment.json``; where it is no object of JSON, nothing, and a line in `missing`."""
    file = path / "environment.json"
    try:
        if isinstance(found := files.read_json(file), dict):
            return found
        reason = "it is no JSON object"
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
    missing.append(f"The environment: {file} cannot be read: {reason}.")
    return {}


def checkout(environment: Mapping[str, Any]) -> list[str]:
    """The command that gets the code of a run, where it is known."""
    commit = str(environment.get("git_commit"))
    # A command that is shown is typed into a shell: only digits may stand in it.
    return [f"git checkout {commit}"] if re.fullmatch(r"[0-9a-f]{7,40}", commit) else []
