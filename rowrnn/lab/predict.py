"""What a trained network sees in pictures."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rowrnn import files
from rowrnn.data import idx
from rowrnn.data.pictures import Picture, read_picture
from rowrnn.errors import DataError
from rowrnn.lab.classifier import Classifier, load
from rowrnn.lab.shown import Shown


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
    warning: str = ""

    def _facts(self) -> dict[str, Any]:
        names = ("path", "label", "probability", "runner_up", "runner_up_probability")
        return {name: getattr(self, name) for name in names}

    def summary(self) -> dict:
        """The prediction as JSON takes it, without the image."""
        return {
            "path": self.path,
            "inverted": self.inverted,
            "label": self.label,
            "probability": self.probability,
            "runner_up": self.runner_up,
            "runner_up_probability": self.runner_up_probability,
            "rows": np.round(self.rows, 6).tolist(),
            "warning": self.warning or None,
        }


def predict(
    run_dir: str | Path, paths: str | Path | Iterable[str | Path], *, which: str = "last"
) -> tuple[list[Prediction], list[DataError]]:
    """Classifies pictures with a checkpoint of a run.

    Args:
        run_dir: the run directory.
        paths: PNG or JPEG files, or one, of any size, dark on light or light on dark, each of one
            digit;
            or IDX files of images in the shape the network reads, which are taken as they are.
        which: "last", "best" (highest validation accuracy) or a step.

    Returns:
        A prediction for every picture that could be read, in the order given, and an error for
        every file that could not.

    Raises `RunError` where there is no run, or no intact checkpoint in it.
    """
    classifier = load(run_dir, which)
    predictions, problems = [], []
    for path in [paths] if isinstance(paths, str | Path) else paths:
        try:
            pictures = _read_pictures(Path(path), classifier.shape)
        except DataError as error:
            problems.append(error)
        else:
            predictions += _classify(classifier, pictures)
    return predictions, problems


def _read_pictures(path: Path, shape: tuple[int, int]) -> list[Picture]:
    """The picture of an image file, or all those of an IDX file."""
    if not _is_idx(path):
        return [read_picture(path, shape)]
    images = idx.read(path, dimensions=3)
    if images.shape[1:] != shape:
        rows, pixels = images.shape[1:]
        raise DataError(
            f"{path}: its images are {rows}×{pixels}, but the network reads "
            f"{shape[0]}×{shape[1]}; give images of that size, or a PNG or JPEG of any size"
        )
    return [Picture(f"{path}[{i}]", image, inverted=False) for i, image in enumerate(images)]


def _is_idx(path: Path) -> bool:
    """Whether a file is IDX and not a picture, by its name or its first bytes."""
    if path.suffix == ".gz":
        return True
    try:
        with files.open_plain(path) as file:
            return file.read(3) == b"\x00\x00\x08"
    except OSError:
        return False  # `read_picture` says what is wrong with it.


def _classify(classifier: Classifier, pictures: list[Picture]) -> list[Prediction]:
    probabilities = classifier.probabilities(np.stack([picture.image for picture in pictures]))
    predictions = []
    for picture, rows in zip(pictures, probabilities.transpose(1, 0, 2), strict=True):
        label, *others = map(int, np.argsort(rows[-1], stable=True)[::-1])
        runner_up = others[0] if others else None
        predictions.append(
            Prediction(
                path=picture.path,
                inverted=picture.inverted,
                image=picture.image,
                label=label,
                probability=float(rows[-1, label]),
                runner_up=runner_up,
                runner_up_probability=None if runner_up is None else float(rows[-1, runner_up]),
                rows=rows,
                warning=picture.warning,
            )
        )
    return predictions
