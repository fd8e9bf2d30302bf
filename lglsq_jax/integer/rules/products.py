"""Convolutions and matrix products: codes in, int32 accumulators out, scales multiplied."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from ...ops.window import Window, convolve
from ..affine import Affine, Value
from ..build import constant, rearranged
from ..dimensions import encode
from ..node import Node, expanded
from ..trace import Equation
from .context import Context, unsupported


def _exact_convolution(context: Context, equation: Equation, x: Value, kernel: Value) -> Affine:
    return _convolve(context, equation, x, kernel, equation.params["window"])


def _convolution(context: Context, equation: Equation, x: Value, kernel: Value) -> Affine:
    """``lax.conv_general_dilated`` on fake-quantized tensors, in any layout."""
    params = equation.params
    if params["batch_group_count"] != 1:
        raise unsupported(equation, "it groups the batch")
    window = Window(
        tuple(params["window_strides"]),
        tuple((int(low), int(high)) for low, high in params["padding"]),
        tuple(params["lhs_dilation"]),
        tuple(params["rhs_dilation"]),
        params["feature_group_count"],
    )
    layout = params["dimension_numbers"]
    x_order = (layout.lhs_spec[0], *layout.lhs_spec[2:], layout.lhs_spec[1])
    kernel_order = (*layout.rhs_spec[2:], layout.rhs_spec[1], layout.rhs_spec[0])
    out_order = (layout.out_spec[0], *layout.out_spec[2:], layout.out_spec[1])
    result = _convolve(
        context,
        equation,
        _transposed(_codes(equation, x, "its input"), x_order, equation.path),
        _transposed(_codes(equation, kernel, "its kernel"), kernel_order, equation.path),
        window,
        tuple(np.asarray(context.shape(equation), object)[list(out_order)]),
    )
    return _transposed(result, tuple(int(axis) for axis in np.argsort(out_order)), equation.path)


def _transposed(x: Affine, order: tuple[int, ...], path: str) -> Affine:
    if order == tuple(range(len(order))):
        return x
    shape = tuple(x.shape[axis] for axis in order)
    return rearranged("transpose", {"permutation": [int(axis) for axis in order]}, shape, path, x)


def _convolve(context: Context, equation: Equation, x: Value, kernel: Value, window: Window, shape=None) -> Affine:
    x, kernel = _codes(equation, x, "its input"), _codes(equation, kernel, "its kernel")
    node, x_scale = x.terms[0]
    weights, kernel_scale, codes = _weights(equation, kernel)
    channels = codes.shape[-1]
    if kernel_scale.size not in (1, kernel_scale.shape[-1]):
        raise unsupported(equation, "the scale of its kernel varies along another axis than the output's")
    if x_scale.size not in (1, x_scale.shape[-1]) or (x_scale.size > 1 and codes.shape[-2] != 1):
        raise unsupported(equation, "the scale of its input varies over what it sums")
    scale = np.repeat(x_scale, channels // x_scale.size, -1) if x_scale.size > 1 else x_scale
    shape = shape or context.shape(equation)
    low, high = _sum_bounds(node, codes, tuple(range(codes.ndim - 1)), padded=True)
    attributes = {
        "strides": list(window.strides),
        "padding": [list(pair) for pair in window.padding],
        "input_dilation": list(window.input_dilation),
        "kernel_dilation": list(window.kernel_dilation),
        "groups": window.groups,
        "code_maximum": int(node.high.max()),
    }
    ones = (1,) * (len(shape) - 1)
    product = Node(
        "convolve",
        (node, weights),
        shape,
        low.reshape(*ones, -1),
        high.reshape(*ones, -1),
        attributes,
        path=equation.path,
    )
    product.check_overflow(equation.where)
    bias = np.float64(0)
    if x.bias.any():
        with jax.enable_x64(True):
            real = codes.astype(np.float64) * kernel_scale
            added = jnp.asarray(expanded(x.bias, x.shape), jnp.float64)
            bias = np.asarray(convolve(added, jnp.asarray(real, jnp.float64), window))
    return Affine.of([(product, scale * kernel_scale.reshape(*ones, -1))], bias, shape)


def _exact_product(context: Context, equation: Equation, x: Value, kernel: Value) -> Affine:
    numbers = (((len(equation.operands[0].shape) - 1,), (0,)), ((), ()))
    return _multiply(context, equation, x, kernel, numbers)


def _product(context: Context, equation: Equation, x: Value, kernel: Value) -> Affine:
    """``lax.dot_general`` of fake-quantized tensors, over any axes, with the constant on either side."""
    return _multiply(context, equation, x, kernel, equation.params["dimension_numbers"])


def _multiply(context: Context, equation: Equation, x: Value, kernel: Value, numbers) -> Affine:
    (x_axes, kernel_axes), batch_axes = numbers
    if any(batch_axes):
        raise unsupported(equation, "it has batch axes")
    shape = context.shape(equation)
    x, kernel = _codes(equation, x, "its first operand"), _codes(equation, kernel, "its second operand")
    swapped = x.is_constant
    if swapped:
        x, kernel, x_axes, kernel_axes = kernel, x, kernel_axes, x_axes
    x_free = [axis for axis in range(len(x.shape)) if axis not in x_axes]
    kernel_free = [axis for axis in range(len(kernel.shape)) if axis not in kernel_axes]
    x = _transposed(x, (*x_free, *map(int, x_axes)), equation.path)
    kernel = _transposed(kernel, (*map(int, kernel_axes), *kernel_free), equation.path)
    _, kernel_scale, codes = _weights(equation, kernel)
    summed = len(x_axes)
    terms = math.prod(codes.shape[:summed])
    if kernel_scale.size not in (1, math.prod(kernel_scale.shape[summed:])):
        raise unsupported(equation, "the scale of its kernel varies over what it sums")
    free = x.shape[: len(x_free)]
    if summed != 1:
        x = rearranged("reshape", {"sizes": encode((*free, terms))}, (*free, terms), equation.path, x)
    node, x_scale = x.terms[0]
    if x_scale.size != 1:
        raise unsupported(equation, "the scale of its input varies over what it sums")
    flat = codes.reshape(terms, -1)
    weights = constant(flat, equation.path)
    low, high = _sum_bounds(node, flat, (0,), padded=False)
    ones = (1,) * len(free)
    product = Node(
        "multiply",
        (node, weights),
        (*free, flat.shape[1]),
        low.reshape(*ones, -1),
        high.reshape(*ones, -1),
        {"code_maximum": int(node.high.max())},
        path=equation.path,
    )
    product.check_overflow(equation.where)
    scales = kernel_scale.reshape(kernel_scale.shape[summed:])
    scale = np.broadcast_to(scales, codes.shape[summed:]).reshape(-1) if scales.size > 1 else scales.reshape(-1)
    bias = np.float64(0)
    if x.bias.any():
        bias = np.tensordot(expanded(x.bias, x.shape), flat * scale, 1)
    result = Affine.of([(product, x_scale.reshape(-1)[0] * scale.reshape(*ones, -1))], bias, product.shape)
    outputs = (*free, *codes.shape[summed:])
    if outputs != result.shape:
        result = rearranged("reshape", {"sizes": encode(outputs)}, outputs, equation.path, result)
    if swapped:
        order = (*range(len(free), len(outputs)), *range(len(free)))
        result = _transposed(result, order, equation.path)
    assert result.shape == shape, (result.shape, shape)
    return result


def _codes(equation: Equation, value: Value, what: str) -> Affine:
    """Returns an operand that is one tensor of codes with a scale (and perhaps an offset)."""
    advice = "give the rule of its layer `weights` and `inputs`"
    if not isinstance(value, Affine):
        raise unsupported(equation, f"{what} is not quantized; {advice}")
    if value.is_float:
        raise unsupported(equation, f"{what} is the unquantized input of the model; {advice}")
    if len(value.terms) != 1 or value.terms[0][0].code_bits is None:
        raise unsupported(equation, f"{what} is not quantized to codes of at most 8 bits; {advice}")
    return value


def _weights(equation: Equation, kernel: Affine) -> tuple[Node, np.ndarray, np.ndarray]:
    """Returns the node, the scale and the codes (int64) of a constant kernel."""
    node, scale = kernel.terms[0]
    if node.op != "constant" or kernel.bias.any():
        raise unsupported(equation, "neither operand is a constant with codes around zero")
    if node.low.min() < -128 or node.high.max() > 127:
        raise unsupported(equation, "the codes of its kernel do not fit int8; use a signed spec for weights")
    return node, scale, node.constants["codes"].astype(np.int64)


def _sum_bounds(node: Node, codes: np.ndarray, axes: tuple[int, ...], *, padded: bool) -> tuple[np.ndarray, np.ndarray]:
    """Returns the smallest and largest sum a output channel can reach with these very weights."""
    least, most = int(node.low.min()), int(node.high.max())
    if padded:  # the padding is 0, which need not be a code
        least, most = min(least, 0), max(most, 0)
    positive, negative = np.maximum(codes, 0), np.minimum(codes, 0)
    return (positive * least + negative * most).sum(axes), (positive * most + negative * least).sum(axes)


PRODUCTS = {
    "lglsq_convolve": _exact_convolution,
    "lglsq_multiply": _exact_product,
    "conv_general_dilated": _convolution,
    "dot_general": _product,
}
