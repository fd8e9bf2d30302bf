"""The shape and dtype of every result, from what each operation reads: what a file may not get wrong.

A dimension is a whole number or a multiple of the batch. Along the batch a tensor can be moved, cut, joined and
reversed, and nothing else, so that a program that passes runs with a batch of any size.
"""

from collections.abc import Callable

import numpy as np

from .dimensions import Batch, Dim, Shape
from .shapes_arrange import ARRANGE_RULES
from .tensors import FLOAT, Tensor, broadcast, check_axes, fixed, joint_dtype, require, show
from .validation import LARGEST_SIZE, check_within


def _convolve(attributes, constants, x: Tensor, kernel: Tensor):
    spatial = len(kernel.shape) - 2
    require(1 <= spatial <= 3, f"a convolution has 1 to 3 spatial axes, got a kernel of shape {show(kernel.shape)}")
    require(len(x.shape) == spatial + 2, f"a tensor of shape {show(x.shape)} does not fit {show(kernel.shape)}")
    channels, groups = fixed(x.shape[-1], "an axis that it sums over"), attributes["groups"]
    inner, outer = (fixed(dim, "an axis of its kernel") for dim in kernel.shape[-2:])
    require(
        channels == inner * groups and outer % groups == 0,
        f"{channels} channels in {groups} groups do not fit a kernel of shape {show(kernel.shape)}",
    )
    _check_codes(attributes, x, kernel)
    names = ("strides", "padding", "input_dilation", "kernel_dilation")
    sizes = _window(x.shape[1:-1], kernel.shape[:-2], *(attributes[name] for name in names))
    return (x.shape[0], *sizes, outer), "int32"


def _window(sizes: Shape, taps: Shape, strides, padding, own_gaps, gaps) -> Shape:
    lists = (taps, strides, padding, own_gaps, gaps)
    require(all(len(each) == len(sizes) for each in lists), f"its window does not have {len(sizes)} axes")
    found: list[Dim] = []
    every = 1
    for size, tap, stride, pads, own, gap in zip(sizes, *lists, strict=True):
        if isinstance(size, Batch):
            require((tap, stride, pads, own, gap) == (1, 1, [0, 0], 1, 1), "its window spans the batch")
            found.append(size)
            continue
        room = (size - 1) * own + 1 + sum(pads)
        span = (fixed(tap, "an axis of its kernel") - 1) * gap + 1
        require(span <= room <= LARGEST_SIZE, f"a window of {span} does not fit an axis of {room}, padding counted")
        every *= max((size - 1) * own + 1 + sum(max(pad, 0) for pad in pads), 1)
        found.append((room - span) // stride + 1)
    require(every <= LARGEST_SIZE, "its padding and dilation make a tensor beyond int32")
    return tuple(found)


def _check_codes(attributes, x: Tensor, kernel: Tensor) -> None:
    """Checks that a product reads codes that its kernel brings into int8, as ``ops/integer.py`` does."""
    most = attributes["code_maximum"]
    require(x.high <= most, f"its input reaches {x.high}, above its 'code_maximum', {most}")
    require(x.low >= (-128 if most <= 127 else 0), f"its input falls to {x.low}, which does not fit its codes")
    require(kernel.high <= 127, f"its weights reach {kernel.high}, more than int8 holds")


def _multiply(attributes, constants, x: Tensor, kernel: Tensor):
    fits = len(kernel.shape) == 2 and len(x.shape) >= 1 and x.shape[-1] == kernel.shape[0]
    require(fits, f"a tensor of shape {show(x.shape)} does not fit a kernel of shape {show(kernel.shape)}")
    _check_codes(attributes, x, kernel)
    return (*x.shape[:-1], kernel.shape[1]), "int32"


def _rescale(attributes, constants, *terms: Tensor):
    return broadcast([*(term.shape for term in terms), *(a.shape for a in constants.values())]), attributes["dtype"]


def _encode(attributes, constants, x: Tensor):
    require(x.dtype == FLOAT, "it encodes what is integer already")
    return broadcast([x.shape, *(array.shape for array in constants.values())]), attributes["dtype"]


def _constant(attributes, constants):
    return constants["codes"].shape, constants["codes"].dtype.name


def _clip(attributes, constants, x: Tensor):
    check_within(x.dtype, attributes["low"], attributes["high"])
    return x.shape, x.dtype


def _two(attributes, constants, x: Tensor, y: Tensor):
    return broadcast([x.shape, y.shape]), joint_dtype([x, y])


def _times(attributes, constants, x: Tensor, y: Tensor):
    return broadcast([x.shape, y.shape]), "int32"


def _picks(array: np.ndarray, x: Tensor) -> None:
    """Checks that an array's axes but the last go along those of a tensor."""
    require(array.ndim >= 1, "a table without an axis")
    require(len(array.shape) - 1 <= len(x.shape), f"tables of shape {show(array.shape)} do not fit {show(x.shape)}")
    require(broadcast([x.shape, array.shape[:-1]]) == x.shape, f"{show(array.shape)} does not fit {show(x.shape)}")


def _table(attributes, constants, x: Tensor):
    table, low = constants["table"], attributes["low"]
    _picks(table, x)
    entries = table.shape[-1]
    covered = low <= x.low and x.high < low + entries
    require(covered, f"its table of {entries} entries from {low} on does not cover {x.low} to {x.high}")
    return x.shape, attributes["dtype"]


def _staircase(attributes, constants, x: Tensor):
    thresholds, values = constants["thresholds"], constants["values"]
    _picks(thresholds, x)
    _picks(values, x)
    steps, results = thresholds.shape[-1], values.shape[-1]
    require(results == steps + 1, f"{steps} thresholds need {steps + 1} values, got {results}")
    return x.shape, attributes["dtype"]


def _reduced(attributes, x: Tensor) -> Shape:
    axes = attributes["axes"]
    check_axes(axes, x)
    for axis in axes:
        fixed(x.shape[axis], "an axis that it reduces")
    return tuple(dim for axis, dim in enumerate(x.shape) if axis not in axes)


def _windowed(attributes, x: Tensor) -> Shape:
    names = ("dimensions", "strides", "padding", "base_dilation", "window_dilation")
    return _window(x.shape, *(attributes[name] for name in names))


RULES: dict[str, Callable[..., tuple[Shape, str]]] = {
    "encode": _encode,
    "constant": _constant,
    "convolve": _convolve,
    "multiply": _multiply,
    "rescale": _rescale,
    "clip": _clip,
    "times": _times,
    "table": _table,
    "staircase": _staircase,
    "maximum": _two,
    "minimum": _two,
    "window_max": lambda attributes, constants, x: (_windowed(attributes, x), x.dtype),
    "window_sum": lambda attributes, constants, x: (_windowed(attributes, x), "int32"),
    "sum": lambda attributes, constants, x: (_reduced(attributes, x), "int32"),
    "max": lambda attributes, constants, x: (_reduced(attributes, x), x.dtype),
    **ARRANGE_RULES,
}
"""``rule(attributes, constants, *tensors) -> (shape, dtype)`` of an operation; raises where they do not fit."""
