"""The fast recurrence: the maths of `rowrnn.core.lstm.reference`, arranged for few large products.

What depends on one row only is joined into one kernel before the loop, where that saves work. With
σ(x) = ½ tanh(½x) + ½ the four gates are one tanh, and with the ½ in the kernel a row costs one
product::

    u = tanh([x, 1, h] @ kernel)                 kernel [F + 1 + H, 4H]
    kernel = s * [k·Wi @ Wx;  bi @ Wx + b;  Wh]  s = ½, 1, ½, ½ for the gates i, j, f, o

where Wx and Wh are the two parts of the cell's kernel, (Wi, bi) the projection, k the scale of the
input, and b holds the forget bias. Joining is ordinary JAX, so that autodiff takes the gradients of
all of these from the one gradient of the joint kernel.

The backward pass is written by hand (`_read_rows_bwd`). Each row gives dz, the gradient of what
tanh was applied to; the gradient of the kernel is then a single product over all rows and examples,
``[x, 1, h]ᵀ @ dz``, where autodiff would do a small one for each row (Appleyard et al. 2016,
arXiv:1604.01946). ``experiments/speed_notes.md`` says what each of these is worth.
"""

import jax
import jax.numpy as jnp


def lstm(cell, xs, carry, *, projection, input_scale, forget_bias, dtype, every_row):
    """See `rowrnn.core.lstm.lstm`."""
    # Sums are kept in at least float32, as in the reference.
    wide = jnp.promote_types(dtype, jnp.float32)
    carry = tuple(state.astype(wide) for state in carry)
    xs, kernel = join(cell, xs, projection, input_scale, forget_bias, dtype)
    hs, carry = _read_rows(every_row, jnp.dtype(dtype), xs, kernel, carry)
    return (hs if every_row else carry[1]), carry


def join(cell, xs, projection, input_scale, forget_bias, dtype, alignment=1):
    """The rows with a one appended, [T, B, F + 1], and the joint kernel [F + 1 + H, 4H].

    Where the projection is not joined, F is its width P. The width F + 1 is rounded up to a
    multiple of `alignment` with zeros.
    """
    wide = jnp.promote_types(dtype, jnp.float32)
    rows, batch, _ = xs.shape
    if projection is not None and not _joining_pays(cell, projection, rows * batch):
        xs = _project(projection, input_scale, xs, dtype, wide)
        projection, input_scale = None, 1.0
    padding = -(xs.shape[-1] + 1) % alignment
    kernel = _join(cell, projection, input_scale, forget_bias, padding)
    ones = jnp.ones((rows, batch, 1), wide)
    xs = jnp.concatenate([xs.astype(wide), ones], axis=-1)
    if padding:
        xs = jnp.pad(xs, ((0, 0), (0, 0), (0, padding)))
    return xs, kernel.astype(wide)


def _joining_pays(cell, projection, positions):
    """Whether a training step needs fewer multiplications with the projection joined in.

    It counts the products that differ, for N = T·B positions: those with the inputs, and their
    gradients. Joined, a position costs F·4H forward and again for the gradient of the kernel, and
    making the kernel F·P·4H, thrice with its two gradients. Apart, it costs F·P + P·4H forward,
    the same for the gradients of the two kernels, and P·4H for that of the projected row.
    """
    (inputs, projected), gates = projection.kernel.shape, cell.bias.shape[0]
    joined = 2 * positions * inputs * gates + 3 * inputs * projected * gates
    apart = positions * (2 * inputs * projected + 3 * projected * gates)
    return joined < apart


def _project(projection, input_scale, xs, dtype, wide):
    """The projection of all rows as one product, [T, B, F] -> [T, B, P]."""
    rows, batch, inputs = xs.shape
    flat = xs.astype(dtype).reshape(rows * batch, inputs)
    kernel = (input_scale * projection.kernel).astype(dtype)
    product = jnp.dot(flat, kernel, preferred_element_type=wide) + projection.bias[None]
    return product.reshape(rows, batch, -1)


def _join(cell, projection, input_scale, forget_bias, padding):
    """The joint kernel of ``[x, 1, 0…, h]`` with `padding` zeros; see the head of this file."""
    hidden = cell.bias.shape[0] // 4
    input_kernel, recurrent_kernel = jnp.split(cell.kernel, [cell.kernel.shape[0] - hidden])
    i, j, f, o = jnp.split(cell.bias, 4)
    bias = jnp.concatenate([i, j, f + forget_bias, o])
    if projection is None:
        input_kernel = input_scale * input_kernel
    else:
        bias = projection.bias @ input_kernel + bias
        input_kernel = (input_scale * projection.kernel) @ input_kernel
    halves = jnp.repeat(jnp.array([0.5, 1, 0.5, 0.5], bias.dtype), hidden)
    parts = [input_kernel, bias[None], recurrent_kernel]
    if padding:
        parts.insert(2, jnp.zeros((padding, 4 * hidden), bias.dtype))
    return halves[None] * jnp.concatenate(parts)


