"""Names of classes in a text file, one a line, in the order of the labels."""

from pathlib import Path

from rowrnn import files
from rowrnn.errors import DataError

FILE = "classes.txt"


def read(directory: Path, name: str = FILE) -> tuple[str, ...]:
    """The names in a file of a directory; none where there is no such file.

    Raises `DataError` where it cannot be read.
    """
    path = directory / name
    try:
        return tuple(line.strip() for line in files.read_text(path).strip().splitlines())
    except FileNotFoundError:
        return ()
    except (OSError, ValueError) as error:
        problem = getattr(error, "strerror", None) or error
        raise DataError(f"{path}: {problem}; it must name a class in each line") from error
