"""Quantizing, dequantizing, and fake-quantizing with a learned scale: pure functions on arrays."""

import functools

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Integer

from .gradients import QuantizerContext
from .mesh_axes import (
    devices_along,
    layout,
    left_to_compiler,
    summed_like,
    unknown_axes,
    vary_together,
    varying_axes,
)
from .primitives import quantize_codes
from .spec import QuantSpec


def quantize(x: Float[Array, "*shape"], scale: Float[ArrayLike, "..."], spec: QuantSpec) -> Integer[Array, "*shape"]:
    r"""Returns the integer codes of ``x``: :math:`q = \operatorname{clip}(\operatorname{round}(x / s), Q_n, Q_p)`.

    Args:
        x: values, any float dtype (computed in float32).
        scale: in the unit of ``x``; shape ``()``, or ``[C]`` with ``spec.channel_axis``.
        spec: bits, sign and which axis has its own scales.

    Returns:
        int8 codes if ``spec.signed``, uint8 if not; halves are rounded to even.

    Raises:
        ValueError: the scale has another shape, or is not finite and positive, or ``x`` holds NaN (both seen only where
            values are concrete; a NaN has no code, so it cannot be passed on as it is in ``fake_quantize``).

    References: LSQ, Esser et al., ICLR 2020, eq. 1.
    """
    x, scale = checked(x, scale, spec)
    if not isinstance(x, jax.core.Tracer) and bool(jnp.isnan(x).any()):
        raise ValueError("`x` must not contain NaN, which has no integer code")
    x, scale = jax.lax.stop_gradient((x, scale))  # codes are whole numbers: their derivative is 0
    return float_codes(x, scale, None, spec).astype(spec.code_dtype)


def dequantize(
    codes: Integer[Array, "*shape"], scale: Float[ArrayLike, "..."], spec: QuantSpec
) -> Float[Array, "*shape"]:
    r"""Returns :math:`\hat x = s \, q`, in the scale's dtype (computed in float32).

    Args:
        codes: whole numbers, any integer dtype.
        scale: shape ``()``, or ``[C]`` with ``spec.channel_axis``.
        spec: the quantizer that made the codes.

    Raises:
        ValueError: the scale has another shape, or is not finite and positive (seen only where it is concrete).
        TypeError: the codes are not of an integer dtype.
    """
    codes = jnp.asarray(codes)
    if not jnp.issubdtype(codes.dtype, jnp.integer):
        raise TypeError(f"`codes` must have an integer dtype, got {codes.dtype}")
    check_scale(scale, spec, codes.shape)
    scale = jnp.asarray(scale)
    wide = broadcast_scale(scale.astype(jnp.float32), spec, codes.ndim)
    return (codes.astype(jnp.float32) * wide).astype(scale.dtype)


def fake_quantize(
    x: Float[Array, "*shape"],
    scale: Float[ArrayLike, "..."],
    spec: QuantSpec,
    offset: Float[ArrayLike, "..."] | None = None,
    progress: Float[ArrayLike, ""] = 1.0,
) -> Float[Array, "*shape"]:
    r"""Rounds ``x`` to the grid of a quantizer and back, with the gradients of ``spec.method``.

    Forward, always hard, and equal to ``dequantize(quantize(x))`` to the bit:
    :math:`\hat x = s \operatorname{clip}(\operatorname{round}((x - \beta) / s), Q_n, Q_p) + \beta`.
    Backward: the method's gradients for ``x``, ``scale`` and ``offset`` (0 for ``progress``), computed in float32 and
    cast to the dtype of each.

    Args:
        x: values, any float dtype (computed in float32). NaN stays NaN.
        scale: in the unit of ``x``; shape ``()``, or ``[C]`` with ``spec.channel_axis``.
        spec: the quantizer; static under ``jit``.
        offset: LSQ+'s β in the unit of ``x``, shaped like the scale; None for a symmetric quantizer.
        progress: training progress in [0, 1]; may be traced.

    Returns:
        An array with the shape and dtype of ``x``.

    Raises:
        ValueError: scale, offset or progress has another shape, or (seen only where it is concrete) the scale is not
            finite and positive, the offset not finite, or progress not in [0, 1]; backward, in ``jax.shard_map`` with
            ``check_vma=False``, the method is not linear.
        TypeError: ``x`` is not of a float dtype.
    """
    x, scale = checked(x, scale, spec)
    check_progress(progress)
    if offset is not None:
        check_offset(offset, spec, x.shape)
        offset = in_float(offset)
    operands = x, *vary_together(scale, offset), jnp.asarray(progress, jnp.float32)
    return left_to_compiler(functools.partial(_fake_quantize, spec), layout(x), *operands)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _fake_quantize(spec, x, scale, offset, progress):
    codes = float_codes(x, scale, offset, spec)
    x_hat = codes * broadcast_scale(scale.astype(jnp.float32), spec, x.ndim)
    if offset is not None:
        x_hat = x_hat + broadcast_scale(offset.astype(jnp.float32), spec, x.ndim)
    return x_hat.astype(x.dtype)


