"""Trained networks: out of a checkpoint, or in the layout of Hugging Face.

In that layout ``model.safetensors`` holds the parameters: a tensor has its dotted name
(``lstm_0.kernel``) and is float32. ``config.json`` says what a reader needs to rebuild the network,
and under ``rowrnn`` where it comes from.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from rowrnn import config as configs
from rowrnn import files
from rowrnn.config import Config
from rowrnn.core import state as states
from rowrnn.core.model import PIXEL_SCALE, Params, RowRNN
from rowrnn.core.state import TrainState, named_leaves
from rowrnn.errors import RunError
from rowrnn.files import Count
from rowrnn.store import checkpoint, rundir
from rowrnn.store.checkpoint import About, Facts

WEIGHTS, CONFIG = "model.safetensors", "config.json"


@dataclass(frozen=True, kw_only=True)
class ExportFacts(About):
    """What ``config.json`` has under ``rowrnn``; `step` is how many updates were done."""

    step: Count


class Network(NamedTuple):
    """A trained network on the host.

    Attributes:
        params: to evaluate, the moving average where one was kept.
        step: updates done.
        config: the experiment, with a backend that computes the same on every device.
        about: what it was trained on.
    """

    params: Params
    step: int
    config: Config
    about: About


def load(path: Path, which: str = "last") -> Network:
    """The network of a run at a checkpoint (`checkpoint.restore`), or that of an export.

    Raises `RunError` where there is no run, or no intact checkpoint in it.
    """
    if is_export(path):
        params, facts = read(path)
        return Network(params, facts.step, _config_of(facts), facts)
    rundir.require_single(path)
    restored = checkpoint.restore(path / "checkpoints", abstract_state, which)
    if restored is None:
        raise RunError(
            f"{path} holds no checkpoint yet; let it train until its first save: "
            f"rowrnn train --resume {path}"
        )
    state, facts = restored
    state = jax.tree.map(lambda leaf: leaf[0], state)
    params = states.evaluation_params(state)
    return Network(params, int(state.step), _config_of(facts), facts)


def to_bytes(params: Params) -> bytes:
    """The content of ``model.safetensors``."""
    tensors = {
        name: np.ascontiguousarray(np.asarray(leaf, np.float32))
        for name, leaf in named_leaves(params)
    }
    return save(tensors, {"format": "np"})


def to_document(facts: ExportFacts) -> dict[str, Any]:
    """The content of ``config.json``."""
    config = configs.restore(facts.config)
    channels = config.data.channels or 1
    model, names = config.model, facts.class_names or list(map(str, range(facts.classes)))
    return {
        "architectures": ["RowRNN"],
        "model_type": "rowrnn",
        "dtype": "float32",
        "image_size": [facts.shape[0], facts.shape[1] // channels],
        "num_channels": channels,
        "pictures": config.data.pictures,
        "pixel_scale": PIXEL_SCALE,
        "num_labels": facts.classes,
        "id2label": {str(label): name for label, name in enumerate(names)},
        "label2id": {name: label for label, name in enumerate(names)},
        "num_hidden_layers": model.layers,
        "hidden_size": model.hidden_size,
        "projection_size": model.projection_size,
        "forget_bias": model.forget_bias,
        "pooling": model.pooling,
        "gates": ["i", "j", "f", "o"],
        "rowrnn": vars(facts),
    }


def is_export(directory: Path) -> bool:
    """Whether a directory holds a network in this layout."""
    return os.path.isfile(directory / WEIGHTS)


def read(directory: Path) -> tuple[Params, ExportFacts]:
    """The network in a directory, its parameters on the host.

    Raises `RunError` where files are missing or damaged, or the tensors are not those that the
    config implies; no more memory is taken than these need.
    """
    files.require_plain(directory)
    try:
        facts = ExportFacts.of(files.read_json(directory / CONFIG).get("rowrnn"))
        wanted = _abstract(facts)
        with safe_open(directory / WEIGHTS, framework="np") as tensors:
            return _tensors(tensors, wanted), facts
    except (OSError, ValueError, AttributeError, SafetensorError) as error:
        problem = getattr(error, "strerror", None) or error
        raise RunError(
            f"{directory} holds no network that can be read ({problem}); export it again"
        ) from error


def _config_of(about: About) -> Config:
    """The config, with a backend that computes the same on every device."""
    config = configs.replace(configs.restore(about.config), {"model.backend": "fast"})
    if about.shape[1] % (config.data.channels or 1):
        raise RunError(
            f"a network of colour, whose rows hold {about.shape[1]} values, which is no multiple "
            "of 3: it is damaged or forged; take another checkpoint, or train it anew"
        )
    return config


def abstract_state(facts: Facts) -> TrainState:
    """Shapes and dtypes of the state of a single run, from the facts saved with it."""
    if facts.members != 1:
        raise ValueError(f"it holds {facts.members} members, and not a run")
    config, (rows, pixels) = _config_of(facts), facts.shape

    def create(seed):
        return states.create(config, facts.steps, (rows, pixels), facts.classes, seed)

    state = jax.eval_shape(create, jax.ShapeDtypeStruct((), np.uint32))
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((1, *leaf.shape), leaf.dtype), state)


def _abstract(facts: ExportFacts) -> Params:
    model = RowRNN(configs.restore(facts.config).model, facts.classes)
    images = jax.ShapeDtypeStruct((1, *facts.shape), np.uint8)
    return jax.eval_shape(model.init, jax.random.key(0), images)["params"]


def _tensors(found: Any, wanted: Params) -> Params:
    shapes = {name: leaf.shape for name, leaf in named_leaves(wanted)}
    if set(found.keys()) != set(shapes):
        raise ValueError(f"it has other tensors than {', '.join(sorted(shapes))}")
    tensors = []
    for name, shape in shapes.items():
        claim = found.get_slice(name)
        if (tuple(claim.get_shape()), claim.get_dtype()) != (shape, "F32"):
            raise ValueError(f"{name} is {claim.get_dtype()}{claim.get_shape()}, not {shape}")
        tensors.append(found.get_tensor(name))
    return jax.tree.unflatten(jax.tree.structure(wanted), tensors)
