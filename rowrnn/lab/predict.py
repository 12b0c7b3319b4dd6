"""What a trained network sees in pictures."""

import csv
import glob
import itertools
import json
import os
import typing
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rowrnn import config as configs
from rowrnn import files
from rowrnn.data import idx, pictures
from rowrnn.data.folder import list_pictures
from rowrnn.data.pictures import Picture
from rowrnn.errors import ConfigError, DataError, shown
from rowrnn.lab.classifier import Classifier, load
from rowrnn.lab.shown import Shown

# Pictures that are read and classified at a time.
_BATCH = 1_000


@dataclass(frozen=True, repr=False)
class Prediction(Shown):
    """The answer of the network to one picture.

    Attributes:
        path: the file, and for an image of an IDX file its index in brackets.
        inverted: whether the picture was dark on light and has been inverted.
        image: what the network read, uint8 [T, F].
        label: the most probable class.
        probability: the probability of that class.
        runner_up: the second most probable class; None of a network that knows one class alone.
        runner_up_probability: the probability of that class; None likewise.
        rows: probabilities of all classes after each row, [T, C].
        names: of all classes; a class without another name has its label as text.
        channels: values of a pixel of the image.
        warning: what may make the answer wrong, such as a second digit; empty where nothing does.
    """

    path: str
    inverted: bool
    image: np.ndarray
    label: int
    probability: float
    runner_up: int | None
    runner_up_probability: float | None
    rows: np.ndarray
    names: tuple[str, ...]
    channels: int
    warning: str = ""

    @property
    def name(self) -> str:
        """The name of the most probable class."""
        return self.names[self.label]

    @property
    def runner_up_name(self) -> str | None:
        """The name of the second most probable class."""
        return None if self.runner_up is None else self.names[self.runner_up]

    def _facts(self) -> dict[str, Any]:
        left_out = {"inverted"} if self.warning else {"inverted", "warning"}
        return {name: getattr(self, name) for name in RECORD if name not in left_out}

    def record(self) -> dict[str, Any]:
        """What fits a line of a table: `RECORD`."""
        return {name: getattr(self, name) for name in RECORD} | {"warning": self.warning or None}

    def summary(self) -> dict[str, Any]:
        """The prediction as JSON takes it, without the image."""
        return self.record() | {"rows": np.round(self.rows, 6).tolist()}


RECORD: tuple[str, ...] = (
    "path", "inverted", "label", "name", "probability",
    "runner_up", "runner_up_name", "runner_up_probability", "warning",
)  # fmt: skip


def predict(
    run_dir: str | Path,
    paths: str | Path | Iterable[str | Path],
    *,
    which: str = "last",
    pictures: str | None = None,
) -> tuple[list[Prediction], list[DataError]]:
    """Classifies pictures with a checkpoint of a run.

    Args:
        run_dir: the run directory, or an export.
        paths: PNG or JPEG files of any size, or directories of them, or patterns such as
            ``"scans/**/*.png"``; or IDX files of images in the shape the network reads, which are
            taken as they are.
        which: "last", "best" (highest validation accuracy) or a step.
        pictures: what is done to a picture before it is read, "digit" or "as_is", where that is
            not what was done in training; see `DataConfig.pictures`.

    Returns:
        A prediction for every picture that could be read, in the order given, and an error for
        every file that could not.

    Raises `RunError` where there is no run, or no intact checkpoint in it.
    """
    found = list(stream(run_dir, paths, which=which, pictures=pictures))
    return (
        [each for each in found if isinstance(each, Prediction)],
        [each for each in found if isinstance(each, DataError)],
    )


def stream(
    run_dir: str | Path,
    paths: str | Path | Iterable[str | Path],
    *,
    which: str = "last",
    pictures: str | None = None,
) -> Iterator[Prediction | DataError]:
    """The same, one after the other: at no time are more than some hundred pictures in memory."""
    classifier = load(run_dir, which)
    how = pictures or classifier.pictures
    configs.check_value("data.pictures", how)
    paths = [paths] if isinstance(paths, str | Path) else paths
    if not isinstance(paths, Iterable) or isinstance(paths, bytes):
        raise ConfigError(f"paths = {shown(paths)}: must be a path or several")
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = _read(map(str, paths), classifier, how, pool)
        while batch := list(itertools.islice(found, _BATCH)):
            read = [each for each in batch if isinstance(each, Picture)]
            answers = _classify(classifier, read)
            for each in batch:
                yield each if isinstance(each, DataError) else next(answers)


