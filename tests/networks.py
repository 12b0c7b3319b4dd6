"""Networks that nobody has trained."""

from pathlib import Path

import jax
import numpy as np

from rowrnn.config import Config
from rowrnn.core.model import RowRNN
from rowrnn.lab.classifier import Classifier


def random_network(config, shape=(28, 28), classes=10, dataset="mnist"):
    """A network whose parameters, biases too, are drawn at random."""
    images = np.zeros((1, *shape), np.uint8)
    wanted = jax.eval_shape(RowRNN(config, classes).init, jax.random.key(0), images)["params"]
    random = np.random.default_rng(5)

    def draw(leaf):
        return random.normal(0, 1.5 / leaf.shape[0] ** 0.5, leaf.shape).astype(np.float32)

    return Classifier(
        run_dir=Path("run"), step=1, config=Config(config), params=jax.tree.map(draw, wanted),
        dataset=dataset, fingerprint="", shape=shape, classes=classes,
    )  # fmt: skip
