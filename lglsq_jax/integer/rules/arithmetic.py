"""Sums, scalings and clips."""

import functools
import math

import jax.numpy as jnp
import numpy as np

from ..affine import Affine, Value
from ..build import check_quantized, clip, common_fixed_point, fixed_point
from ..node import INT32_MAX, Node, aligned, compact
from ..trace import Equation
from .context import Context, affine, known, unsupported

_LEAST_PRECISION = 2**20  # a factor of a product that is no code needs at least as many steps


def _add(context: Context, equation: Equation, x: Value, y: Value) -> Affine:
    shape = context.shape(equation)
    x, y = affine(x, shape), affine(y, shape)
    return Affine.of([*x.terms, *y.terms], x.bias + y.bias, shape)


def _sub(context: Context, equation: Equation, x: Value, y: Value) -> Affine:
    shape = context.shape(equation)
    return _add(context, equation, x, scaled(affine(y, shape), np.float64(-1)))


def _neg(context: Context, equation: Equation, x: Affine) -> Affine:
    return scaled(x, np.float64(-1))


def _mul(context: Context, equation: Equation, x: Value, y: Value) -> Affine:
    if not isinstance(x, Affine) or (isinstance(y, Affine) and x.is_constant):
        x, y = y, x
    assert isinstance(x, Affine)
    if isinstance(y, Affine) and not y.is_constant:
        return _times(context, equation, x, y)
    factor = known(equation, y, "a factor of a product")
    return _reshaped(scaled(x, np.asarray(factor, np.float64)), context.shape(equation))


def _times(context: Context, equation: Equation, x: Affine, y: Affine) -> Affine:
    """A product of two values that both depend on the input: codes times codes, or codes times fixed point."""
    shape = context.shape(equation)
    for value in (x, y):
        check_quantized(value, equation.path)
    x, y = (value if len(value.terms) == 1 else fixed_point(value, equation.path) for value in (x, y))
    (m, x_scale), (n, y_scale) = x.terms[0], y.terms[0]
    if m.largest * n.largest > INT32_MAX:
        narrow = min(m.largest, n.largest)
        limit = INT32_MAX / max(narrow, 1)
        if limit < _LEAST_PRECISION:
            raise unsupported(
                equation, "neither factor of a product is quantized; put lglsq_jax.Quantizer before at least one"
            )
        x, y = (
            value if node.largest == narrow else fixed_point(value, equation.path, limit=limit)
            for value, node in ((x, m), (y, n))
        )
        (m, x_scale), (n, y_scale) = x.terms[0], y.terms[0]
    ends = [a * b for a in (m.low, m.high) for b in (n.low, n.high)]
    low, high = functools.reduce(np.minimum, ends), functools.reduce(np.maximum, ends)
    product = Node("times", (m, n), shape, compact(low), compact(high), path=equation.path)
    product.check_overflow(equation.where)
    terms = [(product, x_scale * y_scale)]
    terms += [(m, x_scale * y.bias)] if y.bias.any() else []
    terms += [(n, y_scale * x.bias)] if x.bias.any() else []
    return Affine.of(terms, x.bias * y.bias, shape)


def _div(context: Context, equation: Equation, x: Value, y: Value) -> Affine:
    divisor = known(equation, y, "the divisor")
    if not np.all(divisor):
        raise unsupported(equation, "it divides by zero")
    assert isinstance(x, Affine)
    return _reshaped(scaled(x, 1 / np.asarray(divisor, np.float64)), context.shape(equation))


def scaled(x: Affine, factor: np.ndarray | np.float64) -> Affine:
    """Returns ``factor * x``."""
    factor = aligned(np.asarray(factor), len(x.shape))
    return Affine.of([(node, scale * factor) for node, scale in x.terms], x.bias * factor, x.shape)


def _reshaped(x: Affine, shape) -> Affine:
    return Affine.of(x.terms, x.bias, shape)


def _max(context: Context, equation: Equation, x: Value, y: Value) -> Affine:
    return _extreme(equation, "maximum", x, y)


def _min(context: Context, equation: Equation, x: Value, y: Value) -> Affine:
    return _extreme(equation, "minimum", x, y)


def _extreme(equation: Equation, op: str, x: Value, y: Value) -> Affine:
    if isinstance(y, Affine) and (not isinstance(x, Affine) or x.is_constant):
        x, y = y, x
    assert isinstance(x, Affine)
    if not isinstance(y, Affine) or y.is_constant:
        bound = _uniform(equation, y)
        return clip(x, *((bound, math.inf) if op == "maximum" else (-math.inf, bound)), equation.path)
    nodes, step = common_fixed_point((x, y), equation.path)
    function = np.maximum if op == "maximum" else np.minimum
    low, high = function(nodes[0].low, nodes[1].low), function(nodes[0].high, nodes[1].high)
    return Affine.from_node(Node(op, tuple(nodes), x.shape, low, high, path=equation.path), step)


def _clamp(context: Context, equation: Equation, low: Value, x: Affine, high: Value) -> Affine:
    return clip(x, _uniform(equation, low), _uniform(equation, high), equation.path)


def _uniform(equation: Equation, bound: Value) -> float:
    values = np.unique(known(equation, bound, "a bound"))
    if values.size != 1 or np.isnan(values[0]):
        raise unsupported(equation, "its bounds differ between elements; only one number is supported")
    return float(values[0])


def _convert(context: Context, equation: Equation, x: Affine) -> Affine:
    dtype = equation.params["new_dtype"]
    if dtype not in (jnp.float32, jnp.float64):
        raise unsupported(equation, f"it converts to {jnp.dtype(dtype).name}; lower the float32 form of the model")
    return x


def _same(context: Context, equation: Equation, *xs: Value):
    return xs


ARITHMETIC = {
    "add": _add,
    "add_any": _add,
    "sub": _sub,
    "neg": _neg,
    "mul": _mul,
    "div": _div,
    "max": _max,
    "min": _min,
    "clamp": _clamp,
    "convert_element_type": _convert,
    "copy": _same,
    "copy_p": _same,
    "optimization_barrier": _same,
    "sharding_constraint": _same,
    "stop_gradient": _same,
}
