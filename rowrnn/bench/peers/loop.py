"""What the JAX peers share: Adam from Optax in a compiled loop over data on the device.

A peer gives its parameters and a pure function from parameters and images to logits. Everything
else is as its users would have it at best: one compiled loop over the steps, the state donated,
images and labels on the device, as float32 so that no step converts them. Products are in float32
throughout, here and in every peer, or they could not be held to the same losses.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rowrnn.bench.peers.task import EVAL_BATCH, EXAMPLES, RATE, Task

Apply = Callable[[Any, jax.Array], jax.Array]


class OptaxLoop:
    """A peer that trains with Optax.

    Attributes:
        facts: versions of its libraries.
    """

    def __init__(self, task: Task, params: Any, apply: Apply, version: dict[str, str]):
        """Compiles the loop for the parameters and the function ``apply(params, images)``."""
        jax.config.update("jax_default_matmul_precision", "highest")
        self._batch, self._apply = task.batch, jax.jit(apply)
        self._images = jnp.asarray(task.images, jnp.float32) / 255
        self._labels = jnp.asarray(task.labels)
        self._order = jnp.asarray(task.order)
        self._tx = optax.adam(RATE)
        self._state = (jnp.zeros((), jnp.int32), params, self._tx.init(params))
        self._steps = jax.jit(self._run_steps, donate_argnums=0)
        self._evaluate = jax.jit(self._count_correct)
        shared = {"jax": jax.__version__, "optax": optax.__version__}
        self.facts = {"versions": shared | version}

    def first_logits(self) -> list:
        """Logits [B][C] of the first batch."""
        batch = self._images[self._order[: self._batch]]
        return np.asarray(self._apply(self._state[1], batch)).tolist()

    def losses(self, steps: int) -> list[float]:
        """Takes steps one by one and returns the loss of each before its update."""
        losses = []
        for _ in range(steps):
            self._state, loss = self._steps(self._state, 1)
            losses.append(float(loss))
        return losses

    def train(self, steps: int) -> None:
        """Takes steps and waits for the last."""
        self._state, loss = self._steps(self._state, steps)
        jax.block_until_ready((self._state, loss))

    def evaluate(self, batches: int) -> int:
        """Counts the correct answers in as many batches of 1,000."""
        return int(self._evaluate(self._state[1], batches))

    def _run_steps(self, state: Any, steps: jax.Array) -> tuple[Any, jax.Array]:
        def mean_loss(params, images, labels):
            logits = self._apply(params, images)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        def body(_, carried):
            (step, params, opt_state), _ = carried
            start = step % (EXAMPLES // self._batch) * self._batch
            index = jax.lax.dynamic_slice_in_dim(self._order, start, self._batch)
            loss, grads = jax.value_and_grad(mean_loss)(
                params, self._images[index], self._labels[index]
            )
            updates, opt_state = self._tx.update(grads, opt_state, params)
            return (step + 1, optax.apply_updates(params, updates), opt_state), loss

        return jax.lax.fori_loop(0, steps, body, (state, jnp.zeros(())))

    def _count_correct(self, params: Any, batches: jax.Array) -> jax.Array:
        def body(batch, correct):
            start = batch % (EXAMPLES // EVAL_BATCH) * EVAL_BATCH
            images = jax.lax.dynamic_slice_in_dim(self._images, start, EVAL_BATCH)
            labels = jax.lax.dynamic_slice_in_dim(self._labels, start, EVAL_BATCH)
            return correct + (self._apply(params, images).argmax(axis=-1) == labels).sum()

        return jax.lax.fori_loop(0, batches, body, jnp.zeros((), jnp.int32))
