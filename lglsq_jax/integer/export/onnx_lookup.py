"""Tables and staircases: codes found by looking up or by comparing, as ONNX operators."""

import numpy as np

from ..dimensions import Shape
from .onnx_graph import Graph, Value

_MOST_STEPS = 16
"""A staircase of more steps is counted and looked up instead."""


def table(graph: Graph, shape: Shape, x: Value, low: int, entries: np.ndarray) -> Value:
    """Adds ``entries[..., x - low]``.

    Args:
        graph: where to add it.
        shape: of the result.
        x: whole numbers, each at least ``low``.
        low: the number of the first entry.
        entries: ``[*axes, entries]``; each axis is 1 or the result's size.
    """
    axes, count = entries.shape[:-1], entries.shape[-1]
    first = np.arange(int(np.prod(axes))).reshape(axes) * count - low
    index = graph.cast(x, np.int32)
    if first.size > 1:
        index = graph.elementwise("Add", [index, first.astype(np.int32)], np.int32)
    elif low:
        index = graph.elementwise("Sub", [index, np.array(low, np.int32)], np.int32)
    flat = graph.constant(entries.reshape(-1), "table")
    return graph.node("Gather", [flat, index], entries.dtype, shape, index.order, axis=0)


def staircase(graph: Graph, shape: Shape, x: Value, thresholds: np.ndarray, values: np.ndarray) -> Value:
    """Adds ``values[..., #{k: x >= thresholds[k]}]``.

    Args:
        graph: where to add it.
        shape: of the result.
        x: numbers of the thresholds' type.
        thresholds: ``[*axes, k]``, ascending along the last axis; each axis is 1 or the result's size.
        values: ``[*axes, k + 1]``, likewise.
    """
    steps = thresholds.shape[-1]
    if steps > _MOST_STEPS:
        return table(graph, shape, _count(graph, shape, x, thresholds), 0, _filled(values, values[..., -1:]))
    found: Value | np.ndarray = values[..., 0]
    for step in range(steps):
        above = graph.elementwise("GreaterOrEqual", [x, thresholds[..., step]], np.bool_)
        found = graph.elementwise("Where", [above, values[..., step + 1], found], values.dtype)
    if isinstance(found, np.ndarray):  # no step at all: the value does not depend on x
        zero = graph.elementwise("Sub", [x, x], x.dtype)
        found = graph.elementwise("Add", [graph.cast(zero, values.dtype), found], values.dtype)
    return found


def _count(graph: Graph, shape: Shape, x: Value, thresholds: np.ndarray) -> Value:
    """Returns how many thresholds each number has reached, by halving: a lookup for every bit of the count."""
    axes, steps = thresholds.shape[:-1], thresholds.shape[-1]
    bits = steps.bit_length()
    largest = np.finfo if thresholds.dtype.kind == "f" else np.iinfo
    filled = _filled(thresholds, np.full((*axes, 1), largest(thresholds.dtype).max, thresholds.dtype), less=1)
    count: Value | None = None
    for bit in reversed(range(bits)):
        if count is None:
            bound: Value | np.ndarray = filled[..., (1 << bit) - 1]
        else:
            bound = table(graph, shape, count, -((1 << bit) - 1), filled)
        above = graph.elementwise("GreaterOrEqual", [x, bound], np.bool_)
        gain = graph.elementwise("Where", [above, np.array(1 << bit, np.int32), np.array(0, np.int32)], np.int32)
        count = gain if count is None else graph.elementwise("Add", [count, gain], np.int32)
    assert count is not None
    return count


def _filled(entries: np.ndarray, last: np.ndarray, less: int = 0) -> np.ndarray:
    """Returns entries along the last axis, ``last`` repeated up to the next power of two, ``less`` some."""
    count = entries.shape[-1]
    size = (1 << (count - 1 + less).bit_length()) - less
    return np.concatenate([entries, np.repeat(last, size - count, axis=-1)], axis=-1)
