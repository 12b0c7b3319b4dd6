"""A trained network, loaded from its run directory and ready to be asked."""

import dataclasses
import functools
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from rowrnn import config as configs
from rowrnn import data
from rowrnn.checks import check_images, check_labels
from rowrnn.config import Config, ModelConfig
from rowrnn.core import step
from rowrnn.core.model import Params, RowRNN, Watched, watch
from rowrnn.data import Dataset, Split
from rowrnn.errors import ConfigError, DataError, RunError, shown
from rowrnn.files import as_path
from rowrnn.jax_settings import pinned
from rowrnn.lab.shown import Shown
from rowrnn.store import weights

# Probabilities after every row take 28 times the memory of an answer.
_BLOCK = 1_000


@dataclass(frozen=True, repr=False)
class Classifier(Shown):
    """The parameters of one checkpoint and what they were trained on.

    Attributes:
        run_dir: where the run lies.
        step: updates done when it was saved.
        config: the experiment.
        params: the parameters to evaluate, the moving average where one was kept.
        dataset: name of the data.
        fingerprint: SHA-256 of the data, in hex.
        shape: rows and pixels of an image, (T, F); in colour F is three times the columns.
        classes: number of classes, C.
        class_names: in the order of the labels; none where there are no other names than these.
    """

    run_dir: Path
    step: int
    config: Config
    params: Params
    dataset: str
    fingerprint: str
    shape: tuple[int, int]
    classes: int
    class_names: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """A name for each class: its label as text where it has no other."""
        return self.class_names or tuple(map(str, range(self.classes)))

    @property
    def channels(self) -> int:
        """Values of a pixel: 1 of grey, 3 of colour."""
        return self.config.data.channels or 1

    @property
    def pictures(self) -> str:
        """What is done to a picture before it is read; see `DataConfig.pictures`."""
        name = self.config.data.dataset
        return configs.of_data(self.config, name, self.channels).data.pictures or "as_is"

    def _facts(self) -> dict[str, Any]:
        return {
            "run_dir": str(self.run_dir),
            "step": self.step,
            "dataset": self.dataset,
            "shape": self.shape,
            "classes": self.classes,
            "parameters": sum(leaf.size for leaf in jax.tree.leaves(self.params)),
        }

    @pinned
    def logits(self, images: np.ndarray) -> np.ndarray:
        """Logits [N, C] of images [N, T, F], or of colour [N, T, F / 3, 3].

        Raises `DataError` unless they are uint8 of the shape that the network reads.
        """
        images = self._as_read(images)
        return self._finite(self._logits(self.params, jnp.asarray(images)))

    @pinned
    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """Probabilities [T, N, C] that the network holds after each row of images [N, T, F].

        Raises `DataError` as `logits` does.
        """
        images = self._as_read(images)
        parts = [
            self._finite(self._after_rows(self.params, jnp.asarray(images[start : start + _BLOCK])))
            for start in range(0, len(images), _BLOCK)
        ]
        return np.concatenate(parts, axis=1)

    def correct_after_rows(self, images: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """How many of images [N, T, F] are given their label [N] after each row, int64 [T]."""
        images = self._as_read(images)
        labels = check_labels(labels, len(images), self.classes)
        correct = np.zeros(self.shape[0], np.int64)
        for start in range(0, len(images), _BLOCK):
            answers = self.probabilities(images[start : start + _BLOCK]).argmax(axis=-1)
            correct += (answers == labels[None, start : start + _BLOCK]).sum(axis=1)
        return correct

    @pinned
    def watch(self, images: np.ndarray) -> Watched:
        """What the network holds after each row of a few images [N, T, F], as NumPy arrays."""
        images = self._as_read(images)
        with jax.default_matmul_precision(self.config.train.precision):
            watched = _watch(self.config.model, self.params, jnp.asarray(images))
        return jax.tree.map(self._finite, watched)

    def _as_read(self, images: Any) -> Any:
        """Images [N, T, F], of which a row holds all channels of each of its columns."""
        if self.channels == 3 and getattr(images, "shape", ())[2:] == (self.shape[1] // 3, 3):
            images = images.reshape(len(images), -1, self.shape[1])
        return check_images(images, self.shape)

    def _finite(self, answer: jax.Array) -> np.ndarray:
        """On the host; raises `RunError` of parameters that nothing can be computed with."""
        if isinstance(answer, Tracer):
            raise ConfigError(
                "a Classifier answers on the host, not within jax.jit; call it with arrays"
            )
        values = np.asarray(answer)
        if not np.isfinite(values).all():
            raise RunError(
                f"{self.run_dir} holds a network whose answers are not finite: it is damaged or "
                "forged; take another checkpoint, or train it anew"
            )
        return values

    def load_split(self, name: str, data_dir: str = "", dataset: Dataset | None = None) -> Split:
        """A part of the data that the network was trained on.

        Args:
            name: "test", "validation" or "train".
            data_dir: where the data lies now, where that is not what the run's config says.
            dataset: the data itself, which a run that was trained on arrays needs.

        Raises `RunError` where the data found is other than that, and `DataError` where it is
        missing or damaged, or has no such part.
        """
        if name not in ("test", "validation", "train"):
            raise ConfigError(f"split = {shown(name)}: must be one of test, validation, train")
        config = self.config.data
        data_dir = data_dir and str(as_path(data_dir, "data_dir"))
        # Nothing is prepared: a run that came from elsewhere may not say what is written where.
        config = dataclasses.replace(config, dir=data_dir or config.dir, manual_dir="")
        dataset = data.load(config) if dataset is None else data.split(dataset, config)
        if dataset.fingerprint != self.fingerprint:
            raise RunError(
                f"{self.run_dir} was trained on {self.dataset} with fingerprint "
                f"{self.fingerprint[:12]}…, but the data found now has "
                f"{dataset.fingerprint[:12]}…; give the same data with --data.dir (in Python "
                "data_dir=)"
            )
        part: Split = getattr(dataset, name)
        if len(part.labels) == 0:
            raise DataError(
                f"{self.run_dir} was trained without a {name} part; evaluate it on test"
            )
        return part

    @cached_property
    def _logits(self):
        def logits(params, images):
            with jax.default_matmul_precision(self.config.train.precision):
                return step.predict_logits(self.config, params, images, self.classes)

        return jax.jit(logits)

    @property
    def _after_rows(self):
        return _probabilities_program(self.config.model, self.classes, self.config.train.precision)


_watch = jax.jit(watch, static_argnums=0)


# Not one for each classifier: the members of a sweep differ in their parameters alone.
@functools.lru_cache(maxsize=8)
def _probabilities_program(config: ModelConfig, classes: int, precision: str):
    model = RowRNN(config, classes)

    def probabilities(params, images):
        with jax.default_matmul_precision(precision):
            logits, _ = model.apply({"params": params}, images, every_row=True)
        return jax.nn.softmax(logits)

    return jax.jit(probabilities)


@pinned
def load(run_dir: str | Path, which: str = "last") -> Classifier:
    """Loads a checkpoint of a run, or what `export` has made of one.

    Args:
        run_dir: the run directory.
        which: "last", "best" (highest validation accuracy) or a step; an export has but one.

    Raises `RunError` where there is no run, or no intact checkpoint in it.
    """
    path = as_path(run_dir, "run_dir")
    params, step, config, about = weights.load(path, which)
    rows, pixels = about.shape
    return Classifier(
        run_dir=path,
        step=step,
        config=config,
        params=params,
        dataset=about.dataset,
        fingerprint=about.fingerprint,
        shape=(rows, pixels),
        classes=about.classes,
        class_names=tuple(about.class_names),
    )
