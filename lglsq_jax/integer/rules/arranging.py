"""Reshapes, transposes, pads, slices, concatenations: elements move, their meaning stays."""

import math

import numpy as np

from ..affine import Affine, Value
from ..arrange import arrange_constants
from ..build import rearranged
from ..dimensions import Shape, encode
from ..node import expanded
from ..trace import Equation
from .context import Context, affine, known, unsupported


def _reshape(context: Context, equation: Equation, x: Affine) -> Affine:
    shape = context.shape(equation)
    if equation.primitive.name == "reshape" and equation.params["dimensions"] is not None:
        raise unsupported(equation, "it reorders dimensions while reshaping")
    return rearranged("reshape", {"sizes": encode(shape)}, shape, equation.path, x)


def _transpose(context: Context, equation: Equation, x: Affine) -> Affine:
    attributes = {"permutation": [int(axis) for axis in equation.params["permutation"]]}
    return rearranged("transpose", attributes, context.shape(equation), equation.path, x)


def _broadcast_in_dim(context: Context, equation: Equation, x: Affine, *sizes: Value) -> Affine:
    shape = context.shape(equation)
    attributes = {"sizes": encode(shape), "axes": [int(axis) for axis in equation.params["broadcast_dimensions"]]}
    return rearranged("broadcast", attributes, shape, equation.path, x)


def _slice(context: Context, equation: Equation, x: Affine) -> Affine:
    strides = equation.params["strides"] or (1,) * len(x.shape)
    attributes = {
        "starts": encode(context.known(equation, equation.params["start_indices"])),
        "stops": encode(context.known(equation, equation.params["limit_indices"])),
        "strides": [int(stride) for stride in strides],
    }
    return rearranged("slice", attributes, context.shape(equation), equation.path, x)


def _split(context: Context, equation: Equation, x: Affine) -> tuple[Affine, ...]:
    axis, start, parts = equation.params["axis"], 0, []
    for index, size in enumerate(equation.params["sizes"]):
        starts, stops = [0] * len(x.shape), list(x.shape)
        starts[axis], stops[axis] = start, start + int(size)
        attributes = {"starts": starts, "stops": encode(tuple(stops)), "strides": [1] * len(x.shape)}
        parts.append(rearranged("slice", attributes, context.shape(equation, index), equation.path, x))
        start += int(size)
    return tuple(parts)


def _rev(context: Context, equation: Equation, x: Affine) -> Affine:
    attributes = {"axes": [int(axis) for axis in equation.params["dimensions"]]}
    return rearranged("reverse", attributes, context.shape(equation), equation.path, x)


def _pad(context: Context, equation: Equation, x: Affine, value: Value) -> Affine:
    filler = float(np.unique(known(equation, value, "the padding value"))[0])
    if not math.isfinite(filler):
        raise unsupported(equation, f"it pads with {filler}")
    padding = [[int(size) for size in sizes] for sizes in equation.params["padding_config"]]
    attributes, shape = {"padding": padding, "value": 0}, context.shape(equation)
    padded = rearranged("pad", attributes, shape, equation.path, x)
    if not filler:
        return padded
    # The padded integers are 0; what the padding is worth goes into the constants.
    inside = arrange_constants("pad", attributes, expanded(np.ones(()), x.shape))
    return Affine.of(padded.terms, padded.bias + filler * (1 - inside), shape)


def _concatenate(context: Context, equation: Equation, *xs: Value) -> Affine:
    shapes = [context.known(equation, operand.shape) for operand in equation.operands]
    axis = int(equation.params["dimension"])
    values = [affine(x, shape) for x, shape in zip(xs, shapes, strict=True) if shape[axis] != 0]  # jnp.pad joins those
    return _joined(equation, axis, context.shape(equation), values)


def _joined(equation: Equation, axis: int, shape: Shape, values: list[Affine]) -> Affine:
    if any(value.is_float for value in values) and not all(value.is_float for value in values):
        raise unsupported(equation, "it joins the unquantized input with quantized values")
    if any(not value.terms for value in values):
        raise unsupported(equation, "it joins constants with computed values")
    return rearranged("concatenate", {"axis": axis}, shape, equation.path, *values)


def _stack(context: Context, equation: Equation, *xs: Value) -> Affine:
    shape, axis = context.shape(equation), int(equation.params["axis"])
    single = (*shape[:axis], 1, *shape[axis + 1 :])
    values = [affine(x, context.known(equation, y.shape)) for x, y in zip(xs, equation.operands, strict=True)]
    expanded_values = [rearranged("reshape", {"sizes": encode(single)}, single, equation.path, x) for x in values]
    return _joined(equation, axis, shape, expanded_values)


ARRANGING = {
    "reshape": _reshape,
    "squeeze": _reshape,
    "expand_dims": _reshape,
    "transpose": _transpose,
    "broadcast_in_dim": _broadcast_in_dim,
    "slice": _slice,
    "split": _split,
    "rev": _rev,
    "pad": _pad,
    "concatenate": _concatenate,
    "stack": _stack,
}
