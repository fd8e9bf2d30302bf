"""A program's layers as a table."""

import dataclasses
import math

from .dimensions import Batch, decode
from .packing import narrowed, packed_size
from .program import Instruction, IntegerProgram


@dataclasses.dataclass(frozen=True)
class SummaryRow:
    """One convolution or matrix product.

    Attributes:
        path: path of its module.
        op: "convolve" or "multiply".
        input_bits: bits of the codes it reads.
        weight_bits: bits of its weights.
        weight_shape: shape of its weights.
        output_shape: shape of its accumulators, for one sample.
        weight_bytes: bytes of its weights at their true width.
        multiply_adds: integer multiply-adds for one sample.
        accumulator_bits: bits that its largest possible sum takes, sign included.
    """

    path: str
    op: str
    input_bits: int
    weight_bits: int
    weight_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    weight_bytes: int
    multiply_adds: int
    accumulator_bits: int


@dataclasses.dataclass(frozen=True)
class Summary:
    """The layers of a program and their totals; prints as a table.

    Attributes:
        rows: the layers, in the order in which they run.
        constant_bytes: bytes of all multipliers and biases, as they are stored.
    """

    rows: tuple[SummaryRow, ...]
    constant_bytes: int

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weights at their true width."""
        return sum(row.weight_bytes for row in self.rows)

    @property
    def multiply_adds(self) -> int:
        """Integer multiply-adds for one sample."""
        return sum(row.multiply_adds for row in self.rows)

    def __str__(self) -> str:
        cells = [("layer", "op", "in", "weights", "shape", "output", "bytes", "multiply-adds", "sum")]
        for row in self.rows:
            cells.append(
                (
                    row.path or "(the model)",
                    row.op,
                    f"{row.input_bits} b",
                    f"{row.weight_bits} b",
                    "x".join(map(str, row.weight_shape)),
                    "x".join(map(str, row.output_shape)),
                    f"{row.weight_bytes:,}",
                    f"{row.multiply_adds:,}",
                    f"{row.accumulator_bits} b",
                )
            )
        cells.append(("total", "", "", "", "", "", f"{self.weight_bytes:,}", f"{self.multiply_adds:,}", ""))
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        aligned = [str.ljust, str.ljust, *[str.rjust] * 2, *[str.ljust] * 2, *[str.rjust] * 3]
        columns = list(zip(aligned, widths, strict=True))
        lines = [
            "  ".join(align(cell, width) for cell, (align, width) in zip(line, columns, strict=True)).rstrip()
            for line in cells
        ]
        together = self.weight_bytes + self.constant_bytes
        lines.append(f"multipliers and biases: {self.constant_bytes:,} bytes; with the weights: {together:,} bytes")
        return "\n".join(lines)


def summarize(program: IntegerProgram) -> Summary:
    """Returns the summary of a program."""
    rows, weights_of = [], program.instructions
    for step in weights_of:
        if step.op not in ("convolve", "multiply"):
            continue
        codes, kernel = (weights_of[number] for number in step.inputs)
        shape = kernel.constants["codes"].shape
        output = tuple(dim.times if isinstance(dim, Batch) else dim for dim in decode(list(step.shape)))
        output = output if output[0] > 1 and isinstance(step.shape[0], str) else output[1:]
        rows.append(
            SummaryRow(
                path=step.path,
                op=step.op,
                input_bits=_bits(codes),
                weight_bits=kernel.attributes["bits"],
                weight_shape=shape,
                output_shape=output,
                weight_bytes=packed_size(math.prod(shape), kernel.attributes["bits"]),
                multiply_adds=math.prod(output) * math.prod(shape[:-1]),
                accumulator_bits=max(step.high.bit_length(), (-step.low).bit_length()) + 1,
            )
        )
    tables = [step for step in program.instructions if step.op == "rescale"]
    constants = sum(narrowed(array).nbytes for step in tables for array in step.constants.values())
    return Summary(tuple(rows), constants)


def _bits(step: Instruction) -> int:
    span = step.high if step.low >= 0 else 2 * max(step.high + 1, -step.low) - 1
    return max(span.bit_length(), 1)
