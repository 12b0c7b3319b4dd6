"""The task that every peer is given: the same weights, images and order of the data.

It travels between processes as one ``.npz`` file, read without pickle.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rowrnn.bench.oracle import FORGET_BIAS, Weights, random_weights
from rowrnn.config import DataConfig

RATE = 1e-3
"""Learning rate of Adam; its other numbers are the usual 0.9, 0.999 and 1e-8."""

EVAL_BATCH = 1_000
"""Examples in a batch of evaluation."""


@dataclass(frozen=True)
class Task:
    """What to compute.

    Attributes:
        weights: of the network before the first step.
        images: uint8 [N, T, F].
        labels: int32 [N].
        order: the order in which training takes the images, int32 [N]. Step k takes the k-th
            `batch` of it and begins anew where fewer are left.
        batch: examples in a step.
    """

    weights: Weights
    images: np.ndarray
    labels: np.ndarray
    order: np.ndarray
    batch: int

    def save(self, path: Path) -> None:
        """Writes everything but the batch size, which differs from child to child."""
        arrays = {"images": self.images, "labels": self.labels, "order": self.order}
        np.savez(path, allow_pickle=False, **arrays, **self.weights)

    @classmethod
    def load(cls, path: str, batch: int) -> "Task":
        """Reads what `save` wrote."""
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
        images, labels, order = (arrays.pop(name) for name in ("images", "labels", "order"))
        return cls(arrays, images, labels, order, batch)


def make_task(path: Path, projection: int, hidden: int) -> Task:
    """Random weights and the 4,000 real digits that ship with rowrnn, shuffled, saved at `path`."""
    from rowrnn import data

    dataset = data.load(DataConfig(dataset="mnist_sample"))
    images, labels = dataset.train.images, dataset.train.labels
    order = np.random.default_rng(0).permutation(len(labels)).astype(np.int32)
    weights = random_weights(0, images.shape[2], projection, hidden, dataset.classes)
    task = Task(weights, images, labels, order, batch=EVAL_BATCH)
    task.save(path)
    return task


class Cell(NamedTuple):
    """Weights of an LSTM cell as most libraries keep them.

    Attributes:
        input_kernel: [P, 4H].
        recurrent_kernel: [H, 4H].
        bias: [4H], with the forget bias in it.
    """

    input_kernel: np.ndarray
    recurrent_kernel: np.ndarray
    bias: np.ndarray


def cell_ifgo(weights: Weights) -> Cell:
    """The cell with its gates in the order i, f, g, o; rowrnn's is i, g, f, o, with g called j.

    rowrnn adds the forget bias at run time, the others keep it in their bias. Adam moves a bias
    in the same way wherever it starts, so training is the same too.
    """

    def reorder(array: np.ndarray) -> np.ndarray:
        i, g, f, o = np.split(array, 4, axis=-1)
        return np.concatenate([i, f, g, o], axis=-1)

    hidden = weights["cell_bias"].size // 4
    kernel, bias = reorder(weights["cell_kernel"]), reorder(weights["cell_bias"])
    bias[hidden : 2 * hidden] += FORGET_BIAS
    return Cell(kernel[:-hidden], kernel[-hidden:], bias)