def _fake_quantize_forward(spec, x, scale, offset, progress):
    return _fake_quantize(spec, x, scale, offset, progress), (x, scale, offset, progress)


def _fake_quantize_backward(spec, saved, gradient):
    x, scale, offset, progress = saved
    return (*quantizer_gradients(spec, x, scale, offset, progress, gradient), jnp.zeros_like(progress))


_fake_quantize.defvjp(_fake_quantize_forward, _fake_quantize_backward)


def quantizer_gradients(
    spec: QuantSpec,
    x: Float[Array, "*shape"],
    scale: Float[Array, "..."],
    offset: Float[Array, "..."] | None,
    progress: Float[Array, ""],
    gradient: Float[Array, "*shape"],
) -> tuple[Float[Array, "*shape"], Float[Array, "..."], Float[Array, "..."] | None]:
    """Returns the method's gradients for ``x``, ``scale`` and ``offset``, given the one for the fake-quantized tensor.

    The codes are computed again rather than saved, so a backward pass keeps nothing but ``x`` itself.

    Raises:
        ValueError: offset or progress has another shape, or (seen only where it is concrete) the offset is not finite,
            or progress not in [0, 1].
    """
    check_progress(progress)
    if offset is not None:
        check_offset(offset, spec, x.shape)
    with jax.named_scope(RULES_SCOPE):
        elements = elements_of_batch(spec, x.shape, varying_axes(x) - varying_axes(scale))
        context = quantizer_context(spec, x, scale, offset, progress, gradient, elements)
        scale_gradient, offset_gradient = spec.method.scale_gradients(context, offset=offset is not None)
        return (
            summed_like(spec.method.input_gradient(context).astype(x.dtype), x),
            _shaped_like(scale, scale_gradient),
            None if offset is None or offset_gradient is None else _shaped_like(offset, offset_gradient),
        )


RULES_SCOPE = "lglsq_quantizer_rules"
"""The name in traced programs of operations that apply a method's rules to one backward pass."""


def _shaped_like(like: Array, wide: Array) -> Array:
    return summed_like(wide.reshape(like.shape).astype(like.dtype), like)


def quantizer_context(
    spec: QuantSpec,
    x: Float[Array, "*shape"],
    scale: Float[Array, "..."],
    offset: Float[Array, "..."] | None,
    progress: Float[Array, ""],
    gradient: Float[Array, "*shape"],
    elements: int,
) -> QuantizerContext:
    """Returns what the rules of ``spec.method`` look at; ``elements`` is ``N``, the rest as in quantizer_gradients."""
    _check_axes(spec, scale, progress)
    gradient = summed_like(gradient, x, scale)
    wide_scale = jnp.maximum(broadcast_scale(scale.astype(jnp.float32), spec, x.ndim), jnp.finfo(jnp.float32).tiny)
    values = x.astype(jnp.float32)
    if offset is not None:
        values = values - broadcast_scale(offset.astype(jnp.float32), spec, x.ndim)
    return QuantizerContext(
        gradient=gradient.astype(jnp.float32),
        values=values,
        scale=wide_scale,
        minimum=spec.minimum,
        maximum=spec.maximum,
        elements=elements,
        axes=spec.axes_of_scale(x.ndim),
        progress=progress,
        mesh_axes=varying_axes(x) - varying_axes(scale),
    )


def elements_of_batch(spec: QuantSpec, shape: tuple[int, ...], mesh_axes: frozenset[str]) -> int:
    """Returns ``N`` from the shape of a device's part of a tensor that is split along axes of ``jax.shard_map``.

    A quantizer with a batch axis is split along it, and leaves it out; another is split anywhere.
    """
    return spec.elements(shape) * (devices_along(mesh_axes) if spec.batch_axis is None else 1)


def _check_axes(spec: QuantSpec, scale: Array, progress: Array) -> None:
    """Refuses what would silently be another gradient than that of the whole batch."""
    axes = unknown_axes()
    if axes and not spec.method.linear:
        raise ValueError(
            "`check_vma` of jax.shard_map must be True for the gradients of a method that is not linear, since without "
            f"it nothing says whether a batch varies over the mesh axes {', '.join(axes)}, got False"
        )
    if own := varying_axes(progress) - varying_axes(scale):
        raise ValueError(
            "`progress` must be the same on all devices that share a scale, "
            f"got one that varies over the mesh axes {', '.join(sorted(own))}"
        )


