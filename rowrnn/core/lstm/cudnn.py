"""The recurrence in cuDNN, through `jax.experimental.rnn`; needs a CUDA device.

cuDNN computes the same cell with another layout: gates in the order i, f, j, o (it writes g for
our j), each kernel transposed, two biases that are added, and all of it in one flat vector::

    [W_ih (4H, P) | W_hh (4H, H) | b_ih (4H) | b_hh (4H)]

The forget bias goes into b_ih, and b_hh is zero. cuDNN computes in float32, with TF32 products
unless `jax_default_matmul_precision` asks for more. The primitive cannot be batched by `vmap`.

It also says nothing of the layout of its arrays, so that XLA may fold a transpose into one, and
cuDNN then reads another array (https://github.com/jax-ml/jax/issues/19177): each is held row-major.
"""

import jax
import jax.numpy as jnp
from jax.experimental import rnn
from jax.experimental.layout import Layout, with_layout_constraint

from rowrnn.errors import ConfigError


def lstm(cell, xs, carry, *, projection, input_scale, forget_bias, dtype, every_row):
    """See `rowrnn.core.lstm.lstm`; raises `ConfigError` where there is no CUDA device."""
    if jax.default_backend() != "gpu":
        raise ConfigError(
            "model.backend = 'cudnn': needs a CUDA device, but jax runs on "
            f"{jax.default_backend()}; choose 'fast' or install jax[cuda13]"
        )
    if jnp.dtype(dtype) != jnp.float32:
        raise ConfigError(
            f"model.backend = 'cudnn': computes in float32 only, not {jnp.dtype(dtype)}; "
            "choose 'fast' or model.dtype = 'float32'"
        )
    xs = input_scale * xs.astype(jnp.float32)
    if projection is not None:
        xs = xs @ projection.kernel + projection.bias[None, None]
    rows, batch, inputs = xs.shape
    c, h = carry
    hs, h, c = rnn.lstm(  # pyright: ignore[reportGeneralTypeIssues]
        _row_major(xs.transpose(1, 0, 2)),
        _row_major(h[None]),
        _row_major(c[None]),
        to_cudnn(cell, forget_bias),
        jnp.full(batch, rows, jnp.int32),
        inputs,
        h.shape[-1],
        1,
        0.0,
        False,
        # HIGHEST without TF32, HIGH with it: the two that cuDNN's LSTM knows.
        jax.lax.Precision.HIGHEST if is_exact() else jax.lax.Precision.HIGH,
    )
    hs, h, c = map(_row_major, (hs, h, c))
    return (hs.transpose(1, 0, 2) if every_row else h[0]), (c[0], h[0])


def _row_major(array):
    """The array, whose elements XLA may not reorder here, nor those of its gradient."""
    return with_layout_constraint(array, Layout(major_to_minor=tuple(range(array.ndim))))


def to_cudnn(cell, forget_bias):
    """cuDNN's flat weights from ours.

    Args:
        cell: kernel [P + H, 4H] and bias [4H], gates i, j, f, o.
        forget_bias: added to the forget gate.
    """
    i, j, f, o = jnp.split(cell.bias, 4)
    bias = jnp.concatenate([i, f + forget_bias, j, o])
    i, j, f, o = jnp.split(cell.kernel, 4, axis=1)
    kernel = jnp.concatenate([i, f, j, o], axis=1)
    hidden = cell.bias.shape[0] // 4
    input_kernel, recurrent_kernel = jnp.split(kernel, [kernel.shape[0] - hidden])
    parts = [input_kernel.T, recurrent_kernel.T, bias, jnp.zeros_like(bias)]
    return jnp.concatenate([part.reshape(-1) for part in parts])


def is_exact():
    """Whether `jax_default_matmul_precision` asks for float32 throughout."""
    wanted = jax.config.jax_default_matmul_precision  # pyright: ignore[reportAttributeAccessIssue]
    return wanted in ("highest", "float32")