def write(
    path: Path, found: Iterable[Prediction | DataError], tell: Callable[[str], None]
) -> tuple[int, int]:
    """Writes a line of CSV or JSON for each prediction, as it comes, and tells each problem.

    Lines of JSON also have the probabilities of all classes. Returns how many there are of both;
    raises `RunError` where the file cannot be written.
    """
    count, failed, is_csv = 0, 0, path.suffix.lower() == ".csv"
    with (
        files.writing(path),
        open(path, "w", encoding="utf-8", errors="backslashreplace", newline="") as file,
    ):
        table = csv.DictWriter(file, RECORD)
        if is_csv:
            table.writeheader()
        for each in found:
            if isinstance(each, DataError):
                failed += 1
                tell(str(each))
                continue
            count += 1
            if is_csv:
                table.writerow(each.record())
            else:
                last = np.round(each.rows[-1].astype(float), 6).tolist()
                file.write(json.dumps(each.record() | {"probabilities": last}) + "\n")
    return count, failed


def _read(
    paths: Iterable[str], classifier: Classifier, how: str, pool: ThreadPoolExecutor
) -> Iterator[Picture | DataError]:
    """The pictures of files, directories and patterns, in their order."""

    def one(path: str | DataError) -> Picture | DataError:
        if isinstance(path, DataError):
            return path
        try:
            return pictures.read(path, classifier.shape, how, classifier.channels)
        except DataError as error:
            return error

    expanded = itertools.chain.from_iterable(map(_expand, paths))
    for is_idx, group in itertools.groupby(expanded, _is_idx):
        if is_idx:
            for path in typing.cast(Iterator[str], group):
                yield from _read_idx(path, classifier.shape)
            continue
        while batch := list(itertools.islice(group, _BATCH)):
            yield from pool.map(one, batch, chunksize=8)


def _expand(path: str) -> Iterator[str | DataError]:
    """The files that a path means."""
    found = [path]
    if os.path.isdir(path):
        found = list_pictures(path)
    elif glob.escape(path) != path and not os.path.lexists(path):
        found = sorted(glob.glob(path, recursive=True))
    yield from found or [DataError(f"{path}: there is no PNG or JPEG file; give another place")]


def _read_idx(path: str, shape: tuple[int, int]) -> Iterator[Picture | DataError]:
    """All images of an IDX file."""
    try:
        images = idx.read(path, dimensions=3)
    except DataError as error:
        yield error
        return
    if images.shape[1:] != shape:
        rows, pixels = images.shape[1:]
        yield DataError(
            f"{path}: its images are {rows}×{pixels}, but the network reads "
            f"{shape[0]}×{shape[1]}; give images of that size, or a PNG or JPEG of any size"
        )
        return
    for i, image in enumerate(images):
        yield Picture(f"{path}[{i}]", image, inverted=False)


def _is_idx(path: str | DataError) -> bool:
    """Whether a file is IDX and not a picture, by its name or its first bytes."""
    if isinstance(path, DataError):
        return False
    if path.endswith(".gz"):
        return True
    try:
        with files.open_plain(path) as file:
            return file.read(3) == b"\x00\x00\x08"
    except OSError:
        return False  # `pictures.read` says what is wrong with it.


def _classify(classifier: Classifier, read: list[Picture]) -> Iterator[Prediction]:
    if not read:
        return
    probabilities = classifier.probabilities(np.stack([picture.image for picture in read]))
    names = classifier.names
    for picture, rows in zip(read, probabilities.transpose(1, 0, 2), strict=True):
        label, *others = map(int, np.argsort(rows[-1], stable=True)[::-1])
        runner_up = others[0] if others else None
        yield Prediction(
            path=picture.path,
            inverted=picture.inverted,
            image=picture.image,
            label=label,
            probability=float(rows[-1, label]),
            runner_up=runner_up,
            runner_up_probability=None if runner_up is None else float(rows[-1, runner_up]),
            rows=rows,
            names=names,
            channels=classifier.channels,
            warning=picture.warning,
        )
