"""The reference recurrence: a plain `lax.scan` over the rows, differentiated by JAX.

This is the definition that every other backend is tested against, so it is written to be read.
"""

import jax
import jax.numpy as jnp


def lstm(cell, xs, carry, *, projection, input_scale, forget_bias, dtype, every_row):
    """See `rowrnn.lstm.lstm`, which gives the formulas."""
    # Sums are kept in at least float32, also where the operands are narrower.
    wide = jnp.promote_types(dtype, jnp.float32)

    def affine(layer, x):
        product = jnp.dot(x.astype(dtype), layer.kernel.astype(dtype), preferred_element_type=wide)
        return product + layer.bias[None]

    def read_row(carry, x):
        c, h = carry
        x = input_scale * x.astype(wide)
        if projection is not None:
            x = affine(projection, x)
        z = affine(cell, jnp.concatenate([x, h], axis=-1))
        i, j, f, o = jnp.split(z, 4, axis=-1)
        c = jax.nn.sigmoid(f + forget_bias) * c + jax.nn.sigmoid(i) * jnp.tanh(j)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (c, h), h if every_row else None

    carry, hs = jax.lax.scan(read_row, carry, xs)
    return (hs if every_row else carry[1]), carry
