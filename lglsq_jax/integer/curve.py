"""Functions of one value, element by element: what an activation is before a quantizer makes codes of it."""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from .affine import Affine, Value
from .dimensions import Shape
from .errors import LoweringError
from .node import aligned, compact
from .trace import Equation

Function = Callable[[np.ndarray], np.ndarray]

ELEMENTWISE = frozenset(
    "logistic tanh exp exp2 log log1p expm1 erf erfc erf_inv sqrt rsqrt cbrt square abs sign floor ceil round sin cos "
    "tan asin acos atan sinh cosh asinh acosh atanh integer_pow is_finite not neg convert_element_type copy copy_p "
    "stop_gradient add add_any sub mul div max min pow atan2 rem eq ne lt le gt ge and or xor select_n clamp".split()
)
"""Primitives that work element by element."""

_LEAST = 256  # numbers that a primitive is compiled for at least
_FOLLOWED_BY_NOTHING = ("copy", "copy_p", "stop_gradient")


@dataclasses.dataclass(frozen=True, eq=False)
class Curve:
    """The value ``function(x)`` of the affine value ``x``, element by element.

    Attributes:
        base: ``x``.
        function: float64 arrays of shape ``[*axes, k]`` to the same, where ``axes`` broadcasts to the value's shape.
        axes: shape along which the function's own constants vary; all ones: one function for every element.
        shape: the value's shape.
        names: the primitives that it is made of.
    """

    base: Affine
    function: Function
    axes: tuple[int, ...]
    shape: Shape
    names: tuple[str, ...]

    @property
    def uniform(self) -> bool:
        """Whether the function is the same for every element, so that it commutes with moving elements around."""
        return all(size == 1 for size in self.axes)

    @property
    def is_constant(self) -> bool:
        """Never: it depends on the model's input."""
        return False

    @property
    def is_float(self) -> bool:
        """Whether it depends on the unquantized input."""
        return self.base.is_float

    def of(self, base: Affine) -> "Curve":
        """Returns the same function of another value, for a uniform one."""
        return Curve(base, self.function, (1,) * len(base.shape), base.shape, self.names)

    def sampled(self, node_values: np.ndarray) -> np.ndarray:
        """Returns the curve's values where its base's only node has the given values; shape ``[*axes, k]``."""
        ((_, scale),) = self.base.terms
        return self.function(_sampling(scale) * node_values + _sampling(self.base.bias))

    @property
    def sampled_axes(self) -> tuple[int, ...]:
        """The axes along which ``sampled`` varies: those of the function and of its base's scale and bias."""
        ((_, scale),) = self.base.terms
        return np.broadcast_shapes(scale.shape, self.base.bias.shape, self.axes)


def combined(equation: Equation, operands: Sequence["Value | Curve"], shape: Shape) -> Curve | None:
    """Returns an elementwise operation on functions of one and the same value; None where their values differ."""
    ones = (1,) * len(shape)
    moving = [value for value in operands if isinstance(value, Curve) or _moves(value)]
    base = _as_curve(moving[0]).base
    functions: list[Function] = []
    axes, names = ones, []
    for value in operands:
        if isinstance(value, Curve) or _moves(value):
            curve = _rebased(_as_curve(value), base)
            if curve is None:
                return None
            functions.append(curve.function)
            axes = np.broadcast_shapes(axes, curve.axes)
            names += curve.names
        else:
            known = value.value() if isinstance(value, Affine) else np.asarray(value)
            known = compact(aligned(known, len(shape)))
            functions.append(functools.partial(_always, _sampling(known)))
            axes = np.broadcast_shapes(axes, known.shape)
    return Curve(base, functools.partial(_applied, equation, functions), axes, shape, (*names, equation.primitive.name))


def _sampling(constant: np.ndarray) -> np.ndarray:
    """Returns a constant with an axis for samples; a single number without axes, so that it fits any shape."""
    return constant.reshape(()) if constant.size == 1 else constant[..., None]


def _always(known: np.ndarray, x: np.ndarray) -> np.ndarray:
    return known


def _moves(value: Value) -> bool:
    return isinstance(value, Affine) and not value.is_constant


def _as_curve(value: "Value | Curve") -> Curve:
    if isinstance(value, Curve):
        return value
    assert isinstance(value, Affine)
    if value.curve is not None:
        return value.curve
    ones = (1,) * len(value.shape)
    if value.clipped is not None:
        inner, low, high = value.clipped
        return Curve(inner, lambda x: np.clip(x, low, high), ones, value.shape, ("clip",))
    return Curve(value, lambda x: x, ones, value.shape, ())


def remembered(equation: Equation, operands: Sequence[Value | Curve], shape: Shape, result: Value) -> Value:
    """Returns an affine result that remembers of what it is a function, where an operand of the operation does.

    So ``x * relu6(x + 3) / 6`` is seen as one function of ``x``, although a clip makes a tensor of its own.
    """
    moving = [value for value in operands if isinstance(value, Affine) and not value.is_constant]
    if isinstance(result, Affine) and len(moving) == 1 and (moving[0].clipped or moving[0].curve):
        if result.clipped is None and not moving[0].is_float:
            return dataclasses.replace(result, curve=combined(equation, operands, shape))
    return result


def _rebased(curve: Curve, base: Affine) -> Curve | None:
    """Returns the same function of another affine value, where the one is a multiple of the other plus a constant."""
    own = curve.base
    if own is base:
        return curve
    scales = {id(node): scale for node, scale in base.terms}
    if {id(node) for node, _ in own.terms} != set(scales):
        return None
    factor = None
    for node, scale in own.terms:
        of_base = scales[id(node)]
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.where((of_base == 0) & (scale == 0), 1.0, scale / of_base)
        if not np.isfinite(ratio).all() or (factor is not None and not np.allclose(ratio, factor, rtol=1e-12, atol=0)):
            return None
        factor = ratio
    assert factor is not None
    shift = compact(own.bias - factor * base.bias)
    factor = compact(factor)

    def function(x):
        return curve.function(_sampling(factor) * x + _sampling(shift))

    axes = np.broadcast_shapes(curve.axes, factor.shape, shift.shape)
    return Curve(base, function, axes, curve.shape, curve.names)


def _applied(equation: Equation, functions: Sequence[Function], x: np.ndarray) -> np.ndarray:
    """Runs the equation's own primitive in float64 on what the functions give."""
    values = [function(x) for function in functions]
    name, params = equation.primitive.name, equation.params
    if name in _FOLLOWED_BY_NOTHING:
        return values[0]
    values = [value.astype(np.float64) if np.issubdtype(value.dtype, np.floating) else value for value in values]
    if name == "convert_element_type":
        kind = params["new_dtype"]
        if jnp.issubdtype(kind, jnp.floating) and kind not in (jnp.float32, jnp.float64):
            raise LoweringError(f"it converts to {jnp.dtype(kind).name}; lower the float32 form of the model")
        return values[0].astype(np.float64 if jnp.issubdtype(kind, jnp.floating) else kind)
    values = np.broadcast_arrays(*values)
    shape, count = values[0].shape, values[0].size
    # Few sizes, so that a primitive is compiled once and not for every layer; filled up with numbers it has anyway.
    spare = max(1 << (count - 1).bit_length(), _LEAST) - count if count else 0
    values = [np.pad(value.ravel(), (0, spare), "edge" if count else "constant") for value in values]
    with jax.enable_x64(True):
        results = np.asarray(equation.primitive.bind(*map(jnp.asarray, values), **params))
    return results[:count].reshape(shape)
