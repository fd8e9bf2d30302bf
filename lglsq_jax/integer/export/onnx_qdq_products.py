"""Convolutions and matrix products of the QDQ form: float operators between the conversions that runtimes fuse."""

import numpy as np

from ..dimensions import decode
from .onnx_graph import Graph, Value, channels_first
from .onnx_products import kernel_outputs_first, window_attributes
from .onnx_real import Product, Real, dequantize, in_one_unit, number

_PAIR = 2**15 - 1
"""Two products of bytes that x86 without VNNI adds in 16 bits must stay within this."""
_LARGEST_BIAS = 2**30


def channel_vector(array: np.ndarray, channels: int) -> np.ndarray | None:
    """Returns one number a channel where an array varies along its last axis alone, None otherwise."""
    array = np.asarray(array, np.float64)
    if any(size != 1 for size in array.shape[:-1]):
        return None
    return np.broadcast_to(array.reshape(-1), (channels,)).copy()


def write_product(
    graph: Graph, product: Product, unit: np.ndarray | None, bias: np.ndarray | None, *, fused: bool
) -> tuple[Real, bool]:
    """Writes a product under its own name; see :func:`_write`."""
    with graph.within(product.step):
        return _write(graph, product, unit, bias, fused=fused)


def _write(
    graph: Graph, product: Product, unit: np.ndarray | None, bias: np.ndarray | None, *, fused: bool
) -> tuple[Real, bool]:
    """Writes a product.

    Args:
        graph: where to add it.
        product: what to write.
        unit: wanted of the result; None for any. Negative ones turn the signs of weights around.
        bias: to be added to the result, real, if the operator has a place for it.
        fused: whether the result becomes codes at once, so that runtimes make one kernel of it: the bias is then stored
            as whole numbers of accumulator units.

    Returns:
        The result, and whether the bias is in it.
    """
    step, kernel = product.step, product.kernel.astype(np.int64)
    channels = kernel.shape[-1]
    x = dequantize(graph, product.x) if product.x.zero is not None else in_one_unit(graph, product.x)
    x_unit = float(np.float32(x.unit))
    wanted = None if unit is None else channel_vector(unit, channels)
    units = np.full(channels, x_unit) if wanted is None else wanted
    if product.readers > 1:
        units[units == 0] = x_unit
    signs = np.where(units < 0, -1, 1)
    if (kernel * signs).max(initial=0) > 127:  # -128 turned around is no byte
        units, signs, bias = np.abs(units), np.ones_like(signs), None
    kernel = kernel * signs * (units != 0)
    scales = np.abs(units) / x_unit
    scales[scales == 0] = scales[scales > 0].min(initial=1.0)
    vector = None if bias is None else channel_vector(bias, channels)
    largest_code = product.x_step.high + (product.x.zero or 0)
    if fused and vector is not None:
        gains = _gains(kernel, largest_code)
        kernel, scales = kernel * gains, scales / gains
    scales = scales.astype(np.float32)
    stored, middle = _bytes(kernel, largest_code)
    add = _convolve if step.op == "convolve" else _multiply
    whole = None
    if fused and vector is not None:
        steps = number(x_unit) * scales
        counts = np.rint(vector / steps.astype(np.float64))
        whole = (counts.astype(np.int32), steps) if np.abs(counts).max(initial=0) < _LARGEST_BIAS else None
    value, done = add(graph, product, x.value, (stored, scales, middle), vector, whole)
    product.written = Real(value, units.reshape((1,) * (len(step.shape) - 1) + (-1,)))
    return product.written, done


def _gains(kernel: np.ndarray, largest_code: int) -> np.ndarray:
    """Returns whole factors that leave the weights bytes: an accumulator of finer steps holds the bias better."""
    largest = np.abs(kernel).max(axis=tuple(range(kernel.ndim - 1)), initial=1)
    limit = min(127, _PAIR // (2 * max(largest_code, 1)))
    return np.maximum(limit // np.maximum(largest, 1), 1)


def _bytes(kernel: np.ndarray, largest_code: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the weights as int8, or as uint8 where products of int8 might saturate; and their zero points."""
    channels = kernel.shape[-1]
    if 2 * largest_code * np.abs(kernel).max(initial=0) <= _PAIR:
        return kernel.astype(np.int8), np.zeros(channels, np.int8)
    return (kernel + 128).astype(np.uint8), np.full(channels, 128, np.uint8)


Weights = tuple[np.ndarray, np.ndarray, np.ndarray]
WholeBias = tuple[np.ndarray, np.ndarray] | None


def _weights(graph: Graph, weights: Weights, axis: int) -> Value:
    stored, scales, middle = weights
    name = graph.constant(stored, "weights")
    return graph.node("DequantizeLinear", [name, scales, middle], np.float32, stored.shape, axis=axis)


def _bias(graph: Graph, whole: WholeBias, vector: np.ndarray) -> Value | np.ndarray:
    if whole is None:
        return vector.astype(np.float32)
    counts, steps = whole
    return graph.node("DequantizeLinear", [graph.constant(counts, "bias"), steps], np.float32, counts.shape, axis=0)


def _convolve(
    graph: Graph, product: Product, x: Value, weights: Weights, vector: np.ndarray | None, whole: WholeBias
) -> tuple[Value, bool]:
    step = product.step
    shape = decode(list(step.shape))
    x, found = window_attributes(graph, step.attributes, x, 0)
    order = channels_first(len(shape))
    stored = kernel_outputs_first(weights[0])
    operands: list = [graph.in_order(x, order), _weights(graph, (stored, *weights[1:]), 0)]
    if vector is not None:
        operands.append(_bias(graph, whole, vector))
    value = graph.node("Conv", operands, np.float32, shape, order, kernel_shape=list(stored.shape[2:]), **found)
    return value, vector is not None


def _multiply(
    graph: Graph, product: Product, x: Value, weights: Weights, vector: np.ndarray | None, whole: WholeBias
) -> tuple[Value, bool]:
    shape = decode(list(product.step.shape))
    operands: list = [graph.plain(x), _weights(graph, weights, 1)]
    if whole is not None and vector is not None and len(shape) == 2:
        operands.append(_bias(graph, whole, vector))
        return graph.node("Gemm", operands, np.float32, shape), True
    value = graph.node("MatMul", operands, np.float32, shape)
    if vector is None:
        return value, False
    return graph.elementwise("Add", [value, vector.astype(np.float32)], np.float32), True
