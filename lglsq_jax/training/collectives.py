"""What a compiled program sends between devices."""

import dataclasses
import math
import re

_KINDS = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute|collective-broadcast"
_LINE = re.compile(rf"= (?P<result>\(.*?\)|\S+) (?P<kind>{_KINDS})(?:-start)?\(")
_ARRAY = re.compile(r"(?P<dtype>[a-z]+\d+\w*|pred)\[(?P<shape>[\d,]*)\]")
_BITS = re.compile(r"\d+")
_SUMS = ("all-reduce", "reduce-scatter")
_SMALL = 2**14  # bytes: sums of batch norm and of quantizers
_FUSED = 2**25  # bytes: XLA puts about so many into one reduction


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


def complaints(found: list[Collective], parameters: dict[str, tuple[int, ...]], fsdp: int) -> list[str]:
    """Returns what is wrong with the operations of a training step; nothing where they are as they should be.

    Wrong are a gathered array that has not the shape of a parameter and is larger than 16 kB (activations, then), more
    bytes reduced than one and a half times the gradients, and gradients that are sent one by one.

    Args:
        found: the operations between devices.
        parameters: shapes of the float32 parameters, by path.
        fsdp: how many devices share the parameters.
    """
    known = {tuple(sorted(size for size in shape if size > 1)) for shape in parameters.values()}
    wrong = []
    for one in found:
        for shape in one.shapes if one.kind not in _SUMS else ():
            dense = tuple(sorted(size for size in shape if size > 1))
            if 4 * math.prod(shape) > _SMALL and dense not in known:
                wrong.append(f"{one.kind} of {shape}, which is no parameter")
    sums = [one for one in found if one.kind in _SUMS]
    size = 4 * sum(map(math.prod, parameters.values()))
    sent = sum(one.bytes for one in sums)
    if sent > 1.5 * size + len(parameters) * 2**12:
        wrong.append(f"{sent:,} bytes are reduced, but the gradients are {size:,}")
    large = [one for one in sums if one.bytes > _SMALL]
    if len(large) > 2 + 2 * size // _FUSED and fsdp == 1:
        wrong.append(f"{len(large)} reductions of more than {_SMALL} bytes: gradients are not fused")
    return wrong


def _collective(kind: str, result: str) -> Collective:
    shapes, size = [], 0
    for array in _ARRAY.finditer(result):
        shape = tuple(int(length) for length in array["shape"].split(",") if length)
        bits = _BITS.search(array["dtype"])
        shapes.append(shape)
        size += math.prod(shape) * (int(bits.group()) if bits else 8) // 8
    return Collective(kind, tuple(shapes), size)
