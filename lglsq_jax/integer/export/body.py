"""The integer body of a program, without the float steps before it: what every export starts from."""

import dataclasses

import numpy as np

from ..dimensions import decode, resolve
from ..program import Instruction, IntegerProgram

_INT32_RESULTS = ("convolve", "multiply", "sum", "window_sum", "times")


@dataclasses.dataclass(frozen=True, eq=False)
class Step:
    """An instruction of the integer body.

    Attributes:
        instruction: what it computes.
        inputs: positions in the body of what it reads.
        shape: of its result, for a batch of one.
        dtype: of its result: int8, uint8 or int32.
        is_entry: whether codes come in here from outside.
    """

    instruction: Instruction
    inputs: tuple[int, ...]
    shape: tuple[int, ...]
    dtype: np.dtype
    is_entry: bool


def body(program: IntegerProgram) -> list[Step]:
    """Returns the integer body for a batch of one, in the order in which it runs; the last step makes the logits."""
    steps: list[Step] = []
    places: dict[int, int] = {}
    for number, instruction in enumerate(program.instructions):
        entry = number in program.entries
        if not entry and (instruction.op == "input" or any(index not in places for index in instruction.inputs)):
            continue  # the float input, or a rearrangement of it
        inputs = () if entry else tuple(places[index] for index in instruction.inputs)
        shape = resolve(decode(list(instruction.shape)), 1)
        dtype = _dtype(instruction, [steps[index].dtype for index in inputs])
        places[number] = len(steps)
        steps.append(Step(instruction, inputs, shape, dtype, entry))
    return steps


def _dtype(step: Instruction, inputs: list[np.dtype]) -> np.dtype:
    if "dtype" in step.attributes:
        return np.dtype(step.attributes["dtype"])
    if step.op == "constant":
        return step.constants["codes"].dtype
    if step.op in _INT32_RESULTS or len(set(inputs)) > 1:
        return np.dtype("int32")
    return inputs[0]
