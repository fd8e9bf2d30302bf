"""The integer form: codes in, int32 logits out, and no float tensor in between."""

import json
from typing import Any

import numpy as np
import onnx

from ..dimensions import decode
from ..program import IntegerProgram
from .onnx_graph import Graph, Value
from .onnx_operations import Operand, add_operation, value_of

FORMAT_VERSION = "1"
"""Of the names of inputs, outputs and metadata."""
_SINGLE_NUMBERS = ("gain", "bias", "scale", "offset")


def integer_model(program: IntegerProgram, opset: int) -> onnx.ModelProto:
    """Returns the model that computes ``program.integer_body`` to the bit.

    Args:
        program: what to write.
        opset: the operator set, 18 or later.
    """
    graph = Graph(opset)
    values: dict[int, Value | None] = {}
    entries = entry_names(program)
    for index, step in enumerate(program.instructions):
        if index in entries:
            dtype = step.attributes["dtype"]
            values[index] = graph.add_input(entries[index], dtype, decode(list(step.shape)))
        elif step.op != "input" and all(number in values for number in step.inputs):
            operands = [Operand(program.instructions[number], values[number]) for number in step.inputs]
            values[index] = add_operation(graph, step, operands)
    last = len(program.instructions) - 1
    output = graph.plain(value_of(graph, Operand(program.instructions[last], values[last])))
    op = "Identity" if output.dtype == np.int32 else "Cast"
    attributes: dict[str, Any] = {"to": onnx.TensorProto.INT32} if op == "Cast" else {}
    logits = graph.node(op, [output], np.int32, output.shape, output="logits", **attributes)
    return graph.model("integer", logits, metadata(program, "integer", entries))


def entry_names(program: IntegerProgram) -> dict[int, str]:
    """Returns the name of each input of the integer body by position: ``codes`` or ``image``, numbered if several."""
    return {
        position: name
        for kind, op in (("codes", "encode"), ("image", "input"))
        for position, name in numbered(kind, [i for i in program.entries if program.instructions[i].op == op])
    }


def numbered(kind: str, positions: list[int]) -> list[tuple[int, str]]:
    """Returns ``kind`` for a single position, ``kind_0``, ``kind_1`` and so on for several."""
    if len(positions) == 1:
        return [(positions[0], kind)]
    return [(position, f"{kind}_{count}") for count, position in enumerate(positions)]


def metadata(program: IntegerProgram, form: str, entries: dict[int, str]) -> dict[str, str]:
    """Returns what a reader needs to make the codes and to read the logits, as text.

    ``NAME.encoding`` is a JSON object for each input of codes, whose codes are
    ``clip(round((gain * x + bias - offset) * (1 / scale)), low, high)``. A number that differs
    between channels is a nested list that broadcasts to the image.
    """
    found = {"format": "lglsq_jax", "format_version": FORMAT_VERSION, "form": form}
    found["output_step"] = repr(program.output_step)
    for index, name in entries.items():
        step = program.instructions[index]
        if step.op == "encode":
            numbers = {key: np.asarray(step.constants[key]) for key in _SINGLE_NUMBERS}
            found[f"{name}.encoding"] = json.dumps(
                {key: float(array.flat[0]) if array.size == 1 else array.tolist() for key, array in numbers.items()}
                | {end: step.attributes[end] for end in ("low", "high")}
            )
    return found
