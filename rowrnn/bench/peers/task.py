"""The task that every peer is given: the same weights, images and order of the data.

Each process makes it for itself, the same to the bit.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from rowrnn.bench.flops import Shape
from rowrnn.bench.oracle import FORGET_BIAS, Weights, random_weights
from rowrnn.config import DataConfig

RATE = 1e-3
"""Learning rate of Adam; its other numbers are the usual 0.9, 0.999 and 1e-8."""

EXAMPLES = 4_000
"""Images to train on, and to evaluate."""

EVAL_BATCH = 1_000
"""Examples in a batch of evaluation."""


@dataclass(frozen=True)
class Task:
    """What to compute.

    Attributes:
        weights: of the network before the first step.
        images: uint8 [N, T, F], N = `EXAMPLES`.
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

    @property
    def shape(self) -> Shape:
        """The sizes of images and network."""
        rows, features = self.images.shape[1:]
        hidden, classes = self.weights["readout_kernel"].shape
        return Shape(rows, features, self.weights["projection_bias"].size, hidden, classes)

    @property
    def layers(self) -> tuple[np.ndarray, ...]:
        """The weights as most libraries keep them.

        Kernel [F, P] and bias [P] of the projection; input kernel [P, 4H], recurrent kernel
        [H, 4H] and bias [4H] of the cell; kernel [H, C] and bias [C] of the readout. The gates are
        in the order i, f, g, o; rowrnn's is i, g, f, o, with g called j. rowrnn adds the forget
        bias at run time, the others keep it in their bias. Adam moves a bias in the same way
        wherever it starts, so training is the same too.
        """

        def reorder(array: np.ndarray) -> np.ndarray:
            i, g, f, o = np.split(array, 4, axis=-1)
            return np.concatenate([i, f, g, o], axis=-1)

        weights, hidden = self.weights, self.shape.hidden
        kernel, bias = reorder(weights["cell_kernel"]), reorder(weights["cell_bias"])
        bias[hidden : 2 * hidden] += FORGET_BIAS
        projection = weights["projection_kernel"], weights["projection_bias"]
        readout = weights["readout_kernel"], weights["readout_bias"]
        return *projection, kernel[:-hidden], kernel[-hidden:], bias, *readout


@dataclass
class EagerLoop:
    """A peer that takes one step after another, as users of its library write it.

    Attributes:
        task: with the batch size.
        facts: versions of its libraries.
        first_logits: gives the logits [B][C] of the first batch.
        take_step: takes a step with a part of the order; the loss before it, on the device.
        count_correct: how many of a part of the images are classified right, on the device.
        steps: that have been taken.
    """

    task: Task
    facts: dict[str, Any]
    first_logits: Callable[[], list]
    take_step: Callable[[slice], Any]
    count_correct: Callable[[slice], Any]
    steps: int = 0

    def losses(self, steps: int) -> list[float]:
        """Takes steps one by one and returns the loss of each before its update."""
        return [float(self.take_step(self._next())) for _ in range(steps)]

    def train(self, steps: int) -> None:
        """Takes steps and waits for the last."""
        for _ in range(steps - 1):
            self.take_step(self._next())
        self.losses(1)

    def evaluate(self, batches: int) -> int:
        """Counts the correct answers in as many batches of 1,000."""
        return int(sum(self.count_correct(self._part(k, EVAL_BATCH)) for k in range(batches)))

    def _next(self) -> slice:
        self.steps += 1
        return self._part(self.steps - 1, self.task.batch)

    def _part(self, index: int, size: int) -> slice:
        """The part of the data of a batch; where no whole one is left it begins anew."""
        start = index % (EXAMPLES // size) * size
        return slice(start, start + size)


def make_task(batch: int, hidden: int, projection: int) -> Task:
    """Random weights and the 4,000 real digits that ship with rowrnn, shuffled."""
    from rowrnn import data

    dataset = data.load(DataConfig(dataset="mnist_sample"))
    images, labels = dataset.train.images, dataset.train.labels
    order = np.random.default_rng(0).permutation(EXAMPLES).astype(np.int32)
    weights = random_weights(0, images.shape[2], projection, hidden, dataset.classes)
    return Task(weights, images, labels, order, batch)
