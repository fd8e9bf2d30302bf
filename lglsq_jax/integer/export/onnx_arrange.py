"""Operations that only rearrange elements, as ONNX operators; for codes, integers and floats alike."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ..arrange import evenly_spaced
from ..dimensions import Batch, Shape, decode
from .onnx_graph import Graph, Order, Value, plain_order

_END = np.iinfo(np.int64).max
_START = np.iinfo(np.int64).min


def reshape(graph: Graph, x: Value, shape: Shape) -> Value:
    """Returns ``x`` with other axes; where only axes of size 1 come or go, the order of the others stays."""
    if x.shape == shape:
        return x
    before = [axis for axis, dim in enumerate(x.shape) if dim != 1]
    after = [axis for axis, dim in enumerate(shape) if dim != 1]
    if [x.shape[axis] for axis in before] != [shape[axis] for axis in after]:
        return graph.node("Reshape", [graph.plain(x), graph.sizes(shape)], x.dtype, shape)
    kept = [after[before.index(axis)] for axis in x.order if axis in before]
    order = (*kept, *(axis for axis, dim in enumerate(shape) if dim == 1))
    if kept == after:  # nothing is out of order, so let nothing be
        order = plain_order(len(shape))
    stored = tuple(shape[axis] for axis in order)
    return graph.node("Reshape", [x, graph.sizes(stored)], x.dtype, shape, order)


def pad(graph: Graph, x: Value, padding: list, value: int | float) -> Value:
    """Pads with ``value``; ``[before, after, interior]`` an axis, negative sizes cut, interior ones spread."""
    for axis, (before, after, interior) in enumerate(padding):
        size = x.shape[axis]
        if interior and isinstance(size, int) and size > 1:
            x = _spread(graph, x, axis, interior, value)
            padding = [*padding[:axis], (before, after - interior, 0), *padding[axis + 1 :]]
    widths = [(max(before, 0), max(after, 0)) for before, after, _ in padding]
    if any(map(any, widths)):
        shape = tuple(_longer(dim, sum(pair)) for dim, pair in zip(x.shape, widths, strict=True))
        pads = [widths[axis][end] for end in (0, 1) for axis in x.order]
        fill = np.array(value, x.dtype)
        x = graph.node("Pad", [x, np.array(pads, np.int64), fill], x.dtype, shape, x.order, mode="constant")
    cuts = [(max(-before, 0), max(-after, 0)) for before, after, _ in padding]
    for axis, (before, after) in enumerate(cuts):
        if before or after:
            size = x.shape[axis]
            assert isinstance(size, int), "a batch is not cut"
            x = cut(graph, x, axis, before, size - after, 1)
    return x


def _longer(dim: int | Batch, by: int) -> int | Batch:
    assert isinstance(dim, int) or by == 0, "a batch is not padded"
    return dim + by if isinstance(dim, int) else dim


def _spread(graph: Graph, x: Value, axis: int, interior: int, value: int | float) -> Value:
    """Returns ``x`` with ``interior`` values after each element of an axis, the last one too."""
    size = x.shape[axis]
    assert isinstance(size, int)
    at = x.axis(axis)
    stored = [*x.stored_shape]
    wide = (*stored[: at + 1], 1, *stored[at + 1 :])
    apart = graph.node("Reshape", [x, graph.sizes(wide)], x.dtype, wide)
    longer = (*wide[: at + 1], 1 + interior, *wide[at + 2 :])
    pads = np.zeros(2 * len(wide), np.int64)
    pads[len(wide) + at + 1] = interior
    apart = graph.node("Pad", [apart, pads, np.array(value, x.dtype)], x.dtype, longer, mode="constant")
    shape = (*x.shape[:axis], size * (1 + interior), *x.shape[axis + 1 :])
    stored[at] = size * (1 + interior)
    return graph.node("Reshape", [apart, graph.sizes(tuple(stored))], x.dtype, shape, x.order)


def cut(graph: Graph, x: Value, axis: int, start: int, stop: int, stride: int) -> Value:
    """Returns ``x[start:stop:stride]`` along one axis."""
    return _cut(
        graph,
        x,
        {axis: (start, stop, stride)},
        (*x.shape[:axis], len(range(start, stop, stride)), *x.shape[axis + 1 :]),
    )


def _cut(graph: Graph, x: Value, ranges: Mapping[int, tuple[int, int | Batch, int]], shape: Shape) -> Value:
    starts = np.array([start for start, _, _ in ranges.values()], np.int64)
    steps = np.array([step for _, _, step in ranges.values()], np.int64)
    axes = np.array([x.axis(axis) for axis in ranges], np.int64)
    stops: np.ndarray | Value
    stops = np.array([stop if isinstance(stop, int) else 0 for _, stop, _ in ranges.values()], np.int64)
    if any(isinstance(stop, Batch) for _, stop, _ in ranges.values()):
        pieces = [
            graph.batch_size(stop.times) if isinstance(stop, Batch) else graph.constant(np.array([stop], np.int64))
            for _, stop, _ in ranges.values()
        ]
        stops = graph.node("Concat", pieces, np.int64, (len(pieces),), axis=0)
    return graph.node("Slice", [x, starts, stops, axes, steps], x.dtype, shape, x.order)


def _slice(graph: Graph, attributes: dict[str, Any], shape: Shape, x: Value) -> Value:
    stops = decode(attributes["stops"])
    ranges = {}
    for axis, (start, stop, stride) in enumerate(zip(attributes["starts"], stops, attributes["strides"], strict=True)):
        if (start, stop, stride) != (0, x.shape[axis], 1):
            ranges[axis] = start, stop, stride
    return _cut(graph, x, ranges, shape) if ranges else x


def _reshape(graph: Graph, attributes: dict[str, Any], shape: Shape, x: Value) -> Value:
    return reshape(graph, x, shape)


def _transpose(graph: Graph, attributes: dict[str, Any], shape: Shape, x: Value) -> Value:
    """The tensor stays as it is: it only holds other axes of the program from now on."""
    permutation = attributes["permutation"]
    return dataclasses.replace(x, shape=shape, order=tuple(permutation.index(axis) for axis in x.order))


def _broadcast(graph: Graph, attributes: dict[str, Any], shape: Shape, x: Value) -> Value:
    kept: list[int | Batch] = [1] * len(shape)
    for axis, target in enumerate(attributes["axes"]):
        kept[target] = x.shape[axis]
    return expand(graph, reshape(graph, x, tuple(kept)), shape)


def expand(graph: Graph, x: Value, shape: Shape) -> Value:
    """Returns ``x`` repeated along its axes of size 1."""
    if x.shape == shape:
        return x
    sizes = [1 if shape[axis] == x.shape[axis] else shape[axis] for axis in x.order]
    if any(isinstance(size, Batch) for size in sizes):
        pieces = [
            graph.batch_size(size.times) if isinstance(size, Batch) else graph.constant(np.array([size], np.int64))
            for size in sizes
        ]
        wanted = graph.node("Concat", pieces, np.int64, (len(pieces),), axis=0)
    else:
        wanted = np.array(sizes, np.int64)
    return graph.node("Expand", [x, wanted], x.dtype, shape, x.order)


def _reverse(graph: Graph, attributes: dict[str, Any], shape: Shape, x: Value) -> Value:
    ranges = dict.fromkeys(attributes["axes"], (-1, _START, -1))
    return _cut(graph, x, ranges, shape) if ranges else x


def _take(graph: Graph, attributes: dict[str, Any], shape: Shape, x: Value) -> Value:
    axis, evenly = attributes["axis"], evenly_spaced(attributes["indices"])
    if evenly is not None:
        return _cut(graph, x, {axis: (evenly.start, evenly.stop, evenly.step)}, shape)
    indices = np.asarray(attributes["indices"], np.int64)
    return graph.node("Gather", [x, indices], x.dtype, shape, x.order, axis=x.axis(axis))


def _pad(graph: Graph, attributes: dict[str, Any], shape: Shape, x: Value) -> Value:
    return pad(graph, x, attributes["padding"], attributes["value"])


def _concatenate(graph: Graph, attributes: dict[str, Any], shape: Shape, *xs: Value) -> Value:
    order: Order = xs[0].order
    placed = [graph.in_order(x, order) for x in xs]
    return graph.node("Concat", placed, xs[0].dtype, shape, order, axis=order.index(attributes["axis"]))


ARRANGE: dict[str, Callable[..., Value]] = {
    "reshape": _reshape,
    "transpose": _transpose,
    "broadcast": _broadcast,
    "slice": _slice,
    "reverse": _reverse,
    "take": _take,
    "pad": _pad,
    "concatenate": _concatenate,
}
"""``converter(graph, attributes, shape of the result, *values of one type) -> value``."""
