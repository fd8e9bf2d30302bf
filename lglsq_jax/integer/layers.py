"""A program's layers as plain arrays: weights, geometry, bounds, and the numbers that make codes of their sums."""

import dataclasses
from typing import Any

import numpy as np

from .dimensions import Batch, decode
from .fixed import join
from .program import Instruction, IntegerProgram

PRODUCTS = ("convolve", "multiply")
REQUANTIZERS = ("rescale", "table", "staircase")


@dataclasses.dataclass(frozen=True, eq=False)
class Requantizer:
    """How the sums of a layer become integers of another step, as ``docs/integer.md`` describes the operation.

    Attributes:
        op: "rescale", "table" or "staircase".
        terms: how many tensors it reads; its layer's sum is one of them.
        low: smallest result.
        high: largest result.
        shift: of a rescale: bits that are dropped by its one rounding; otherwise None.
        nearest: whether every result was proved the nearest one when the program was made: true of tables and
            staircases, and of a rescale whose constants were chosen so.
        constants: the arrays; "multiplier0", ... (int32) and "bias" (int64) of a rescale, "table" of a table,
            "thresholds" and "values" of a staircase.
    """

    op: str
    terms: int
    low: int
    high: int
    shift: int | None
    nearest: bool
    constants: dict[str, np.ndarray]

    def __str__(self) -> str:
        if self.op == "rescale":
            title = f"multiplier and shift {self.shift}"
            title = title if self.terms == 1 else f"{self.terms} terms, {title}"
            return f"{title}, nearest" if self.nearest else title
        array = self.constants["table" if self.op == "table" else "thresholds"]
        return f"{self.op} of {array.shape[-1]} {'entries' if self.op == 'table' else 'steps'}"


@dataclasses.dataclass(frozen=True, eq=False)
class Layer:
    """One convolution or matrix product of a program.

    Attributes:
        path: path of its module; numbered (``fc#2``) from the second product of the same module on.
        op: "convolve" or "multiply".
        weights: its codes, int8 or uint8: ``[*spatial, c / groups, o]``, or ``[k, o]``.
        weight_bits: bits of its weights.
        input_bits: bits of the codes that it reads.
        output_shape: of its sums, for one sample.
        accumulator_low: smallest sum that these weights can reach.
        accumulator_high: largest sum that these weights can reach.
        requantizer: what reads its sums, where exactly one rescale, table or staircase does; otherwise None.
        strides: of a convolution, one a spatial axis; otherwise None.
        padding: of a convolution, ``(before, after)`` a spatial axis; otherwise None.
        input_dilation: of a convolution, one a spatial axis; otherwise None.
        kernel_dilation: of a convolution, one a spatial axis; otherwise None.
        groups: of a convolution; otherwise None.
    """

    path: str
    op: str
    weights: np.ndarray
    weight_bits: int
    input_bits: int
    output_shape: tuple[int, ...]
    accumulator_low: int
    accumulator_high: int
    requantizer: Requantizer | None
    strides: tuple[int, ...] | None = None
    padding: tuple[tuple[int, int], ...] | None = None
    input_dilation: tuple[int, ...] | None = None
    kernel_dilation: tuple[int, ...] | None = None
    groups: int | None = None

    @property
    def accumulator_bits(self) -> int:
        """Bits that its largest possible sum takes, sign included."""
        return max(self.accumulator_high.bit_length(), (-self.accumulator_low).bit_length()) + 1

    @property
    def multiply_adds(self) -> int:
        """Integer multiply-adds for one sample, padding counted."""
        return int(np.prod(self.output_shape, dtype=object) * np.prod(self.weights.shape[:-1], dtype=object))


def layers_of(program: IntegerProgram) -> tuple[Layer, ...]:
    """Returns the layers of a program, in the order in which they run; see :attr:`IntegerProgram.layers`."""
    readers: dict[int, list[Instruction]] = {}
    for step in program.instructions:
        for number in dict.fromkeys(step.inputs):
            readers.setdefault(number, []).append(step)
    found: list[Layer] = []
    seen: dict[str, int] = {}
    for number, step in enumerate(program.instructions):
        if step.op in PRODUCTS:
            seen[step.path] = seen.get(step.path, 0) + 1
            path = step.path if seen[step.path] == 1 else f"{step.path}#{seen[step.path]}"
            found.append(_layer(program, step, path, readers.get(number, [])))
    return tuple(found)


def _layer(program: IntegerProgram, step: Instruction, path: str, readers: list[Instruction]) -> Layer:
    codes, kernel = (program.instructions[number] for number in step.inputs)
    requantizers = [reader for reader in readers if reader.op in REQUANTIZERS]
    attributes = step.attributes
    geometry: dict[str, Any] = {}
    if step.op == "convolve":
        names = ("strides", "input_dilation", "kernel_dilation")
        geometry = {name: tuple(attributes[name]) for name in names}
        geometry |= {"padding": tuple(map(tuple, attributes["padding"])), "groups": attributes["groups"]}
    return Layer(
        path=path,
        op=step.op,
        weights=kernel.constants["codes"],
        weight_bits=kernel.attributes["bits"],
        input_bits=code_bits(codes),
        output_shape=sample_shape(step),
        accumulator_low=step.low,
        accumulator_high=step.high,
        requantizer=_requantizer(requantizers[0]) if len(requantizers) == 1 else None,
        **geometry,
    )


def _requantizer(step: Instruction) -> Requantizer:
    attributes, constants = step.attributes, dict(step.constants)
    if step.op == "rescale":
        high, low = constants.pop("bias_high"), constants.pop("bias_low")
        constants["bias"] = join(high, low)
    return Requantizer(
        op=step.op,
        terms=len(step.inputs),
        low=attributes["low"] if step.op == "rescale" else step.low,
        high=attributes["high"] if step.op == "rescale" else step.high,
        shift=attributes.get("shift"),
        nearest=step.op != "rescale" or attributes.get("nearest", False),
        constants=constants,
    )


def code_bits(step: Instruction) -> int:
    """Returns the bits of the smallest integer type that holds every value of an instruction's result."""
    span = step.high if step.low >= 0 else 2 * max(step.high + 1, -step.low) - 1
    return max(span.bit_length(), 1)


def sample_shape(step: Instruction) -> tuple[int, ...]:
    """Returns the shape of an instruction's result for one sample, without the axis of the batch."""
    shape = tuple(dim.times if isinstance(dim, Batch) else dim for dim in decode(list(step.shape)))
    return shape if shape[0] > 1 and isinstance(step.shape[0], str) else shape[1:]
