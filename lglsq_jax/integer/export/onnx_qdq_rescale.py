"""Rescaling in the QDQ form: sums of floats, and a conversion to codes where the program has codes."""

from collections.abc import Sequence

import numpy as np

from ..dimensions import decode
from ..program import Instruction
from .onnx_arrange import expand
from .onnx_graph import Graph, Value
from .onnx_qdq_products import channel_vector, write_product
from .onnx_real import Product, Real, dequantize, quantize, quotient, scaled, single

CODES = ("int8", "uint8")


def rescale(graph: Graph, step: Instruction, terms: Sequence[Real | Product], output_step: float | None) -> Real:
    """Adds ``clip(round(sum_i n_i f_i + b), low, high)`` with the real factors of a rescale.

    Args:
        graph: where to add it.
        step: the instruction.
        terms: its inputs; products among them are written now, in the unit that makes their factor 1.
        output_step: the unit of the logits where these are the logits, None elsewhere.
    """
    factors, bias = real_constants(step)
    to_codes = step.attributes["dtype"] in CODES
    unit = float(np.float32(_unit(step, terms, factors) if output_step is None else output_step))
    bias = bias * unit
    total: Value | None = None
    pending = bool(bias.any())
    for term, factor in zip(terms, factors, strict=True):
        if isinstance(term, Product):
            alone = term.readers == 1 and pending
            fused = step if to_codes and len(terms) == 1 and term.readers == 1 else None
            per_channel = channel_vector(factor, term.kernel.shape[-1]) is not None
            wanted = factor * unit if per_channel else None
            term, done = write_product(graph, term, wanted, bias if alone or fused else None, fused=fused)
            pending = pending and not done
        part = _part(graph, term, factor * unit)
        total = part if total is None else graph.elementwise("Add", [total, part], np.float32)
    assert total is not None
    if pending:
        total = graph.elementwise("Add", [total, bias.astype(np.float32)], np.float32)
    total = expand(graph, total, decode(list(step.shape)))
    if to_codes:
        return quantize(graph, total, unit, step.attributes["low"], step.attributes["high"])
    return Real(_clip(graph, step, total, unit), np.array(unit))


def real_constants(step: Instruction) -> tuple[list[np.ndarray], np.ndarray]:
    """Returns the factor of each term and the bias of a rescale, in units of its result; float64, with its axes."""
    shift, ndim = step.attributes["shift"], len(step.shape)
    shifts = step.attributes.get("term_shifts", [0] * len(step.inputs))

    def aligned(array: np.ndarray) -> np.ndarray:
        return array.reshape((1,) * (ndim - array.ndim) + array.shape)

    factors = [
        aligned(step.constants[f"multiplier{index}"].astype(np.float64)) * 2.0 ** -(shift + extra)
        for index, extra in enumerate(shifts)
    ]
    bias = step.constants["bias_high"].astype(np.float64) * 2.0**32 + step.constants["bias_low"].astype(np.float64)
    return factors, aligned(np.asarray(bias)) * 2.0**-shift


def _unit(step: Instruction, terms: Sequence[Real | Product], factors: Sequence[np.ndarray]) -> float:
    """Returns the unit of the result with which a term that has a unit already needs no factor; else a plain one."""
    for term, factor in zip(terms, factors, strict=True):
        if isinstance(term, Real) and term.zero is None and (factor != 0).all():
            unit = single(quotient(*np.broadcast_arrays(term.unit, factor)))
            if unit is not None and unit > 0:
                return float(np.float32(unit))
    if step.attributes["dtype"] in CODES:
        return 1.0
    return 2.0 ** -max(step.high.bit_length(), (-step.low).bit_length())


def _part(graph: Graph, term: Real, unit: np.ndarray) -> Value:
    """Returns what a term adds to the sum, whose unit is that of the result times the term's factor."""
    if term.zero is not None:
        alone = single(unit)
        if alone is not None and alone > 0:
            return dequantize(graph, term, alone).value
    return scaled(graph, term, unit).value


def _clip(graph: Graph, step: Instruction, x: Value, unit: float) -> Value:
    """Clips a stream where its bounds were reached: a limit that int32 alone sets is none here."""
    low, high = step.attributes["low"], step.attributes["high"]
    if low == 0 and step.high < high:
        return graph.node("Relu", [x], np.float32, x.shape, x.order)
    ends = [np.array(end * unit, np.float32) for end in (low, high)]
    if (step.low > low or low <= -(2**31) + 1) and (step.high < high or high >= 2**31 - 1):
        return x
    return graph.elementwise("Clip", [x, *ends], np.float32)
