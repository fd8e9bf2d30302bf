"""From real factors to a 31-bit multiplier and a shift: the constants of a rescale."""

import dataclasses
import math

import numpy as np

from .errors import LoweringError
from .node import Node

_LARGEST_SUM = 2**62
_MULTIPLIER_BITS = 31


@dataclasses.dataclass(frozen=True)
class FixedPoint:
    """The whole numbers of ``clip(round((sum_i n_i * multiplier_i + bias) / 2**shift))``."""

    multipliers: list[np.ndarray]
    bias: np.ndarray
    shift: int
    clamp: tuple[tuple[int, int], tuple[int, int]] | None


def fixed_point_constants(node: Node) -> FixedPoint:
    r"""Returns the constants of a rescale node with the largest shift whose 64-bit sum cannot overflow.

    The shift is shared by all terms and channels, so the result differs from the real one by at most
    :math:`2^{-shift-1} (1 + \sum_i |n_i|)` before the one rounding. Where multipliers and bias are dyadic it is exact.

    Raises:
        LoweringError: the factors are so large that a single product may leave 62 bits.
    """
    scales = [np.asarray(node.constants[f"scale{index}"], np.float64) for index in range(len(node.inputs))]
    bias = np.asarray(node.constants["bias"], np.float64)
    largest = max((float(np.abs(scale).max(initial=0)) for scale in scales), default=0.0)
    total = float(np.abs(bias).max(initial=0)) + 1
    for term, scale in zip(node.inputs, scales, strict=True):
        ends = np.maximum(np.abs(term.low), np.abs(term.high)).astype(np.float64)
        total += float(np.max(np.abs(scale) * ends, initial=0)) if ends.size else 0.0
    shift = 62
    if largest > 0:
        shift = min(shift, _MULTIPLIER_BITS - 1 - math.floor(math.log2(largest)))
        while round(largest * 2.0**shift) >= 2**_MULTIPLIER_BITS:
            shift -= 1
    slack = sum(float(term.largest) for term in node.inputs) / 2 + 2  # what rounding the constants may add
    while shift > 0 and total * 2.0**shift + slack >= _LARGEST_SUM:
        shift -= 1
    if shift < 1:
        raise LoweringError(
            f"the quantizer {node.name or node.path!r} multiplies by {largest:.3g}, more than 31 bits hold: "
            "its scale is far too small for what it quantizes"
        )
    multipliers = [np.rint(scale * 2.0**shift).astype(np.int64).astype(np.int32) for scale in scales]
    clamp = None
    if total >= 2**31 - 1:  # the rounded sum may leave int32: hold it at the ends of the clip first
        clamp = _halves(node.attributes["low"] << shift), _halves(node.attributes["high"] << shift)
    return FixedPoint(multipliers, np.rint(bias * 2.0**shift).astype(np.int64), shift, clamp)


def split(wide: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns int64 numbers as int32 high and uint32 low halves."""
    return (wide >> 32).astype(np.int32), (wide & 0xFFFFFFFF).astype(np.uint32)


def _halves(number: int) -> tuple[int, int]:
    return number >> 32, number & 0xFFFFFFFF
