"""The graph that lowering builds: integer tensors, each with bounds on what it can hold."""

import dataclasses
from typing import Any

import numpy as np

from .dimensions import Batch, Shape
from .errors import LoweringError

INT32_MAX = 2**31 - 1


@dataclasses.dataclass(eq=False)
class Node:
    """An integer tensor of the program, or (``op`` "input" of a float dtype) an input before it is encoded.

    Attributes:
        op: name of the operation, a key of ``kernels.KERNELS``, or "input", "encode", "rescale".
        inputs: the tensors it is computed from.
        shape: its shape; the batch size may be open.
        low: smallest value of each element; int64, broadcasts to ``shape``.
        high: largest value of each element; int64, broadcasts to ``shape``.
        attributes: plain static values.
        constants: arrays that belong to it.
        path: path of the module it comes from.
        name: what users call it; only codes have one.
        is_float: whether this is the unquantized input, or a rearrangement of it.
    """

    op: str
    inputs: tuple["Node", ...]
    shape: Shape
    low: np.ndarray
    high: np.ndarray
    attributes: dict[str, Any] = dataclasses.field(default_factory=dict)
    constants: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    path: str = ""
    name: str = ""
    is_float: bool = dataclasses.field(init=False)

    def __post_init__(self):
        # Kept, not asked for again: the paths to a node double with every residual block.
        self.is_float = self.op != "encode" and any(node.is_float for node in self.inputs)
        if self.op == "input":
            self.is_float = "float" in self.attributes["dtype"]

    @property
    def largest(self) -> int:
        """Largest absolute value of any element."""
        return int(max(np.abs(self.low).max(initial=0), np.abs(self.high).max(initial=0)))

    @property
    def code_bits(self) -> int | None:
        """Bits of the smallest integer type from 2 to 8 bits that holds every value; None if there is none."""
        low, high = int(self.low.min()), int(self.high.max())
        for bits in range(2, 9):
            if (0 <= low and high < 2**bits) or (-(2 ** (bits - 1)) <= low and high < 2 ** (bits - 1)):
                return bits
        return None

    def check_overflow(self, where: str) -> None:
        """Refuses a node whose values may leave int32.

        Raises:
            LoweringError: naming the bound.
        """
        if self.largest > INT32_MAX:
            raise LoweringError(f"`{self.op}` in {where} may reach {self.largest}, more than int32 holds")


def smallest_dtype(low: int, high: int) -> str:
    """Returns the name of the dtype in which whole numbers between the bounds travel: int8, uint8 or int32."""
    for dtype in (np.int8, np.uint8):
        if np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max:
            return np.dtype(dtype).name
    return "int32"


def compact(array: np.ndarray, kept: int = 0) -> np.ndarray:
    """Returns an array with every axis along which it is constant reduced to size 1, but for the last ``kept``."""
    array = np.asarray(array)
    for axis in range(array.ndim - kept):
        if array.shape[axis] > 1:
            first = array.take([0], axis=axis)
            if (array == first).all():
                array = first
    return array


def aligned(array: np.ndarray, ndim: int) -> np.ndarray:
    """Returns an array with leading axes of size 1, so that it has ``ndim``."""
    array = np.asarray(array)
    return array.reshape((1,) * (ndim - array.ndim) + array.shape)


def expanded(array: np.ndarray, shape: Shape) -> np.ndarray:
    """Returns an array broadcast to ``shape``, open dimensions taken as a batch of one."""
    sizes = tuple(dim.times if isinstance(dim, Batch) else dim for dim in shape)
    return np.broadcast_to(aligned(array, len(shape)), sizes)
