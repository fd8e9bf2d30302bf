"""From real factors to a 31-bit multiplier and a shift: the constants of a rescale."""

import dataclasses
import math
from typing import Any

import numpy as np

from .errors import LoweringError
from .node import Node

_LARGEST_SUM = 2**62
_MULTIPLIER_BITS = 31
_ERROR_BITS = 24


@dataclasses.dataclass(frozen=True)
class FixedPoint:
    """The whole numbers of ``clip(round((sum_i floor(n_i * multiplier_i / 2**term_shift_i) + bias) / 2**shift))``."""

    multipliers: list[np.ndarray]
    term_shifts: list[int]
    bias: np.ndarray
    shift: int
    clamp: tuple[tuple[int, int], tuple[int, int]] | None


def fixed_point_constants(node: Node) -> FixedPoint:
    r"""Returns the constants of a rescale node with the largest shift whose 64-bit sum cannot overflow.

    The shift is shared by all terms and channels. A term of large numbers and a small factor, such as a residual stream
    beside an accumulator, gets a finer multiplier and a shift of its own, so that each term is off by at most
    :math:`2^{-24}`, or by what 31 bits of multiplier leave, before the one rounding. Where multipliers and bias are
    dyadic at the common shift it is exact.

    Raises:
        LoweringError: the factors are so large that a single product may leave 62 bits.
    """
    scales = [
        np.asarray(node.constants[f"scale{index}"], np.float64) * (term.largest > 0)  # whatever it is, nothing of zero
        for index, term in enumerate(node.inputs)
    ]
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
    term_shifts = [_term_shift(scale, term.largest, shift) for term, scale in zip(node.inputs, scales, strict=True)]
    multipliers = [
        np.rint(scale * 2.0 ** (shift + extra)).astype(np.int64).astype(np.int32)
        for scale, extra in zip(scales, term_shifts, strict=True)
    ]
    clamp = None
    if total >= 2**31 - 1:  # the rounded sum may leave int32: hold it at the ends of the clip first
        clamp = _halves(node.attributes["low"] << shift), _halves(node.attributes["high"] << shift)
    return FixedPoint(multipliers, term_shifts, np.rint(bias * 2.0**shift).astype(np.int64), shift, clamp)


def _term_shift(scale: np.ndarray, largest_number: int, shift: int) -> int:
    """Returns how many more bits a term's multiplier needs for an error of at most ``2**-_ERROR_BITS``, if they fit."""
    exact = np.array_equal(np.rint(scale * 2.0**shift), scale * 2.0**shift)
    wanted = 0 if exact else largest_number.bit_length() - 1 + _ERROR_BITS - shift
    largest = float(np.abs(scale).max(initial=0))
    if wanted <= 0 or largest == 0:
        return 0
    room = _MULTIPLIER_BITS - 1 - math.floor(math.log2(largest)) - shift
    while room > 0 and round(largest * 2.0 ** (shift + room)) >= 2**_MULTIPLIER_BITS:
        room -= 1
    return max(0, min(wanted, room, 62))


def least_sums(codes: Any, shift: int) -> Any:
    """Returns the smallest sum that ``round(sum / 2**shift)``, halves to even, takes to each code or above.

    Args:
        codes: whole numbers, one or an array; results are of their type, which must hold ``codes << shift``.
        shift: at least 1.
    """
    return (codes << shift) - (1 << (shift - 1)) + codes % 2


def split(wide: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns int64 numbers as int32 high and uint32 low halves."""
    return (wide >> 32).astype(np.int32), (wide & 0xFFFFFFFF).astype(np.uint32)


def join(high: np.ndarray, low: np.ndarray) -> np.ndarray:
    """Returns the int64 numbers of which ``split`` made the halves."""
    return (high.astype(np.int64) << 32) + low.astype(np.int64)


def _halves(number: int) -> tuple[int, int]:
    return number >> 32, number & 0xFFFFFFFF