def _read_rows_only(every_row, dtype, xs, kernel, carry):
    """Reads all rows with the joint kernel.

    Args:
        every_row: whether to return the hidden state after every row.
        dtype: type of the operands of products.
        xs: rows, each with a one appended, [T, B, F + 1] or, projected before, [T, B, P + 1].
        kernel: joint kernel, [F + 1 + H, 4H] or [P + 1 + H, 4H].
        carry: (c, h), each [B, H].

    Returns:
        Hidden states [T, B, H] or None, and the carry after the last row.
    """
    kernel = kernel.astype(dtype)

    def read_row(carry, x):
        c, h, *_ = _read_row(kernel, x, carry)
        return (c, h), h if every_row else None

    carry, hs = jax.lax.scan(read_row, carry, xs)
    return hs, carry


def _read_row(kernel, x, carry):
    """One row: the new (c, h), and what its backward pass needs: [x, 1, h] and the four u."""
    c, h = carry
    xh = jnp.concatenate([x, h], axis=-1)
    u = jnp.tanh(jnp.dot(xh.astype(kernel.dtype), kernel, preferred_element_type=c.dtype))
    ui, uj, uf, uo = jnp.split(u, 4, axis=-1)
    c = sigmoid(uf) * c + sigmoid(ui) * uj
    h = sigmoid(uo) * jnp.tanh(c)
    return c, h, xh, (ui, uj, uf, uo)


def sigmoid(u):
    """σ(x) from u = tanh(½x)."""
    return 0.5 * u + 0.5


def slope(u):
    """The derivative of σ(x) by ½x, from u = tanh(½x)."""
    return 0.5 - 0.5 * u * u


def _read_rows_fwd(every_row, dtype, xs, kernel, carry):
    kernel = kernel.astype(dtype)

    def read_row(carry, x):
        c, _ = carry
        new_c, h, xh, us = _read_row(kernel, x, carry)
        return (new_c, h), (h if every_row else None, (xh, c, us))

    carry, (hs, saved) = jax.lax.scan(read_row, carry, xs)
    return (hs, carry), (saved, kernel)


def _read_rows_bwd(every_row, dtype, residuals, cotangents):
    (xhs, cs, us), kernel = residuals
    dhs, (dc, dh) = cotangents
    wide = dc.dtype
    input_kernel, recurrent_kernel = jnp.split(kernel, [kernel.shape[0] - dc.shape[-1]])
    # The loop would repeat the transpose for every row.
    transposed = recurrent_kernel.T

    def unread_row(carry, saved):
        dc, dh = carry
        c, (ui, uj, uf, uo), dh_row = saved
        if every_row:
            dh = dh + dh_row
        i, f, o = sigmoid(ui), sigmoid(uf), sigmoid(uo)
        # Computing this again is cheaper than saving it.
        t = jnp.tanh(f * c + i * uj)
        dc = dc + dh * o * (1 - t * t)
        dz = jnp.concatenate(
            [
                dc * uj * slope(ui),
                dc * i * (1 - uj * uj),
                dc * c * slope(uf),
                dh * t * slope(uo),
            ],
            axis=-1,
        )
        return (dc * f, jnp.dot(dz.astype(dtype), transposed, preferred_element_type=wide)), dz

    carry, dzs = jax.lax.scan(unread_row, (dc, dh), (cs, us, dhs), reverse=True)
    # Two-dimensional, because a contraction over two axes is several times slower on a CPU.
    rows, batch, _ = dzs.shape
    xhs = xhs.reshape(rows * batch, -1).astype(dtype)
    dzs = dzs.reshape(rows * batch, -1).astype(dtype)
    dkernel = jnp.dot(xhs.T, dzs, preferred_element_type=wide)
    # XLA drops this where nobody asks for it, as where xs are pixels.
    dxs = jnp.dot(dzs, input_kernel.T, preferred_element_type=wide)
    return dxs.reshape(rows, batch, -1), dkernel, carry


_read_rows = jax.custom_vjp(_read_rows_only, nondiff_argnums=(0, 1))
_read_rows.defvjp(_read_rows_fwd, _read_rows_bwd)
