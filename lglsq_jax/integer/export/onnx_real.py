"""Values of the QDQ form: 8-bit codes, or floats that stand for a program's integers."""

import dataclasses
from typing import Any

import numpy as np

from ..program import Instruction
from .onnx_graph import Graph, Value, plain_order


@dataclasses.dataclass(frozen=True, eq=False)
class Real:
    """What stands for an integer tensor ``n`` of the program.

    Attributes:
        value: codes ``n + zero`` as uint8, or ``n * unit`` as float32.
        unit: positive or negative, with the program's axes; of codes a single number, which is only what they are
            multiplied with when they become floats.
        zero: the code of 0; None where the value is a float.
    """

    value: Value
    unit: np.ndarray
    zero: int | None = None


@dataclasses.dataclass(eq=False)
class Product:
    """A convolution or matrix product that is not written yet: who reads it first chooses its unit.

    Attributes:
        step: the instruction.
        x: its codes.
        x_step: the instruction that made those.
        kernel: its weights, as the program has them.
        readers: how many instructions read it.
        written: the result, once it is written.
    """

    step: Instruction
    x: Real
    x_step: Instruction
    kernel: np.ndarray
    readers: int
    written: Real | None = None


def number(value: Any) -> np.ndarray:
    """Returns a float32 of no axes."""
    return np.array(value, np.float32)


def dequantize(graph: Graph, x: Real, scale: float | None = None) -> Real:
    """Returns the floats of codes, in that unit or in their own; floats are returned as they are."""
    if x.zero is None:
        return x
    unit = number(x.unit if scale is None else scale)
    zero = np.array(x.zero, np.uint8)
    value = graph.once("DequantizeLinear", [x.value, unit, zero], np.float32, x.value.shape, x.value.order)
    return Real(value, np.asarray(unit, np.float64))


def quantize(graph: Graph, x: Value, unit: float, low: int, high: int) -> Real:
    """Returns ``clip(round(x / unit), low, high)`` as codes.

    Codes start at 0, so that ONNX's own limit of 0 clips from below. What lies above ``high`` is cut after rounding, in
    uint8, which a runtime may do after a fused kernel.
    """
    zero = max(-low, 0)
    codes = graph.node("QuantizeLinear", [x, number(unit), np.array(zero, np.uint8)], np.uint8, x.shape, x.order)
    if low + zero > 0 or high + zero < 255:  # not a Min, which takes ONNX Runtime three times as long
        codes = graph.elementwise("Clip", [codes, *(np.array(end + zero, np.uint8) for end in (low, high))], np.uint8)
    return Real(codes, np.array(float(np.float32(unit))), zero)


def single(unit: np.ndarray) -> float | None:
    """Returns the one number that a unit is, up to float32's own precision; None where it varies."""
    flat = unit.reshape(-1)
    first = float(flat[0])
    return first if np.allclose(flat, first, rtol=2.0**-22, atol=0) else None


def scaled(graph: Graph, x: Real, unit: np.ndarray | float) -> Real:
    """Returns floats of another unit."""
    unit = np.asarray(unit, np.float64)
    if x.zero is not None:
        alone = single(unit)
        if alone is not None and alone > 0:
            return dequantize(graph, x, alone)
        x = dequantize(graph, x)
    return Real(times(graph, x.value, quotient(unit, x.unit)), unit)


def quotient(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Returns ``a / b``, and 1 where both are zero."""
    a, b = np.broadcast_arrays(a, b)
    return np.divide(a, b, out=np.ones(a.shape), where=(b != 0) | (a != 0))


def times(graph: Graph, x: Value, factor: np.ndarray) -> Value:
    """Returns a float times a constant; nothing is added where that is 1 everywhere."""
    alone = single(factor)
    if alone is not None and abs(alone - 1) < 2.0**-22:
        return x
    constant = number(alone) if alone is not None else factor.astype(np.float32)
    return graph.elementwise("Mul", [x, constant], np.float32)


def in_one_unit(graph: Graph, x: Real) -> Real:
    """Returns floats whose unit is one positive number."""
    x = dequantize(graph, x)
    alone = single(x.unit)
    if alone is not None and alone > 0:
        return Real(x.value, np.array(alone))
    largest = float(np.abs(x.unit).max()) or 1.0
    return scaled(graph, x, largest)


def whole(graph: Graph, x: Real) -> Value:
    """Returns the integers themselves, as int32."""
    if x.zero is not None:
        value = graph.cast(x.value, np.int32)
        return graph.elementwise("Sub", [value, np.array(x.zero, np.int32)], np.int32) if x.zero else value
    value = times(graph, x.value, quotient(np.ones(()), x.unit))
    value = graph.node("Round", [value], np.float32, value.shape, value.order)
    return graph.cast(value, np.int32)


def constant_real(graph: Graph, codes: np.ndarray, unit: np.ndarray) -> Real:
    """Returns a constant of the program as floats of a unit."""
    array = (codes * unit).astype(np.float32)
    return Real(Value(graph.constant(array), np.dtype(np.float32), codes.shape, plain_order(codes.ndim)), unit)
