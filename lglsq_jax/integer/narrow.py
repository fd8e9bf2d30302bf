"""Rescales to codes within int32: a third of the work of a 64-bit one, and the same code for every sum that can occur.

Sums beyond the first and the last code need not be multiplied: held between the two first, few bits are left of them.
"""

import dataclasses
import math
from typing import TYPE_CHECKING

import numpy as np

from .fixed import FixedPoint, join
from .nearest import MOST_CODES, made_nearest
from .node import INT32_MAX, Node
from .ties import tie_correction

if TYPE_CHECKING:
    from .program import Instruction

_ROOM = 53  # shifts and sums that int64 surely holds


@dataclasses.dataclass(frozen=True)
class Narrow:
    r"""A rescale of one integer tensor as :math:`\lfloor (n m + B) / 2^s \rfloor` with ``n`` held in ``[least, most]``.

    With a split of :math:`k > 0` bits, :math:`m = m_1 2^k + m_0` and :math:`B = B_1 2^k + B_0`, and the same number is
    :math:`\lfloor (n m_1 + B_1 + \lfloor (n m_0 + B_0) / 2^k \rfloor) / 2^{s-k} \rfloor`: each part within int32.

    Attributes:
        constants: int32, one a channel or one for all: ``least``, ``most``, ``multiplier`` and ``offset``, which with a
            split are those of the lower part, beside ``upper_multiplier`` and ``upper_offset``.
        split: how many bits the lower part has; 0: there is one part.
    """

    constants: dict[str, np.ndarray]
    split: int


def narrow_constants(node: Node, fixed: FixedPoint) -> FixedPoint | None:
    """Returns constants with which a rescale fits int32, in one part or in two, and gives the nearest code always.

    One part leaves the multiplier fewer than 31 bits, with which a code could begin one ``n`` early or late.
    ``made_nearest`` proves that none does, or finds a bias with which none does; else two parts are tried.

    Args:
        node: a rescale for which ``is_code`` holds.
        fixed: its 64-bit constants.
    """
    scale, bias = np.broadcast_arrays(node.constants["scale0"], node.constants["bias"])
    low, high = node.attributes["low"], node.attributes["high"]
    ends = int(node.inputs[0].low.min()), int(node.inputs[0].high.max())
    steepest = float(np.abs(scale).max(initial=0))
    if not 0 < steepest <= 1 or fixed.clamp is not None:
        return None
    with np.errstate(divide="ignore", invalid="ignore"):
        places = np.clip(np.stack([(code - bias) / scale for code in (low - 1, high + 1)]), *ends)
    alive = (np.nan_to_num(places[0]) != np.nan_to_num(places[1])) & (scale != 0)
    places, scale_alive, bias_alive = places[:, alive], scale[alive], bias[alive]
    if not places.size:
        return None
    largest_sum = float(max(np.abs(places * scale_alive).max(), np.abs(bias_alive).max(), abs(low), abs(high))) + 2
    split = math.floor(math.log2(INT32_MAX / (float(np.abs(places).max()) + 2)))
    single = math.floor(math.log2(INT32_MAX / largest_sum))
    for shift in dict.fromkeys(min(most, fixed.shift) for most in (single, single + split - 1)):
        if shift < 1 or steepest * 2.0**shift < 0.5:
            continue
        multiplier = np.rint(node.constants["scale0"] * 2.0**shift).astype(np.int32)
        whole_bias = np.rint(node.constants["bias"] * 2.0**shift).astype(np.int64)
        found = made_nearest(node, FixedPoint([multiplier], [0], whole_bias, shift, None))
        if found is not None and narrow_form(found.multipliers[0], found.bias, shift, (low, high), ends) is not None:
            return found
    return None


