"""The recurrence for accelerators: the products with all inputs are split off and done first.

The maths is that of `rowrnn.core.lstm.fast`. There a row costs one product, ``[x, 1, h] @ kernel``,
which suits a CPU. An accelerator prefers few large kernels, and so the part that needs no hidden
state is one product over all rows and examples, before the loop::

    z = [x, 1, 0…] @ kernel[:F′]       all rows at once; F′ is F + 1, up to a multiple of 8
    u = tanh(z + h @ kernel[F′:])      each row

The backward pass needs u and the cell before each row, and no more: the hidden states follow from
these. The gradient of the kernel is one product over all rows, as in ``fast``.

What is done for each row has two forms: `LOOPS`, plain JAX, and the kernels of
`rowrnn.core.lstm.pallas`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rowrnn.core.lstm import fast

# Rows of a loop that are written out one after the other: on a GPU they then are one graph. On an
# H200 a step takes 586 µs with 1, 450 with 7 and 427 with all 28, which compile for 8 and 15 s.
_UNROLL = 32
# Widths of operands are rounded up to this, or XLA pads them in every row.
_ALIGNMENT = 8


class Recurrence(NamedTuple):
    """How the rows are read; all arrays but those of the type of operands are at least float32.

    Attributes:
        forward: (z [T, B, 4H], kernel [H, 4H], c [B, H], h [B, H], save) -> (hs [T, B, H], c, h,
            u [T, B, 4H], cells before each row [T, B, H]); the last two None without `save`.
        backward: (u, cells, transposed kernel [4H, H], dhs [T, B, H] or None, dc, dh) ->
            (dz [T, B, 4H] in the type of the kernel, dc, dh).
    """

    forward: Callable[..., Any]
    backward: Callable[..., Any]


def lstm(cell, xs, carry, **options):
    """See `rowrnn.core.lstm.lstm`."""
    return read(LOOPS, cell, xs, carry, **options)


def read(
    recurrence: Recurrence,
    cell,
    xs,
    carry,
    *,
    projection,
    input_scale,
    forget_bias,
    dtype,
    every_row,
):
    """One layer by a recurrence; the other arguments are those of `rowrnn.core.lstm.lstm`."""
    wide = jnp.promote_types(dtype, jnp.float32)
    carry = tuple(state.astype(wide) for state in carry)
    xs, kernel = fast.join(cell, xs, projection, input_scale, forget_bias, dtype, _ALIGNMENT)
    hs, carry = _read_rows(recurrence, jnp.dtype(dtype), every_row, xs, kernel, carry)
    return (hs if every_row else carry[1]), carry


def row(u, c, tanh=jnp.tanh):
    """One row from the cell before it and u, four arrays [B, H]: the new c and h."""
    ui, uj, uf, uo = u
    c = fast.sigmoid(uf) * c + fast.sigmoid(ui) * uj
    return c, fast.sigmoid(uo) * tanh(c)


def unrow(u, c, dc, dh, tanh=jnp.tanh):
    """The backward pass of one row, from u, the cell before it, and the gradients of c and h after.

    Returns the gradient of z, four arrays [B, H], and of the cell before.
    """
    ui, uj, uf, uo = u
    i, f, o = fast.sigmoid(ui), fast.sigmoid(uf), fast.sigmoid(uo)
    # Computing this again is cheaper than saving it.
    t = tanh(f * c + i * uj)
    dc = dc + dh * o * (1 - t * t)
    dz = (
        dc * uj * fast.slope(ui),
        dc * i * (1 - uj * uj),
        dc * c * fast.slope(uf),
        dh * t * fast.slope(uo),
    )
    return dz, dc * f


def _loop_forward(z, kernel, c, h, save):
    def read_row(carry, z):
        c, h = carry
        product = jnp.dot(h.astype(kernel.dtype), kernel, preferred_element_type=c.dtype)
        u = jnp.tanh(z + product)
        new_c, h = row(jnp.split(u, 4, axis=-1), c)
        return (new_c, h), (h, *((u, c) if save else (None, None)))

    (c, h), (hs, u, cells) = jax.lax.scan(read_row, (c, h), z, unroll=min(_UNROLL, len(z)))
    return hs, c, h, u, cells


def _loop_backward(u, cells, transposed, dhs, dc, dh):
    dtype = transposed.dtype

    def unread_row(carry, saved):
        dc, dh = carry
        u, c, dh_row = saved
        dh = dh if dh_row is None else dh + dh_row
        dz, dc = unrow(jnp.split(u, 4, axis=-1), c, dc, dh)
        dz = jnp.concatenate(dz, axis=-1).astype(dtype)
        return (dc, jnp.dot(dz, transposed, preferred_element_type=dc.dtype)), dz

    unroll = min(_UNROLL, len(u))
    (dc, dh), dz = jax.lax.scan(unread_row, (dc, dh), (u, cells, dhs), reverse=True, unroll=unroll)
    return dz, dc, dh


LOOPS = Recurrence(_loop_forward, _loop_backward)


def _read_rows_only(recurrence, dtype, every_row, xs, kernel, carry):
    """Reads all rows.

    Args:
        recurrence: how.
        dtype: type of the operands of products.
        every_row: whether to return the hidden state after every row.
        xs: rows with a one appended, and zeros, [T, B, F′].
        kernel: joint kernel, [F′ + H, 4H].
        carry: (c, h), each [B, H].

    Returns:
        Hidden states [T, B, H] or None, and the carry after the last row.
    """
    return _forward(recurrence, dtype, every_row, xs, kernel, carry, save=False)[0]


def _read_rows_fwd(recurrence, dtype, every_row, xs, kernel, carry):
    results, u, cells = _forward(recurrence, dtype, every_row, xs, kernel, carry, save=True)
    return results, (xs, kernel, carry[1], u, cells)


def _forward(recurrence, dtype, every_row, xs, kernel, carry, save):
    rows, batch, inputs = xs.shape
    input_kernel, recurrent_kernel = jnp.split(kernel.astype(dtype), [inputs])
    flat = xs.astype(dtype).reshape(rows * batch, inputs)
    z = jnp.dot(flat, input_kernel, preferred_element_type=kernel.dtype)
    z = z.reshape(rows, batch, -1)
    hs, c, h, u, cells = recurrence.forward(z, recurrent_kernel, *carry, save)
    return (hs if every_row else None, (c, h)), u, cells


def _read_rows_bwd(recurrence, dtype, every_row, residuals, cotangents):
    xs, kernel, h, u, cells = residuals
    dhs, (dc, dh) = cotangents
    wide, (rows, batch, inputs) = kernel.dtype, xs.shape
    input_kernel, recurrent_kernel = jnp.split(kernel.astype(dtype), [inputs])
    dz, dc, dh = recurrence.backward(
        u, cells, recurrent_kernel.T, dhs if every_row else None, dc, dh
    )
    # The hidden state before each row; the cell after a row is the one before the next.
    o = fast.sigmoid(jnp.split(u[:-1], 4, axis=-1)[3])
    before = jnp.concatenate([h[None], o * jnp.tanh(cells[1:])])
    # Two-dimensional, so that these are plain products.
    dz = dz.reshape(rows * batch, -1)

    def with_rows(array):
        flat = array.astype(dtype).reshape(rows * batch, -1)
        return jnp.dot(flat.T, dz, preferred_element_type=wide)

    dkernel = jnp.concatenate([with_rows(xs), with_rows(before)])
    # XLA drops this where nobody asks for it, as where xs are pixels.
    dxs = jnp.dot(dz, input_kernel.T, preferred_element_type=wide)
    return dxs.reshape(rows, batch, -1), dkernel, (dc, dh)


_read_rows = jax.custom_vjp(_read_rows_only, nondiff_argnums=(0, 1, 2))
_read_rows.defvjp(_read_rows_fwd, _read_rows_bwd)
