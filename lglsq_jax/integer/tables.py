"""From curves to nodes: tables over codes, steps over wide integers."""

import dataclasses

import numpy as np

from .affine import Affine
from .build import check_quantized, finest_step, fixed_point
from .curve import Curve
from .errors import LoweringError
from .node import Node, aligned, compact, smallest_dtype
from .steps import steps_of

_MOST_ENTRIES = 4096  # integers that a table may cover; 8-bit codes take 256
_MOST_NUMBERS = 2**20  # in all tables of a layer


def quantized_curve(curve: Curve, step: np.ndarray, offset, low: int, high: int, path: str, name: str) -> Node:
    """Returns the node ``clip(round((f(x) - offset) / step), low, high)``, exactly: a table where ``x`` is codes.

    Raises:
        LoweringError: ``x`` depends on the unquantized input, or the function cannot be followed.
    """
    check_quantized(curve.base, path)
    if len(curve.base.terms) != 1:
        curve = dataclasses.replace(curve, base=fixed_point(curve.base, path))
    ((node, _),) = curve.base.terms
    step = aligned(np.asarray(step, np.float64), len(curve.shape))[..., None]

    def real(n: np.ndarray) -> np.ndarray:
        return (curve.sampled(n) - np.float64(offset)) / step

    def codes(n: np.ndarray) -> np.ndarray:
        return np.clip(np.rint(real(n)), low, high)

    least, most = int(node.low.min()), int(node.high.max())
    axes = np.broadcast_shapes(curve.sampled_axes, step.shape[:-1])
    if _small(node, axes):
        found = np.broadcast_to(codes(_integers(node)), (*axes, most - least + 1))
        if np.isnan(found).any():
            raise LoweringError(f"`{_title(curve)}` gives no number for a code that can occur")
        return _table(curve, node, found.astype(np.int64), path, name)
    thresholds, results = steps_of(codes, real, least, most, axes)
    dtype = smallest_dtype(int(results.min()), int(results.max()))
    return Node(
        "staircase",
        (node,),
        curve.shape,
        results.min(-1),
        results.max(-1),
        {"dtype": dtype},
        {"thresholds": thresholds, "values": results.astype(dtype)},
        path,
        name,
    )


def tabulated(curve: Curve, path: str, largest: float = 2.0**30) -> Affine:
    """Returns a function of codes as fixed point, from a table of what it gives for each code.

    Args:
        curve: the function.
        path: module that it stands in.
        largest: bound on the integers of the result.

    Raises:
        LoweringError: what it is a function of is not codes.
    """
    check_quantized(curve.base, path)
    only = curve.base.terms[0][0] if len(curve.base.terms) == 1 else None
    if only is None or not _small(only, curve.sampled_axes):
        raise LoweringError(
            f"`{_title(curve)}` of a value that is not quantized is used by something other than a quantizer; "
            "put lglsq_jax.Quantizer before it or behind it"
        )
    real = np.asarray(curve.sampled(_integers(only)), np.float64)
    if not np.isfinite(real).all():
        raise LoweringError(f"`{_title(curve)}` gives no number for a code that can occur")
    step = finest_step(float(np.abs(real).max()), largest)
    real = np.broadcast_to(real, (*curve.sampled_axes, real.shape[-1]))
    return Affine.from_node(_table(curve, only, np.rint(real / step).astype(np.int64), path, ""), step)


def _small(node: Node, axes: tuple[int, ...]) -> bool:
    entries = int(node.high.max()) - int(node.low.min()) + 1
    return entries <= _MOST_ENTRIES and entries * int(np.prod(axes)) <= _MOST_NUMBERS


def _integers(node: Node) -> np.ndarray:
    every = np.arange(int(node.low.min()), int(node.high.max()) + 1, dtype=np.int64)
    return every.reshape((1,) * len(node.shape) + every.shape)


def _table(curve: Curve, node: Node, entries: np.ndarray, path: str, name: str) -> Node:
    entries = compact(entries, kept=1)
    dtype = smallest_dtype(int(entries.min()), int(entries.max()))
    attributes = {"low": int(node.low.min()), "dtype": dtype}
    ends = entries.min(-1), entries.max(-1)
    return Node("table", (node,), curve.shape, *ends, attributes, {"table": entries.astype(dtype)}, path, name)


def _title(curve: Curve) -> str:
    return " of ".join(reversed(curve.names[-2:])) or "it"
