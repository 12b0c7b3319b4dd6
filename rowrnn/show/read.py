"""How a trained network reads one image: probabilities, hidden states and gates after each row."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rowrnn import figures, files
from rowrnn.core.lstm import Activations
from rowrnn.data import pictures
from rowrnn.errors import ConfigError, DataError, shown
from rowrnn.figures import ReadingArrays, Target
from rowrnn.files import as_path
from rowrnn.lab import stats
from rowrnn.lab.classifier import Classifier, load
from rowrnn.lab.evaluate import SplitName
from rowrnn.lab.shown import Shown, percent


@dataclass(frozen=True, repr=False)
class Reading(Shown):
    """One image, and probabilities, hidden states and gates after each of its rows.

    Attributes:
        run_dir: the run.
        step: updates done at the checkpoint.
        name: the file of the picture, or such as "test[7]" for an image of the run's data.
        inverted: whether the picture was dark on light and has been inverted.
        truth: the true class of an image of the run's data; None for a picture.
        image: what the network read, uint8 [T, F].
        probabilities: what the classes would get if this row were the last, [T, C].
        layers: hidden states `h`, cells `c`, gates `i`, `f`, `o` and candidates `j` of each LSTM
            layer, each [T, H]; the readout sees `layers[-1].h`.
        class_names: in the order of the labels; none where there are no other names than these.
        channels: values of a pixel of the image, 3 of colour.
        warning: what may make the answer wrong, such as a second digit; empty where nothing does.
    """

    run_dir: Path
    step: int
    name: str
    inverted: bool
    truth: int | None
    image: np.ndarray
    probabilities: np.ndarray
    layers: tuple[Activations, ...]
    class_names: tuple[str, ...] = ()
    channels: int = 1
    warning: str = ""

    def name_of(self, label: int) -> str:
        """The name of a class: its label as text where it has no other."""
        return self.class_names[label] if self.class_names else str(label)

    def _facts(self) -> dict[str, Any]:
        names = ("name", "step", "truth", "label", "probability", "since")
        found = {name: getattr(self, name) for name in names}
        return found | ({"warning": self.warning} if self.warning else {})

    @property
    def label(self) -> int:
        """The most probable class after the last row."""
        return int(self.probabilities[-1].argmax())

    @property
    def probability(self) -> float:
        """The probability of that class after the last row."""
        return float(self.probabilities[-1].max())

    @property
    def since(self) -> int:
        """The row, counted from 1, from which on that class was the most probable after each."""
        return stats.held_since(self.probabilities.argmax(axis=1))

    def words(self) -> str:
        """The last answer, since which row it was the answer, and the truth where it is known."""
        name = self.name_of(self.label)
        told = (
            f"it has predicted {name} since row {self.since} of {len(self.image)} "
            f"({percent(self.probability, 1)} at the end)"
        )
        if self.truth is None:
            return told
        truth = self.name_of(self.truth)
        return f"{told}; {'' if self.truth == self.label else 'but '}it is {truth}"

    def summary(self) -> dict:
        """The reading as JSON takes it, without the image."""
        layers = [
            {name: np.round(values.astype(float), 4).tolist() for name, values in each.items()}
            for each in (layer._asdict() for layer in self.layers)
        ]
        return {
            "run_dir": str(self.run_dir),
            "step": self.step,
            "name": self.name,
            "inverted": self.inverted,
            "truth": self.truth,
            "label": self.label,
            "probability": self.probability,
            "since": self.since,
            "warning": self.warning or None,
            "probabilities": np.round(self.probabilities.astype(float), 6).tolist(),
            "layers": layers,
        } | ({"class_names": list(self.class_names)} if self.class_names else {})


def read(
    run_dir: str | Path,
    image: int | str | Path | np.ndarray,
    *,
    which: str = "last",
    split: SplitName = "test",
    data_dir: str = "",
) -> Reading:
    """Reads one image row by row; gives probabilities, hidden states and gates after each row.

    Args:
        run_dir: the run directory, or an export.
        image: the index of an image of the run's data, counted from 0; or a PNG or JPEG file as
            `predict` takes it; or uint8 [T, F], taken as it is.
        which: "last", "best" (highest validation accuracy) or a step.
        split: the part of the data that an index counts in.
        data_dir: where the data lies now, where that is not what the run's config says.

    Raises:
        ConfigError: the index is out of range.
        RunError: no run, no intact checkpoint, or the data is not what it was trained on.
        DataError: the picture or the data is missing, damaged or of another shape.

    >>> import tempfile, rowrnn
    >>> from rowrnn.config import Config, DataConfig, TrainConfig
    >>> config = Config(data=DataConfig("mnist_sample"), train=TrainConfig(examples=1000))
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     trained = rowrnn.train(config, f"{directory}/run")
    ...     reading = read(f"{directory}/run", 7)
    >>> reading.probabilities.shape, reading.layers[-1].f.shape
    ((28, 10), (28, 128))
    >>> 1 <= reading.since <= 28
    True
    """
    classifier = load(run_dir, which)
    truth, inverted, warning = None, False, ""
    match image:
        case np.ndarray():
            name, pixels = "image", _checked(image, classifier.shape)
        case str() | Path():
            picture = pictures.read(
                image, classifier.shape, classifier.pictures, classifier.channels
            )
            name, pixels = picture.path, picture.image
            inverted, warning = picture.inverted, picture.warning
        case int() | np.integer() if not isinstance(image, bool):
            name = f"{split}[{image}]"
            pixels, truth = _image_of(classifier, int(image), split, data_dir)
        case _:
            raise ConfigError(
                f"image = {shown(image)}: must be an index from 0, the path of a picture, or uint8 "
                f"[{classifier.shape[0]}, {classifier.shape[1]}]"
            )
    watched = classifier.watch(pixels[None])
    probabilities, layers = jax.tree.map(lambda array: array[:, 0], watched)
    return Reading(
        run_dir=classifier.run_dir,
        step=classifier.step,
        name=str(name),
        inverted=inverted,
        truth=truth,
        image=pixels,
        probabilities=probabilities,
        layers=layers,
        class_names=classifier.class_names,
        channels=classifier.channels,
        warning=warning,
    )


def save(reading: Reading, path: str | Path) -> None:
    """Draws a reading: ``.gif`` animates it row by row, ``.png`` shows all rows side by side.

    Raises `ConfigError` for any other ending and `RunError` where it cannot be written.
    """
    path = as_path(path)
    figures.require_format(path)
    with files.writing(path):
        if path.suffix.lower() == ".gif":
            figures.reading_animation(_arrays(reading), path, _title(reading))
        else:
            name = reading.name_of(reading.label)
            answer = f"{name} since row {reading.since} of {len(reading.image)}"
            draw_strip(reading, path, f": {answer}")


def draw_strip(reading: Reading, target: Target, answer: str = "") -> None:
    """Draws all rows side by side, below a title that ends in `answer`."""
    figures.reading_strip(_arrays(reading), target, _title(reading) + answer, reading.since)


def _arrays(reading: Reading) -> ReadingArrays:
    """What is drawn of a reading."""
    last = reading.layers[-1]
    gates = {"input\ngate i": last.i, "forget\ngate f": last.f, "output\ngate o": last.o}
    gates = {name: np.asarray(gate) for name, gate in gates.items()}
    return ReadingArrays(
        reading.image,
        reading.probabilities,
        np.asarray(last.h),
        gates,
        reading.class_names,
        reading.channels,
    )


def _checked(image: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The image; raises `DataError` where the network could not read it."""
    if image.dtype != np.uint8 or image.shape != shape:
        raise DataError(
            f"image: {image.dtype}{list(image.shape)}; it must be uint8{list(shape)}, as the "
            "network reads it, light on black"
        )
    return image


def _image_of(
    classifier: Classifier, index: int, split: str, data_dir: str
) -> tuple[np.ndarray, int]:
    """An image of the run's data and its label; raises `ConfigError` where there is none such."""
    part = classifier.load_split(split, data_dir)
    if not 0 <= index < len(part.labels):
        raise ConfigError(
            f"image {shown(index)}: the {split} part of {classifier.dataset} has "
            f"{len(part.labels):,} images; give an index from 0 to {len(part.labels) - 1:,}"
        )
    return part.images[index], int(part.labels[index])


def _title(reading: Reading) -> str:
    """What was read, in the few characters that a figure has room for."""
    name = reading.name if reading.truth is not None else Path(reading.name).name
    name = "".join(character for character in name if character.isprintable())
    name = re.sub(r"^(.{36}).{4,}$", r"\1…", name)
    return name if reading.truth is None else f"{name}, which is {reading.name_of(reading.truth)}"
