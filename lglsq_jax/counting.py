"""How often each whole number occurs in an array, wherever on a mesh its parts lie; and how many values lie in bins."""

from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from .mesh_axes import left_to_compiler


def occurrences(index: Int[Array, "..."], length: int) -> Int[Array, "length"]:
    """Returns how often each number from 0 to ``length - 1`` occurs; the index has no others."""
    return left_to_compiler(lambda index: jnp.bincount(index.ravel(), length=length), (None,), index)


def joined(calls: Sequence[Float[Array, "..."]]) -> Float[Array, "..."]:
    """Returns the values of all calls of a layer: of one call as they are, of several in one row."""
    if len(calls) == 1:
        return calls[0]
    return left_to_compiler(lambda *calls: jnp.concatenate([x.ravel() for x in calls]), (None,), *calls)


def histogram(values: Float[Array, "..."], low: float, high: float, bins: int) -> Int[Array, "bins"]:
    """Returns how many values lie in each of ``bins`` equal bins from ``low`` to ``high``.

    The first and the last also hold what lies beyond. With a whole number of bins in a unit a value on a border is
    counted above it: the multiplication below rounds nothing away that a division by the bins' width would.
    """
    index = jnp.floor((values - low) * (bins / (high - low)))
    return occurrences(jnp.clip(index, 0, bins - 1).astype(jnp.int32), bins)
