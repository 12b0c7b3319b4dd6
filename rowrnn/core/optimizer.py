"""From the configuration to an Optax transformation."""

import jax
import optax
from optax import contrib

from rowrnn.config import OptimizerConfig, is_off


def make_optimizer(config: OptimizerConfig, total_steps: int) -> optax.GradientTransformation:
    """The transformation that `config` describes, for a run of `total_steps`.

    Clipping comes first, then the optimizer. The numbers in `config` may be traced arrays, so
    that one compiled program serves many learning rates; the names may not.

    >>> import jax.numpy as jnp
    >>> tx = make_optimizer(OptimizerConfig(name="sgd", learning_rate=0.5), 100)
    >>> updates, _ = tx.update(jnp.array(2.0), tx.init(jnp.array(1.0)))
    >>> float(updates)
    -1.0
    """
    schedule = make_schedule(config, total_steps)
    match config.name:
        case "adam":
            tx = optax.adam(schedule, config.momentum, config.beta2, config.epsilon)
        case "adamw":
            tx = optax.adamw(
                schedule,
                config.momentum,
                config.beta2,
                config.epsilon,
                weight_decay=config.weight_decay,
                mask=_kernels,
            )
        case "sgd":
            tx = optax.sgd(schedule, config.momentum)
        case "muon":
            tx = contrib.muon(
                schedule,
                beta=config.momentum,
                weight_decay=config.weight_decay,
                weight_decay_mask=_kernels,
            )
        case name:
            raise AssertionError(f"config.check lets no optimizer {name!r} through")
    if is_off(config.clip_norm):
        return tx
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), tx)


def make_schedule(config: OptimizerConfig, total_steps: int) -> optax.Schedule:
    """Learning rate as a function of the step: warm-up, then constant or cosine to zero."""
    warmup = config.warmup_steps
    if config.schedule == "cosine":
        after = optax.cosine_decay_schedule(config.learning_rate, max(1, total_steps - warmup))
    else:
        after = optax.constant_schedule(config.learning_rate)
    if warmup == 0:
        return after
    ramp = optax.linear_schedule(0.0, config.learning_rate, warmup)
    return optax.join_schedules([ramp, after], [warmup])


def _kernels(params: optax.Params) -> optax.Params:
    """Marks the leaves that weight decay acts on: matrices, not biases."""
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)
