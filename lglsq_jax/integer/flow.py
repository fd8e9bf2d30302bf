"""Whether the instructions of a program fit one another: shapes, dtypes, bounds, and where floats end."""

from collections.abc import Sequence

import numpy as np

from .arrange import ARRANGE
from .dimensions import Shape, decode
from .layers import PRODUCTS
from .program import Instruction
from .shapes import RULES
from .tensors import FLOAT, Tensor, check_size, require, show
from .validation import INT32


def check_flow(steps: Sequence[Instruction], input_shapes: Sequence[Shape], input_dtypes: Sequence[str]) -> None:
    """Checks that every instruction gets what it can compute with, and makes what it says it makes.

    Args:
        steps: instructions whose attributes and constants are right, each for itself.
        input_shapes: of the model's inputs.
        input_dtypes: of the model's inputs.

    Raises:
        ValueError: naming the first instruction that does not fit.
    """
    tensors: list[Tensor] = []
    names: set[str] = set()
    for index, step in enumerate(steps):
        try:
            tensors.append(_result(step, [tensors[number] for number in step.inputs], input_shapes, input_dtypes))
            if step.op in PRODUCTS:
                require(steps[step.inputs[1]].op == "constant", "its weights are no constant")
            if step.name:
                require(tensors[-1].dtype != FLOAT, "it names floats as the codes of a layer")
                require(step.name not in names, f"it has the name of an earlier instruction, {step.name[:60]!r}")
                names.add(step.name)
        except ValueError as error:
            raise ValueError(f"instruction {index}, {step.op}: {error}") from None
    require(tensors[-1].dtype != FLOAT, "its last instruction makes floats, not the integers of the logits")
    integer = (tensor.dtype != FLOAT for tensor in tensors)
    entries = (step.op == "encode" or (step.op == "input" and own) for step, own in zip(steps, integer, strict=True))
    require(any(entries), "nothing in it makes integer codes of its inputs")


def _result(
    step: Instruction, inputs: list[Tensor], input_shapes: Sequence[Shape], input_dtypes: Sequence[str]
) -> Tensor:
    shape = decode(list(step.shape))
    check_size(shape)
    if step.op == "input":
        found, dtype = input_shapes[step.attributes["index"]], input_dtypes[step.attributes["index"]]
        require(step.attributes["dtype"] == dtype, f"it is {step.attributes['dtype']}, the model's input {dtype}")
        dtype = dtype if dtype in ("int8", "uint8") else FLOAT
    else:
        floats = any(tensor.dtype == FLOAT for tensor in inputs)
        require(not floats or step.op == "encode" or step.op in ARRANGE, "it computes with floats")
        found, dtype = RULES[step.op](step.attributes, step.constants, *inputs)
    require(found == shape, f"its result has the shape {show(found)}, not {show(shape)}")
    ends = INT32 if dtype == FLOAT else (int(np.iinfo(dtype).min), int(np.iinfo(dtype).max))
    low, high = max(step.low, ends[0]), min(step.high, ends[1])
    require(low <= high, f"its values, from {step.low} to {step.high}, are not of {dtype}")
    if step.op == "constant":
        codes = step.constants["codes"]
        require(low <= int(codes.min()) and int(codes.max()) <= high, "its codes leave its bounds")
    return Tensor(shape, dtype, low, high)
