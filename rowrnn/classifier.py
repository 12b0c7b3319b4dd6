"""A trained network, loaded from its run directory and ready to be asked."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from rowrnn import checkpoint, rundir, step, weights
from rowrnn import config as configs
from rowrnn import state as states
from rowrnn.checkpoint import Facts, RunFacts
from rowrnn.config import Config
from rowrnn.errors import RunError
from rowrnn.model import Params, RowRNN
from rowrnn.state import TrainState
from rowrnn.weights import Origin

# The beliefs after every row take 28 times the memory of an answer.
_BLOCK = 1_000


@dataclass(frozen=True)
class Classifier:
    """The parameters of one checkpoint and what they were trained on.

    Attributes:
        run_dir: where the run lies.
        step: updates done when it was saved.
        config: the experiment.
        params: the parameters to evaluate, the moving average where one was kept.
        dataset: name of the data, and its fingerprint.
        shape: rows and pixels of an image, (T, F).
        classes: number of classes, C.
    """

    run_dir: Path
    step: int
    config: Config
    params: Params
    dataset: str
    fingerprint: str
    shape: tuple[int, int]
    classes: int

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Logits [N, C] of images [N, T, F], uint8."""
        return np.asarray(self._logits(self.params, jnp.asarray(images)))

    def beliefs(self, images: np.ndarray) -> np.ndarray:
        """Probabilities [T, N, C] that the network holds after each row of images [N, T, F]."""
        parts = [
            np.asarray(self._beliefs(self.params, jnp.asarray(images[start : start + _BLOCK])))
            for start in range(0, len(images), _BLOCK)
        ]
        return np.concatenate(parts, axis=1)

    @cached_property
    def _logits(self):
        def logits(params, images):
            with jax.default_matmul_precision(self.config.train.precision):
                return step.predict_logits(self.config, params, images, self.classes)

        return jax.jit(logits)

    @cached_property
    def _beliefs(self):
        model = RowRNN(self.config.model, self.classes)

        def beliefs(params, images):
            with jax.default_matmul_precision(self.config.train.precision):
                logits, _ = model.apply({"params": params}, images, every_row=True)
            return jax.nn.softmax(logits)

        return jax.jit(beliefs)


def load(run_dir: str | Path, which: str = "last") -> Classifier:
    """Loads a checkpoint of a run, or what `export` has made of one.

    Args:
        run_dir: the run directory.
        which: "last", "best" (highest validation accuracy) or a step; an export has but one.

    Raises `RunError` where there is no run, or no intact checkpoint in it.
    """
    path = Path(run_dir)
    if weights.is_export(path):
        params, origin = weights.read(path)
        return _make(path, origin, origin.step, params)
    rundir.require_single(path)
    restored = checkpoint.restore(path / "checkpoints", _make_abstract, which)
    if restored is None:
        raise RunError(
            f"{path} holds no checkpoint yet; let it train until its first save: "
            f"rowrnn train --resume {path}"
        )
    state, facts = restored
    return _make(path, RunFacts.of(facts), int(state.step), states.evaluation_params(state))


def _make(path: Path, run: RunFacts | Origin, step: int, params: Params) -> Classifier:
    """The network of a directory, from what is written there."""
    rows, pixels = run.shape
    return Classifier(
        run_dir=path,
        step=step,
        config=_config_of(run),
        params=params,
        dataset=run.dataset,
        fingerprint=run.fingerprint,
        shape=(rows, pixels),
        classes=run.classes,
    )


def _config_of(run: RunFacts | Origin) -> Config:
    """The config of a run, with a backend that computes the same on every device."""
    return configs.replace(configs.restore(run.config), {"model.backend": "fast"})


def _make_abstract(facts: Facts) -> TrainState:
    """Shapes and dtypes of a state, from the facts saved with it; `ValueError` of bad ones."""
    run = RunFacts.of(facts)
    config, (rows, pixels) = _config_of(run), run.shape

    def create():
        return states.create(config, run.steps, (rows, pixels), run.classes, seed=0)

    return jax.eval_shape(create)
