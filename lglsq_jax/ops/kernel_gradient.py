"""The gradient of a convolution with respect to its kernel."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from ..mesh_axes import devices_of_compiler, vary_together
from .window import Window, convolve

_BLOCK = 2**19  # elements of one block's columns: a few rows of the image, which then stay in the cache


def kernel_gradient(
    x: Float[Array, "n *spatial c"],
    gradient: Float[Array, "n *out o"],
    kernel_shape: tuple[int, ...],
    window: Window,
) -> Float[Array, "*taps c o"]:
    r"""Returns :math:`\partial L / \partial w` of ``y = x * w`` from ``g = ∂L/∂y``.

    .. math:: \partial L / \partial w_{t c o} = \sum_{n, p} x_{n,\, S p + D t,\, c} \; g_{n p o}

    for taps ``t``, output positions ``p``, strides ``S`` and dilations ``D`` of the window. On a CPU the sum is taken
    block by block along the first spatial axis, each block one matrix product of the shifted inputs with ``g``: about
    twice as fast as the compiler's convolution of ``x`` with ``g``, whose window is as large as the image. Elsewhere it
    is the compiler's, also under ``jax.set_mesh`` of several devices, where each block would be summed over them.

    Args:
        x: the convolution's input, float32.
        gradient: ``g``, float32.
        kernel_shape: shape of the kernel, ``(*taps, c, o)``.
        window: the geometry, of one group.
    """

    def by_compiler(x, gradient):
        kernel, *_ = vary_together(jnp.zeros(kernel_shape, x.dtype), x, gradient)
        _, pull_back = jax.vjp(lambda kernel: convolve(x, kernel, window), kernel)
        return pull_back(gradient)[0]

    if devices_of_compiler() > 1:
        return by_compiler(x, gradient)
    return lax.platform_dependent(
        x, gradient, cpu=lambda x, gradient: _by_blocks(x, gradient, kernel_shape, window), default=by_compiler
    )


def _by_blocks(x, gradient, kernel_shape, window: Window):
    *taps, channels, outputs = kernel_shape
    batch, out_rows, *out_rest = gradient.shape[:-1]
    interior = [
        (before, after, dilation - 1)
        for (before, after), dilation in zip(window.padding, window.input_dilation, strict=True)
    ]
    padded = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *interior, (0, 0, 0)])
    columns_a_row = batch * math.prod(out_rest) * math.prod(taps) * channels
    fits = [rows for rows in range(1, out_rows + 1) if out_rows % rows == 0 and rows * columns_a_row <= _BLOCK]
    rows = max(fits, default=1)
    reach = (rows - 1) * window.strides[0] + (taps[0] - 1) * window.kernel_dilation[0] + 1

    def shifted(block, tap):
        starts = [index * dilation for index, dilation in zip(tap, window.kernel_dilation, strict=True)]
        sizes = [rows, *out_rest]
        ends = [
            start + (size - 1) * stride + 1 for start, size, stride in zip(starts, sizes, window.strides, strict=True)
        ]
        return lax.slice(block, (0, *starts, 0), (batch, *ends, channels), (1, *window.strides, 1))

    def of_block(index):
        block = lax.dynamic_slice_in_dim(padded, index * rows * window.strides[0], reach, 1)
        columns = jnp.concatenate([shifted(block, tap) for tap in np.ndindex(*taps)], axis=-1)
        upstream = lax.dynamic_slice_in_dim(gradient, index * rows, rows, 1)
        summed = tuple(range(upstream.ndim - 1))
        return lax.dot_general(columns, upstream, ((summed, summed), ((), ())))

    start, *_ = vary_together(jnp.zeros((math.prod(taps) * channels, outputs), x.dtype), x, gradient)
    total = lax.fori_loop(0, out_rows // rows, lambda index, total: total + of_block(index), start)
    return total.reshape(kernel_shape)
