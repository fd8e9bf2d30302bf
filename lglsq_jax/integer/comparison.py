"""Two programs side by side: which layers differ, and in what."""

import collections
import dataclasses
import itertools

import numpy as np

from .dimensions import encode
from .layers import Layer, Requantizer
from .program import Instruction, IntegerProgram


@dataclasses.dataclass(frozen=True)
class LayerDifference:
    """What differs between the layers of one path.

    Attributes:
        path: of the layer in both programs.
        fields: by name, the values in the first and in the second program, of what is no array.
        weights_differ: fraction of differing weights; None where the shapes differ.
        largest_difference: largest absolute difference of two weights; None where the shapes differ.
        requantizers: both as words, where they differ in any number; otherwise None.
    """

    path: str
    fields: dict[str, tuple[object, object]]
    weights_differ: float | None
    largest_difference: int | None
    requantizers: tuple[str, str] | None

    @property
    def equal(self) -> bool:
        """Whether nothing differs."""
        return not self.fields and self.weights_differ == 0 and self.requantizers is None

    def __str__(self) -> str:
        parts = [f"{name.replace('_', ' ')} {one} and {other}" for name, (one, other) in self.fields.items()]
        if self.weights_differ:
            parts.append(f"{100 * self.weights_differ:.3g} % of the weights, by at most {self.largest_difference}")
        if self.requantizers is not None:
            one, other = self.requantizers
            parts.append(f"requantizer: {one} and {other}" if one != other else f"numbers of its requantizer ({one})")
        return f"{self.path or '(the model)'}: {'; '.join(parts) or 'equal'}"


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What differs between two programs; prints as one line a difference.

    Attributes:
        layers: those of both programs, in the order of the first one.
        only_first: paths of layers that the second program lacks.
        only_second: paths of layers that the first program lacks.
        instruction_counts: by operation, how many each program has, where the numbers differ.
        inputs: shapes and dtypes of both as words, where they differ; otherwise None.
        output_steps: of both, where they differ; otherwise None.
        first_difference: position of the first instruction that differs in anything; None where none does.
    """

    layers: tuple[LayerDifference, ...]
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]
    instruction_counts: dict[str, tuple[int, int]]
    inputs: tuple[str, str] | None
    output_steps: tuple[float, float] | None
    first_difference: int | None

    @property
    def equal(self) -> bool:
        """Whether both are the same program: every instruction, every constant, inputs and output step."""
        return self.first_difference is None and self.inputs is None and self.output_steps is None

    def __str__(self) -> str:
        if self.equal:
            return f"equal: every instruction and constant, {len(self.layers)} layers"
        lines = [str(layer) for layer in self.layers if not layer.equal]
        lines += [f"{path or '(the model)'}: only in the first" for path in self.only_first]
        lines += [f"{path or '(the model)'}: only in the second" for path in self.only_second]
        same = sum(layer.equal for layer in self.layers)
        lines.append(f"{same} of {len(self.layers)} layers of both programs are equal")
        lines += [f"{op}: {one} and {other} instructions" for op, (one, other) in self.instruction_counts.items()]
        if self.inputs is not None:
            lines.append(f"inputs: {self.inputs[0]} and {self.inputs[1]}")
        if self.output_steps is not None:
            lines.append(f"output step: {self.output_steps[0]} and {self.output_steps[1]}")
        if self.first_difference is not None:
            lines.append(f"the first instruction that differs is number {self.first_difference}")
        return "\n".join(lines)


def compare(first: IntegerProgram, second: IntegerProgram) -> Comparison:
    """Returns what differs between two programs; layers are the same layer where their paths are equal."""
    ours, theirs = ({layer.path: layer for layer in program.layers} for program in (first, second))
    counts = [collections.Counter(step.op for step in program.instructions) for program in (first, second)]
    inputs = tuple(describe_inputs(program) for program in (first, second))
    steps = first.output_step, second.output_step
    return Comparison(
        layers=tuple(_layer_difference(ours[path], theirs[path]) for path in ours if path in theirs),
        only_first=tuple(path for path in ours if path not in theirs),
        only_second=tuple(path for path in theirs if path not in ours),
        instruction_counts={
            op: (counts[0][op], counts[1][op])
            for op in sorted({*counts[0], *counts[1]})
            if counts[0][op] != counts[1][op]
        },
        inputs=(inputs[0], inputs[1]) if inputs[0] != inputs[1] else None,
        output_steps=steps if steps[0] != steps[1] else None,
        first_difference=_first_difference(first, second),
    )


def describe_inputs(program: IntegerProgram) -> str:
    """Returns shapes and dtypes of a program's inputs, the batch as ``n``: ``"float32 [n, 8, 8, 1]"``."""
    described = []
    for shape, dtype in zip(program.input_shapes, program.input_dtypes, strict=True):
        sizes = (str(size).replace("b*1", "n").replace("b*", "n*") for size in encode(shape))
        described.append(f"{dtype} [{', '.join(sizes)}]")
    return ", ".join(described)


def _layer_difference(one: Layer, other: Layer) -> LayerDifference:
    skipped = ("path", "weights", "requantizer")
    names = [field.name for field in dataclasses.fields(Layer) if field.name not in skipped]
    pairs = {name: (getattr(one, name), getattr(other, name)) for name in names}
    pairs["weight_shape"] = one.weights.shape, other.weights.shape
    fields = {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
    fraction = largest = None
    if one.weights.shape == other.weights.shape:
        apart = np.abs(one.weights.astype(np.int32) - other.weights.astype(np.int32))
        fraction, largest = float((apart > 0).mean()), int(apart.max(initial=0))
    same = _same_requantizer(one.requantizer, other.requantizer)
    words = None if same else (_words(one.requantizer), _words(other.requantizer))
    return LayerDifference(one.path, fields, fraction, largest, words)


def _words(requantizer: Requantizer | None) -> str:
    return "none of its own" if requantizer is None else str(requantizer)


def _same_requantizer(one: Requantizer | None, other: Requantizer | None) -> bool:
    if one is None or other is None:
        return one is other
    plain = [dataclasses.replace(each, constants={}) for each in (one, other)]
    return dataclasses.astuple(plain[0]) == dataclasses.astuple(plain[1]) and _same_arrays(
        one.constants, other.constants
    )


def _same_arrays(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype and np.array_equal(one[name], other[name]) for name in one
    )


def _first_difference(first: IntegerProgram, second: IntegerProgram) -> int | None:
    for number, (one, other) in enumerate(itertools.zip_longest(first.instructions, second.instructions)):
        if one is None or other is None or not _same_instruction(one, other):
            return number
    return None


def _same_instruction(one: Instruction, other: Instruction) -> bool:
    names = [field.name for field in dataclasses.fields(Instruction) if field.name != "constants"]
    same = all(getattr(one, name) == getattr(other, name) for name in names)
    return same and _same_arrays(one.constants, other.constants)
