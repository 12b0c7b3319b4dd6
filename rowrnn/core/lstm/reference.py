"""The reference recurrence: a plain `lax.scan` over the rows, differentiated by JAX.

This is the definition that every other backend is tested against, so it is written to be read.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Activations(NamedTuple):
    """What a layer holds after a row, all [B, H], or after each row, [T, B, H].

    Attributes:
        h: hidden state, between -1 and 1.
        c: cell.
        i: input gate, between 0 and 1: how much of `j` the cell takes in.
        j: candidate, between -1 and 1: what there is to take in.
        f: forget gate, between 0 and 1: how much the cell keeps of what it held.
        o: output gate, between 0 and 1: how much of the cell the hidden state shows.
    """

    h: jax.Array
    c: jax.Array
    i: jax.Array
    j: jax.Array
    f: jax.Array
    o: jax.Array


def lstm(cell, xs, carry, *, projection, input_scale, forget_bias, dtype, every_row):
    """See `rowrnn.core.lstm.lstm`, which gives the formulas."""

    def read_row(carry, x):
        after = _read_row(cell, projection, input_scale, forget_bias, dtype, carry, x)
        return (after.c, after.h), after.h if every_row else None

    carry, hs = jax.lax.scan(read_row, carry, xs)
    return (hs if every_row else carry[1]), carry


def activations(cell, xs, carry, *, projection, input_scale, forget_bias, dtype):
    """See `rowrnn.core.lstm.activations`."""

    def read_row(carry, x):
        after = _read_row(cell, projection, input_scale, forget_bias, dtype, carry, x)
        return (after.c, after.h), after

    return jax.lax.scan(read_row, carry, xs)[1]


def _read_row(cell, projection, input_scale, forget_bias, dtype, carry, x):
    """One row: what the layer holds after it, each [B, H]."""
    # Sums are kept in at least float32, also where the operands are narrower.
    wide = jnp.promote_types(dtype, jnp.float32)

    def affine(layer, x):
        product = jnp.dot(x.astype(dtype), layer.kernel.astype(dtype), preferred_element_type=wide)
        return product + layer.bias[None]

    c, h = carry
    x = input_scale * x.astype(wide)
    if projection is not None:
        x = affine(projection, x)
    z = affine(cell, jnp.concatenate([x, h], axis=-1))
    i, j, f, o = jnp.split(z, 4, axis=-1)
    i, j, f, o = (
        jax.nn.sigmoid(i), jnp.tanh(j), jax.nn.sigmoid(f + forget_bias), jax.nn.sigmoid(o)
    )  # fmt: skip
    c = f * c + i * j
    h = o * jnp.tanh(c)
    return Activations(h, c, i, j, f, o)
