"""A program as one C99 header: packed weights, whole numbers, a list of instructions and the memory that they need."""

import dataclasses
import math
import os
import re
from collections.abc import Iterator, Sequence

import numpy as np

from ..packing import pack
from ..program import IntegerProgram
from .arena import Arena, Request, plan
from .body import Step, body
from .c_steps import ELEMENTWISE, CStep, c_step
from .c_types import LAYOUT, types
from .write import write_export

_KEYWORDS = """auto break case char const continue default do double else enum extern float for goto if inline int long
    register restrict return short signed sizeof static struct switch typedef union unsigned void volatile while main"""
_A_LINE = 24


def save_c_header(program: IntegerProgram, path: str | os.PathLike, name: str = "network") -> None:
    """Writes a program; see :meth:`IntegerProgram.to_c_header`."""
    write_export(path, c_header(program, name).encode("ascii", "backslashreplace"))


def c_header(program: IntegerProgram, name: str = "network") -> str:
    """Returns the text of the header; everything in it but the shared types begins with ``name``.

    Raises:
        ValueError: ``name`` is no C identifier of one's own, or a tensor has too many axes.
    """
    _check_name(name)
    steps = body(program)
    inputs = [[steps[index] for index in step.inputs] for step in steps]
    own = [c_step(step, terms) for step, terms in zip(steps, inputs, strict=True)]
    arena = plan([_request(*step) for step in zip(steps, inputs, own, strict=True)])
    entries = [number for number, step in enumerate(steps) if step.is_entry]
    parts = zip(_titles(steps), steps, own, arena.places, strict=True)
    written = [
        _written(f"{name}_{number}", title, step, in_c, place)
        for number, (title, step, in_c, place) in enumerate(parts)
    ]
    size = sum(step.bytes for step in written)
    guard = f"LGLSQ_NETWORK_{name}"
    return "".join(
        [
            "/*\n"
            + "".join(f" * {fact}\n" for fact in _facts(program, name, steps, arena, size))
            + f" *\n{LAYOUT} */\n",
            f"#ifndef {guard}\n#define {guard}\n\n#include <stdint.h>\n\n",
            types() + "\n",
            *(step.arrays for step in written),
            f"\nstatic const lglsq_instruction {name}_instructions[] = {{\n",
            ",\n".join(f"    {step.row}" for step in written) + "\n};\n\n",
            _array(f"{name}_inputs", "int32_t", entries),
            f"enum {{ {name}_arena_bytes = {max(arena.size, 1)} }};\n",
            f"static const lglsq_program {name} = {{{len(steps)}, {name}_instructions, {len(entries)}, {name}_inputs, "
            f"{name}_arena_bytes}};\n\n#endif\n",
        ]
    )


@dataclasses.dataclass(frozen=True)
class _Written:
    """An instruction in C: its arrays, its row in the list of instructions, and the bytes of its constants."""

    arrays: str
    row: str
    bytes: int


def _written(prefix: str, title: str, step: Step, own: CStep, place: int | None) -> _Written:
    fields = {"shape": list(step.shape), "inputs": list(step.inputs), "attributes": own.attributes}
    blocks = [f"/* {title} */\n"]
    blocks += [_array(f"{prefix}_{field}", "int32_t", numbers) for field, numbers in fields.items() if numbers]
    described, size = [], 0
    for label, array in own.constants.items():
        numbers, kind, bits = _stored(step, array)
        blocks.append(_array(f"{prefix}_{label}", f"{numbers.dtype.name}_t", numbers.ravel().tolist()))
        described.append(f"{{{prefix}_{label}, LGLSQ_{kind}, {bits}}}")
        size += numbers.nbytes
    if described:
        blocks.append(f"static const lglsq_array {prefix}_constants[] = {{\n    " + ",\n    ".join(described) + "};\n")
    shape, inputs, attributes = (f"{prefix}_{field}" if numbers else "0" for field, numbers in fields.items())
    row = [f"LGLSQ_{own.op.upper()}", f"LGLSQ_{step.dtype.name.upper()}", -1 if place is None else place]
    row += [len(step.shape), shape, len(step.inputs), inputs]
    row += [len(described), f"{prefix}_constants" if described else "0", attributes]
    return _Written("".join(blocks), f"{{{', '.join(map(str, row))}}}", size)