def narrow_form(
    multiplier: np.ndarray, bias: np.ndarray, shift: int, codes: tuple[int, int], ends: tuple[int, int]
) -> Narrow | None:
    """Returns a rescale to codes in the form that int32 holds; None where there is none.

    Args:
        multiplier: the rescale's, int32.
        bias: the rescale's, int64; both broadcast together.
        shift: the rescale's.
        codes: the smallest and the largest code.
        ends: the smallest and the largest ``n``.
    """
    low, high = codes
    if shift > _ROOM - 10 or high - low >= MOST_CODES or np.abs(bias).max(initial=0) >= 2**_ROOM:
        return None
    correction = tie_correction(multiplier, bias, shift, *ends)
    if correction is None:
        return None
    factor, offset = (x.astype(np.int64) for x in np.broadcast_arrays(multiplier, bias + correction))
    offset = offset + (1 << (shift - 1))
    reached = np.sort(np.stack([(factor * end + offset) >> shift for end in ends]), axis=0)
    flat = (reached[1] <= low) | (reached[0] >= high) | (reached[0] == reached[1])
    factor = np.where(flat, 0, factor)
    offset = np.where(flat, np.clip(reached[0], low, high) << shift, offset)
    sign, size = np.where(factor < 0, -1, 1), np.maximum(np.abs(factor), 1)
    first = -((offset - (low << shift)) // size)  # the least sign * n with a code of at least `low`
    last = (((high + 1) << shift) - 1 - offset) // size
    mirrored = np.where(sign < 0, -ends[1], ends[0]), np.where(sign < 0, -ends[0], ends[1])
    first, last = np.clip(first, *mirrored), np.clip(last, *mirrored)
    found = [(np.abs(factor) * place + offset) >> shift for place in (first, last)]
    right = (found[0] == np.clip(reached[0], low, high)) & (found[1] == np.clip(reached[1], low, high))
    if not (flat | right).all():
        return None  # so steep that codes are skipped at an end
    least, most = (
        np.where(flat, 0, np.minimum(sign * first, sign * last)),
        np.where(flat, 0, np.maximum(sign * first, sign * last)),
    )
    return _in_one_part(factor, offset, least, most) or _in_two_parts(factor, offset, shift, least, most)


def _in_one_part(factor, offset, least, most) -> Narrow | None:
    if not _fits(factor, offset, least, most):
        return None
    return Narrow(_as_int32(least=least, most=most, multiplier=factor, offset=offset), 0)


def _in_two_parts(factor, offset, shift: int, least, most) -> Narrow | None:
    largest = int(max(np.abs(least).max(), np.abs(most).max()))
    split = min((INT32_MAX // (largest + 1)).bit_length() - 1, shift - 1)
    if split < 1:
        return None
    mask = (1 << split) - 1
    upper, upper_offset = factor >> split, offset >> split
    if not (
        _fits(factor & mask, offset & mask, least, most) and _fits(upper, upper_offset, least, most, 2**31 >> split)
    ):
        return None
    return Narrow(
        _as_int32(
            least=least,
            most=most,
            multiplier=factor & mask,
            offset=offset & mask,
            upper_multiplier=upper,
            upper_offset=upper_offset,
        ),
        split,
    )


def _fits(factor, offset, least, most, spare: int = 0) -> bool:
    """Whether all of ``n * factor``, ``offset`` and their sum stay in int32, with ``spare`` left."""
    numbers = [
        factor,
        offset,
        *(factor * end for end in (least, most)),
        *(factor * end + offset for end in (least, most)),
    ]
    return max(int(np.abs(number).max(initial=0)) for number in numbers) + spare <= INT32_MAX


def _as_int32(**arrays: np.ndarray) -> dict[str, np.ndarray]:
    """Arrays of one number repeated become that number, which is faster."""
    return {
        name: (array if array.size == 0 or np.ptp(array) else array.ravel()[0]).astype(np.int32)
        for name, array in arrays.items()
    }


def prepared(instructions: "tuple[Instruction, ...]") -> "tuple[Instruction, ...]":
    """Returns a program's instructions as they run: every rescale that has a narrow form in that form."""

    def run_as(step: "Instruction") -> "Instruction":
        if step.op != "rescale" or len(step.inputs) != 1 or any(step.attributes.get("term_shifts", [])):
            return step
        term = instructions[step.inputs[0]]
        if term.shape != step.shape:
            return step
        bias = join(step.constants["bias_high"], step.constants["bias_low"])
        codes, shift = (step.attributes["low"], step.attributes["high"]), step.attributes["shift"]
        clamp = step.attributes["clamp"]
        if clamp is not None and [(high << 32) + low for high, low in clamp] != [code << shift for code in codes]:
            return step
        form = narrow_form(step.constants["multiplier0"], bias, shift, codes, (term.low, term.high))
        if form is None:
            return step
        attributes = {"shift": shift, "dtype": step.attributes["dtype"], "split": form.split}
        return dataclasses.replace(step, attributes=attributes, constants=form.constants)

    return tuple(map(run_as, instructions))
