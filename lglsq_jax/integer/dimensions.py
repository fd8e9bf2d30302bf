"""Shapes with an open batch size: a dimension is a whole number, or a multiple of the batch."""

import dataclasses
import re
from typing import Any


@dataclasses.dataclass(frozen=True)
class Batch:
    """``times`` times the batch size."""

    times: int = 1


Dim = int | Batch
Shape = tuple[Dim, ...]
_TIMES = re.compile(r"b\*[1-9][0-9]{0,9}")


def known_shape(shape: tuple, batch: Any | None) -> Shape:
    """Returns a traced shape with every use of the batch symbol replaced by :class:`Batch`.

    Raises:
        ValueError: a dimension is not a multiple of the batch size.
    """
    return tuple(_dimension(size, batch) for size in shape)


def _dimension(size: Any, batch: Any | None) -> Dim:
    if isinstance(size, int) or batch is None:
        return int(size)
    times = size // batch
    if not isinstance(times, int) or times * batch != size:
        raise ValueError(f"the dimension {size} is not a multiple of the batch size")
    return Batch(times)


def resolve(shape: Shape, batch: int) -> tuple[int, ...]:
    """Returns the shape for a batch of that size."""
    return tuple(dim.times * batch if isinstance(dim, Batch) else dim for dim in shape)


def sized(params: dict[str, Any], batch: Any | None, size: int) -> dict[str, Any]:
    """Returns an equation's parameters with the batch symbol replaced by a size."""

    def number(value):
        if type(value) is tuple:  # not a named one, such as the layout of a convolution
            return tuple(number(item) for item in value)
        if batch is not None and not isinstance(value, int) and type(value) is type(batch):
            return resolve(known_shape((value,), batch), size)[0]
        return value

    return {name: number(value) for name, value in params.items()}


def encode(shape: Shape) -> list[int | str]:
    """Returns the shape for JSON: a multiple of the batch is ``"b*3"``."""
    return [f"b*{dim.times}" if isinstance(dim, Batch) else dim for dim in shape]


def decode(shape: list[int | str]) -> Shape:
    """Returns the shape that ``encode`` wrote.

    Raises:
        ValueError: it is not one.
    """
    dims: list[Dim] = []
    for dim in shape:
        if isinstance(dim, str) and _TIMES.fullmatch(dim):
            dims.append(Batch(int(dim[2:])))
        elif isinstance(dim, int) and not isinstance(dim, bool) and dim >= 0:
            dims.append(dim)
        else:
            raise ValueError(f"a dimension must be a whole number >= 0 or a multiple of the batch, got {dim!r}")
    return tuple(dims)
