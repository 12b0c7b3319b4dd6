"""One image and the probabilities after each of its rows, small enough for two dozen of them."""

import base64
import io
from dataclasses import dataclass

import numpy as np

from rowrnn.lab import stats
from rowrnn.lab.shown import percent

# Pixels of the page: the height of an image, the width of a class, and the most that classes take.
_TALL, _CLASS, _MOST_WIDE = 112, 10, 160
# A blue for white paper and for black; the page's own blue would need a script.
_BLUE = (43, 135, 200)


@dataclass(frozen=True)
class Strip:
    """What is drawn of an image; `rowrnn.figures.reading_strip` is the large form of it.

    Attributes:
        index: place of the image in its part of the data.
        image: uint8 [T, F].
        truth: its true class.
        probabilities: probabilities of the classes after each row, [T, C].
        names: of the classes; without them they have their numbers.
        channels: values of a pixel, 3 of colour.
    """

    index: int
    image: np.ndarray
    truth: int
    probabilities: np.ndarray
    names: tuple[str, ...] = ()
    channels: int = 1

    def name(self, label: int) -> str:
        """The name of a class."""
        return self.names[label] if self.names else str(label)

    @property
    def answer(self) -> int:
        """The most probable class after the last row."""
        return int(self.probabilities[-1].argmax())

    @property
    def probability(self) -> float:
        """Probability of the true class after the last row."""
        return float(self.probabilities[-1, self.truth])

    @property
    def probability_in_words(self) -> str:
        """The probability of the true class for a caption."""
        return percent(self.probability, 2) if self.probability > 5e-5 else "< 0.01 %"

    @property
    def since(self) -> int:
        """The row, counted from 1, from which on the answer was the most probable after each."""
        return stats.held_since(self.probabilities.argmax(axis=1))

    @property
    def tall(self) -> int:
        """Pixels of the page, of image and probabilities alike."""
        return _TALL

    @property
    def image_wide(self) -> int:
        """Pixels of the page that the image takes."""
        rows, pixels = self.image.shape[0], self.image.shape[1] // self.channels
        return int(np.clip(_TALL * pixels / rows, 24, _MOST_WIDE))

    @property
    def wide(self) -> int:
        """Pixels of the page that the probabilities take."""
        return min(_CLASS * self.probabilities.shape[1], _MOST_WIDE)

    @property
    def row(self) -> float:
        """Pixels of the page that a row takes."""
        return _TALL / len(self.image)

    @property
    def column(self) -> float:
        """Pixels of the page that a class takes."""
        return self.wide / self.probabilities.shape[1]

    @property
    def dots(self) -> str:
        """A path with a point on the best class after each row."""
        return "".join(
            f"M{self.column * (best + 0.5):.4g} {self.row * (row + 0.5):.4g}h0"
            for row, best in enumerate(self.probabilities.argmax(axis=1))
        )

    @property
    def image_address(self) -> str:
        """The image, as black ink on nothing, or in its colours."""
        if self.channels == 3:
            return _address(self.image.reshape(len(self.image), -1, 3))
        return _address(np.stack([np.zeros_like(self.image), self.image], axis=-1))

    @property
    def probabilities_address(self) -> str:
        """The probabilities, a pixel for each row and class: the more, the bluer."""
        colours = np.empty((*self.probabilities.shape, 4), np.uint8)
        colours[..., :3] = _BLUE
        colours[..., 3] = np.rint(255 * np.clip(self.probabilities, 0, 1))
        return _address(colours)


def _address(pixels: np.ndarray) -> str:
    """A PNG that is its own address; uint8 [T, N, 2] is grey and opacity, [T, N, 3 or 4] colour."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode('ascii')}"
