"""Sums and maxima over axes and over windows: pooling and global means."""

import math

import jax
import numpy as np
from jax import lax

from ..affine import Affine
from ..build import fixed_point
from ..dimensions import Batch
from ..node import INT32_MAX, Node, compact, expanded
from ..trace import Equation
from .arithmetic import scaled
from .context import Context, unsupported


def _reduce_sum(context: Context, equation: Equation, x: Affine) -> Affine:
    axes = _axes(equation, x)
    count = math.prod(size for axis, size in enumerate(x.shape) if axis in axes and not isinstance(size, Batch))
    x = _summable(equation, x, axes, count)
    shape = context.shape(equation)
    terms = []
    for node, scale in x.terms:
        low = np.squeeze(_along(node.low, axes, np.min), axes)
        high = np.squeeze(_along(node.high, axes, np.max), axes)
        total = Node("sum", (node,), shape, low * count, high * count, {"axes": list(axes)}, path=equation.path)
        terms.append((total, np.squeeze(scale, axes)))
    return Affine.of(terms, expanded(x.bias, x.shape).sum(axes), shape)


def _reduce_max(context: Context, equation: Equation, x: Affine) -> Affine:
    axes = _axes(equation, x)
    x = _monotone(equation, x, axes)
    node, scale = x.terms[0]
    low, high = (np.squeeze(_along(end, axes, np.max), axes) for end in (node.low, node.high))
    shape = context.shape(equation)
    largest = Node("max", (node,), shape, low, high, {"axes": list(axes)}, path=equation.path)
    return Affine.of([(largest, np.squeeze(scale, axes))], np.squeeze(x.bias, axes), shape)


def _window_sum(context: Context, equation: Equation, x: Affine) -> Affine:
    window, axes = _window(equation, x)
    count = math.prod(window["dimensions"])
    x = _summable(equation, x, axes, count)
    shape = context.shape(equation)
    terms = []
    for node, scale in x.terms:
        low = np.minimum(_along(node.low, axes, np.min), 0) * count
        high = np.maximum(_along(node.high, axes, np.max), 0) * count
        terms.append((Node("window_sum", (node,), shape, low, high, window, path=equation.path), scale))
    bias = x.bias
    if bias.any():  # windows that reach into the padding hold fewer elements
        with jax.enable_x64(True):
            bias = np.asarray(
                lax.reduce_window(
                    np.asarray(expanded(bias, x.shape), np.float64),
                    np.float64(0),
                    lax.add,
                    window["dimensions"],
                    window["strides"],
                    window["padding"],
                    window["base_dilation"],
                    window["window_dilation"],
                )
            )
    return Affine.of(terms, bias, shape)


def _window_max(context: Context, equation: Equation, x: Affine) -> Affine:
    window, axes = _window(equation, x)
    x = _monotone(equation, x, axes)
    node, scale = x.terms[0]
    low, high = _along(node.low, axes, np.min), _along(node.high, axes, np.max)
    shape = context.shape(equation)
    largest = Node("window_max", (node,), shape, low, high, window, path=equation.path)
    return Affine.of([(largest, scale)], x.bias, shape)


def _negated(rule):
    """The rule of a minimum: the maximum of what is negated, negated."""

    def minimum(context: Context, equation: Equation, x: Affine) -> Affine:
        return scaled(rule(context, equation, scaled(x, np.float64(-1))), np.float64(-1))

    return minimum


def _along(array: np.ndarray, axes: tuple[int, ...], function) -> np.ndarray:
    return function(array, axis=axes, keepdims=True)


def _axes(equation: Equation, x: Affine) -> tuple[int, ...]:
    if x.is_float:
        raise unsupported(equation, "it reads the unquantized input of the model; quantize it first")
    axes = tuple(int(axis) for axis in equation.params["axes"])
    if any(isinstance(x.shape[axis], Batch) for axis in axes):
        raise unsupported(equation, "it reduces over the batch")
    return axes


def _window(equation: Equation, x: Affine) -> tuple[dict, tuple[int, ...]]:
    if x.is_float:
        raise unsupported(equation, "it reads the unquantized input of the model; quantize it first")
    params = equation.params
    dimensions = [int(size) for size in params["window_dimensions"]]
    ones = (1,) * len(dimensions)
    window = {
        "dimensions": dimensions,
        "strides": [int(size) for size in params["window_strides"] or ones],
        "padding": [[int(size) for size in pair] for pair in params["padding"]],
        "base_dilation": [int(size) for size in params.get("base_dilation") or ones],
        "window_dilation": [int(size) for size in params.get("window_dilation") or ones],
    }
    moving = tuple(
        axis
        for axis, size in enumerate(dimensions)
        if size > 1 or window["strides"][axis] > 1 or window["padding"][axis] != [0, 0]
    )
    if any(isinstance(x.shape[axis], Batch) for axis in moving):
        raise unsupported(equation, "its window spans the batch")
    return window, moving


def _summable(equation: Equation, x: Affine, axes: tuple[int, ...], count: int) -> Affine:
    """Returns ``x`` in a form whose integers can be added up along ``axes`` without leaving int32."""
    same = all(scale.shape[axis] == 1 for _, scale in x.terms for axis in axes)
    if same and all(node.largest * count <= INT32_MAX for node, _ in x.terms):
        return x
    return fixed_point(x, equation.path, spare=count)


def _monotone(equation: Equation, x: Affine, axes: tuple[int, ...]) -> Affine:
    """Returns ``x`` in a form whose order along ``axes`` is that of one integer tensor."""
    if len(x.terms) == 1:
        scale = x.terms[0][1]
        if (scale > 0).all() and all(array.shape[axis] == 1 for array in (scale, compact(x.bias)) for axis in axes):
            return x
    return fixed_point(x, equation.path)


REDUCTIONS = {
    "reduce_sum": _reduce_sum,
    "reduce_max": _reduce_max,
    "reduce_window_sum": _window_sum,
    "reduce_window_max": _window_max,
    "reduce_min": _negated(_reduce_max),
    "reduce_window_min": _negated(_window_max),
}
