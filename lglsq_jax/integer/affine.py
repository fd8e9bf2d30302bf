"""What lowering knows of a value of the model: a constant, or a sum of scaled integer tensors and a bias."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from .dimensions import Batch, Shape
from .errors import LoweringError
from .node import Node, aligned, compact


@dataclasses.dataclass(frozen=True, eq=False)
class Affine:
    r"""The real value :math:`\sum_i s_i \cdot n_i + b` with integer tensors ``n_i`` and constants known at lowering.

    Attributes:
        terms: pairs of a node and its scale, float64 and broadcastable to ``shape``.
        bias: float64, broadcastable to ``shape``.
        shape: the value's shape.
        clipped: ``(x, low, high)`` where the value is ``clip(x, low, high)`` rounded to fixed point, so that another
            clip may start from ``x``; None otherwise.
    """

    terms: tuple[tuple[Node, np.ndarray], ...]
    bias: np.ndarray
    shape: Shape
    clipped: "tuple[Affine, float, float] | None" = None
    curve: Any = None

    @classmethod
    def of(cls, terms: Sequence[tuple[Node, np.ndarray | np.float64]], bias, shape: Shape) -> "Affine":
        """Returns the value with scales and bias brought to the number of axes of ``shape``; equal nodes are merged.

        Raises:
            LoweringError: a scale or the bias varies along the open batch.
        """
        merged: dict[int, tuple[Node, np.ndarray]] = {}
        for node, scale in terms:
            scale = aligned(np.asarray(scale, np.float64), len(shape))
            if id(node) in merged:
                scale = scale + merged[id(node)][1]
            merged[id(node)] = (node, scale)
        compacted = tuple((node, compact(scale)) for node, scale in merged.values())
        value = cls(compacted, compact(aligned(np.asarray(bias, np.float64), len(shape))), shape)
        for constant in (value.bias, *(scale for _, scale in compacted)):
            if any(isinstance(dim, Batch) and size > 1 for dim, size in zip(shape, constant.shape, strict=True)):
                raise LoweringError("a scale or a bias would vary along the axis that holds the batch")
        return value

    @classmethod
    def from_node(cls, node: Node, scale=1.0) -> "Affine":
        """Returns ``scale * node``."""
        return cls.of([(node, np.float64(scale))], 0.0, node.shape)

    @property
    def is_constant(self) -> bool:
        """Whether it does not depend on the model's input."""
        return all(node.op == "constant" for node, _ in self.terms)

    @property
    def is_float(self) -> bool:
        """Whether it depends on the unquantized input."""
        return any(node.is_float for node, _ in self.terms)

    def value(self) -> np.ndarray:
        """Returns a constant's value in float32."""
        total = self.bias
        for node, scale in self.terms:
            total = total + scale * node.constants["codes"].astype(np.float64)
        return np.asarray(total, np.float32)

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns the smallest and the largest real value of each element; float64, broadcastable to ``shape``."""
        low = high = self.bias
        for node, scale in self.terms:
            ends = scale * node.low, scale * node.high
            low, high = low + np.minimum(*ends), high + np.maximum(*ends)
        return low, high

    def only_term(self) -> tuple[Node, np.ndarray] | None:
        """Returns the node and scale where the value is one node scaled, without a bias; None otherwise."""
        return self.terms[0] if len(self.terms) == 1 and not self.bias.any() else None


Value = np.ndarray | Affine
"""A constant, possibly with axes of size 1 where it only repeats, or an affine value."""
