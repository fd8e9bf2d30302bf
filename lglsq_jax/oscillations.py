r"""Weights that go back and forth between two codes: counted, frozen, or kept from it. Pure functions on arrays.

Near the border of two codes the straight-through gradient pushes a weight to the one, and as soon as it is there back
to the other. What is trained then is not what is deployed. Call ``track`` with the codes after every step, ``freeze``
after it and ``hold`` on the kernels, or add ``dampening`` to the loss.

References: Nagel et al., "Overcoming Oscillations in Quantization-Aware Training", ICML 2022, arXiv 2203.11086.
"""

import dataclasses

import jax
import jax.core
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Int8, Integer

from .quantizers import broadcast_scale, checked, float_codes
from .spec import QuantSpec

__all__ = ["Oscillations", "dampening", "freeze", "hold", "on_cosine", "start", "track"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Oscillations:
    """What is known about each weight of a tensor, all arrays in its shape.

    Attributes:
        codes: after the last step; of a frozen weight the code that it keeps.
        direction: sign of the last change of the code; 0 where there was none yet.
        frequency: moving average of how often the code goes back where it came from, from 0 to 1; 0 once frozen.
        average: moving average of the code.
        frozen: whether the code is fixed.
    """

    codes: Integer[Array, "*shape"]
    direction: Int8[Array, "*shape"]
    frequency: Float[Array, "*shape"]
    average: Float[Array, "*shape"]
    frozen: Bool[Array, "*shape"]


def start(codes: Integer[Array, "*shape"]) -> Oscillations:
    """Returns what is known before the first step: codes that never changed.

    Args:
        codes: the quantized weights, as ``quantize`` returns them.
    """
    codes = jnp.asarray(codes)
    direction, frequency, frozen = (jnp.zeros_like(codes, dtype) for dtype in (jnp.int8, jnp.float32, bool))
    return Oscillations(codes, direction, frequency, codes.astype(jnp.float32), frozen)


def track(known: Oscillations, codes: Integer[Array, "*shape"], momentum: float) -> Oscillations:
    r"""Returns what is known after a step.

    A weight oscillates in step :math:`t`, :math:`o_t = 1`, where its code changes and the sign of the change is
    opposite to that of its change before, however long ago. Then, with ``momentum`` m,

    .. math:: f_t = m \, o_t + (1 - m) f_{t-1}, \qquad \bar q_t = m \, q_t + (1 - m) \bar q_{t-1}

    Of frozen weights nothing changes.

    Args:
        known: after the step before.
        codes: the quantized weights after this one; those of frozen weights do not count.
        momentum: m, above 0 and at most 1.

    Raises:
        ValueError: ``momentum`` is not within (0, 1].
    """
    if not isinstance(momentum, jax.core.Tracer) and not 0 < momentum <= 1:
        raise ValueError(f"`momentum` must be above 0 and at most 1, got {momentum}")
    direction = jnp.sign(codes.astype(jnp.int32) - known.codes.astype(jnp.int32)).astype(jnp.int8)
    oscillated = (direction * known.direction == -1).astype(jnp.float32)
    free = Oscillations(
        codes,
        jnp.where(direction == 0, known.direction, direction),
        momentum * oscillated + (1 - momentum) * known.frequency,
        momentum * codes.astype(jnp.float32) + (1 - momentum) * known.average,
        known.frozen,
    )
    return jax.tree.map(lambda new, old: jnp.where(known.frozen, old, new), free, known)


def freeze(known: Oscillations, threshold: Float[ArrayLike, ""]) -> Oscillations:
    """Fixes the codes of weights whose frequency is above ``threshold`` to their average, rounded; for good.

    Args:
        known: after this step's ``track``.
        threshold: a frequency, from 0 to 1; shape ``()``, may be traced.
    """
    newly = ~known.frozen & (known.frequency > threshold)
    return Oscillations(
        jnp.where(newly, jnp.round(known.average).astype(known.codes.dtype), known.codes),
        known.direction,
        jnp.where(newly, 0, known.frequency),
        known.average,
        known.frozen | newly,
    )


def hold(
    x: Float[ArrayLike, "*shape"], scale: Float[ArrayLike, "..."], spec: QuantSpec, known: Oscillations
) -> Float[Array, "*shape"]:
    """Returns the weights with each frozen one at ``s q``, so that whatever the scale learns, its code ``q`` stays.

    Args:
        x: weights; the result has their dtype.
        scale: as in ``quantize``.
        spec: the quantizer.
        known: after this step's ``freeze``.

    Raises:
        TypeError, ValueError: ``x`` or ``scale`` is not what ``quantize`` takes.
    """
    x, scale = checked(x, scale, spec)
    return jnp.where(known.frozen, (known.codes * broadcast_scale(scale, spec, x.ndim)).astype(x.dtype), x)


def dampening(x: Float[ArrayLike, "*shape"], scale: Float[ArrayLike, "..."], spec: QuantSpec) -> Float[Array, ""]:
    r"""Returns how far weights are from their codes: :math:`\| \operatorname{clip}(x, s Q_n, s Q_p) - \hat x \|^2`.

    With :math:`\hat x` held constant: the gradient is :math:`2 (x - \hat x)` for ``x`` inside the clip range, 0
    outside, and 0 for the scale.

    Args:
        x: weights as the quantizer sees them.
        scale: as in ``quantize``.
        spec: the quantizer.

    Raises:
        TypeError, ValueError: ``x`` or ``scale`` is not what ``quantize`` takes.
    """
    x, scale = checked(x, scale, spec)
    x, scale = x.astype(jnp.float32), jax.lax.stop_gradient(scale.astype(jnp.float32))
    wide = broadcast_scale(scale, spec, x.ndim)
    rounded = wide * float_codes(jax.lax.stop_gradient(x), scale, None, spec)
    inside = (x >= spec.minimum * wide) & (x <= spec.maximum * wide)
    return jnp.sum(jnp.square(jnp.where(inside, x - rounded, 0)))


def on_cosine(first: float, last: float, progress: Float[ArrayLike, ""]) -> Float[Array, ""]:
    r"""Returns :math:`b + (a - b) (1 + \cos \pi p) / 2`, which goes from ``first`` a to ``last`` b as p goes 0 to 1."""
    return last + (first - last) * (1 + jnp.cos(jnp.pi * progress)) / 2