def _titles(steps: Sequence[Step]) -> Iterator[str]:
    for number, step in enumerate(steps):
        title = f"{number}: {step.instruction.op}, {step.dtype.name} {list(step.shape)}"
        path = re.sub(r"\s", " ", step.instruction.path)
        yield title + (", " + path.replace("*/", "* /").replace("/*", "/ *").replace("??", "? ?") if path else "")


def _check_name(name: str) -> None:
    usable = re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name) and not name.endswith("_t")
    if not usable or name in _KEYWORDS.split() or name.lower().startswith("lglsq"):
        raise ValueError(
            "`name` must be a C identifier such as 'network' (no keyword, no leading underscore, not ending in _t, not "
            f"beginning with lglsq), got {name!r}"
        )


def _request(step: Step, inputs: Sequence[Step], own: CStep) -> Request:
    if own.op == "constant":
        return Request(None)
    fitting = [
        index
        for index, term in zip(step.inputs, inputs, strict=True)
        if own.op in ELEMENTWISE and term.shape == step.shape and term.dtype.itemsize >= step.dtype.itemsize
    ]
    shares = step.inputs[0] if own.op == "reshape" else None
    return Request(_bytes(step), step.inputs, shares, tuple(fitting), step.is_entry)


def _bytes(step: Step) -> int:
    return math.prod(step.shape) * step.dtype.itemsize


def _stored(step: Step, array: np.ndarray) -> tuple[np.ndarray, str, int]:
    """Returns a constant's numbers as they are written, their type of ``lglsq_type``, and the bits of a packed code."""
    own = step.instruction.attributes
    if step.instruction.op == "constant":
        packed = "PACKED_SIGNED" if own["signed"] else "PACKED_UNSIGNED"
        return pack(array, own["bits"], signed=own["signed"]), packed, own["bits"]
    for kind in ("int8", "uint8", "int16", "int32", "int64"):
        least, most = np.iinfo(kind).min, np.iinfo(kind).max
        if not array.size or (least <= int(array.min()) and int(array.max()) <= most):
            return array.astype(kind), kind.upper(), 0
    raise ValueError(f"a constant of `{step.instruction.op}` is not of whole numbers")


def _array(name: str, kind: str, numbers: list[int]) -> str:
    return f"static const {kind} {name}[] = {{{_numbers(numbers)}}};\n"


def _numbers(numbers: list[int]) -> str:
    if len(numbers) <= _A_LINE:
        return ", ".join(map(_number, numbers)) or "0"  # C has no empty arrays
    lines = (", ".join(map(_number, numbers[at : at + _A_LINE])) for at in range(0, len(numbers), _A_LINE))
    return "\n    " + ",\n    ".join(lines)


def _number(number: int) -> str:
    return str(number) if number > -(2**63) else "-9223372036854775807 - 1"


def _facts(program: IntegerProgram, name: str, steps: list[Step], arena: Arena, constant_bytes: int) -> Iterator[str]:
    yield f"{name}: a neural network that computes with integers alone, in C99; docs/chip.md of lglsq_jax explains it."
    yield f"RAM  {arena.size:,} bytes of arena ({arena.least:,} in use at the busiest instruction)"
    yield f"ROM  {constant_bytes:,} bytes of weights, multipliers, biases and tables, beside the list of instructions"
    for step in steps:
        if step.is_entry:
            yield f"in   {step.dtype.name} {list(step.shape)}, {_bytes(step):,} bytes a sample"
    yield f"out  int32 {list(steps[-1].shape)}, the logits; one unit is worth {program.output_step!r}"
