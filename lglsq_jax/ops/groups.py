"""Convolutions of many small groups of channels, depthwise ones above all, as sums of shifted products.

The compiler's kernels for grouped convolutions are slow on a CPU, above all their gradients. A tap of the kernel is
one shifted input times its weights: plain elementwise arithmetic for a few channels a group, a small matrix product for
each group otherwise. ``benchmarks/depthwise.py`` prints what that gains.
"""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Shaped

from ..mesh_axes import devices_of_compiler, vary_together
from .window import Window, convolve

_MOST_CHANNELS = 4  # channels a group up to which elementwise products pay; measured on x86 CPUs
_VECTOR = 32  # channels from which one position after another pays for a depthwise kernel's gradient


def prefers_shifts(kernel_shape: tuple[int, ...], window: Window) -> bool:
    """Whether a CPU computes this convolution faster as shifted products than by the compiler's kernel."""
    return window.groups > 1 and kernel_shape[-2] <= _MOST_CHANNELS


def convolve_by_shifts(
    x: Shaped[Array, "n *spatial c"], kernel: Shaped[Array, "*taps i o"], window: Window, result=None
) -> Shaped[Array, "n *out o"]:
    """Returns what ``convolve`` does, as the sum over taps and channels of a group of shifted inputs times weights.

    Args:
        x: inputs, any dtype.
        kernel: the same.
        window: the geometry.
        result: dtype of products and sums; None: that of ``x``.
    """
    result = result or x.dtype
    groups, channels = window.groups, kernel.shape[-2]
    total = None
    for tap, shifted in _shifted_inputs(x, kernel.shape, window):
        shifted, weights = shifted.astype(result), kernel[tap].astype(result)
        if window.is_depthwise(kernel.shape):
            terms = [shifted * weights[0]]
        else:
            grouped = shifted.reshape(*shifted.shape[:-1], groups, channels)
            by_group = weights.reshape(channels, groups, -1)
            terms = [grouped[..., index, None] * by_group[index] for index in range(channels)]
        for term in terms:
            total = term if total is None else total + term
    assert total is not None
    return total.reshape(*total.shape[: x.ndim - 1], kernel.shape[-1])


def convolve_in_place(
    x: Shaped[Array, "n *spatial c"], kernel: Shaped[Array, "*taps i o"], window: Window, result=None
) -> Shaped[Array, "n *out o"]:
    """Returns ``convolve(x, kernel, window, result)``, computed so that the rows of a split batch stay where they are.

    The compiler gathers a batch that is split over devices for its kernel of grouped convolutions, depthwise ones left
    out. On such a mesh they are one product of matrices for each tap and group.
    """
    if window.groups == 1 or window.is_depthwise(kernel.shape) or devices_of_compiler() == 1:
        return convolve(x, kernel, window, result)
    return _by_products(x, kernel, window, result)


def pull_back_by_shifts(
    x: Float[Array, "n *spatial c"],
    kernel: Float[Array, "*taps i o"],
    gradient: Float[Array, "n *out o"],
    window: Window,
) -> tuple[Float[Array, "n *spatial c"], Float[Array, "*taps i o"]]:
    """Returns the gradients of a grouped convolution with respect to ``x`` and ``kernel``.

    One matrix product a tap and group; elementwise where a group is one channel. The batch is never cut, so that a
    sharded one stays where it is.
    """
    if not window.is_depthwise(kernel.shape):
        return jax.vjp(lambda x, kernel: _by_products(x, kernel, window), x, kernel)[1](gradient)
    if x.shape[-1] < _VECTOR:
        return jax.vjp(lambda x, kernel: convolve_by_shifts(x, kernel, window), x, kernel)[1](gradient)
    (of_x,) = jax.vjp(lambda x: convolve_by_shifts(x, kernel, window), x)[1](gradient)
    return of_x, _by_positions(x, kernel.shape, gradient, window)


def _by_products(x, kernel, window: Window, result=None):
    """The convolution as one product of matrices for each tap and group; floats are summed in float32 at least."""
    result = jnp.dtype(result or x.dtype)
    wide = jnp.promote_types(result, jnp.float32) if jnp.issubdtype(result, jnp.floating) else result
    groups, channels = window.groups, kernel.shape[-2]
    total = jnp.zeros((), wide)
    for tap, shifted in _shifted_inputs(x, kernel.shape, window):
        grouped = shifted.reshape(*shifted.shape[:-1], groups, channels)
        weights = kernel[tap].reshape(channels, groups, -1)
        total = total + jnp.einsum("...gi,igo->...go", grouped, weights, preferred_element_type=wide)
    return total.reshape(*total.shape[:-2], kernel.shape[-1]).astype(result)


def _by_positions(x, kernel_shape, gradient, window: Window):
    """The gradient of a depthwise kernel, one output position after another into sums that stay in the cache.

    A sum over all positions at once reads the input and the gradient from memory for every tap.
    """
    *taps, _, channels = kernel_shape
    batch, *out = gradient.shape[:-1]
    padded = _padded(x, window)
    reach = [(size - 1) * dilation + 1 for size, dilation in zip(taps, window.kernel_dilation, strict=True)]

    def add_position(index, sums):
        position = jnp.unravel_index(index, out)
        starts = [place * stride for place, stride in zip(position, window.strides, strict=True)]
        block = lax.dynamic_slice(padded, (0, *starts, 0), (batch, *reach, channels))
        upstream = lax.dynamic_slice(gradient, (0, *position, 0), (batch, *([1] * len(out)), channels))
        upstream = upstream.reshape(batch, channels)
        at = [tuple(np.multiply(tap, window.kernel_dilation).tolist()) for tap in np.ndindex(*taps)]
        return [total + block[(slice(None), *place)] * upstream for total, place in zip(sums, at, strict=True)]

    zeros, *_ = vary_together(jnp.zeros((batch, channels), x.dtype), x, gradient)
    start = [zeros] * int(np.prod(taps))
    sums = lax.fori_loop(0, int(np.prod(out)), add_position, start)
    return jnp.stack([total.sum(0) for total in sums]).reshape(kernel_shape)


def _padded(x, window: Window):
    interior = [
        (before, after, dilation - 1)
        for (before, after), dilation in zip(window.padding, window.input_dilation, strict=True)
    ]
    return lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *interior, (0, 0, 0)])


def _shifted_inputs(x, kernel_shape, window: Window) -> Iterator[tuple[tuple[int, ...], Array]]:
    """Yields each tap with the inputs that it multiplies, one for every output position."""
    padded, taps = _padded(x, window), kernel_shape[:-2]
    reach = [(size - 1) * dilation for size, dilation in zip(taps, window.kernel_dilation, strict=True)]
    counts = [
        (size - span - 1) // stride + 1
        for size, span, stride in zip(padded.shape[1:-1], reach, window.strides, strict=True)
    ]
    for tap in np.ndindex(*taps):
        starts = [position * dilation for position, dilation in zip(tap, window.kernel_dilation, strict=True)]
        ends = [
            start + (count - 1) * stride + 1
            for start, count, stride in zip(starts, counts, window.strides, strict=True)
        ]
        yield tap, lax.slice(padded, [0, *starts, 0], [x.shape[0], *ends, x.shape[-1]], [1, *window.strides, 1])
