"""Convolution and matrix product of codes as ``ConvInteger`` and ``MatMulInteger``.

Both operands travel as uint8 with a zero point, for which ONNX Runtime is exact and fast. On x86 without VNNI it adds
products of unsigned by signed bytes in pairs of 16 bits, which saturate; convolutions of signed bytes are slow there.
"""

from typing import Any

import numpy as np

from ..dimensions import Shape
from ..kernels import window_of
from .onnx_arrange import pad
from .onnx_graph import Graph, Value, channels_first

_SHIFT = 128


def unsigned(graph: Graph, x: Value, low: int) -> tuple[Value, int]:
    """Returns 8-bit codes as uint8, and the number that stands for zero there.

    Args:
        graph: where to add what that takes.
        x: codes of any integer type, within int8 or within uint8.
        low: the smallest that can occur.
    """
    if low >= 0:
        return graph.cast(x, np.uint8), 0
    if x.dtype != np.int8:
        x = graph.cast(x, np.int8)
    flipped = graph.elementwise("BitwiseXor", [x, np.array(-_SHIFT, np.int8)], np.int8)
    return graph.cast(flipped, np.uint8), _SHIFT


def unsigned_kernel(kernel: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns weights as uint8 with their zero point."""
    return (kernel.astype(np.int16) + _SHIFT).astype(np.uint8), np.array(_SHIFT, np.uint8)


def kernel_outputs_first(kernel: np.ndarray) -> np.ndarray:
    """Returns a kernel ``[*spatial, i, o]`` as ONNX has it, ``[o, i, *spatial]``."""
    ndim = kernel.ndim
    return kernel.transpose(ndim - 1, ndim - 2, *range(ndim - 2))


def window_attributes(graph: Graph, attributes: dict[str, Any], x: Value, zero: int) -> tuple[Value, dict[str, Any]]:
    """Returns a convolution's input and its ONNX attributes.

    What ONNX has no attribute for, spread inputs and padding that cuts, is done to the input, with ``zero`` in gaps.
    """
    window = window_of(attributes)
    pairs = window.padding
    if any(step != 1 for step in window.input_dilation) or any(width < 0 for pair in pairs for width in pair):
        spatial = [(*pair, step - 1) for pair, step in zip(pairs, window.input_dilation, strict=True)]
        x = pad(graph, x, [(0, 0, 0), *spatial, (0, 0, 0)], zero)
        pairs = ((0, 0),) * len(pairs)
    found = {
        "strides": list(window.strides),
        "pads": [pair[end] for end in (0, 1) for pair in pairs],
        "dilations": list(window.kernel_dilation),
        "group": window.groups,
    }
    return x, found


def convolve(graph: Graph, attributes: dict[str, Any], shape: Shape, x: Value, low: int, kernel: np.ndarray) -> Value:
    """Adds a convolution of codes of at least ``low`` with a kernel ``[*spatial, i, o]``; int32."""
    codes, zero = unsigned(graph, x, low)
    codes, found = window_attributes(graph, attributes, codes, zero)
    order = channels_first(len(shape))
    stored, middle = unsigned_kernel(kernel_outputs_first(kernel))
    operands = [graph.in_order(codes, order), graph.constant(stored, "weights"), np.array(zero, np.uint8), middle]
    return graph.node("ConvInteger", operands, np.int32, shape, order, kernel_shape=list(stored.shape[2:]), **found)


def multiply(graph: Graph, shape: Shape, x: Value, low: int, kernel: np.ndarray) -> Value:
    """Adds a product of codes of at least ``low`` with a kernel ``[k, o]`` over the last axis; int32."""
    codes, zero = unsigned(graph, x, low)
    stored, middle = unsigned_kernel(kernel)
    operands = [graph.plain(codes), graph.constant(stored, "weights"), np.array(zero, np.uint8), middle]
    return graph.node("MatMulInteger", operands, np.int32, shape)
