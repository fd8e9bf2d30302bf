"""Rescaling in 64-bit integers, exactly: multiply, add, round ties to even, clip."""

from collections.abc import Sequence

import numpy as np

from ..dimensions import decode
from ..program import Instruction
from ..ties import tie_correction
from .onnx_arrange import expand
from .onnx_graph import Graph, Value

_WORD = 1 << 64
_ROOM = 62
"""The sum of a rescale stays below 2**62 in absolute value."""


def rescale(graph: Graph, step: Instruction, terms: Sequence[Value], bounds: Sequence[tuple[int, int]]) -> Value:
    r"""Adds ``clip(round((sum_i floor(n_i m_i / 2^t_i) + B) / 2^s), low, high)``, halves to even.

    ONNX shifts unsigned numbers only, so the sum is kept as an unsigned number that is :math:`2^{62}` too large. Every
    step up to the last is exact modulo :math:`2^{64}`; the quotient is :math:`2^{62-s}` too large, which the last
    conversion drops where it is a multiple of the result's range.

    Args:
        graph: where to add it.
        step: the instruction.
        terms: its inputs.
        bounds: the smallest and the largest value of each.
    """
    shift, low, high = (step.attributes[name] for name in ("shift", "low", "high"))
    shape, dtype = decode(list(step.shape)), np.dtype(step.attributes["dtype"])
    total, bias = _sum(graph, step, terms)
    half, quotient = 1 << (shift - 1), 1 << (_ROOM - shift)
    clamp = _clamp(step, shift, low, high)
    if clamp is not None:
        total = _add(graph, total, bias, 1 << _ROOM)
        ends = [np.array(min(max((1 << _ROOM) + end, 0), _WORD - 1), np.uint64) for end in clamp]
        total = graph.elementwise("Clip", [total, *ends], np.uint64)
        bias, offset = np.array(0, object), half
    else:
        offset = half + (1 << _ROOM)
    correction = None
    if clamp is None and len(terms) == 1 and not any(step.attributes.get("term_shifts", [])):
        correction = tie_correction(step.constants["multiplier0"], bias, shift, *bounds[0])
    if correction is None:
        total = _ties_to_even(graph, _add(graph, total, bias, offset), shift)
    else:
        total = _add(graph, total, bias + correction, offset)
    total = _shift_right(graph, total, shift)
    return expand(graph, _finish(graph, total, quotient, low, high, dtype), shape)


def _sum(graph: Graph, step: Instruction, terms: Sequence[Value]) -> tuple[Value, np.ndarray]:
    """Returns the sum of the products modulo 2**64, and the bias that is still to be added."""
    bias = (step.constants["bias_high"].astype(object) << 32) + step.constants["bias_low"].astype(object)
    bias = np.asarray(bias, object)  # whole numbers of any size
    total = None
    for index, (term, extra) in enumerate(
        zip(terms, step.attributes.get("term_shifts", [0] * len(terms)), strict=True)
    ):
        multiplier = step.constants[f"multiplier{index}"].astype(np.int64)
        product = graph.elementwise("Mul", [graph.cast(term, np.uint64), _word(multiplier)], np.uint64)
        if extra:  # a product is above -2**63: made positive, shifted, and the surplus taken from the bias
            product = graph.elementwise("Add", [product, np.array(1 << 63, np.uint64)], np.uint64)
            product = _shift_right(graph, product, extra)
            bias = bias - (1 << (63 - extra))
        total = product if total is None else graph.elementwise("Add", [total, product], np.uint64)
    assert total is not None
    return total, bias


def _add(graph: Graph, total: Value, bias: np.ndarray, offset: int) -> Value:
    bias = np.asarray(bias, object)
    numbers = np.array([(int(number) + offset) % _WORD for number in bias.flat], np.uint64).reshape(bias.shape)
    return graph.elementwise("Add", [total, numbers], np.uint64)


def _ties_to_even(graph: Graph, total: Value, shift: int) -> Value:
    """Takes one from the sums whose quotient would be odd: only those of a tie fall to the quotient below."""
    quotient = _shift_right(graph, total, shift)
    odd = graph.elementwise("BitwiseAnd", [quotient, np.array(1, np.uint64)], np.uint64)
    return graph.elementwise("Sub", [total, odd], np.uint64)


def _shift_right(graph: Graph, x: Value, shift: int) -> Value:
    return graph.elementwise("BitShift", [x, np.array(shift, np.uint64)], np.uint64, direction="RIGHT")


def _finish(graph: Graph, total: Value, surplus: int, low: int, high: int, dtype: np.dtype) -> Value:
    """Clips, takes the surplus away and converts."""
    ends = [np.array(max(surplus + end, 0), np.uint64) for end in (low, high)]
    total = graph.elementwise("Clip", [total, *ends], np.uint64)
    if surplus % (1 << (8 * dtype.itemsize)) == 0:
        return graph.cast(total, dtype)
    total = graph.cast(total, np.int64)
    total = graph.elementwise("Sub", [total, np.array(surplus, np.int64)], np.int64)
    return graph.cast(total, dtype)


def _clamp(step: Instruction, shift: int, low: int, high: int) -> tuple[int, int] | None:
    """Returns the bounds of the sum where they say more than the clip of the result does."""
    if step.attributes["clamp"] is None:
        return None
    ends = tuple((upper << 32) + lower for upper, lower in step.attributes["clamp"])
    return None if ends == (low << shift, high << shift) else (ends[0], ends[1])


def _word(numbers: np.ndarray) -> np.ndarray:
    """Returns int64 numbers modulo 2**64."""
    return numbers.astype(np.int64).view(np.uint64) if numbers.ndim else numbers.reshape(1).view(np.uint64).reshape(())
