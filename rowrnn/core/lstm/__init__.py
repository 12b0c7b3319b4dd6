"""The recurrence: arrays in, arrays out.

`lstm` runs one layer over all rows. Every implementation (a *backend*) takes the same arrays and
gives the same values and gradients but for rounding:

- ``scan`` (`rowrnn.core.lstm.reference`) is the definition, plain enough to be read as one;
- ``fast`` (`rowrnn.core.lstm.fast`) is the one to train with: the projection joined into the
  gates where that saves work, and a backward pass of its own;
- ``split`` (`rowrnn.core.lstm.split`) is what ``fast`` becomes on accelerators;
- ``pallas`` (`rowrnn.core.lstm.pallas`) is ``split`` with a kernel each way, for GPUs and TPUs;
- ``cudnn`` (`rowrnn.core.lstm.cudnn`) calls NVIDIA's kernels on CUDA devices.

Arrays are time-major, ``[T, B, ...]``, so that a row is one contiguous block and ``scan`` and
``fast`` need not transpose. Parameters keep the layout of TensorFlow's ``BasicLSTMCell``: one
kernel for input and hidden state together, its columns in the order of the gates i, j, f, o.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from rowrnn.core.lstm import cudnn, fast, reference, split
from rowrnn.core.lstm.reference import Activations

__all__ = ["BACKENDS", "Activations", "Affine", "Carry", "activations", "lstm", "zero_carry"]

Carry = tuple[jax.Array, jax.Array]
"""The state between two rows: (c, h), each [B, H]."""


class Affine(NamedTuple):
    """An affine map, ``x @ kernel + bias``.

    Attributes:
        kernel: [inputs, outputs].
        bias: [outputs].
    """

    kernel: jax.Array
    bias: jax.Array


def _pallas(cell, xs, carry, **options):
    from rowrnn.core.lstm import pallas  # Loading it takes half a second.

    return pallas.lstm(cell, xs, carry, **options)


BACKENDS: dict[str, Callable] = {
    "scan": reference.lstm,
    "fast": fast.lstm,
    "split": split.lstm,
    "pallas": _pallas,
    "cudnn": cudnn.lstm,
}


def zero_carry(batch: int, hidden: int, dtype: DTypeLike = jnp.float32) -> Carry:
    """The carry before the first row: two arrays of zeros, [batch, hidden]."""
    return jnp.zeros((batch, hidden), dtype), jnp.zeros((batch, hidden), dtype)


def lstm(
    cell: Affine,
    xs: jax.Array,
    carry: Carry,
    *,
    projection: Affine | None = None,
    input_scale: float = 1.0,
    forget_bias: float | jax.Array = 1.0,
    dtype: DTypeLike = jnp.float32,
    every_row: bool = False,
    backend: str = "scan",
) -> tuple[jax.Array, Carry]:
    """One LSTM layer over the rows, after Hochreiter & Schmidhuber (1997) with forget gates.

    For each row x and the state (c, h) that the rows before it left::

        x = (input_scale * x) @ projection.kernel + projection.bias    (where there is one)
        i, j, f, o = split([x, h] @ cell.kernel + cell.bias)
        c = sigmoid(f + forget_bias) * c + sigmoid(i) * tanh(j)
        h = sigmoid(o) * tanh(c)

    Args:
        cell: kernel [P + H, 4H], bias [4H].
        xs: rows, [T, B, F], float or uint8. Without a projection P is F.
        carry: (c, h), each [B, H].
        projection: kernel [F, P], bias [P], applied to every row first.
        input_scale: factor on the rows, 1/255 where they are pixels of type uint8.
        forget_bias: added to the forget gate beside its learned bias.
        dtype: type of the operands of matrix products. Sums, gates and the carry are kept in at
            least float32.
        every_row: whether to return the hidden state after every row.
        backend: a name in `BACKENDS`.

    Returns:
        The hidden state, [T, B, H] with `every_row` and otherwise the last one [B, H]; and the
        carry after the last row.

    >>> cell = Affine(jnp.full((3 + 2, 4 * 2), 0.1), jnp.zeros(4 * 2))
    >>> h, carry = lstm(cell, jnp.ones((28, 1, 3)), zero_carry(1, 2))
    >>> h.shape
    (1, 2)
    >>> bool((h == carry[1]).all())
    True
    """
    return BACKENDS[backend](
        cell,
        xs,
        carry,
        projection=projection,
        input_scale=input_scale,
        forget_bias=forget_bias,
        dtype=dtype,
        every_row=every_row,
    )


def activations(
    cell: Affine,
    xs: jax.Array,
    carry: Carry,
    *,
    projection: Affine | None = None,
    input_scale: float = 1.0,
    forget_bias: float | jax.Array = 1.0,
    dtype: DTypeLike = jnp.float32,
) -> Activations:
    """What one LSTM layer holds after each row: hidden state, cell and gates, each [T, B, H].

    For looking into a few images; it is computed by the definition, not by the fast backend, and
    takes six times the memory of the hidden states. Arguments are those of `lstm`.

    >>> cell = Affine(jnp.full((3 + 2, 4 * 2), 0.1), jnp.zeros(4 * 2))
    >>> after = activations(cell, jnp.ones((28, 1, 3)), zero_carry(1, 2))
    >>> after.f.shape
    (28, 1, 2)
    >>> bool(jnp.allclose(after.h, after.o * jnp.tanh(after.c)))
    True
    """
    return reference.activations(
        cell,
        xs,
        carry,
        projection=projection,
        input_scale=input_scale,
        forget_bias=forget_bias,
        dtype=dtype,
    )
