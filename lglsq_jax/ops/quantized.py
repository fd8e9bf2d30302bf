"""Quantized convolution and matrix product: exact codes forward, the method's gradients backward, in one operation."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from ..deferred import Deferred, input_gradient_and_sums
from ..mesh_axes import layout_of_product, left_to_compiler, summed_like, vary_together
from ..quantizers import (
    broadcast_scale,
    check_offset,
    check_progress,
    check_scale,
    float_codes,
    in_float,
    quantizer_gradients,
)
from ..spec import QuantSpec
from .exact import convolve_codes, multiply_codes
from .floats import pull_back
from .window import Window


def quantized_conv(
    x: Float[Array, "n *spatial c"],
    kernel: Float[Array, "*taps i o"],
    x_scale: Float[Array, ""],
    kernel_scale: Float[Array, "..."],
    *,
    inputs: QuantSpec,
    weights: QuantSpec,
    window: Window,
    x_offset: Float[Array, ""] | None = None,
    progress: Float[Array, ""] | float = 1.0,
    deferred: Deferred | None = None,
) -> Float[Array, "n *out o"]:
    r"""Convolves the codes of ``x`` and ``kernel`` exactly and multiplies by the two scales.

    .. math:: y = s_x s_w \, (q_x * q_w) \; [\, + \beta s_w (1 * q_w)\,]

    equal to the convolution of the two fake-quantized tensors. Backward, each tensor and its scale get the gradients of
    their own spec's method. One operation: only ``x``, the kernel and the scales are kept for the backward pass.

    Args:
        x: any float dtype, channels last.
        kernel: spatial axes, then channels a group, then outputs.
        x_scale: shape ``()``, unit of ``x``.
        kernel_scale: shape ``()``, or ``[o]`` where ``weights.channel_axis`` is the output axis.
        inputs: quantizer of ``x``; per tensor.
        weights: quantizer of ``kernel``; per tensor or per output channel.
        window: strides, padding, dilations and groups.
        x_offset: LSQ+'s β, shape ``()``, or None.
        progress: training progress in [0, 1], may be traced.
        deferred: from ``deferred.defer``, of the same kernel: its codes are used, and the gradients of the kernel, the
            scales and the offset are put off; None: they are computed here.

    Returns:
        The dtype of ``x``.

    Raises:
        ValueError: a spec has a channel axis that cannot be factored out of the sum, the weight codes do not fit int8,
            or a scale, the offset or progress has a wrong shape or value.
        TypeError: ``x`` or ``kernel`` is not of a float dtype.
    """
    return _checked_product(
        x, kernel, x_scale, kernel_scale, x_offset, progress, inputs, weights, _Convolution(window), deferred
    )


def quantized_matmul(
    x: Float[Array, "*batch k"],
    kernel: Float[Array, "k o"],
    x_scale: Float[Array, ""],
    kernel_scale: Float[Array, "..."],
    *,
    inputs: QuantSpec,
    weights: QuantSpec,
    x_offset: Float[Array, ""] | None = None,
    progress: Float[Array, ""] | float = 1.0,
    deferred: Deferred | None = None,
) -> Float[Array, "*batch o"]:
    r"""Multiplies the codes of ``x`` and ``kernel`` exactly and then by the two scales: :math:`y = s_x s_w \, q_x q_w`.

    Gradients, arguments and errors as in :func:`quantized_conv`; the product is over the last axis of ``x``.
    """
    return _checked_product(x, kernel, x_scale, kernel_scale, x_offset, progress, inputs, weights, _Matmul(), deferred)


@dataclasses.dataclass(frozen=True)
class _Convolution:
    window: Window

    def of_codes(self, x, kernel, x_range, kernel_range):
        return convolve_codes(x, kernel, self.window, x_range, kernel_range)

    def pull_back(self, x, kernel, gradient):
        return pull_back(x, kernel, gradient, self.window)


@dataclasses.dataclass(frozen=True)
class _Matmul:
    def of_codes(self, x, kernel, x_range, kernel_range):
        return multiply_codes(x, kernel, x_range, kernel_range)

    def pull_back(self, x, kernel, gradient):
        return jax.vjp(jnp.matmul, x, kernel)[1](gradient)


def _checked_product(x, kernel, x_scale, kernel_scale, x_offset, progress, inputs, weights, product, deferred):
    if inputs.channel_axis is not None:
        raise ValueError(
            "`inputs.channel_axis` must be None, since a sum over channels has one input scale, "
            f"got {inputs.channel_axis}"
        )
    if weights.channel_axis is not None and weights.channel_axis % kernel.ndim != kernel.ndim - 1:
        raise ValueError(
            f"`weights.channel_axis` must be None or the output axis, {kernel.ndim - 1} or -1, "
            f"got {weights.channel_axis}"
        )
    if weights.maximum > 127:
        raise ValueError("`weights` must have codes that fit int8: signed, or unsigned with at most 7 bits, got 8 bits")
    x, kernel = jnp.asarray(x), jnp.asarray(kernel)
    for name, tensor in (("x", x), ("kernel", kernel)):
        if not jnp.issubdtype(tensor.dtype, jnp.floating):
            raise TypeError(f"`{name}` must have a float dtype, got {tensor.dtype}")
    check_scale(x_scale, inputs, x.shape, "x_scale")
    check_scale(kernel_scale, weights, kernel.shape, "kernel_scale")
    x_scale, kernel_scale = in_float(x_scale), in_float(kernel_scale)
    check_progress(progress)
    if x_offset is not None:
        check_offset(x_offset, inputs, x.shape, "x_offset")
        x_offset = in_float(x_offset)
    progress = jnp.asarray(progress, jnp.float32)
    x_scale, x_offset = vary_together(x_scale, x_offset)
    run = functools.partial(_product, inputs, weights, product)
    operands = x, kernel, x_scale, kernel_scale, x_offset, progress
    if deferred is not None:
        run = functools.partial(_deferred_product, inputs, weights, product, deferred.elements)
        operands = x, deferred.codes, x_scale, kernel_scale, x_offset, progress, deferred.sums
    return left_to_compiler(run, layout_of_product(x, kernel), *operands)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _product(inputs, weights, product, x, kernel, x_scale, kernel_scale, x_offset, progress):
    x_codes = float_codes(x, x_scale, x_offset, inputs)
    kernel_codes = float_codes(kernel, kernel_scale, None, weights)
    return _scaled_product(inputs, weights, product, x, x_codes, kernel_codes, x_scale, kernel_scale, x_offset)


def _scaled_product(inputs, weights, product, x, x_codes, kernel_codes, x_scale, kernel_scale, x_offset):
    ranges = (inputs.minimum, inputs.maximum), (weights.minimum, weights.maximum)
    output_scale = kernel_scale.astype(jnp.float32)
    y = product.of_codes(x_codes, kernel_codes, *ranges) * (x_scale.astype(jnp.float32) * output_scale)
    if x_offset is not None:
        # x_hat = s q + offset: what the offset adds differs only where the window meets the padding.
        batch = x.ndim - kernel_codes.ndim + 1
        ones = jnp.ones((1,) * batch + x.shape[batch:], jnp.float32)
        y = y + product.of_codes(ones, kernel_codes, (0, 1), ranges[1]) * (x_offset.astype(jnp.float32) * output_scale)
    return y.astype(x.dtype)


def _product_forward(inputs, weights, product, x, kernel, x_scale, kernel_scale, x_offset, progress):
    y = _product(inputs, weights, product, x, kernel, x_scale, kernel_scale, x_offset, progress)
    return y, (x, kernel, x_scale, kernel_scale, x_offset, progress)


def _product_backward(inputs, weights, product, saved, gradient):
    x, kernel, x_scale, kernel_scale, x_offset, progress = saved
    kernel_codes = float_codes(kernel, kernel_scale, None, weights)
    of_x, of_kernel = _pull_back(inputs, weights, product, x, kernel_codes, x_scale, kernel_scale, x_offset, gradient)
    x_part = quantizer_gradients(inputs, x, x_scale, x_offset, progress, of_x)
    kernel_part = quantizer_gradients(weights, kernel, kernel_scale, None, progress, of_kernel)
    return x_part[0], kernel_part[0], x_part[1], kernel_part[1], x_part[2], jnp.zeros_like(progress)


def _pull_back(inputs, weights, product, x, kernel_codes, x_scale, kernel_scale, x_offset, gradient):
    """The gradients of the two fake-quantized tensors."""
    x_hat = float_codes(x, x_scale, x_offset, inputs) * x_scale.astype(jnp.float32)
    if x_offset is not None:
        x_hat = x_hat + x_offset.astype(jnp.float32)
    kernel_hat = kernel_codes * broadcast_scale(kernel_scale.astype(jnp.float32), weights, kernel_codes.ndim)
    # The upstream gradient is made once and read three times, not made again, in a bad order, inside each reader.
    gradient = lax.optimization_barrier(gradient.astype(jnp.float32))
    # In jax.shard_map each device finds its own share of both; the rules see the sum over those that share a tensor.
    return product.pull_back(*vary_together(x_hat, kernel_hat, gradient))


_product.defvjp(_product_forward, _product_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2, 3))
def _deferred_product(
    inputs, weights, product, elements, x, kernel_codes, x_scale, kernel_scale, x_offset, progress, sums
):
    x_codes = float_codes(x, x_scale, x_offset, inputs)
    return _scaled_product(inputs, weights, product, x, x_codes, kernel_codes, x_scale, kernel_scale, x_offset)


def _deferred_product_forward(inputs, weights, product, elements, *operands):
    return _deferred_product(inputs, weights, product, elements, *operands), operands[:-1]


def _deferred_product_backward(inputs, weights, product, elements, saved, gradient):
    x, kernel_codes, x_scale, kernel_scale, x_offset, progress = saved
    of_x, of_kernel = _pull_back(inputs, weights, product, x, kernel_codes, x_scale, kernel_scale, x_offset, gradient)
    x_gradient, sums = input_gradient_and_sums(inputs, elements, x, x_scale, x_offset, progress, of_x)
    put_off = (None if array is None else jnp.zeros_like(array) for array in (x_scale, kernel_scale, x_offset))
    return x_gradient, summed_like(of_kernel, kernel_codes), *put_off, jnp.zeros_like(progress), sums


_deferred_product.defvjp(_deferred_product_forward, _deferred_product_backward)
