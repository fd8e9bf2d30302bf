"""What an integer program computes with: each operation on ``jax.lax`` integers, and nothing that holds a float."""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jax import lax

from ..ops.integer import convolve_int32, multiply_int32
from ..ops.window import Window
from . import wide
from .arrange import ARRANGE

_MOST_COMPARISONS = 32  # steps up to which comparing with all of them is faster than halving; measured on x86 CPUs


def window_of(attributes) -> Window:
    """Returns a convolution's geometry from its plain attributes."""
    pairs = tuple(tuple(pair) for pair in attributes["padding"])
    return Window(
        tuple(attributes["strides"]),
        pairs,
        tuple(attributes["input_dilation"]),
        tuple(attributes["kernel_dilation"]),
        attributes["groups"],
    )


def _convolve(attributes, constants, x, kernel):
    return convolve_int32(x, kernel, window_of(attributes), attributes["code_maximum"])


def _multiply(attributes, constants, x, kernel):
    return multiply_int32(x, kernel, attributes["code_maximum"])


def _rescale(attributes, constants, *terms):
    """``clip(round((sum_i floor(term_i * multiplier_i / 2**term_shift_i) + bias) / 2**shift))``, halves to even.

    Where ``narrow.prepared`` found a form of it that int32 holds: that one, with the same result.
    """
    if "split" in attributes:
        return _narrow_rescale(attributes, constants, *terms)
    total = constants["bias_high"], constants["bias_low"]
    shifts = attributes.get("term_shifts", [0] * len(terms))
    for index, (term, shift) in enumerate(zip(terms, shifts, strict=True)):
        product = wide.product(term.astype(jnp.int32), constants[f"multiplier{index}"])
        total = wide.add(wide.shift_right(product, shift), total)
    if attributes["clamp"] is not None:
        total = wide.clamp(total, *map(tuple, attributes["clamp"]))
    rounded = wide.round_shift(total, attributes["shift"])
    return jnp.clip(rounded, attributes["low"], attributes["high"]).astype(attributes["dtype"])


def _narrow_rescale(attributes, constants, x):
    """``floor((n * multiplier + offset) / 2**shift)`` in the parts of a ``narrow.Narrow``."""
    n = jnp.clip(x.astype(jnp.int32), constants["least"], constants["most"])
    total = n * constants["multiplier"] + constants["offset"]
    if attributes["split"]:
        total = n * constants["upper_multiplier"] + constants["upper_offset"] + (total >> attributes["split"])
    return (total >> (attributes["shift"] - attributes["split"])).astype(attributes["dtype"])


def _clip(attributes, constants, x):
    return jnp.clip(x, jnp.asarray(attributes["low"], x.dtype), jnp.asarray(attributes["high"], x.dtype))


def _times(attributes, constants, x, y):
    return x.astype(jnp.int32) * y.astype(jnp.int32)


def _table(attributes, constants, x):
    """``table[..., x - low]``: each element picks an entry of its channel's table."""
    return _picked(constants["table"], x.astype(jnp.int32) - attributes["low"])


def _staircase(attributes, constants, x):
    """``values[..., number of thresholds that x reaches]``."""
    x, thresholds, values = x.astype(jnp.int32), constants["thresholds"], constants["values"]
    steps = thresholds.shape[-1]
    if steps <= _MOST_COMPARISONS:
        count = jnp.zeros((), jnp.int32)
        for index in range(steps):
            count = count + (x >= thresholds[..., index]).astype(jnp.int32)
        count = jnp.broadcast_to(count, x.shape)
    else:  # as many halvings as the number of steps has bits
        count = jnp.zeros(x.shape, jnp.int32)
        for bit in reversed(range(steps.bit_length())):
            further = count + (1 << bit)
            reached = x >= _picked(thresholds, jnp.minimum(further, steps) - 1)
            count = jnp.where((further <= steps) & reached, further, count)
    return _picked(values, count)


def _picked(table, index):
    """Returns ``table[..., index]``, where the axes before the last have size 1 or that of ``index``."""
    entries, axes = table.shape[-1], table.shape[:-1]
    start = 0
    stride = entries
    for axis in reversed(range(len(axes))):
        if axes[axis] > 1:
            start = start + lax.broadcasted_iota(jnp.int32, index.shape, index.ndim - len(axes) + axis) * stride
            stride *= axes[axis]
    return jnp.take(jnp.ravel(table), start + index, mode="clip")


def _maximum(attributes, constants, x, y):
    return jnp.maximum(*_alike(x, y))


def _minimum(attributes, constants, x, y):
    return jnp.minimum(*_alike(x, y))


def _alike(*xs):
    """Returns integers of one dtype: int32 where theirs differ."""
    return tuple(x.astype(jnp.int32) for x in xs) if len({x.dtype for x in xs}) > 1 else xs


def _window(attributes):
    return {
        "window_dimensions": attributes["dimensions"],
        "window_strides": attributes["strides"],
        "padding": [tuple(pair) for pair in attributes["padding"]],
        "base_dilation": attributes["base_dilation"],
        "window_dilation": attributes["window_dilation"],
    }


def _window_max(attributes, constants, x):
    return lax.reduce_window(x, np.asarray(jnp.iinfo(x.dtype).min, x.dtype), lax.max, **_window(attributes))


def _window_sum(attributes, constants, x):
    return lax.reduce_window(x.astype(jnp.int32), np.int32(0), lax.add, **_window(attributes))


def _sum(attributes, constants, x):
    return jnp.sum(x, axis=tuple(attributes["axes"]), dtype=jnp.int32)


def _max(attributes, constants, x):
    return jnp.max(x, axis=tuple(attributes["axes"]))


def _constant(attributes, constants):
    return constants["codes"]


def _arranger(op: str) -> Callable:
    def run(attributes, constants, *xs):
        return ARRANGE[op](jnp, attributes, attributes["batch"], *_alike(*xs))

    return run


KERNELS: dict[str, Callable] = {
    "constant": _constant,
    "convolve": _convolve,
    "multiply": _multiply,
    "rescale": _rescale,
    "clip": _clip,
    "times": _times,
    "table": _table,
    "staircase": _staircase,
    "maximum": _maximum,
    "minimum": _minimum,
    "window_max": _window_max,
    "window_sum": _window_sum,
    "sum": _sum,
    "max": _max,
    **{op: _arranger(op) for op in ARRANGE},
}
"""``kernel(attributes, constants, *integer arrays)``; ``attributes["batch"]`` is the batch size of the call."""
