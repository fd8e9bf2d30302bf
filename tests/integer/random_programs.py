"""Programs of random instructions, for what no trained network has: every operation after any other."""

import dataclasses
import itertools
import math

import numpy as np

from lglsq_jax.integer import Instruction, IntegerProgram
from lglsq_jax.integer.dimensions import Batch
from lglsq_jax.integer.fixed import split
from lglsq_jax.integer.kernels import KERNELS

_MOST = 500  # elements of a tensor
_LARGEST = 2**30
_ENDS = {"int8": (-128, 127), "uint8": (0, 255), "int32": (-(2**31) + 1, 2**31 - 1)}


@dataclasses.dataclass(frozen=True)
class _Tensor:
    number: int
    shape: tuple[int, ...]  # for a batch of one; the first axis is a multiple of the batch
    dtype: str
    largest: int


def program_of(instructions: list[Instruction], step: float = 1.0) -> IntegerProgram:
    """A program whose first instruction is its float input of shape ``[n]``, which no other reads."""
    return IntegerProgram(tuple(instructions), ((Batch(1),),), ("float32",), step)


def entry(shape: tuple, dtype: str) -> list[Instruction]:
    """The float input and the place where the codes come in."""
    low, high = _ENDS[dtype]
    return [
        Instruction("input", (), ("b*1",), 0, 0, {"index": 0, "dtype": "float32"}, {}),
        Instruction("encode", (0,), shape, low, high, {"low": low, "high": high, "dtype": dtype}, {}),
    ]


