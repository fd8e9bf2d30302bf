"""What a compiled program sends between devices."""

import dataclasses
import math
import re

_KINDS = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute|collective-broadcast"
_LINE = re.compile(rf"= (?P<result>\(.*?\)|\S+) (?P<kind>{_KINDS})(?:-start)?\(")
_ARRAY = re.compile(r"(?P<dtype>[a-z]+\d+\w*|pred)\[(?P<shape>[\d,]*)\]")
_BITS = re.compile(r"\d+")


@dataclasses.dataclass(frozen=True)
class Collective:
    """One operation between devices; XLA may fuse several arrays into one.

    Attributes:
        kind: as XLA calls it, such as ``all-reduce``.
        shapes: of the arrays it gives each device.
        bytes: of these arrays.
    """

    kind: str
    shapes: tuple[tuple[int, ...], ...]
    bytes: int


def collectives(program: str) -> list[Collective]:
    """Returns the collective operations of a compiled program, ``jitted.lower(...).compile().as_text()``."""
    return [_collective(found["kind"], found["result"]) for found in _LINE.finditer(program)]


def _collective(kind: str, result: str) -> Collective:
    shapes, size = [], 0
    for array in _ARRAY.finditer(result):
        shape = tuple(int(length) for length in array["shape"].split(",") if length)
        bits = _BITS.search(array["dtype"])
        shapes.append(shape)
        size += math.prod(shape) * (int(bits.group()) if bits else 8) // 8
    return Collective(kind, tuple(shapes), size)
