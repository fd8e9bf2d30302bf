"""Where a scale starts: the least squared error over a grid, LSQ's rule, the maximum, or three sigma."""

import functools

import jax
import jax.core
import jax.numpy as jnp
from jaxtyping import Array, Float

from .method_names import STARTS
from .spec import QuantSpec

_LARGEST = 2.0**125  # 1 / scale is a normal number up to here; a subnormal one is flushed to 0, and with it all codes
_COARSE = 48  # geometric grid over two decades, then a linear one of half as many around the best


def init_scale(x: Float[Array, "*shape"], spec: QuantSpec, how: str = "mse") -> Float[Array, "..."]:
    r"""Returns a starting scale for ``x``.

    * ``"mse"``: the minimiser of :math:`\|\hat x - x\|^2` over a grid of fractions of the largest value;
    * ``"lsq"``: :math:`2 \operatorname{mean}|x| / \sqrt{Q_p}` (Esser et al., ICLR 2020, section 2.1);
    * ``"max"``: :math:`\max|x| / Q_p`, nothing above 0 is clipped;
    * ``"sigma"``: :math:`\max(|\mu - 3\sigma|, |\mu + 3\sigma|) / 2^{b-1}` (LSQ+, Bhalgat et al., 2020, section 3.2);
      over :math:`Q_p` for an unsigned quantizer.

    For an unsigned quantizer values below 0 count as 0, which is what it makes of them. Where there is nothing to go by
    (all zeros) the scale is 1. A scale is at most 2^125, whose inverse float32 still holds.

    Args:
        x: finite values, any float dtype.
        spec: the quantizer.
        how: one of ``"mse"``, ``"lsq"``, ``"max"``, ``"sigma"``.

    Returns:
        float32, shape ``()`` or ``[C]``, finite and positive, in the unit of ``x``.

    Raises:
        ValueError: ``how`` is not known, ``x`` is empty, or (where it is concrete) holds NaN or infinity.
    """
    if how not in STARTS:
        raise ValueError(f"`how` must be one of {', '.join(STARTS)}, got {how!r}")
    x = jnp.asarray(x)
    if x.size == 0:
        raise ValueError(f"`x` must have at least one element, got shape {x.shape}")
    if not isinstance(x, jax.core.Tracer) and not bool(jnp.isfinite(x).all()):
        raise ValueError("`x` must be finite, got NaN or infinity")
    return _init_scale(x, spec, how)


@functools.partial(jax.jit, static_argnums=(1, 2))
def _init_scale(x, spec, how):
    axes = spec.axes_of_scale(x.ndim)
    values = x.astype(jnp.float32)
    relevant = jnp.abs(values) if spec.signed else jnp.maximum(values, 0)
    largest = jnp.max(relevant, axis=axes, keepdims=True)
    down = jnp.where(largest > 1, 2.0**-24, 1.0)  # 1 / 3e38 would be subnormal, which compiled code flushes to 0
    unit = jnp.where(largest > 0, largest * down, 1.0)
    values, relevant = values * down / unit, relevant * down / unit  # all below is relative to the largest value
    if how == "max":
        relative = jnp.full_like(unit, 1 / spec.maximum)
    elif how == "lsq":
        relative = 2 * jnp.mean(relevant, axis=axes, keepdims=True) / jnp.sqrt(jnp.float32(spec.maximum))
    elif how == "sigma":
        seen = values if spec.signed else relevant
        mean = jnp.mean(seen, axis=axes, keepdims=True)
        spread = 3 * jnp.std(seen, axis=axes, keepdims=True)
        levels = 2 ** (spec.bits - 1) if spec.signed else spec.maximum
        relative = jnp.maximum(jnp.abs(mean - spread), jnp.abs(mean + spread)) / levels
    else:
        relative = _least_squares(values, spec, axes)
    scale = jnp.where(largest > 0, relative * unit / down, 1.0)
    return jnp.clip(scale, jnp.finfo(jnp.float32).tiny, _LARGEST).reshape(spec.scale_shape(x.shape))


def _least_squares(values, spec, axes):
    def error(scale):
        codes = jnp.clip(jnp.round(values / scale), spec.minimum, spec.maximum)
        return jnp.mean(jnp.square(codes * scale - values), axis=axes, keepdims=True)

    def best(candidates):
        errors = jax.lax.map(error, candidates)
        return jnp.take_along_axis(candidates, jnp.argmin(errors, axis=0, keepdims=True), axis=0)[0]

    shape = (-1,) + (1,) * values.ndim
    wide = tuple(values.shape[axis] if axis not in axes else 1 for axis in range(values.ndim))
    largest = 1.2 / spec.maximum
    coarse = jnp.geomspace(largest / 100, largest, _COARSE, dtype=jnp.float32)
    first = best(jnp.broadcast_to(coarse.reshape(shape), (_COARSE, *wide)))
    step = coarse[1] / coarse[0]
    fine = jnp.linspace(1 / step, step, _COARSE // 2 + 1, dtype=jnp.float32)
    return best(first[None] * fine.reshape(shape))