class RandomProgram:
    """Draws one instruction after another; ``program`` is what came out, ``codes`` the shape and dtype of its input."""

    def __init__(self, seed: int, length: int):
        self.rng = np.random.default_rng(seed)
        dtype = self.pick(["int8", "uint8"])
        shape = (self.pick([1, 1, 2]), self.integer(3, 6), self.integer(3, 6), self.pick([2, 3, 4]))
        self.codes = shape, dtype
        self.instructions = entry(self.open(shape), dtype)
        self.tensors = [_Tensor(1, shape, dtype, 255)]
        kinds = [name.removeprefix("draw_") for name in dir(self) if name.startswith("draw_")]
        kinds = [kind for kind in kinds if kind in KERNELS]
        while len(self.tensors) < length:
            getattr(self, f"draw_{self.pick(kinds)}")(self.tensors[-min(self.integer(1, 4), len(self.tensors))])
        self.program = program_of(self.instructions)

    def pick(self, options):
        return options[int(self.rng.integers(len(options)))]

    def integer(self, low: int, high: int) -> int:
        return int(self.rng.integers(low, high + 1))

    @staticmethod
    def open(shape: tuple[int, ...]) -> tuple[int | str, ...]:
        return (f"b*{shape[0]}", *shape[1:])

    def add(self, op, inputs, shape, dtype, largest, attributes, constants=None) -> None:
        """Appends an instruction, unless its result would be empty, large, or beyond int32."""
        if min(shape) < 1 or math.prod(shape) > _MOST or largest > _LARGEST or len(shape) > 6:
            return
        numbers = tuple(tensor.number for tensor in inputs)
        made = Instruction(op, numbers, self.open(shape), -largest, largest, attributes, constants or {})
        self.instructions.append(made)
        self.tensors.append(_Tensor(len(self.instructions) - 1, tuple(shape), dtype, largest))

    def constant(self, shape: tuple[int, ...]) -> _Tensor:
        bits = self.integer(2, 8)
        codes = self.rng.integers(-(2 ** (bits - 1)), 2 ** (bits - 1), shape).astype(np.int8)
        attributes = {"bits": bits, "signed": True}
        self.instructions.append(Instruction("constant", (), shape, -128, 127, attributes, {"codes": codes}))
        return _Tensor(len(self.instructions) - 1, shape, "int8", 128)

    def draw_convolve(self, x: _Tensor) -> None:
        if x.dtype == "int32" or not 3 <= len(x.shape) <= 5:
            return
        spatial, channels = len(x.shape) - 2, x.shape[-1]
        groups = self.pick([1, channels])
        kernel = self.constant((*(self.integer(1, 3) for _ in range(spatial)), channels // groups, 2 * groups))
        strides, own_gaps, gaps = ([self.pick([1, 1, 2]) for _ in range(spatial)] for _ in range(3))
        padding = [[self.integer(-1, 2), self.integer(0, 2)] for _ in range(spatial)]
        sizes = [
            ((size - 1) * own + 1 + sum(pads) - (taps - 1) * gap - 1) // stride + 1
            for size, own, pads, taps, gap, stride in zip(
                x.shape[1:-1], own_gaps, padding, kernel.shape, gaps, strides, strict=False
            )
        ]
        attributes = {"strides": strides, "padding": padding, "input_dilation": own_gaps, "kernel_dilation": gaps}
        attributes |= {"groups": groups, "code_maximum": 255 if x.dtype == "uint8" else 127}
        largest = math.prod(kernel.shape[:-1]) * x.largest * 128
        self.add("convolve", (x, kernel), (x.shape[0], *sizes, kernel.shape[-1]), "int32", largest, attributes)

    def draw_multiply(self, x: _Tensor) -> None:
        if x.dtype != "int32" and len(x.shape) > 1:
            kernel = self.constant((x.shape[-1], self.integer(1, 4)))
            largest = x.shape[-1] * x.largest * 128
            attributes = {"code_maximum": 255 if x.dtype == "uint8" else 127}
            self.add("multiply", (x, kernel), (*x.shape[:-1], kernel.shape[-1]), "int32", largest, attributes)

    def draw_rescale(self, x: _Tensor) -> None:
        terms = [x, *(other for other in self.tensors if other.shape == x.shape and other is not x)][
            : self.integer(1, 3)
        ]
        dtype, shift = self.pick(["int8", "uint8", "int32"]), self.integer(20, 50)
        shifts = [self.pick([0, 0, 7, 33]) for _ in terms]
        constants = {}
        channels = (*(1,) * (len(x.shape) - 1), self.pick([1, x.shape[-1]]))
        for index, (term, extra) in enumerate(zip(terms, shifts, strict=True)):
            factor = 2.0 ** (shift + extra + 7) / term.largest
            most = int(min(factor, 2**30))
            constants[f"multiplier{index}"] = self.rng.integers(-most, most + 1, channels).astype(np.int32)
        bias = self.rng.integers(-(2 ** (shift + 5)), 2 ** (shift + 5), channels)
        constants["bias_high"], constants["bias_low"] = split(bias)
        low, high = _ENDS[dtype]
        clamp = [[end << shift >> 32, (end << shift) & 0xFFFFFFFF] for end in (max(low, -300), min(high, 300))]
        attributes = {"low": low, "high": high, "shift": shift, "clamp": self.pick([clamp, None]), "dtype": dtype}
        if any(shifts):
            attributes["term_shifts"] = shifts
        largest = {"int8": 128, "uint8": 255, "int32": 700}[dtype]
        self.add("rescale", terms, x.shape, dtype, largest, attributes, constants)

    def draw_clip(self, x: _Tensor) -> None:
        self.add("clip", (x,), x.shape, x.dtype, x.largest, {"low": self.integer(0, 9), "high": self.integer(10, 99)})

    def two(self, op: str, x: _Tensor) -> None:
        others = [other for other in self.tensors if other.shape == x.shape]
        y = self.pick(others)
        dtype = "int32" if op == "times" or x.dtype != y.dtype else x.dtype
        largest = x.largest * y.largest if op == "times" else max(x.largest, y.largest)
        self.add(op, (x, y), x.shape, dtype, largest, {})

    def draw_maximum(self, x: _Tensor) -> None:
        self.two("maximum", x)

    def draw_minimum(self, x: _Tensor) -> None:
        self.two("minimum", x)

    def draw_times(self, x: _Tensor) -> None:
        self.two("times", x)

    def draw_table(self, x: _Tensor) -> None:
        if x.dtype != "int32":
            low, high = _ENDS[x.dtype]
            shape = (*(1,) * (len(x.shape) - 1), self.pick([1, x.shape[-1]]), high - low + 1)
            table = self.rng.integers(-128, 128, shape).astype(np.int8)
            self.add("table", (x,), x.shape, "int8", 128, {"low": low, "dtype": "int8"}, {"table": table})

    def draw_staircase(self, x: _Tensor) -> None:
        axes, steps = (*(1,) * (len(x.shape) - 1), self.pick([1, x.shape[-1]])), self.pick([0, 1, 5, 40])
        thresholds = np.sort(self.rng.integers(-x.largest, x.largest, (*axes, steps)).astype(np.int32), -1)
        values = self.rng.integers(0, 256, (*axes, steps + 1)).astype(np.uint8)
        constants = {"thresholds": thresholds, "values": values}
        self.add("staircase", (x,), x.shape, "uint8", 255, {"dtype": "uint8"}, constants)

    def reduced(self, op: str, x: _Tensor) -> None:
        if len(x.shape) > 2:
            axes = sorted({self.integer(1, len(x.shape) - 1) for _ in range(len(x.shape) - 2)})
            shape = [size for axis, size in enumerate(x.shape) if axis not in axes]
            many = math.prod(x.shape[axis] for axis in axes) if op == "sum" else 1
            self.add(op, (x,), tuple(shape), "int32" if op == "sum" else x.dtype, x.largest * many, {"axes": axes})

    def draw_sum(self, x: _Tensor) -> None:
        self.reduced("sum", x)

    def draw_max(self, x: _Tensor) -> None:
        self.reduced("max", x)

    def window(self, op: str, x: _Tensor) -> None:
        rest = range(len(x.shape) - 1)
        sizes, strides, gaps = ([1, *(self.pick([1, 2]) for _ in rest)] for _ in range(3))
        padding = [[0, 0], *([self.integer(0, 1), self.integer(0, 1)] if size > 1 else [0, 0] for size in sizes[1:])]
        shape = [
            (size + sum(pads) - (taps - 1) * gap - 1) // stride + 1
            for size, pads, taps, gap, stride in zip(x.shape, padding, sizes, gaps, strides, strict=True)
        ]
        attributes = {"dimensions": sizes, "strides": strides, "padding": padding, "window_dilation": gaps}
        attributes["base_dilation"] = [1] * len(sizes)
        largest = x.largest * math.prod(sizes) if op == "window_sum" else x.largest
        self.add(op, (x,), tuple(shape), "int32" if op == "window_sum" else x.dtype, largest, attributes)

    def draw_window_sum(self, x: _Tensor) -> None:
        self.window("window_sum", x)

    def draw_window_max(self, x: _Tensor) -> None:
        self.window("window_max", x)

    def draw_reshape(self, x: _Tensor) -> None:
        if len(x.shape) > 2:
            axis = self.integer(0, len(x.shape) - 2)  # joined with the next; the first one holds the batch
            shape = (*x.shape[:axis], x.shape[axis] * x.shape[axis + 1], *x.shape[axis + 2 :])
            self.add("reshape", (x,), shape, x.dtype, x.largest, {"sizes": list(self.open(shape))})

    def draw_transpose(self, x: _Tensor) -> None:
        order = [0, *(1 + self.rng.permutation(len(x.shape) - 1)).tolist()]
        shape = tuple(x.shape[axis] for axis in order)
        self.add("transpose", (x,), shape, x.dtype, x.largest, {"permutation": order})

    def draw_broadcast(self, x: _Tensor) -> None:
        at, size = self.integer(1, len(x.shape)), self.integer(1, 2)
        shape = (*x.shape[:at], size, *x.shape[at:])
        axes = [axis + (axis >= at) for axis in range(len(x.shape))]
        self.add("broadcast", (x,), shape, x.dtype, x.largest, {"sizes": list(self.open(shape)), "axes": axes})

    def draw_slice(self, x: _Tensor) -> None:
        starts = [0, *(self.integer(0, size // 3) for size in x.shape[1:])]
        strides = [1, *(self.pick([1, 1, 2]) for _ in x.shape[1:])]
        ends = zip(starts, x.shape, strides, strict=True)
        shape = tuple(-(-(stop - start) // stride) for start, stop, stride in ends)
        attributes = {"starts": starts, "stops": list(self.open(x.shape)), "strides": strides}
        self.add("slice", (x,), shape, x.dtype, x.largest, attributes)

    def draw_reverse(self, x: _Tensor) -> None:
        self.add("reverse", (x,), x.shape, x.dtype, x.largest, {"axes": [self.integer(1, len(x.shape) - 1)]})

    def draw_take(self, x: _Tensor) -> None:
        axis = self.integer(1, len(x.shape) - 1)
        indices = [self.integer(0, x.shape[axis] - 1) for _ in range(self.integer(1, 4))]
        shape = (*x.shape[:axis], len(indices), *x.shape[axis + 1 :])
        self.add("take", (x,), shape, x.dtype, x.largest, {"axis": axis, "indices": indices})

    def draw_pad(self, x: _Tensor) -> None:
        padding = [[0, 0, 0], *([self.integer(-1, 2), self.integer(-1, 1), self.pick([0, 0, 1])] for _ in x.shape[1:])]
        shape = tuple(
            size + before + after + (size - 1) * gap
            for size, (before, after, gap) in zip(x.shape, padding, strict=True)
        )
        self.add("pad", (x,), shape, x.dtype, x.largest, {"padding": padding, "value": self.integer(0, 9)})

    def draw_concatenate(self, x: _Tensor) -> None:
        axis = self.integer(1, len(x.shape) - 1)

        def rest(tensor: _Tensor) -> tuple[int, ...]:
            return (*tensor.shape[:axis], *tensor.shape[axis + 1 :])

        fitting = [other for other in self.tensors if len(other.shape) == len(x.shape) and rest(other) == rest(x)]
        parts = list(itertools.islice(reversed(fitting), 3))
        shape = (*x.shape[:axis], sum(part.shape[axis] for part in parts), *x.shape[axis + 1 :])
        dtype = parts[0].dtype if len({part.dtype for part in parts}) == 1 else "int32"
        self.add("concatenate", parts, shape, dtype, max(part.largest for part in parts), {"axis": axis})
