"""Each operation of a program as ONNX operators on integers; the same table as ``kernels.KERNELS``."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from ..dimensions import Shape, decode
from ..program import Instruction
from . import onnx_lookup as lookup
from . import onnx_products as products
from . import onnx_window as window
from .onnx_arrange import ARRANGE
from .onnx_graph import Graph, Value
from .onnx_rescale import rescale


@dataclasses.dataclass(frozen=True, eq=False)
class Operand:
    """An input of an instruction: what made it, and its value; None for a constant that is not stored yet."""

    step: Instruction
    value: Value | None

    @property
    def codes(self) -> np.ndarray:
        """The array of a constant."""
        return self.step.constants["codes"]


def value_of(graph: Graph, operand: Operand) -> Value:
    """Returns an operand's value; a constant is stored."""
    if operand.value is not None:
        return operand.value
    shape = operand.codes.shape
    return Value(graph.constant(operand.codes), operand.codes.dtype, shape, tuple(range(len(shape))))


def together(graph: Graph, operands: Sequence[Operand]) -> list[Value]:
    """Returns values of one type: that of the operands, int32 where theirs differ."""
    values = [value_of(graph, operand) for operand in operands]
    if len({value.dtype for value in values}) > 1:
        return [graph.cast(value, np.int32) for value in values]
    return values


def _constant(graph: Graph, step: Instruction, shape: Shape) -> None:
    return None  # stored where it is read


def _convolve(graph: Graph, step: Instruction, shape: Shape, x: Operand, kernel: Operand) -> Value:
    return products.convolve(graph, step.attributes, shape, value_of(graph, x), x.step.low, kernel.codes)


def _multiply(graph: Graph, step: Instruction, shape: Shape, x: Operand, kernel: Operand) -> Value:
    return products.multiply(graph, shape, value_of(graph, x), x.step.low, kernel.codes)


def _rescale(graph: Graph, step: Instruction, shape: Shape, *terms: Operand) -> Value:
    bounds = [(term.step.low, term.step.high) for term in terms]
    return rescale(graph, step, [value_of(graph, term) for term in terms], bounds)


def _clip(graph: Graph, step: Instruction, shape: Shape, x: Operand) -> Value:
    value = value_of(graph, x)
    ends = np.iinfo(value.dtype)
    bounds = [np.array(np.clip(step.attributes[end], ends.min, ends.max), value.dtype) for end in ("low", "high")]
    return graph.elementwise("Clip", [value, *bounds], value.dtype)


def _of_two(op: str) -> Callable[..., Value]:
    def add(graph: Graph, step: Instruction, shape: Shape, *operands: Operand) -> Value:
        values = together(graph, operands)
        return graph.elementwise(op, values, values[0].dtype)

    return add


def _times(graph: Graph, step: Instruction, shape: Shape, *operands: Operand) -> Value:
    values = [graph.cast(value_of(graph, operand), np.int32) for operand in operands]
    return graph.elementwise("Mul", values, np.int32)


def _window_max(graph: Graph, step: Instruction, shape: Shape, x: Operand) -> Value:
    value = value_of(graph, x)
    return window.window_max(graph, step.attributes, shape, value, np.iinfo(value.dtype).min)


def _window_sum(graph: Graph, step: Instruction, shape: Shape, x: Operand) -> Value:
    return window.slide(graph, step.attributes, graph.cast(value_of(graph, x), np.int32), "Add", 0)


def _sum(graph: Graph, step: Instruction, shape: Shape, x: Operand) -> Value:
    value = graph.cast(value_of(graph, x), np.int32)
    return window.reduce(graph, "ReduceSum", value, step.attributes["axes"], shape)


def _max(graph: Graph, step: Instruction, shape: Shape, x: Operand) -> Value:
    return window.reduce(graph, "ReduceMax", value_of(graph, x), step.attributes["axes"], shape)


def _table(graph: Graph, step: Instruction, shape: Shape, x: Operand) -> Value:
    entries = step.constants["table"].astype(step.attributes["dtype"])
    return lookup.table(graph, shape, value_of(graph, x), step.attributes["low"], entries)


def _staircase(graph: Graph, step: Instruction, shape: Shape, x: Operand) -> Value:
    value = graph.cast(value_of(graph, x), np.int32)
    values = step.constants["values"].astype(step.attributes["dtype"])
    return lookup.staircase(graph, shape, value, step.constants["thresholds"].astype(np.int32), values)


def _arranger(op: str) -> Callable[..., Value]:
    def add(graph: Graph, step: Instruction, shape: Shape, *operands: Operand) -> Value:
        return ARRANGE[op](graph, step.attributes, shape, *together(graph, operands))

    return add


OPERATIONS: dict[str, Callable[..., Value | None]] = {
    "constant": _constant,
    "convolve": _convolve,
    "multiply": _multiply,
    "rescale": _rescale,
    "clip": _clip,
    "maximum": _of_two("Max"),
    "minimum": _of_two("Min"),
    "times": _times,
    "table": _table,
    "staircase": _staircase,
    "window_max": _window_max,
    "window_sum": _window_sum,
    "sum": _sum,
    "max": _max,
    **{op: _arranger(op) for op in ARRANGE},
}
"""``converter(graph, instruction, shape of its result, *operands) -> value``."""


def add_operation(graph: Graph, step: Instruction, operands: Sequence[Operand]) -> Value | None:
    """Adds an instruction and returns its result; None for a constant, which is stored where it is read."""
    graph.at(step)
    return OPERATIONS[step.op](graph, step, decode(list(step.shape)), *operands)
