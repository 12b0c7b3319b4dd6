"""NumPy's ``.npz`` files with images and labels, such as Keras's ``mnist.npz``."""

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from rowrnn import files
from rowrnn.core.dataset import Dataset
from rowrnn.data.arrays import read_class_names
from rowrnn.errors import DataError

# Names of images and labels: of Keras, and of MedMNIST.
_NAMES = {
    "train": (("x_train", "y_train"), ("train_images", "train_labels")),
    "test": (("x_test", "y_test"), ("test_images", "test_labels")),
    "validation": (("x_val", "y_val"), ("val_images", "val_labels")),
}


def load(path: str) -> Dataset:
    """The dataset in a file; `Dataset.from_arrays` says which arrays it may hold.

    Class names are in the array ``class_names``, or in a file ``classes.txt`` beside it.
    Raises `DataError` where the file is missing or damaged, or holds something else.
    """
    try:
        with files.open_plain(path) as file:
            found: Any = np.load(file, allow_pickle=False)
            if isinstance(found, np.ndarray):
                raise DataError(f"{path} holds a single array; save several with np.savez")
            given = {}
            for part, names in _NAMES.items():
                there = [pair for pair in names if set(pair) <= set(found.files)]
                if there:
                    given[part] = tuple(found[name] for name in there[0])
                elif part != "validation":
                    held = ", ".join(sorted(found.files)) or "nothing"
                    raise DataError(
                        f"{path} holds {held}; it must hold x_train, y_train, x_test and y_test"
                    )
            names = found["class_names"].tolist() if "class_names" in found.files else None
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}; it must be an npz file") from error
    except (ValueError, EOFError, KeyError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(
            f"{path}: damaged or no npz file of plain arrays ({error}); save it again with np.savez"
        ) from error
    names = names or read_class_names(Path(path).parent) or None
    return Dataset.from_arrays(**given, class_names=names, name="npz")
