"""The quantizer: where a pending sum, the float input or a weight becomes codes."""

import jax.numpy as jnp
import numpy as np

from ...primitives import quantize_codes
from ..affine import Affine, Value
from ..build import constant, rescale
from ..curve import Curve
from ..errors import LoweringError
from ..node import Node, expanded
from ..tables import quantized_curve
from ..trace import Equation
from .context import Context, known


def _quantize(context: Context, equation: Equation, x: Value | Curve, scale: Value, *offset: Value) -> Affine:
    step = known(equation, scale, "the scale")
    if not (np.isfinite(step) & (step > 0)).all():
        raise LoweringError(
            f"the scale of a quantizer in {equation.where} must be finite and positive, got {float(np.min(step))}"
        )
    shift = known(equation, offset[0], "the offset") if offset else np.float32(0)
    low, high = equation.params["minimum"], equation.params["maximum"]
    if isinstance(x, Curve):
        path = equation.path
        return Affine.from_node(quantized_curve(x, step, shift, low, high, path, context.names.next(path)))
    if not isinstance(x, Affine) or x.is_constant:
        values = expanded(x.value() if isinstance(x, Affine) else x, context.shape(equation))
        moved = jnp.asarray(shift) if offset else None
        codes = np.asarray(quantize_codes(jnp.asarray(values), jnp.asarray(step), moved, minimum=low, maximum=high))
        if np.isnan(codes).any():
            raise LoweringError(f"the weights in {equation.where} must not contain NaN")
        return Affine.from_node(constant(codes.astype(np.int16), equation.path))
    name = context.names.next(equation.path)
    if x.is_float:
        return Affine.from_node(_encode(x, step, shift, low, high, equation, name))
    return Affine.from_node(rescale(x, step, np.float64(shift), low, high, equation.path, name))


def _encode(x: Affine, step, shift, low: int, high: int, equation: Equation, name: str) -> Node:
    """The first quantizer: the only place where a program meets a float."""
    if len(x.terms) != 1:
        raise LoweringError(f"{equation.where} quantizes a sum of unquantized values; quantize them one by one")
    node, gain = x.terms[0]
    constants = {
        "gain": np.asarray(gain, np.float32),
        "bias": np.asarray(x.bias, np.float32),
        "scale": np.asarray(step, np.float32),
        "offset": np.asarray(shift, np.float32),
    }
    least, most = (np.full((1,) * len(x.shape), end, np.int64) for end in (low, high))
    return Node("encode", (node,), x.shape, least, most, {"low": low, "high": high}, constants, equation.path, name)


QUANTIZING = {"lglsq_quantize": _quantize}
