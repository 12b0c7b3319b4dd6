"""States and facts of a small network, as a checkpoint holds them; nothing of it was trained."""

import jax
import jax.numpy as jnp

from rowrnn import config as configs
from rowrnn.config import Config, ModelConfig, OptimizerConfig
from rowrnn.core import state as states

CONFIG = Config(ModelConfig(8, 32), optimizer=OptimizerConfig("adamw", ema_decay=0.9))
FACTS = {
    "dataset": "mnist_sample",
    "fingerprint": "0" * 64,
    "shape": (6, 5),
    "classes": 3,
    "steps": 10,
    "config": configs.to_dict(CONFIG),
    "members": 1,
    "keys": [],
    "progress": {},
    "validation_accuracy": None,
}


# One program, and not one for each operation of it.
_create = jax.jit(lambda seed: states.create(CONFIG, 10, (6, 5), 3, seed))


def create(seed=0, step=0):
    """The state of a single member."""
    state = _create(seed)
    return jax.tree.map(lambda leaf: leaf[None], state._replace(step=jnp.int32(step)))


def abstract(_facts):
    """Shapes and types of that state, as `checkpoint.restore` asks for them."""
    return jax.eval_shape(create)
