"""Large batches a few samples at a time on a CPU, so that what one instruction makes is still near for the next."""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jax import lax

from .dimensions import Batch, decode

if TYPE_CHECKING:
    from .program import Instruction

_AT_A_TIME = 2**23  # bytes of the largest tensor, taken as int32, of a portion; measured on x86 CPUs


def in_portions(instructions: "tuple[Instruction, ...]", codes, run: Callable):
    """Returns ``run(codes)``, computed in equal portions of the batch, one after another, where that is faster."""
    arrays = codes if isinstance(codes, tuple | list) else (codes,)
    batches = [jnp.shape(array)[0] for array in arrays if jnp.ndim(array)]
    known = len(batches) == len(arrays) and all(isinstance(batch, int) for batch in batches)  # not so while exporting
    size = portion(instructions, batches[0]) if known else None
    if size is None or any(batch % batches[0] for batch in batches):
        return run(codes)
    count = len(arrays[0]) // size
    split = jax.tree.map(lambda x: jnp.reshape(x, (count, len(x) // count, *x.shape[1:])), codes)
    results = lax.map(run, split)
    return results.reshape(-1, *results.shape[2:])


def portion(instructions: "tuple[Instruction, ...]", batch: int) -> int | None:
    """Returns how many samples to compute at a time; None: all of them.

    The largest divisor of the batch with which no tensor, taken as int32, is larger than 8 MB.
    """
    if jax.default_backend() != "cpu" or not _keeps_samples_apart(instructions):
        return None
    shapes = [decode(list(step.shape)) for step in instructions if step.op not in ("constant", "input")]
    sample = max(4 * math.prod(dim.times if isinstance(dim, Batch) else dim for dim in shape) for shape in shapes)
    most = max(1, _AT_A_TIME // max(sample, 1))
    if most >= batch:
        return None
    return next(size for size in range(most, 0, -1) if batch % size == 0)


def _keeps_samples_apart(instructions: "tuple[Instruction, ...]") -> bool:
    """Whether the batch is the first axis of everything, in order, so that the logits of portions can be joined."""
    for step in instructions:
        dims = decode(list(step.shape))
        if step.op == "constant":
            continue
        if not dims or not isinstance(dims[0], Batch) or any(isinstance(dim, Batch) for dim in dims[1:]):
            return False
        if step.op in ("concatenate", "take") and step.attributes["axis"] == 0:
            return False
        if step.op == "reverse" and 0 in step.attributes["axes"]:
            return False
        if step.op in ("slice", "pad", "window_sum", "window_max") and not _whole_first_axis(step, instructions):
            return False
    return True


def _whole_first_axis(step: "Instruction", instructions: "tuple[Instruction, ...]") -> bool:
    return step.shape[0] == instructions[step.inputs[0]].shape[0]
