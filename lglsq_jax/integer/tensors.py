"""What is known of a tensor before anything runs, and the rules that all operations share."""

import dataclasses
import math
from collections.abc import Sequence

from .dimensions import Batch, Dim, Shape
from .validation import LARGEST_SIZE, MOST_AXES

FLOAT = "float"


@dataclasses.dataclass(frozen=True)
class Tensor:
    """What is known of a tensor before anything runs.

    Attributes:
        shape: its shape.
        dtype: "int8", "uint8" or "int32", or ``FLOAT``.
        low: smallest value.
        high: largest value.
    """

    shape: Shape
    dtype: str
    low: int
    high: int


def require(holds: bool, sentence: str) -> None:
    """Raises ``ValueError`` with a sentence unless something holds."""
    if not holds:
        raise ValueError(sentence)


def check_size(shape: Shape) -> None:
    """Checks that a tensor has elements, and that int32 counts those of a batch of one.

    Raises:
        ValueError: it does not.
    """
    sizes = [dim.times if isinstance(dim, Batch) else dim for dim in shape]
    require(all(1 <= size <= LARGEST_SIZE for size in sizes), f"a dimension of {show(shape)} is 0 or beyond int32")
    require(len(sizes) <= MOST_AXES, f"a tensor has {len(sizes)} axes, more than {MOST_AXES}")
    require(math.prod(sizes) <= LARGEST_SIZE, f"a tensor of shape {show(shape)} has more than {LARGEST_SIZE} elements")


def show(shape: Sequence[Dim]) -> str:
    """Returns a shape for a sentence, the batch as ``n``."""
    return "[" + ", ".join(f"{dim.times}*n" if isinstance(dim, Batch) else str(dim) for dim in shape[:40]) + "]"


def fixed(dim: Dim, what: str) -> int:
    """Returns a dimension that may not be the batch; raises ``ValueError`` where it is."""
    if isinstance(dim, Batch):
        raise ValueError(f"{what} is the batch")
    return dim


def check_axes(axes: Sequence[int], x: Tensor) -> None:
    """Raises ``ValueError`` unless the axes are different ones of a tensor."""
    fits = all(axis < len(x.shape) for axis in axes) and len(set(axes)) == len(axes)
    require(fits, f"its axes {list(axes)[:40]} are not axes of a tensor of shape {show(x.shape)}")


def broadcast(shapes: Sequence[Sequence[Dim]]) -> Shape:
    """Returns the shape of elementwise arithmetic by NumPy's rule.

    Raises:
        ValueError: the shapes do not go together.
    """
    found: list[Dim] = []
    for place in range(1, max(map(len, shapes)) + 1):
        dims = {shape[-place] for shape in shapes if len(shape) >= place} - {1}
        require(len(dims) <= 1, f"the shapes {' and '.join(map(show, shapes[:4]))} do not go together")
        found.append(next(iter(dims), 1))
    return tuple(reversed(found))


def joint_dtype(tensors: Sequence[Tensor]) -> str:
    """Returns the dtype of several tensors together: int32 where theirs differ."""
    dtypes = {tensor.dtype for tensor in tensors}
    require(len(dtypes) == 1 or FLOAT not in dtypes, "it mixes floats and integers")
    return dtypes.pop() if len(dtypes) == 1 else "int32"
