"""The recurrence as one kernel each way, in Pallas, for NVIDIA GPUs and for TPUs.

It is `rowrnn.core.lstm.split` with kernels for the two loops over the rows: c and h stay on the
chip from the first row to the last, and a row starts no kernel.

- On a GPU (Triton) each program reads all rows of a block of examples. Two cases are left to the
  loops of ``split``: more than 128 units, whose kernel does not fit into shared memory, and float32
  throughout, which tensor cores do not have (measured: 17 times slower).
- On a TPU (Mosaic) the grid runs over blocks of examples and then over the rows, in order, with c
  and h in scratch memory and the kernel of the network resident.

Sizes that a kernel cannot have are padded with zeros, which stay zeros: units to a power of two
(GPU) or a multiple of 128 (TPU), examples to whole blocks. On other devices, such as CPUs, the
kernels for GPUs are interpreted, which is slow: for tests.

Under `vmap` the members become one more axis of the grid.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu, triton

from rowrnn.core.lstm import split
from rowrnn.core.lstm.cudnn import is_exact
from rowrnn.core.lstm.split import Recurrence

# Examples of a program on a GPU (the fewest that tensor cores take) and its warps, which are the
# fastest of nine pairs on an H200; and the most units that it can have.
_GPU_BLOCK, _GPU_WARPS, _GPU_MOST_UNITS = 16, 8, 128
# The most examples of a program on a TPU, and what its units are a multiple of.
_TPU_BLOCK, _TPU_LANES = 128, 128


def lstm(cell, xs, carry, **options):
    """See `rowrnn.core.lstm.lstm`."""
    return split.read(KERNELS, cell, xs, carry, **options)


def _forward(z, kernel, c, h, save):
    on_gpu = gpu() if _suits_gpu(kernel.dtype, c.shape[-1]) else split.LOOPS
    return jax.lax.platform_dependent(
        z, kernel, c, h,
        cuda=functools.partial(on_gpu.forward, save=save),
        tpu=functools.partial(tpu_kernels().forward, save=save),
        default=functools.partial(gpu(interpret=True).forward, save=save),
    )  # fmt: skip


def _backward(u, cells, transposed, dhs, dc, dh):
    on_gpu = gpu() if _suits_gpu(transposed.dtype, dc.shape[-1]) else split.LOOPS
    return jax.lax.platform_dependent(
        u, cells, transposed, dhs, dc, dh,
        cuda=on_gpu.backward,
        tpu=tpu_kernels().backward,
        default=gpu(interpret=True).backward,
    )  # fmt: skip


KERNELS = Recurrence(_forward, _backward)


def _suits_gpu(dtype, hidden):
    return hidden <= _GPU_MOST_UNITS and not (dtype == jnp.float32 and is_exact())


# Shapes and padding. Results lie in the order of `Recurrence`, with the last carry at the end.


def _forward_shapes(rows, batch, hidden, save):
    """Shapes of hs, with `save` u and cells, c and h."""
    each = [(rows, batch, hidden)]
    saved = [(rows, batch, 4 * hidden), (rows, batch, hidden)] if save else []
    return each + saved + [(batch, hidden)] * 2


def _backward_results(arguments):
    """Shapes and types of dz, dc and dh, from padded arguments."""
    u, _, transposed, dc, dh, *_ = arguments
    return [
        jax.ShapeDtypeStruct(u.shape, transposed.dtype),
        jax.ShapeDtypeStruct(dc.shape, dc.dtype),
        jax.ShapeDtypeStruct(dh.shape, dh.dtype),
    ]


def _pad(array, batch, hidden, gates=1):
    """Pads [..., B, gates · H] with zeros, each gate to `hidden` units."""
    *rest, examples, width = array.shape
    if (examples, width) == (batch, gates * hidden):
        return array
    parts = array.reshape(*rest, examples, gates, width // gates)
    zeros = [(0, 0)] * len(rest)
    zeros += [(0, batch - examples), (0, 0), (0, hidden - width // gates)]
    return jnp.pad(parts, zeros).reshape(*rest, batch, gates * hidden)


def _cut(array, batch, hidden, gates=1):
    """Undoes `_pad`."""
    *rest, examples, width = array.shape
    if (examples, width) == (batch, gates * hidden):
        return array
    parts = array.reshape(*rest, examples, gates, width // gates)[..., :batch, :, :hidden]
    return parts.reshape(*rest, batch, gates * hidden)


def _pad_forward(z, kernel, c, h, batch, hidden):
    kernel = _pad(kernel, hidden, hidden, 4)
    return _pad(z, batch, hidden, 4), kernel, *(_pad(state, batch, hidden) for state in (c, h))


def _cut_forward(results, batch, hidden):
    hs, *saved, c, h = results
    u, cells = saved or (None, None)
    hs, c, h = (_cut(array, batch, hidden) for array in (hs, c, h))
    if u is not None:
        u, cells = _cut(u, batch, hidden, 4), _cut(cells, batch, hidden)
    return hs, c, h, u, cells


def _pad_backward(u, cells, transposed, dhs, dc, dh, batch, hidden):
    transposed = _pad(transposed.T, hidden, hidden, 4).T
    wide = [_pad(array, batch, hidden) for array in (cells, dc, dh)]
    dhs = [] if dhs is None else [_pad(dhs, batch, hidden)]
    return [_pad(u, batch, hidden, 4), wide[0], transposed, *wide[1:], *dhs]


def _cut_backward(results, batch, hidden):
    dz, dc, dh = results
    return _cut(dz, batch, hidden, 4), *(_cut(state, batch, hidden) for state in (dc, dh))


def _recurrence(sizes, call, forward_kernel, backward_kernel):
    """The kernels of one kind of device as a recurrence.

    Args:
        sizes: (examples, units) -> the same, padded.
        call: (kernel, arguments, results, index of the network's kernel, backward) -> results.
        forward_kernel, backward_kernel: for `call`.
    """

    def forward(z, kernel, c, h, save):
        (rows, batch, _), hidden = z.shape, c.shape[-1]
        padded, units = sizes(batch, hidden)
        shapes = _forward_shapes(rows, padded, units, save)
        results = [jax.ShapeDtypeStruct(shape, c.dtype) for shape in shapes]
        arguments = _pad_forward(z, kernel, c, h, padded, units)
        return _cut_forward(call(forward_kernel, arguments, results, 1, False), batch, hidden)

    def backward(u, cells, transposed, dhs, dc, dh):
        batch, hidden = dc.shape
        padded, units = sizes(batch, hidden)
        arguments = _pad_backward(u, cells, transposed, dhs, dc, dh, padded, units)
        results = call(backward_kernel, arguments, _backward_results(arguments), 2, True)
        return _cut_backward(results, batch, hidden)

    return Recurrence(forward, backward)


# NVIDIA GPUs.


@functools.cache
def gpu(*, interpret: bool = False) -> Recurrence:
    """The kernels for GPUs."""
    call = functools.partial(_gpu_call, interpret)
    return _recurrence(_gpu_sizes, call, _gpu_forward_kernel, _gpu_backward_kernel)


def _gpu_sizes(batch, hidden):
    """Examples and units, padded."""
    return pl.cdiv(batch, _GPU_BLOCK) * _GPU_BLOCK, max(16, pl.next_power_of_2(hidden))


def _gpu_call(interpret, kernel, arguments, results, held, _):
    """Calls a kernel whose arrays have a block of examples, but for the argument `held`."""
    batch = results[-1].shape[0]
    approximate = _narrow(arguments[held].dtype) and not interpret

    def spec(array, whole=False):
        if whole:
            return pl.BlockSpec(array.shape, lambda i: (0,) * array.ndim)
        if array.ndim == 3:
            return pl.BlockSpec((array.shape[0], _GPU_BLOCK, array.shape[-1]), lambda i: (0, i, 0))
        return pl.BlockSpec((_GPU_BLOCK, array.shape[-1]), lambda i: (i, 0))

    return pl.pallas_call(
        functools.partial(kernel, triton.approx_tanh if approximate else jnp.tanh),
        grid=(batch // _GPU_BLOCK,),
        in_specs=[spec(array, index == held) for index, array in enumerate(arguments)],
        out_specs=[spec(array) for array in results],
        out_shape=results,
        compiler_params=triton.CompilerParams(num_warps=_GPU_WARPS, num_stages=1),
        interpret=interpret,
        name=kernel.__name__.strip("_"),
    )(*arguments)


def _narrow(dtype):
    """Whether operands have two bytes.

    Their kernel fits into shared memory, and the device's own tanh, which is right to 5e-4, loses
    less than they do.
    """
    return jnp.dtype(dtype).itemsize == 2


def _gpu_forward_kernel(tanh, z_ref, kernel_ref, c_ref, h_ref, hs_ref, *refs):
    *saved_refs, c_out, h_out = refs
    rows, _, hidden = hs_ref.shape
    gates = [pl.ds(gate * hidden, hidden) for gate in range(4)]
    kernels = [kernel_ref[:, gate] for gate in gates] if _narrow(kernel_ref.dtype) else []

    def read_row(t, carry):
        c, h = carry
        operand, u = h.astype(kernel_ref.dtype), []
        for index, gate in enumerate(gates):
            kernel = kernels[index] if kernels else kernel_ref[:, gate]
            product = jnp.dot(operand, kernel, preferred_element_type=c.dtype)
            u.append(tanh(z_ref[t, :, gate] + product))
        new_c, h = split.row(u, c, tanh)
        hs_ref[t, :, :] = h
        if saved_refs:
            u_ref, cells_ref = saved_refs
            for gate, value in zip(gates, u, strict=True):
                u_ref[t, :, gate] = value
            cells_ref[t, :, :] = c
        return new_c, h

    c_out[:, :], h_out[:, :] = jax.lax.fori_loop(0, rows, read_row, (c_ref[:, :], h_ref[:, :]))


def _gpu_backward_kernel(tanh, u_ref, cells_ref, kernel_ref, dc_ref, dh_ref, *refs):
    *dhs_refs, dz_ref, dc_out, dh_out = refs
    rows, _, hidden = cells_ref.shape
    gates = [pl.ds(gate * hidden, hidden) for gate in range(4)]
    kernels = [kernel_ref[gate, :] for gate in gates] if _narrow(kernel_ref.dtype) else []

    def unread_row(step, carry):
        t = rows - 1 - step
        dc, dh = carry
        for dhs_ref in dhs_refs:
            dh = dh + dhs_ref[t, :, :]
        u = [u_ref[t, :, gate] for gate in gates]
        dz, dc = split.unrow(u, cells_ref[t, :, :], dc, dh, tanh)
        dh = jnp.zeros_like(dh)
        for index, (gate, part) in enumerate(zip(gates, dz, strict=True)):
            kernel = kernels[index] if kernels else kernel_ref[gate, :]
            part = part.astype(kernel.dtype)
            dz_ref[t, :, gate] = part
            dh = dh + jnp.dot(part, kernel, preferred_element_type=dh.dtype)
        return dc, dh

    carry = dc_ref[:, :], dh_ref[:, :]
    dc_out[:, :], dh_out[:, :] = jax.lax.fori_loop(0, rows, unread_row, carry)


# TPUs.


@functools.cache
def tpu_kernels(*, interpret: bool = False) -> Recurrence:
    """The kernels for TPUs."""
    call = functools.partial(_tpu_call, interpret)
    return _recurrence(_tpu_sizes, call, _tpu_forward_kernel, _tpu_backward_kernel)


def _tpu_sizes(batch, hidden):
    """Examples and units, padded to tiles of 16 by 128."""
    block = min(_TPU_BLOCK, pl.cdiv(batch, 16) * 16)
    return pl.cdiv(batch, block) * block, pl.cdiv(hidden, _TPU_LANES) * _TPU_LANES


def _tpu_call(interpret, kernel, arguments, results, held, reverse):
    """Calls a kernel for each block of examples and row; c and h lie in scratch memory."""
    (rows, batch, _), hidden = results[0].shape, results[-1].shape[-1]
    block = min(batch, _TPU_BLOCK)

    def spec(array, whole=False):
        if whole:
            return pl.BlockSpec(array.shape, lambda i, t: (0,) * array.ndim)
        if array.ndim == 3:
            return pl.BlockSpec(
                (1, block, array.shape[-1]), lambda i, t: (rows - 1 - t if reverse else t, i, 0)
            )
        return pl.BlockSpec((block, array.shape[-1]), lambda i, t: (i, 0))

    return pl.pallas_call(
        kernel,
        grid=(batch // block, rows),
        in_specs=[spec(array, index == held) for index, array in enumerate(arguments)],
        out_specs=[spec(array) for array in results],
        out_shape=results,
        scratch_shapes=[tpu.VMEM((block, hidden), jnp.float32)] * 2,
        compiler_params=tpu.CompilerParams(dimension_semantics=("parallel", "arbitrary")),
        interpret=interpret,
        name=kernel.__name__.strip("_"),
    )(*arguments)


def _tpu_forward_kernel(z_ref, kernel_ref, c_ref, h_ref, hs_ref, *refs):
    *saved_refs, c_out, h_out, c_state, h_state = refs
    hidden = hs_ref.shape[-1]
    gates = [slice(gate * hidden, (gate + 1) * hidden) for gate in range(4)]

    @pl.when(pl.program_id(1) == 0)
    def _():
        c_state[...], h_state[...] = c_ref[...], h_ref[...]

    c, h = c_state[...], h_state[...]
    operand = h.astype(kernel_ref.dtype)
    z = z_ref[0] + jnp.dot(operand, kernel_ref[...], preferred_element_type=c.dtype)
    u = jnp.tanh(z)
    new_c, h = split.row([u[:, gate] for gate in gates], c)
    hs_ref[0] = h
    if saved_refs:
        u_ref, cells_ref = saved_refs
        u_ref[0], cells_ref[0] = u, c
    # The blocks of the last carry stay on the chip until the last row has written them.
    c_state[...], h_state[...] = c_out[...], h_out[...] = new_c, h


def _tpu_backward_kernel(u_ref, cells_ref, kernel_ref, dc_ref, dh_ref, *refs):
    *dhs_refs, dz_ref, dc_out, dh_out, dc_state, dh_state = refs
    hidden = cells_ref.shape[-1]
    gates = [slice(gate * hidden, (gate + 1) * hidden) for gate in range(4)]

    @pl.when(pl.program_id(1) == 0)
    def _():
        dc_state[...], dh_state[...] = dc_ref[...], dh_ref[...]

    dc, dh = dc_state[...], dh_state[...]
    for dhs_ref in dhs_refs:
        dh = dh + dhs_ref[0]
    dz, dc = split.unrow([u_ref[0, :, gate] for gate in gates], cells_ref[0], dc, dh)
    for gate, part in zip(gates, dz, strict=True):
        dz_ref[0, :, gate] = part.astype(dz_ref.dtype)
    dh = jnp.dot(dz_ref[0], kernel_ref[...], preferred_element_type=dh.dtype)
    dc_state[...], dh_state[...] = dc_out[...], dh_out[...] = dc, dh
