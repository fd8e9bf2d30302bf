"""Operations that only rearrange elements: the same code runs on the program's arrays and on lowering's constants."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .dimensions import decode, resolve

Attributes = dict[str, Any]


def _reshape(xp, attributes: Attributes, batch: int, x):
    return xp.reshape(x, resolve(decode(attributes["sizes"]), batch))


def _transpose(xp, attributes: Attributes, batch: int, x):
    return xp.transpose(x, attributes["permutation"])


def _broadcast(xp, attributes: Attributes, batch: int, x):
    sizes = resolve(decode(attributes["sizes"]), batch)
    kept = [1] * len(sizes)
    for axis, target in enumerate(attributes["axes"]):
        kept[target] = x.shape[axis]
    return xp.broadcast_to(xp.reshape(x, kept), sizes)


def _slice(xp, attributes: Attributes, batch: int, x):
    stops = resolve(decode(attributes["stops"]), batch)
    starts = resolve(decode(attributes["starts"]), batch)
    return x[tuple(slice(*ends) for ends in zip(starts, stops, attributes["strides"], strict=True))]


def _reverse(xp, attributes: Attributes, batch: int, x):
    return xp.flip(x, attributes["axes"])


def _pad(xp, attributes: Attributes, batch: int, x):
    """Pads with ``value``; negative sizes cut, interior ones spread the elements."""
    for axis, (before, after, interior) in enumerate(attributes["padding"]):
        if interior and x.shape[axis] > 1:
            spread = list(x.shape)
            spread.insert(axis + 1, interior)
            gaps = xp.full(spread, attributes["value"], x.dtype)
            x = xp.concatenate([xp.expand_dims(x, axis + 1), gaps], axis + 1)
            sizes = list(x.shape)
            sizes[axis : axis + 2] = [sizes[axis] * sizes[axis + 1]]
            x = xp.reshape(x, sizes)
            after = after - interior
        widths = [(0, 0)] * x.ndim
        widths[axis] = (max(before, 0), max(after, 0))
        x = xp.pad(x, widths, constant_values=attributes["value"])
        cut = [slice(None)] * x.ndim
        cut[axis] = slice(max(-before, 0), x.shape[axis] - max(-after, 0))
        x = x[tuple(cut)]
    return x


def _concatenate(xp, attributes: Attributes, batch: int, *xs):
    return xp.concatenate(xs, attributes["axis"])


def _take(xp, attributes: Attributes, batch: int, x):
    axis, evenly = attributes["axis"], evenly_spaced(attributes["indices"])
    if evenly is None:
        return xp.take(x, np.asarray(attributes["indices"], np.int32), axis=axis, mode="clip")
    return x[(*(slice(None),) * axis, slice(evenly.start, evenly.stop, evenly.step))]


def evenly_spaced(indices: Sequence[int]) -> range | None:
    """Returns indices as a range where they rise evenly: then a slice takes them, which is faster than a gather."""
    steps = set(np.diff(indices).tolist())
    if len(indices) == 0 or len(steps) > 1 or min(steps, default=1) <= 0:
        return None
    return range(int(indices[0]), int(indices[-1]) + 1, min(steps, default=1))


ARRANGE: dict[str, Callable] = {
    "reshape": _reshape,
    "transpose": _transpose,
    "broadcast": _broadcast,
    "slice": _slice,
    "reverse": _reverse,
    "take": _take,
    "pad": _pad,
    "concatenate": _concatenate,
}
"""``operation(numpy or jax.numpy, attributes, batch size, *arrays)``."""


def arrange_constants(op: str, attributes: Attributes, *arrays: np.ndarray) -> np.ndarray:
    """Runs an operation on lowering's constants, which have a batch of one."""
    return ARRANGE[op](np, attributes, 1, *arrays)
