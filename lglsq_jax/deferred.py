r"""Gradient rules put off until the parts of a batch are summed.

A rule is not linear: the rule applied to a sum over the batch is not the sum of the rule over its parts. So a call of a
quantized layer on a part hands back, in place of gradients, what *is* linear:

* in place of the kernel's gradient, that of the **fake-quantized** kernel, as the cotangent of the kernel's codes;
* in place of the input scale's (and offset's), the sums of the rule's terms, as the cotangent of ``Deferred.sums``.

:func:`defer` makes codes and sums from the parameters; its own backward pass applies the rules, once, to the totals.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .gradients import GradientMethod, QuantizerContext
from .mesh_axes import layout, left_to_compiler, summed_like, vary_together, varying_axes
from .quantizers import (
    broadcast_scale,
    check_offset,
    check_progress,
    check_scale,
    elements_of_batch,
    float_codes,
    quantizer_context,
    quantizer_gradients,
)
from .spec import QuantSpec


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Deferred:
    """What one call of a layer takes in place of its kernel, and hands its share of the gradients back through.

    Attributes:
        codes: of the kernel, whole numbers in float32; None where weights are not quantized. Cotangent: the gradient of
            the loss for the fake-quantized kernel.
        sums: zeros. Cotangent: how many backward passes came by, then the sums of the terms of the inputs' rules.
        elements: ``N`` of the inputs in the whole batch.
    """

    codes: Float[Array, "*kernel"] | None
    sums: Float[Array, "n"]
    elements: int = dataclasses.field(metadata={"static": True})


def defer(
    kernel: Float[Array, "*kernel"] | None,
    kernel_scale: Float[Array, "..."] | None,
    x_scale: Float[Array, ""] | None,
    x_offset: Float[Array, ""] | None,
    progress: Float[Array, ""],
    *,
    weights: QuantSpec | None,
    inputs: QuantSpec | None,
    x_shape: tuple[int, ...],
    x_axes: frozenset[str] = frozenset(),
) -> Deferred:
    """Returns a call's ``Deferred``. Backward, the rules of both methods are applied to its total cotangent.

    No backward pass, no gradient: a call that the loss does not depend on leaves 0, whatever its rules make of zeros.

    Args:
        kernel: as its quantizer sees it; None where weights are not quantized.
        kernel_scale: shape ``()`` or ``[o]``, in the unit of the kernel; None with the kernel.
        x_scale: shape ``()``, in the unit of the inputs; None where inputs are not quantized.
        x_offset: LSQ+'s β, shape ``()``, or None.
        progress: training progress in [0, 1].
        weights: quantizer of the kernel, or None.
        inputs: quantizer of the inputs, per tensor, or None.
        x_shape: of the inputs in the whole batch; in ``jax.shard_map`` of a device's part of it.
        x_axes: the mesh axes of ``jax.shard_map`` over which the inputs vary.

    Raises:
        ValueError: a scale, the offset or progress has another shape, or a value that is not allowed (seen where it is
            concrete); backward, a scale rule looks at more than sums in ``scale_gradient``.
    """
    if kernel is not None and kernel_scale is not None and weights is not None:
        check_scale(kernel_scale, weights, kernel.shape, "kernel_scale")
    check_progress(progress)
    elements = 0
    if x_scale is not None and inputs is not None:
        check_scale(x_scale, inputs, x_shape, "x_scale")
        if x_offset is not None:
            check_offset(x_offset, inputs, x_shape, "x_offset")
        elements = elements_of_batch(inputs, x_shape, x_axes - varying_axes(x_scale))
    layouts: Any = [None if kernel is None else layout(kernel), (None,)]
    operands = kernel, kernel_scale, *vary_together(x_scale, x_offset), progress
    codes, sums = left_to_compiler(functools.partial(_defer, weights, inputs, elements), layouts, *operands)
    return Deferred(codes, sums, elements)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _defer(weights, inputs, elements, kernel, kernel_scale, x_scale, x_offset, progress):
    codes = None if kernel is None else float_codes(kernel, kernel_scale, None, weights)
    count = 1 if inputs is None else 1 + _count(inputs.method, x_offset is not None)
    sums, _ = vary_together(jnp.zeros(count, jnp.float32), x_scale)
    return codes, sums


def _defer_forward(weights, inputs, elements, *operands):
    return _defer(weights, inputs, elements, *operands), operands


def _defer_backward(weights, inputs, elements, operands, totals):
    kernel, kernel_scale, x_scale, x_offset, progress = operands
    of_kernel, sums = totals
    reached = sums[0] > 0

    def where_reached(gradient, like):
        if gradient is None:
            return None
        return summed_like(jnp.where(reached, gradient, 0).reshape(like.shape).astype(like.dtype), like)

    kernel_gradient = kernel_scale_gradient = x_scale_gradient = x_offset_gradient = None
    if kernel is not None:
        kernel_gradient, kernel_scale_gradient, _ = quantizer_gradients(
            weights, kernel, kernel_scale, None, progress, of_kernel
        )
        kernel_scale_gradient = where_reached(kernel_scale_gradient, kernel_scale)
    if x_scale is not None:
        context = _SumsContext.of(inputs, x_scale, progress, elements)
        found = inputs.method.gradients_of_sums(context, tuple(sums[1:]), offset=x_offset is not None)
        x_scale_gradient, x_offset_gradient = (
            where_reached(gradient, like) for gradient, like in zip(found, (x_scale, x_offset), strict=True)
        )
    return kernel_gradient, kernel_scale_gradient, x_scale_gradient, x_offset_gradient, jnp.zeros_like(progress)


_defer.defvjp(_defer_forward, _defer_backward)


def fake_quantize_deferred(
    x: Float[Array, "*shape"],
    scale: Float[Array, ""],
    offset: Float[Array, ""] | None,
    spec: QuantSpec,
    progress: Float[Array, ""],
    deferred: Deferred,
) -> Float[Array, "*shape"]:
    """Returns ``fake_quantize(x, scale, spec, offset, progress)``; the gradients of scale and offset are put off."""
    run = functools.partial(_fake_quantize, spec, deferred.elements)
    return left_to_compiler(run, layout(x), x, *vary_together(scale, offset), progress, deferred.sums)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _fake_quantize(spec, elements, x, scale, offset, progress, sums):
    x_hat = float_codes(x, scale, offset, spec) * scale.astype(jnp.float32)
    return (x_hat if offset is None else x_hat + offset.astype(jnp.float32)).astype(x.dtype)


def _fake_quantize_forward(spec, elements, *operands):
    return _fake_quantize(spec, elements, *operands), operands[:-1]


def _fake_quantize_backward(spec, elements, saved, gradient):
    x, scale, offset, progress = saved
    of_x, sums = input_gradient_and_sums(spec, elements, x, scale, offset, progress, gradient)
    zeros = (None if array is None else jnp.zeros_like(array) for array in (scale, offset, progress))
    return of_x, *zeros, sums


_fake_quantize.defvjp(_fake_quantize_forward, _fake_quantize_backward)


def input_gradient_and_sums(
    spec: QuantSpec,
    elements: int,
    x: Float[Array, "*shape"],
    scale: Float[Array, ""],
    offset: Float[Array, ""] | None,
    progress: Float[Array, ""],
    gradient: Float[Array, "*shape"],
) -> tuple[Float[Array, "*shape"], Float[Array, "n"]]:
    """Returns the gradient of ``x`` and the cotangent of ``Deferred.sums``, given that of the fake-quantized tensor."""
    context = quantizer_context(spec, x, scale, offset, progress, gradient, elements)
    sums = spec.method.scale_sums(context, offset=offset is not None)
    of_x = summed_like(spec.method.input_gradient(context).astype(x.dtype), x)
    handed, _ = vary_together(jnp.stack([jnp.float32(1), *(total.reshape(()) for total in sums)]), scale)
    return of_x, handed


def dequantize_deferred(
    deferred: Deferred, scale: Float[Array, "..."], spec: QuantSpec, dtype: jnp.dtype
) -> Float[Array, "*kernel"]:
    """Returns the fake-quantized kernel; its gradient becomes the cotangent of the codes, by convention as it is."""
    return _dequantize(spec, jnp.dtype(dtype), deferred.codes, scale, deferred.sums)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _dequantize(spec, dtype, codes, scale, sums):
    return (codes * broadcast_scale(scale.astype(jnp.float32), spec, codes.ndim)).astype(dtype)


def _dequantize_forward(spec, dtype, codes, scale, sums):
    return _dequantize(spec, dtype, codes, scale, sums), scale


def _dequantize_backward(spec, dtype, scale, gradient):
    return gradient.astype(jnp.float32), jnp.zeros_like(scale), jnp.ones(1, jnp.float32)


_dequantize.defvjp(_dequantize_forward, _dequantize_backward)


@functools.cache
def _count(method: GradientMethod, offset: bool) -> int:
    """How many sums the rules of a method need."""
    one = jax.ShapeDtypeStruct((1,), jnp.float32)
    number = jax.ShapeDtypeStruct((), jnp.float32)
    context = QuantizerContext(one, one, number, 0, 1, 1, (0,), number)  # pyright: ignore[reportArgumentType]
    return len(jax.eval_shape(lambda context: method.scale_sums(context, offset=offset), context))


_TENSORS = frozenset(
    ("gradient", "values", "normalised", "clipped", "codes", "inside", "bounded", "rounding_error", "axes", "sums")
)


class _SumsContext(QuantizerContext):
    """A context without tensors: what ``scale_gradient`` of a rule may look at beside the sums."""

    @classmethod
    def of(cls, spec: QuantSpec, scale: Array, progress: Array, elements: int) -> "_SumsContext":
        wide = jnp.maximum(scale.astype(jnp.float32), jnp.finfo(jnp.float32).tiny)
        return cls(wide, wide, wide, spec.minimum, spec.maximum, elements, (), progress)

    def __getattribute__(self, name: str):
        if name in _TENSORS:
            raise ValueError(
                "`scale_gradient` of a scale rule must use only the sums and `scale`, `minimum`, `maximum`, "
                f"`elements` and `progress` of its context where gradients are accumulated, got `{name}`"
            )
        return super().__getattribute__(name)
