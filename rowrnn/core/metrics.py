"""Sums on the device, divided once on the host."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Metrics:
    """Sums over examples, and of steps that went wrong; they add up.

    Attributes:
        loss_sum: sum of the losses, float32.
        correct: how many examples have their highest logit at the label, int32.
        count: how many examples, int32.
        nonfinite: steps whose loss or update was not finite, int32.
    """

    loss_sum: jax.Array
    correct: jax.Array
    count: jax.Array
    nonfinite: jax.Array

    @classmethod
    def zeros(cls) -> "Metrics":
        """The sums over no examples."""
        # Three arrays, since the state that holds them is donated, and no buffer can be twice.
        correct, count, nonfinite = (jnp.zeros((), jnp.int32) for _ in range(3))
        return cls(jnp.zeros(()), correct, count, nonfinite)

    @classmethod
    def of(cls, logits: jax.Array, losses: jax.Array, labels: jax.Array) -> "Metrics":
        """The sums over one batch: logits [B, C], losses [B], labels [B]."""
        correct = (logits.argmax(axis=-1) == labels).sum(dtype=jnp.int32)
        count = jnp.asarray(labels.shape[0], jnp.int32)
        return cls(losses.sum(), correct, count, jnp.zeros((), jnp.int32))

    def __add__(self, other: "Metrics") -> "Metrics":
        return jax.tree.map(jnp.add, self, other)


def cross_entropy(
    logits: jax.Array, labels: jax.Array, smoothing: float | jax.Array = 0.0
) -> jax.Array:
    """Softmax cross-entropy of each example, [B]; logits [B, C], integer labels [B].

    With `smoothing` the target is ``(1 - smoothing) * one_hot + smoothing / C``
    (Szegedy et al., arXiv 1512.00567).
    """
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    uniform = jax.nn.logsumexp(logits, axis=-1) - logits.mean(axis=-1)
    return (1 - smoothing) * loss + smoothing * uniform
