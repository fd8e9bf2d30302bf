"""The QDQ form: a float image in, float logits out, and conversions around float operators that runtimes fuse."""

import collections
from collections.abc import Callable, Sequence

import numpy as np
import onnx

from ..arrange import ARRANGE as ARRANGE_ARRAYS
from ..dimensions import Shape, decode
from ..node import compact, expanded
from ..program import Instruction, IntegerProgram
from . import onnx_lookup as lookup
from . import onnx_window as window
from .onnx_arrange import ARRANGE
from .onnx_graph import Graph, Value
from .onnx_integer import metadata, numbered
from .onnx_qdq_early import quantized_early
from .onnx_qdq_products import write_product
from .onnx_qdq_rescale import rescale
from .onnx_real import (
    Product,
    Real,
    constant_real,
    dequantize,
    in_one_unit,
    number,
    quantize,
    scaled,
    single,
    times,
    whole,
)

Term = Real | Product | np.ndarray
"""An input of an instruction; an array for a constant."""


def qdq_model(program: IntegerProgram, opset: int, *, wide_sums: bool = False) -> onnx.ModelProto:
    """Returns the model that computes the logits of an image in float, with a program's weights, scales and codes.

    Args:
        program: what to write.
        opset: the operator set, 18 or later.
        wide_sums: see :meth:`IntegerProgram.to_onnx`.
    """
    graph = Graph(opset, wide_sums=wide_sums)
    steps = quantized_early(program.instructions)
    uses = collections.Counter(number for step in steps for number in step.inputs)
    names = dict(numbered("image", [index for index, step in enumerate(steps) if step.op == "input"]))
    terms: list[Term] = []
    for index, step in enumerate(steps):
        given = [_current(terms[number]) for number in step.inputs]
        graph.at(step)
        if step.op == "input":
            terms.append(_input(graph, step, names[index]))
        elif step.op == "constant":
            terms.append(step.constants["codes"])
        elif step.op in ("convolve", "multiply"):
            x, kernel = given
            assert isinstance(kernel, np.ndarray)
            x = _settled(graph, x)
            terms.append(Product(step, x, steps[step.inputs[0]], kernel, uses[index]))
        elif step.op == "rescale":
            read = [constant_real(graph, x, np.ones(())) if isinstance(x, np.ndarray) else x for x in given]
            final = program.output_step if index == len(steps) - 1 else None
            terms.append(rescale(graph, step, read, final))
        else:
            shape = decode(list(step.shape))
            terms.append(OPERATIONS[step.op](graph, step, shape, [_settled(graph, x) for x in given]))
    last = _settled(graph, _current(terms[-1]))
    value = scaled(graph, last, program.output_step).value
    logits = graph.node("Identity", [graph.plain(value)], np.float32, value.shape, output="logits")
    return graph.model("qdq", logits, metadata(program, "qdq", {}))


def _current(x: Term) -> Term:
    """Returns what a product was written as, if it was."""
    return x.written if isinstance(x, Product) and x.written is not None else x


def _settled(graph: Graph, x: Term) -> Real:
    """Returns a term as a value: a product is written in a unit of its own."""
    if isinstance(x, Product):
        return write_product(graph, x, None, None, fused=None)[0]
    return constant_real(graph, x, np.ones(())) if isinstance(x, np.ndarray) else x


def _input(graph: Graph, step: Instruction, name: str) -> Real:
    shape, dtype = decode(list(step.shape)), step.attributes.get("dtype", "float32")
    if dtype == "uint8":
        return Real(graph.add_input(name, np.uint8, shape), np.ones(()), 0)
    image = graph.add_input(name, np.int8 if dtype == "int8" else np.float32, shape)
    return Real(graph.cast(image, np.float32), np.ones(()))


def _encode(graph: Graph, step: Instruction, shape: Shape, xs: Sequence[Real]) -> Real:
    constants = {name: np.asarray(array, np.float32) for name, array in step.constants.items()}
    value = xs[0].value
    if (constants["gain"] != 1).any():
        value = graph.elementwise("Mul", [value, constants["gain"]], np.float32)
    shift = constants["bias"] - constants["offset"]
    if shift.any():
        value = graph.elementwise("Add", [value, shift], np.float32)
    scale = constants["scale"]
    unit = float(scale.flat[0]) if scale.size == 1 else 1.0
    if scale.size > 1:
        value = times(graph, value, 1 / scale.astype(np.float64))
    return quantize(graph, value, unit, step.attributes["low"], step.attributes["high"])


def _clip(graph: Graph, step: Instruction, shape: Shape, xs: Sequence[Real]) -> Real:
    low, high = step.attributes["low"], step.attributes["high"]
    (x,) = xs
    if x.zero is not None:
        ends = [np.array(np.clip(end + x.zero, 0, 255), np.uint8) for end in (low, high)]
        return Real(graph.elementwise("Clip", [x.value, *ends], np.uint8), x.unit, x.zero)
    x = in_one_unit(graph, x)
    bounds = [number(end * x.unit) for end in (low, high)]
    return Real(graph.elementwise("Clip", [x.value, *bounds], np.float32), x.unit)


