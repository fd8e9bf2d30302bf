"""A program's layers as a table."""

import dataclasses

from .packing import narrowed, packed_size
from .program import IntegerProgram


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
    rows = tuple(
        SummaryRow(
            path=layer.path,
            op=layer.op,
            input_bits=layer.input_bits,
            weight_bits=layer.weight_bits,
            weight_shape=layer.weights.shape,
            output_shape=layer.output_shape,
            weight_bytes=packed_size(layer.weights.size, layer.weight_bits),
            multiply_adds=layer.multiply_adds,
            accumulator_bits=layer.accumulator_bits,
        )
        for layer in program.layers
    )
    rescales = [step for step in program.instructions if step.op == "rescale"]
    return Summary(rows, sum(narrowed(array).nbytes for step in rescales for array in step.constants.values()))
