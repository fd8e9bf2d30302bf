"""From an instruction to what a C program needs of it: an operation code and whole numbers, all geometry worked out.

Operations that only differ in their geometry become one: every rearrangement that has a stride an axis is a ``move``, a
sum or maximum over axes is a window as large as the axis, a matrix product is a convolution without spatial axes.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np

from ..arrange import ARRANGE
from ..fixed import join
from .body import Step

OPERATIONS = (
    "input", "constant", "convolve", "multiply", "rescale", "clip", "maximum", "minimum", "times", "table", "staircase",
    "window_sum", "window_max", "reshape", "move", "take", "pad", "concatenate",
)  # fmt: skip
"""In the order of their codes, from 0."""

ELEMENTWISE = ("rescale", "clip", "maximum", "minimum", "times", "table", "staircase")
MOST_AXES = 12

Constants = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True, eq=False)
class CStep:
    """A step as it is written in C.

    Attributes:
        op: one of ``OPERATIONS``.
        attributes: whole numbers, as ``docs/chip.md`` lists them.
        constants: integer arrays.
    """

    op: str
    attributes: list[int]
    constants: Constants = dataclasses.field(default_factory=dict)


def c_step(step: Step, inputs: Sequence[Step]) -> CStep:
    """Returns the step in C.

    Args:
        step: the step.
        inputs: the steps that it reads.

    Raises:
        ValueError: a tensor has more axes than the interpreter, or a shape does not fit its instruction.
    """
    op = step.instruction.op
    if len(step.shape) > MOST_AXES:
        raise ValueError(f"`{op}` has a result of {len(step.shape)} axes; a C header may have {MOST_AXES}")
    if step.is_entry:
        return CStep("input", [])
    if op == "constant":
        return CStep("constant", [], step.instruction.constants)
    if op in ELEMENTWISE:
        return _elementwise(step, inputs)
    return _GEOMETRY[op](step, inputs)


def _elementwise(step: Step, inputs: Sequence[Step]) -> CStep:
    """Strides of each input and each constant first, then what else the operation needs."""
    own, constants = step.instruction.attributes, dict(step.instruction.constants)
    strides = [number for term in inputs for number in _strides(term.shape, step.shape)]
    rest: list[int] = []
    if step.instruction.op == "rescale":
        high, low = constants.pop("bias_high"), constants.pop("bias_low")
        constants = {"bias": join(high, low), **constants}
        clamp = own["clamp"] or [[0, 0], [0, 0]]
        halves = [number for pair in clamp for number in pair]
        shifts = own.get("term_shifts", [0] * len(inputs))
        rest = [own["low"], own["high"], own["shift"], int(own["clamp"] is not None), *map(_signed, halves), *shifts]
    elif step.instruction.op == "clip":
        rest = [own["low"], own["high"]]
    elif step.instruction.op == "table":
        rest = [own["low"], constants["table"].shape[-1]]
    elif step.instruction.op == "staircase":
        rest = [constants["thresholds"].shape[-1]]
    for array in constants.values():
        entries = 1 if step.instruction.op == "rescale" else array.shape[-1]
        axes = array.shape if step.instruction.op == "rescale" else array.shape[:-1]
        strides += [entries * stride for stride in _strides(axes, step.shape)]
    return CStep(step.instruction.op, [*strides, *rest], constants)


def _strides(shape: tuple[int, ...], result: tuple[int, ...]) -> list[int]:
    """Returns how many elements on the next one along each axis of the result is; 0 along axes that are broadcast."""
    if np.broadcast_shapes(shape, result) != result:
        raise ValueError(f"an operand of shape {list(shape)} does not fit a result of shape {list(result)}")
    shape = (1,) * (len(result) - len(shape)) + shape
    return [0 if size == 1 else math.prod(shape[axis + 1 :]) for axis, size in enumerate(shape)]


def _signed(number: int) -> int:
    """Returns the lower 32 bits of a number as an int32."""
    return (number + 2**31) % 2**32 - 2**31


def _convolve(step: Step, inputs: Sequence[Step]) -> CStep:
    x, kernel = (term.shape for term in inputs)
    own = step.instruction.attributes
    axes = zip(
        x[1:-1],
        step.shape[1:-1],
        kernel[:-2],
        own["strides"],
        [before for before, _ in own["padding"]],
        own["input_dilation"],
        own["kernel_dilation"],
        strict=True,
    )
    geometry = [int(number) for axis in axes for number in axis]
    return CStep("convolve", [x[0], own["groups"], x[-1], kernel[-1], len(x) - 2, *geometry])


def _multiply(step: Step, inputs: Sequence[Step]) -> CStep:
    x, kernel = (term.shape for term in inputs)
    return CStep("multiply", [math.prod(x[:-1]), 1, x[-1], kernel[-1], 0])


def _window(step: Step, inputs: Sequence[Step]) -> CStep:
    own = step.instruction.attributes
    axes = zip(
        inputs[0].shape,
        step.shape,
        own["dimensions"],
        own["strides"],
        [before for before, _ in own["padding"]],
        own["base_dilation"],
        own["window_dilation"],
        strict=True,
    )
    return CStep(step.instruction.op, [len(step.shape), *(int(number) for axis in axes for number in axis)])


def _reduce(step: Step, inputs: Sequence[Step]) -> CStep:
    shape = inputs[0].shape
    removed = {axis % len(shape) for axis in step.instruction.attributes["axes"]}
    attributes = [len(shape)]
    for axis, size in enumerate(shape):
        attributes += [size, *((1, size) if axis in removed else (size, 1)), 1, 0, 1, 1]
    return CStep("window_" + step.instruction.op, attributes)


def _rearrange(step: Step, inputs: Sequence[Step]) -> CStep:
    """A view of the input, if it is one to NumPy: where it starts, and its strides."""
    x = np.empty(inputs[0].shape, np.int8)
    own = step.instruction.attributes
    view = ARRANGE[step.instruction.op](np, own, 1, x)
    if view.shape != step.shape:
        raise ValueError(f"`{step.instruction.op}` has the shape {list(view.shape)}, not {list(step.shape)}")
    if step.instruction.op == "take" and not np.may_share_memory(view, x):
        indices = np.clip(own["indices"], 0, x.shape[own["axis"]] - 1).tolist()
        return CStep("take", [own["axis"] % x.ndim, *x.strides, *indices])
    start = view.__array_interface__["data"][0] - x.__array_interface__["data"][0] if view.size else 0
    whole = view.size == x.size and start == 0 and view.flags.c_contiguous
    if whole and inputs[0].instruction.op != "constant":
        return CStep("reshape", [])
    return CStep("move", [start, *view.strides])


def _pad(step: Step, inputs: Sequence[Step]) -> CStep:
    own, shape = step.instruction.attributes, inputs[0].shape
    geometry = [(size, before, gap + 1) for size, (before, _, gap) in zip(shape, own["padding"], strict=True)]
    return CStep("pad", [own["value"], *(int(number) for axis in geometry for number in axis)])


def _concatenate(step: Step, inputs: Sequence[Step]) -> CStep:
    axis = step.instruction.attributes["axis"] % len(step.shape)
    return CStep("concatenate", [math.prod(step.shape[:axis]), *(math.prod(term.shape[axis:]) for term in inputs)])


_GEOMETRY: dict[str, Callable[[Step, Sequence[Step]], CStep]] = {
    "convolve": _convolve,
    "multiply": _multiply,
    "window_sum": _window,
    "window_max": _window,
    "sum": _reduce,
    "max": _reduce,
    "pad": _pad,
    "concatenate": _concatenate,
    **dict.fromkeys(("reshape", "transpose", "broadcast", "slice", "reverse", "take"), _rearrange),
}
