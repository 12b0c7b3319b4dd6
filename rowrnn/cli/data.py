"""``rowrnn data``."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from tyro.conf import Positional, arg

from rowrnn.cli.terminal import Common, parse, say
from rowrnn.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class PrepareArguments(Common):
    """Download a dataset, or convert its original files, to the format of TFDS.

    Checksums are verified. It goes to --data.dir, or TFDS_DATA_DIR, or ~/tensorflow_datasets. A
    set that is prepared already is left as it is.
    """

    name: Annotated[Positional[str], arg(metavar="NAME")]
    """mnist, fashion_mnist, kmnist, or a set of EMNIST, such as emnist/letters."""
    dir: Annotated[str, arg(name="data.dir")] = ""
    """The TFDS data directory."""
    manual_dir: Annotated[str, arg(name="manual-dir", aliases=["--data.manual-dir"])] = ""
    """A directory with the original files; nothing is downloaded then."""


def main(arguments: Sequence[str]) -> int:
    """Prepares a dataset."""
    if not arguments or arguments[0] != "prepare":
        if arguments and arguments[0] in ("-h", "--help"):
            print("usage: rowrnn data prepare NAME [--manual-dir DIR] [--data.dir DIR]")
            return 0
        raise ConfigError("data has one command: rowrnn data prepare mnist [--manual-dir DIR]")
    given = parse("data prepare", PrepareArguments, arguments[1:])

    from rowrnn import data

    path = data.prepare(given.name, given.dir, given.manual_dir)
    say(f"{given.name} is ready in {path}")
    given.answer({"dataset": given.name, "path": str(path)})
    return 0
