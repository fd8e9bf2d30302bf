"""How often each whole number occurs in an array, wherever on a mesh its parts lie."""

import jax.numpy as jnp
from jaxtyping import Array, Int

from .mesh_axes import left_to_compiler


def occurrences(index: Int[Array, "..."], length: int) -> Int[Array, "length"]:
    """Returns how often each number from 0 to ``length - 1`` occurs; the index has no others."""
    return left_to_compiler(lambda index: jnp.bincount(index.ravel(), length=length), (None,), index)
