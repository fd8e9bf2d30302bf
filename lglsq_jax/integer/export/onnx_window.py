"""Reductions over axes and windows as ONNX operators; for codes, integers and floats alike."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..dimensions import Batch, Shape
from .onnx_arrange import cut, pad
from .onnx_graph import Graph, Value, channels_first

_SMALL = ("int8", "uint8", "float32")
"""Types that ONNX's pooling has."""


def reduce(graph: Graph, op: str, x: Value, axes: Sequence[int], shape: Shape) -> Value:
    """Returns ``ReduceSum`` or ``ReduceMax`` of ``x`` over axes, which are removed."""
    if not axes:
        return x
    kept = [axis for axis in x.order if axis not in axes]
    order = tuple(sorted(kept).index(axis) for axis in kept)
    stored = np.array(sorted(x.axis(axis) for axis in axes), np.int64)
    return graph.node(op, [x, stored], x.dtype, shape, order, keepdims=0)


def pooling(attributes: dict[str, Any], x: Value, *, dilated: bool) -> dict[str, Any] | None:
    """Returns the attributes of ONNX's pooling where that can do a window, None where it cannot.

    It slides over the spatial axes of ``[n, *spatial, c]`` alone, and pads by less than the window.
    """
    ndim = len(x.shape)
    if ndim < 3 or x.dtype.name not in _SMALL or any(step != 1 for step in attributes["base_dilation"]):
        return None
    ends = (attributes[name][axis] for name in ("dimensions", "strides") for axis in (0, -1))
    pairs = attributes["padding"]
    if any(size != 1 for size in ends) or any(map(any, (pairs[0], pairs[-1]))):
        return None
    sizes, dilations = attributes["dimensions"][1:-1], attributes["window_dilation"][1:-1]
    if not dilated and any(step != 1 for step in dilations):
        return None
    if any(not 0 <= width < size for pair, size in zip(pairs[1:-1], sizes, strict=True) for width in pair):
        return None
    found = {
        "kernel_shape": list(sizes),
        "strides": list(attributes["strides"][1:-1]),
        "pads": [pair[end] for end in (0, 1) for pair in pairs[1:-1]],
    }
    if any(step != 1 for step in dilations):
        found["dilations"] = list(dilations)
    return found


def window_max(graph: Graph, attributes: dict[str, Any], shape: Shape, x: Value, lowest: int | float) -> Value:
    """Returns the largest element of each window; ``lowest`` stands for what lies outside."""
    found = pooling(attributes, x, dilated=True)
    if found is None:
        return slide(graph, attributes, x, "Max", lowest)
    order = channels_first(len(shape))
    return graph.node("MaxPool", [graph.in_order(x, order)], x.dtype, shape, order, **found)


def window_mean(
    graph: Graph, attributes: dict[str, Any], shape: Shape, x: Value, unit: np.ndarray
) -> tuple[Value, np.ndarray]:
    """Returns each window's mean of floats, padding counted, and the unit in which it is the sum."""
    found = pooling(attributes, x, dilated=False)
    if found is None:
        return slide(graph, attributes, x, "Add", 0), unit
    order, count = channels_first(len(shape)), int(np.prod(attributes["dimensions"]))
    x = graph.in_order(x, order)
    return graph.node("AveragePool", [x], x.dtype, shape, order, count_include_pad=1, **found), unit / count


def slide(graph: Graph, attributes: dict[str, Any], x: Value, op: str, fill: int | float) -> Value:
    """Returns each window's sum (``op`` "Add") or maximum ("Max"), axis by axis, from slices of the padded tensor."""
    pairs = zip(attributes["padding"], attributes["base_dilation"], strict=True)
    x = pad(graph, x, [(before, after, spread - 1) for (before, after), spread in pairs], fill)
    sizes, strides, dilations = (attributes[name] for name in ("dimensions", "strides", "window_dilation"))
    whole = [axis for axis, size in enumerate(sizes) if size > 1 and x.shape[axis] == size and dilations[axis] == 1]
    if whole:
        shape = tuple(1 if axis in whole else dim for axis, dim in enumerate(x.shape))
        stored = np.array(sorted(x.axis(axis) for axis in whole), np.int64)
        name = "ReduceSum" if op == "Add" else "ReduceMax"
        x = graph.node(name, [x, stored], x.dtype, shape, x.order, keepdims=1)
    for axis, (size, stride, dilation) in enumerate(zip(sizes, strides, dilations, strict=True)):
        extent = x.shape[axis]
        if axis in whole or isinstance(extent, Batch) or (size == 1 and stride == 1):
            continue
        reach = (size - 1) * dilation + 1
        count = (extent - reach) // stride + 1
        taps = [
            cut(graph, x, axis, tap * dilation, tap * dilation + (count - 1) * stride + 1, stride)
            for tap in range(size)
        ]
        x = taps[0]
        for tap in taps[1:]:
            x = graph.node(op, [x, tap], x.dtype, tap.shape, tap.order)
    return x