def _together(graph: Graph, xs: Sequence[Real]) -> list[Real]:
    """Returns codes that count alike, or floats of one unit."""
    if len({x.zero for x in xs}) == 1 and xs[0].zero is not None:
        return list(xs)
    first = in_one_unit(graph, xs[0])
    return [first, *(scaled(graph, x, first.unit) for x in xs[1:])]


def _of_two(op: str) -> Callable[..., Real]:
    def add(graph: Graph, step: Instruction, shape: Shape, xs: Sequence[Real]) -> Real:
        xs = _together(graph, xs)
        value = graph.elementwise(op, [x.value for x in xs], xs[0].value.dtype)
        return Real(value, xs[0].unit, xs[0].zero)

    return add


def _times(graph: Graph, step: Instruction, shape: Shape, xs: Sequence[Real]) -> Real:
    first, second = (in_one_unit(graph, x) for x in xs)
    value = graph.elementwise("Mul", [first.value, second.value], np.float32)
    return Real(value, first.unit * second.unit)


def _window_max(graph: Graph, step: Instruction, shape: Shape, xs: Sequence[Real]) -> Real:
    x = xs[0] if xs[0].zero is not None else in_one_unit(graph, xs[0])
    lowest = 0 if x.zero is not None else float(np.finfo(np.float32).min)
    return Real(window.window_max(graph, step.attributes, shape, x.value, lowest), x.unit, x.zero)


def _window_sum(graph: Graph, step: Instruction, shape: Shape, xs: Sequence[Real]) -> Real:
    x = in_one_unit(graph, xs[0])
    return Real(*window.window_mean(graph, step.attributes, shape, x.value, x.unit))


def _sum(graph: Graph, step: Instruction, shape: Shape, xs: Sequence[Real]) -> Real:
    x = in_one_unit(graph, xs[0])
    return Real(window.reduce(graph, "ReduceSum", x.value, step.attributes["axes"], shape), x.unit)


def _max(graph: Graph, step: Instruction, shape: Shape, xs: Sequence[Real]) -> Real:
    x = xs[0] if xs[0].zero is not None else in_one_unit(graph, xs[0])
    return Real(window.reduce(graph, "ReduceMax", x.value, step.attributes["axes"], shape), x.unit, x.zero)


def _looked_up(graph: Graph, step: Instruction, shape: Shape, found: Callable[[np.ndarray], Value]) -> Real:
    """Returns what ``found`` makes of a table's entries, which become codes or floats."""
    name = "table" if step.op == "table" else "values"
    entries, dtype = step.constants[name].astype(np.int64), step.attributes["dtype"]
    if dtype == "int32":
        unit = 2.0 ** -int(np.abs(entries).max(initial=1)).bit_length()
        return Real(found((entries * unit).astype(np.float32)), np.array(unit))
    zero = max(-int(entries.min(initial=0)), 0)
    return Real(found((entries + zero).astype(np.uint8)), np.ones(()), zero)


def _table(graph: Graph, step: Instruction, shape: Shape, xs: Sequence[Real]) -> Real:
    index = whole(graph, xs[0])
    return _looked_up(graph, step, shape, lambda e: lookup.table(graph, shape, index, step.attributes["low"], e))


def _staircase(graph: Graph, step: Instruction, shape: Shape, xs: Sequence[Real]) -> Real:
    x, thresholds = whole(graph, xs[0]), step.constants["thresholds"].astype(np.int32)
    return _looked_up(graph, step, shape, lambda e: lookup.staircase(graph, shape, x, thresholds, e))


def _arranger(op: str) -> Callable[..., Real]:
    def add(graph: Graph, step: Instruction, shape: Shape, xs: Sequence[Real]) -> Real:
        attributes = dict(step.attributes)
        if len({x.zero for x in xs}) > 1:
            xs = [dequantize(graph, x) for x in xs]
        if op == "pad" and xs[0].zero is None:
            xs = [in_one_unit(graph, xs[0])]
            attributes["value"] = attributes["value"] * float(xs[0].unit)
        elif op == "pad":
            attributes["value"] += xs[0].zero
        value = ARRANGE[op](graph, attributes, shape, *(x.value for x in xs))
        return Real(value, _arranged_unit(op, attributes, xs), xs[0].zero)

    return add


def _arranged_unit(op: str, attributes: dict, xs: Sequence[Real]) -> np.ndarray:
    """Returns the unit of rearranged values: it moves with them where it varies."""
    units = [single(x.unit) for x in xs]
    if xs[0].zero is not None or (units[0] is not None and units == units[:1] * len(units)):
        return np.asarray(xs[0].unit).reshape(-1)[0].reshape(())
    wide = [expanded(x.unit, x.value.shape) for x in xs]
    return compact(ARRANGE_ARRAYS[op](np, attributes, 1, *wide))


OPERATIONS: dict[str, Callable[..., Real]] = {
    "encode": _encode,
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
"""``converter(graph, instruction, shape of its result, values) -> value``, for all but products and rescales."""
