"""What a result says of itself: a line in a terminal, a line and a picture in a notebook."""

import dataclasses
import importlib
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


class Shown:
    """A result that says in a line what matters of it, whatever arrays it holds.

    A subclass says what that is (`_facts`), otherwise it is all that is known; it is a dataclass
    with ``repr=False``.
    """

    def _facts(self) -> dict[str, Any]:
        assert dataclasses.is_dataclass(self)
        facts = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: value for name, value in facts.items() if value is not None}

    def __repr__(self) -> str:
        facts = ", ".join(f"{name}={short(value)}" for name, value in self._facts().items())
        return f"{type(self).__name__}({facts})"

    def _repr_html_(self) -> str:
        # Pictures are drawn in the room above, which is loaded when a notebook asks for it.
        return importlib.import_module("rowrnn.show.notebook").html_of(self, self._facts())


def percent(share: float, digits: int = 0) -> str:
    """A share as people read it.

    >>> percent(0.977), percent(0.977, 2)
    ('98 %', '97.70 %')
    """
    return f"{100 * share:.{digits}f} %"


def short(value: Any) -> str:
    """A value in a line; numbers with four digits after the point, as far as they have some there.

    >>> short(0.97701), short((0.9, 1.0)), short("mnist"), short(0.0000123)
    ('0.9770', '(0.9000, 1.0000)', "'mnist'", '1.2e-05')
    """
    match value:
        case float() if 0 < abs(value) < 5e-5:
            return f"{value:.1e}"
        case float():
            return f"{value:.4f}"
        case tuple():
            return f"({', '.join(map(short, value))})"
        case _:
            return repr(value)


def show_trimmed(screen: "Console", piece: "str | Table") -> None:
    """Prints words or a table, without the blanks by which rich makes all lines of one length."""
    with screen.capture() as captured:
        screen.print(piece)
    screen.file.write(re.sub(r" +$", "", captured.get(), flags=re.MULTILINE))
