"""Convolutions of few channels, first layers above all, as convolutions of more channels.

The compiler's integer kernel needs some 20 channels to be fast on a CPU, and a number of them that 4 divides. What lies
side by side in a row of the kernel is gathered into channels first, and filled up with zeros: a 7x7 kernel on 3
channels becomes a 7x1 kernel on 24.
"""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Shaped

from .window import Window, convolve

_MULTIPLE = 4  # of which gathered channels are a multiple; 24 instead of 21 take 0.75 times as long on x86 CPUs
_MOST_CHANNELS = 16  # up to which gathering pays; measured on x86 CPUs (24: no longer)


def prefers_rows(kernel_shape: tuple[int, ...], window: Window) -> bool:
    """Whether a CPU computes this integer convolution faster from gathered rows."""
    few = window.groups == 1 and kernel_shape[-2] <= _MOST_CHANNELS
    return few and kernel_shape[-3] > 1 and window.input_dilation[-1] == 1


def convolve_by_rows(
    x: Shaped[Array, "n *spatial c"], kernel: Shaped[Array, "*taps i o"], window: Window, result=None
) -> Shaped[Array, "n *out o"]:
    """Returns what ``convolve`` does, with the taps along the last spatial axis gathered into channels.

    Args:
        x: inputs, any dtype.
        kernel: the same.
        window: the geometry; one group, no dilation of the input along the last spatial axis.
        result: dtype of products and sums; None: that of ``x``.
    """
    *taps, width, channels, outputs = kernel.shape
    stride, dilation = window.strides[-1], window.kernel_dilation[-1]
    before, after = window.padding[-1]
    padded = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0)] * (x.ndim - 2) + [(before, after, 0), (0, 0, 0)])
    places = (padded.shape[-2] - (width - 1) * dilation - 1) // stride + 1
    columns = [
        lax.slice_in_dim(padded, tap * dilation, tap * dilation + (places - 1) * stride + 1, stride, axis=x.ndim - 2)
        for tap in range(width)
    ]
    flat = Window(
        (*window.strides[:-1], 1),
        (*window.padding[:-1], (0, 0)),
        window.input_dilation,
        (*window.kernel_dilation[:-1], 1),
    )
    spare = -width * channels % _MULTIPLE
    gathered = _filled(jnp.concatenate(columns, -1), spare, x.ndim - 1)
    kernel = _filled(kernel.reshape(*taps, 1, width * channels, outputs), spare, kernel.ndim - 2)
    return convolve(gathered, kernel, flat, result)


def _filled(x, spare: int, axis: int):
    return lax.pad(x, jnp.zeros((), x.dtype), [(0, spare if axis == own else 0, 0) for own in range(x.ndim)])
