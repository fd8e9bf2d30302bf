"""Convolutions and matrix products of the QDQ form: float operators between the conversions that runtimes fuse."""

import dataclasses

import numpy as np
from onnx import TensorProto

from ..dimensions import decode
from ..kernels import window_of
from ..program import Instruction
from .onnx_graph import Graph, Value, channels_first, plain_order
from .onnx_products import kernel_outputs_first, window_attributes
from .onnx_real import Product, Real, dequantize, in_one_unit, number
from .thresholds import fit

_PAIR = 2**15 - 1
"""Two products of bytes that x86 without VNNI adds in 16 bits must stay within this."""
_WIDE = 2**31 - 1
"""The same where products are added in 32 bits."""
_LARGEST_BIAS = 2**30


def channel_vector(array: np.ndarray, channels: int) -> np.ndarray | None:
    """Returns one number a channel where an array varies along its last axis alone, None otherwise."""
    array = np.asarray(array, np.float64)
    if any(size != 1 for size in array.shape[:-1]):
        return None
    return np.broadcast_to(array.reshape(-1), (channels,)).copy()


def write_product(
    graph: Graph, product: Product, unit: np.ndarray | None, bias: np.ndarray | None, *, fused: Instruction | None
) -> tuple[Real, bool]:
    """Writes a product.

    Args:
        graph: where to add it.
        product: what to write.
        unit: wanted of the result; None for any. Negative ones turn the signs of weights around.
        bias: to be added to the result, real, if the operator has a place for it.
        fused: the rescale that makes codes of the result at once, where it is the only one that reads it. Runtimes make
            one kernel of both, whose bias is a whole number; it is fitted to the codes of the rescale.

    Returns:
        The result, and whether the bias is in it.
    """
    with graph.within(product.step):
        x = product.x if product.x.zero is not None else in_one_unit(graph, product.x)
        plan = _plan(product, float(np.float32(x.unit)), unit, bias, fused, _WIDE if graph.wide_sums else _PAIR)
        pointwise = product.step.op == "convolve" and fused is None and _is_pointwise(product)
        last = product.step.op == "multiply" or pointwise
        ndim = len(x.value.shape)
        order = plain_order(ndim) if last else channels_first(ndim)
        x = dequantize(graph, dataclasses.replace(x, value=graph.in_order(x.value, order)))
        value, done = (_multiply if last else _convolve)(graph, product, x.value, plan)
    product.written = Real(value, plan.units.reshape((1,) * (len(product.step.shape) - 1) + (-1,)))
    return product.written, done


@dataclasses.dataclass(frozen=True)
class _Plan:
    """The constants of a product: weights with scales and zero points, the result's unit, and the bias.

    ``bias`` is real; ``counts`` are whole numbers of ``steps``, where it is stored so.
    """

    weights: np.ndarray
    scales: np.ndarray
    middles: np.ndarray
    units: np.ndarray
    bias: np.ndarray | None
    counts: np.ndarray | None = None
    steps: np.ndarray | None = None


def _plan(
    product: Product,
    x_unit: float,
    unit: np.ndarray | None,
    bias: np.ndarray | None,
    fused: Instruction | None,
    pair: int,
) -> _Plan:
    kernel = product.kernel.astype(np.int64)
    channels = kernel.shape[-1]
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
    largest_weight = pair // (2 * max(product.x_step.high + (product.x.zero or 0), 1))
    if fused is not None and vector is not None:
        fitted = _fitted(product, kernel, signs, scales * x_unit, largest_weight, fused)
        if fitted is not None:
            kernel, steps, counts = fitted
            scales = (steps / x_unit).astype(np.float32)
            steps = number(x_unit) * scales
            return _Plan(*_bytes(kernel, scales, largest_weight), units, vector, counts.astype(np.int32), steps)
    return _Plan(*_bytes(kernel, scales.astype(np.float32), largest_weight), units, vector)


