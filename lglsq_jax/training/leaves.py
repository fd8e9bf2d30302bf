"""The leaves of a pytree by name, and hashes that tell whether two are the same to the bit."""

import hashlib
from typing import Any

import jax
import numpy as np


def named_leaves(state: Any, *, abstract: bool = False) -> dict[str, Any]:
    """Returns the leaves of a pytree by name, as NumPy arrays or, if ``abstract``, as they are; in a fixed order."""
    flat, _ = jax.tree_util.tree_flatten_with_path(state)
    names = [jax.tree_util.keystr(path, simple=True, separator=".").replace("/", ".") for path, _ in flat]
    assert len(set(names)) == len(names)
    leaves = [leaf for _, leaf in flat]
    return dict(zip(names, leaves if abstract else map(np.asarray, jax.device_get(leaves)), strict=True))


def leaf_hash(leaf: np.ndarray) -> str:
    """Returns the sha256 of an array's dtype, shape and bytes."""
    digest = hashlib.sha256(f"{leaf.dtype.name}{leaf.shape}".encode())
    digest.update(np.ascontiguousarray(leaf).reshape(-1).view(np.uint8).data)  # bfloat16 has no buffer of its own
    return digest.hexdigest()


def whole_hash(leaves: dict[str, np.ndarray]) -> str:
    """Returns one sha256 over all leaves in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(leaves):
        digest.update(f"{name} {leaf_hash(leaves[name])}\n".encode())
    return digest.hexdigest()