def float_codes(
    x: Float[Array, "*shape"], scale: Float[Array, "..."], offset: Float[Array, "..."] | None, spec: QuantSpec
) -> Float[Array, "*shape"]:
    """Returns the codes as whole numbers in float32, NaN where ``x`` is NaN; scale shapes as in ``quantize``."""
    return quantize_codes(
        x.astype(jnp.float32),
        broadcast_scale(scale.astype(jnp.float32), spec, x.ndim),
        None if offset is None else broadcast_scale(offset.astype(jnp.float32), spec, x.ndim),
        minimum=spec.minimum,
        maximum=spec.maximum,
    )


def broadcast_scale(scale: Float[Array, "..."], spec: QuantSpec, ndim: int) -> Float[Array, "..."]:
    """Returns the scale in a shape that broadcasts against an ``ndim``-dimensional tensor."""
    if spec.channel_axis is None:
        return scale
    shape = [1] * ndim
    shape[spec.channel_axis] = -1
    return scale.reshape(shape)


def check_scale(scale: ArrayLike, spec: QuantSpec, shape: tuple[int, ...], name: str = "scale") -> None:
    """Checks the shape of a scale, and, where it is concrete, that it is finite and positive.

    Raises:
        ValueError: with the name, the value seen and what is allowed.
    """
    _check_shape(scale, spec, shape, name)
    values = _known(scale, otherwise=1.0)
    good = np.isfinite(values) & (values > 0)
    if not good.all():
        raise ValueError(f"`{name}` must be finite and positive, got {float(values[~good].flat[0])}")


def check_offset(offset: ArrayLike, spec: QuantSpec, shape: tuple[int, ...], name: str = "offset") -> None:
    """Checks that an offset has the shape of the scale, and, where it is concrete, that it is finite.

    Raises:
        ValueError: with the name, the value seen and what is allowed.
    """
    _check_shape(offset, spec, shape, name)
    values = _known(offset, otherwise=0.0)
    good = np.isfinite(values)
    if not good.all():
        raise ValueError(f"`{name}` must be finite, got {float(values[~good].flat[0])}")


def check_progress(progress: ArrayLike, name: str = "progress") -> None:
    """Checks that training progress is one number, and, where it is concrete, that it lies in [0, 1].

    A hundred-thousandth beyond is rounding, as of a sum of steps in float32, and passes.

    Raises:
        ValueError: with the name, the value seen and what is allowed.
    """
    if np.shape(progress) != ():
        raise ValueError(f"`{name}` must be one number from 0 to 1, got shape {np.shape(progress)}")
    value = float(_known(progress, otherwise=0.0))
    if not -_ROUNDING <= value <= 1 + _ROUNDING:
        raise ValueError(f"`{name}` must be a finite number from 0 to 1, got {value}")


_ROUNDING = 1e-5


def _check_shape(value, spec: QuantSpec, shape: tuple[int, ...], name: str) -> None:
    expected = spec.scale_shape(shape)
    if np.shape(value) != expected:
        raise ValueError(f"`{name}` must have shape {expected} for a tensor of shape {shape}, got {np.shape(value)}")


def _known(value: ArrayLike, otherwise: float) -> np.ndarray:
    """A value in float32 where it is concrete, too large a one as infinity; ``otherwise`` while JAX is tracing it."""
    if isinstance(value, jax.core.Tracer):
        value = otherwise
    with np.errstate(over="ignore"):
        return np.asarray(value, np.float32)


def in_float(value: ArrayLike) -> Float[Array, "..."]:
    """Returns a scale or offset as an array of floats: whole numbers in float32."""
    value = jnp.asarray(value)
    return value if jnp.issubdtype(value.dtype, jnp.floating) else value.astype(jnp.float32)


def checked(
    x: Float[ArrayLike, "*shape"], scale: Float[ArrayLike, "..."], spec: QuantSpec
) -> tuple[Float[Array, "*shape"], Float[Array, "..."]]:
    """Returns values and their scale as arrays of floats.

    Raises:
        TypeError: ``x`` has no float dtype.
        ValueError: the scale has another shape, or, where it is concrete, is not finite and positive.
    """
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"`x` must have a float dtype, got {x.dtype}")
    check_scale(scale, spec, x.shape)  # as it was given: under jit an array made of it is traced
    return x, in_float(scale)
