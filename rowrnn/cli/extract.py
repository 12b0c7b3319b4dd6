"""``rowrnn extract``."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from rowrnn.cli.terminal import Common, parse, plain, require_text, tell
from rowrnn.jax_settings import require_devices, require_jax


@dataclass(frozen=True, kw_only=True)
class ExtractArguments(Common):
    """Take a member of a sweep out as a single run.

    One that was in progress when the sweep was stopped, or that has ended and was kept (rowrnn
    sweep --keep all); rowrnn train --resume goes on with it, eval and predict use it.
    """

    sweep: Annotated[Positional[Path], arg(metavar="SWEEP")]
    """The directory of the sweep."""
    member: Annotated[Positional[str], arg(metavar="MEMBER")]
    """Its name, as results.csv spells its values: seed=3, or learning_rate=0.001,seed=3."""
    to: Annotated[Path, arg(metavar="DIR")]
    """The new run directory."""


def main(arguments: Sequence[str]) -> int:
    """Takes a member out."""
    given = parse("extract", ExtractArguments, arguments)
    require_text(given.to)

    require_jax()
    require_devices()
    from rowrnn.lab.sweep import extract

    extract(given.sweep, given.member, given.to)
    path = plain(str(given.to))
    tell(
        f"{plain(given.member)} is now a run of its own; go on with: rowrnn train --resume {path}",
        sys.stdout,
    )
    given.answer({"run_dir": str(given.to)})
    return 0