def _fitted(
    product: Product,
    kernel: np.ndarray,
    signs: np.ndarray,
    steps: np.ndarray,
    largest_weight: int,
    rescale: Instruction,
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Returns weights, the real value of one of an accumulator, and the bias in it; None where that is too large."""
    channels, shift = kernel.shape[-1], rescale.attributes["shift"]
    bias = (rescale.constants["bias_high"].astype(object) << 32) + rescale.constants["bias_low"].astype(object)
    multipliers, biases = (
        np.broadcast_to(np.asarray(array, object).reshape(-1), (channels,))
        for array in (rescale.constants["multiplier0"], bias)
    )
    extra = rescale.attributes.get("term_shifts", [0])[0]
    if extra:  # the product is cut before it is added: as good as exact, one part in 2**24 of a code
        biases, shift = biases * 2**extra, shift + extra
    gains = _gains(kernel, largest_weight)
    sums = _sums(product, kernel)
    found = fit(
        np.abs(multipliers), biases, shift, (rescale.attributes["low"], rescale.attributes["high"]), sums, gains
    )
    if np.abs(found.counts).max(initial=0) >= _LARGEST_BIAS:
        return None
    # Steps of the fit count accumulators to a code; a code is worth 2**shift / multiplier of the plain accumulator.
    real = np.array([float(int(m)) for m in multipliers])
    code = np.where(real != 0, steps * 2.0**shift / np.where(real != 0, np.abs(real), 1), 0)
    code = np.full(channels, code[code > 0].max(initial=0) or 1.0)
    return kernel * gains * ~found.constant, code / found.steps, found.counts


def _sums(product: Product, kernel: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the smallest and the largest sum of each channel, padding counted as codes of 0."""
    low, high = min(product.x_step.low, 0), max(product.x_step.high, 0)
    axes = tuple(range(kernel.ndim - 1))
    positive, negative = np.maximum(kernel, 0).sum(axis=axes), np.minimum(kernel, 0).sum(axis=axes)
    return positive * low + negative * high, positive * high + negative * low


def _gains(kernel: np.ndarray, largest_weight: int) -> np.ndarray:
    """Returns whole factors that leave the weights bytes: an accumulator of finer steps holds the bias better."""
    largest = np.abs(kernel).max(axis=tuple(range(kernel.ndim - 1)), initial=1)
    return np.maximum(min(127, largest_weight) // np.maximum(largest, 1), 1)


def _bytes(kernel: np.ndarray, scales: np.ndarray, largest_weight: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the weights as int8, or as uint8 where products of int8 might saturate; their scales and zero points."""
    channels = kernel.shape[-1]
    if np.abs(kernel).max(initial=0) <= largest_weight:
        return kernel.astype(np.int8), scales, np.zeros(channels, np.int8)
    return (kernel + 128).astype(np.uint8), scales, np.full(channels, 128, np.uint8)


def _is_pointwise(product: Product) -> bool:
    """Whether a convolution is a matrix product over the channels, for which runtimes have kernels of float results."""
    window = window_of(product.step.attributes)
    sizes = (*product.kernel.shape[:-2], *window.strides, *window.input_dilation, window.groups)
    return all(size == 1 for size in sizes) and not any(width for pair in window.padding for width in pair)


def _weights(graph: Graph, plan: _Plan, stored: np.ndarray, axis: int, *, folded: bool = False) -> Value:
    """Returns the floats of weights.

    Where no kernel of bytes takes them, they are converted by operators that a runtime folds when it loads the model;
    it keeps ``DequantizeLinear`` as it is, which costs time at every run.
    """
    name = graph.constant(stored, "weights")
    if folded:
        real = graph.node("Cast", [name], np.float32, stored.shape, to=TensorProto.FLOAT)
        ones = (1,) * (stored.ndim - axis - 1)
        middles, scales = plan.middles.astype(np.float32), plan.scales
        if plan.middles.any():
            real = graph.elementwise("Sub", [real, middles.reshape(-1, *ones)], np.float32)
        return graph.elementwise("Mul", [real, scales.reshape(-1, *ones)], np.float32)
    return graph.node("DequantizeLinear", [name, plan.scales, plan.middles], np.float32, stored.shape, axis=axis)


def _bias(graph: Graph, plan: _Plan) -> Value | np.ndarray:
    assert plan.bias is not None
    if plan.counts is None or plan.steps is None:
        return plan.bias.astype(np.float32)
    counts = graph.constant(plan.counts, "bias")
    return graph.node("DequantizeLinear", [counts, plan.steps], np.float32, plan.counts.shape, axis=0)


def _convolve(graph: Graph, product: Product, x: Value, plan: _Plan) -> tuple[Value, bool]:
    step = product.step
    shape = decode(list(step.shape))
    x, found = window_attributes(graph, step.attributes, x, 0)
    order = channels_first(len(shape))
    stored = kernel_outputs_first(plan.weights)
    operands: list = [graph.in_order(x, order), _weights(graph, plan, stored, 0, folded=plan.counts is None)]
    if plan.bias is not None:
        operands.append(_bias(graph, plan))
    value = graph.node("Conv", operands, np.float32, shape, order, kernel_shape=list(stored.shape[2:]), **found)
    return value, plan.bias is not None


def _multiply(graph: Graph, product: Product, x: Value, plan: _Plan) -> tuple[Value, bool]:
    shape = decode(list(product.step.shape))
    operands: list = [graph.plain(x), _weights(graph, plan, plan.weights.reshape(plan.weights.shape[-2:]), 1)]
    if plan.counts is not None and len(shape) == 2:
        operands.append(_bias(graph, plan))
        return graph.node("Gemm", operands, np.float32, shape), True
    value = graph.node("MatMul", operands, np.float32, shape)
    if plan.bias is None:
        return value, False
    if plan.counts is None or plan.steps is None:
        bias = plan.bias
    else:
        bias = plan.counts * plan.steps.astype(np.float64)
    return graph.elementwise("Add", [value, bias.astype(np.float32)], np.float32), True
