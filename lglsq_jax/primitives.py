"""Operations that survive into a jaxpr under their own name, so that lowering to integers can find them.

Each is an ordinary array function made into a JAX primitive: eager calls, jit, vmap and export compile the function;
a traced program shows one equation, such as ``lglsq_quantize``, with its static parameters. They have no derivative of
their own: the public functions above them define it with ``jax.custom_vjp``.
"""

import functools
from collections.abc import Callable

import jax
import jax.core
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir
from jaxtyping import Array, Float

from .mesh_axes import vary_together


def define(
    name: str, default: Callable[..., Array], by_platform: dict[str, Callable[..., Array]] | None = None
) -> Primitive:
    """Returns a primitive that compiles as ``default(*operands, **static)``, or as another function on a platform.

    Args:
        name: how equations of it are called in a jaxpr.
        default: array function; its result's shape and dtype are the primitive's.
        by_platform: ``{"cpu": function, ...}`` with the same result as ``default``, to the bit.
    """
    primitive = Primitive(name)

    @functools.lru_cache(maxsize=4096)  # a trace of the function each time, and every layer is traced several times
    def typed(avals, mesh, static):
        types = [
            jax.ShapeDtypeStruct(
                aval.shape,
                aval.dtype,
                sharding=None if aval.sharding.mesh.empty else aval.sharding,
                manual_axis_type=None if aval.sharding.mesh.empty else aval.manual_axis_type,
            )
            for aval in avals
        ]
        (result,) = jax.make_jaxpr(functools.partial(default, **dict(static)))(*types).out_avals
        return result.update(weak_type=False)  # pyright: ignore[reportAttributeAccessIssue]

    def abstract(*avals, **static):
        return typed(avals, jax.sharding.get_abstract_mesh(), tuple(sorted(static.items())))

    primitive.def_abstract_eval(abstract)
    compiled = functools.lru_cache(maxsize=None)(
        lambda static: jax.jit(lambda *operands: primitive.bind(*operands, **dict(static)))
    )

    def evaluate(*operands, **static):
        if jax.config.jax_disable_jit:  # pyright: ignore[reportAttributeAccessIssue]
            return (by_platform or {}).get(jax.default_backend(), default)(*operands, **static)
        return compiled(tuple(sorted(static.items())))(*operands)

    primitive.def_impl(evaluate)
    mlir.register_lowering(primitive, mlir.lower_fun(default, multiple_results=False))
    for platform, function in (by_platform or {}).items():
        mlir.register_lowering(primitive, mlir.lower_fun(function, multiple_results=False), platform=platform)

    def batch(operands, dims, **static):
        return jax.vmap(functools.partial(default, **static), in_axes=dims)(*operands), 0

    batching.primitive_batchers[primitive] = batch
    return primitive


def _quantize(x, scale, *offset, minimum: int, maximum: int):
    shifted = x - offset[0] if offset else x
    return jnp.round(clip_codes(normalise(shifted, scale), minimum, maximum))


def normalise(values: Float[Array, "*shape"], scale: Float[Array, "..."]) -> Float[Array, "*shape"]:
    """Returns ``v = values / scale`` in float32, as ``values * (1 / scale)``; a scale counts at least 1e-38.

    XLA divides by a broadcast scale in this way, but only where it is broadcast: written out, the code of a value next
    to a tie does not depend on vmap or the shape.
    """
    smallest = jnp.finfo(jnp.float32).tiny  # a subnormal scale is flushed to zero by compiled code: 0 / 0 otherwise
    return values * (1 / jnp.maximum(scale, smallest))


def clip_codes(v: Float[Array, "*shape"], minimum: int, maximum: int) -> Float[Array, "*shape"]:
    """Returns ``clip(v, minimum, maximum)`` with NaN kept; to clip whole ends before rounding or after is the same.

    Two selections, which compile to fewer instructions on a CPU than a minimum and a maximum that must pass on NaN.
    """
    return jnp.where(v > maximum, jnp.float32(maximum), jnp.where(v < minimum, jnp.float32(minimum), v))


QUANTIZE_NAME = "lglsq_quantize"
_quantize_p = define(QUANTIZE_NAME, _quantize)


def quantize_codes(
    x: Float[Array, "*shape"],
    scale: Float[Array, "..."],
    offset: Float[Array, "..."] | None,
    *,
    minimum: int,
    maximum: int,
) -> Float[Array, "*shape"]:
    """Returns ``clip(round((x - offset) / scale), minimum, maximum)`` as whole numbers in float32.

    Rounds half to even. NaN stays NaN. ``scale`` and ``offset`` broadcast against ``x``; all operands are float32.
    """
    operands = (x, scale) if offset is None else (x, scale, offset)
    return _quantize_p.bind(*vary_together(*operands), minimum=minimum, maximum=maximum)
