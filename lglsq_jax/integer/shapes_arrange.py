"""The shapes of what only rearranges elements, in the order of ``arrange.py``."""

import math

from .dimensions import Batch, Dim, decode
from .tensors import FLOAT, Tensor, check_axes, check_size, joint_dtype, require, show
from .validation import LARGEST_SIZE, check_within


def _reshape(attributes, constants, x: Tensor):
    sizes = decode(attributes["sizes"])
    check_size(sizes)
    counts = [
        (math.prod(d.times if isinstance(d, Batch) else d for d in shape), sum(isinstance(d, Batch) for d in shape))
        for shape in (x.shape, sizes)
    ]
    require(counts[0] == counts[1], f"a tensor of shape {show(x.shape)} cannot take the shape {show(sizes)}")
    return sizes, x.dtype


def _transpose(attributes, constants, x: Tensor):
    order = attributes["permutation"]
    require(sorted(order) == list(range(len(x.shape))), f"{order[:40]} does not order the axes of {show(x.shape)}")
    return tuple(x.shape[axis] for axis in order), x.dtype


def _broadcast(attributes, constants, x: Tensor):
    sizes, axes = decode(attributes["sizes"]), attributes["axes"]
    fits = len(axes) == len(x.shape) and sorted(set(axes)) == axes and all(axis < len(sizes) for axis in axes)
    fits = fits and all(dim in (1, sizes[axis]) for dim, axis in zip(x.shape, axes, strict=True))
    require(fits, f"a tensor of shape {show(x.shape)} does not broadcast to {show(sizes)} along {axes[:40]}")
    return sizes, x.dtype


def _slice(attributes, constants, x: Tensor):
    starts, stops, strides = decode(attributes["starts"]), decode(attributes["stops"]), attributes["strides"]
    require(all(len(each) == len(x.shape) for each in (starts, stops, strides)), f"its ends do not fit {show(x.shape)}")
    ends = zip(x.shape, starts, stops, strides, strict=True)
    return tuple(_cut(*each) for each in ends), x.dtype


def _cut(size: Dim, start: Dim, stop: Dim, stride: int) -> Dim:
    """Returns the size of ``[start:stop:stride]``; along the batch every end is in it, or a multiple of it."""
    whole = f"a slice from {show([start])} to {show([stop])} does not lie within {show([size])}"
    if isinstance(stop, Batch):
        first = start.times if isinstance(start, Batch) else 0
        require(isinstance(size, Batch) and (isinstance(start, Batch) or start == 0), whole)
        require(first < stop.times <= (size.times if isinstance(size, Batch) else 0), whole)
        require((stop.times - first) % stride == 0, f"a stride of {stride} does not divide the batch")
        return Batch((stop.times - first) // stride)
    most = size.times if isinstance(size, Batch) else size
    if isinstance(start, Batch) or not start < stop <= most:
        raise ValueError(whole)
    return -(-(stop - start) // stride)


def _reverse(attributes, constants, x: Tensor):
    check_axes(attributes["axes"], x)
    return x.shape, x.dtype


def _take(attributes, constants, x: Tensor):
    axis, indices = attributes["axis"], attributes["indices"]
    check_axes([axis], x)
    dim = x.shape[axis]
    size = dim.times if isinstance(dim, Batch) else dim
    require(max(indices) < size, f"it takes number {max(indices)} of {size}")
    return (*x.shape[:axis], len(indices), *x.shape[axis + 1 :]), x.dtype


def _pad(attributes, constants, x: Tensor):
    padding, value = attributes["padding"], attributes["value"]
    require(len(padding) == len(x.shape), f"its padding does not fit a tensor of shape {show(x.shape)}")
    if x.dtype != FLOAT:
        check_within(x.dtype, value, value)
    found: list[Dim] = []
    every = 1
    for dim, (before, after, interior) in zip(x.shape, padding, strict=True):
        if isinstance(dim, Batch):
            require([before, after, interior] == [0, 0, 0], "it pads the batch")
            found.append(dim)
            continue
        require(interior >= 0, f"it pads by {interior} between elements")
        every *= dim * (interior + 1) + max(before, 0) + max(after, 0)
        found.append(dim + (dim - 1) * interior + before + after)
    require(every <= LARGEST_SIZE, "its padding makes a tensor beyond int32")
    return tuple(found), x.dtype


def _concatenate(attributes, constants, *xs: Tensor):
    axis, shapes = attributes["axis"], [x.shape for x in xs]
    rest = {(*shape[:axis], *shape[axis + 1 :]) for shape in shapes}
    same = all(axis < len(shape) for shape in shapes) and len(rest) == 1
    dims = [shape[axis] for shape in shapes] if same else []
    open_ones = [dim.times for dim in dims if isinstance(dim, Batch)]
    require(same and len(open_ones) in (0, len(dims)), f"{' and '.join(map(show, shapes[:4]))} cannot be joined")
    total: Dim = Batch(sum(open_ones)) if open_ones else sum(dim for dim in dims if isinstance(dim, int))
    return (*shapes[0][:axis], total, *shapes[0][axis + 1 :]), joint_dtype(xs)


ARRANGE_RULES = {
    "reshape": _reshape,
    "transpose": _transpose,
    "broadcast": _broadcast,
    "slice": _slice,
    "reverse": _reverse,
    "take": _take,
    "pad": _pad,
    "concatenate": _concatenate,
}
"""``rule(attributes, constants, *tensors) -> (shape, dtype)``."""
