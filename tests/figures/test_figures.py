import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from rowrnn.figures import (
    confusion_matrix,
)


def draw(confusion, path):
    """The figure's pixels, [height, width, 3]."""
    confusion_matrix(np.array(confusion), path, "no formula: $x^$")
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture.convert("RGB")).astype(int)


def colours(pixels):
    """The colours of the cells with errors; black, white, grey and blends of letters are out."""
    coloured = pixels[pixels[..., 0] - pixels[..., 2] > 40]
    found, counts = np.unique(coloured, axis=0, return_counts=True)
    return found[counts > 1000]


@pytest.mark.parametrize("classes", [1, 2, 26])
def test_any_number_of_classes_is_drawn(classes, tmp_path):
    confusion = np.eye(classes, dtype=int) * 100 + (np.arange(classes**2) % 3).reshape(classes, -1)
    assert min(draw(confusion, tmp_path / "figure.png").shape[:2]) > 200


def test_errors_are_coloured_and_the_diagonal_is_not(tmp_path):
    assert len(colours(draw([[1000, 0], [0, 900]], tmp_path / "none.png"))) == 0
    pixels = draw([[999, 1], [0, 900]], tmp_path / "one.png")
    (colour,) = colours(pixels)  # one error in 1,900 is seen
    row, column = np.argwhere((pixels == colour).all(axis=-1)).mean(axis=0)
    middle_row, middle_column = np.argwhere((pixels == 224).all(axis=-1)).mean(axis=0)
    assert row < middle_row  # true class 0
    assert column > middle_column  # predicted class 1


def test_colour_is_the_share_of_the_row(tmp_path):
    assert len(colours(draw([[90, 10], [50, 450]], tmp_path / "same.png"))) == 1
    assert len(colours(draw([[90, 10], [10, 190]], tmp_path / "other.png"))) == 2


def test_a_class_without_examples_is_drawn(tmp_path):
    draw([[0, 0], [1, 3]], tmp_path / "figure.png")


def test_pyplot_is_left_alone(tmp_path):
    code = """
import sys
import numpy as np
import rowrnn.figures, rowrnn.lab.stats
assert not {"matplotlib", "scipy"} & set(sys.modules)
rowrnn.figures.confusion_matrix(np.eye(2, dtype=int), "one.png", "")
assert "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
