"""Which device holds what: the mesh, and how state and batches lie on it."""

import functools
import math
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from ..errors import UserError
from .config import MeshConfig

DATA, FSDP = "data", "fsdp"
SMALLEST_SPLIT = 1024
"""Arrays of fewer elements are whole on every device: gathering them would cost more than they take."""

Tree = TypeVar("Tree")


def make_mesh(config: MeshConfig, batch_sizes: dict[str, int]) -> Mesh:
    """Returns the mesh of all devices, ``data`` by ``fsdp``; a batch is split over both axes.

    Args:
        config: how many devices each axis has.
        batch_sizes: sizes of batches by the name of their field.

    Raises:
        UserError: the axes do not take all devices, or a batch size is no multiple of the number of devices.
    """
    count = jax.device_count()
    data = count // config.fsdp if config.data is None else config.data
    if data * config.fsdp != count:
        allowed = " x ".join(("mesh.data", "mesh.fsdp"))
        got = f"{'all' if config.data is None else config.data} x {config.fsdp}"
        raise UserError(f"`{allowed}` must be the number of devices, {count}, got {got}")
    for field, size in batch_sizes.items():
        if size % count:
            raise UserError(f"`{field}` must be a multiple of the number of devices, {count}, got {size}")
    return jax.make_mesh((data, config.fsdp), (DATA, FSDP), axis_types=(AxisType.Auto,) * 2)


def whole(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of what is the same on every device."""
    return NamedSharding(mesh, PartitionSpec())


def by_samples(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of a batch: its first axis over all devices."""
    return NamedSharding(mesh, PartitionSpec((DATA, FSDP)))


def split(mesh: Mesh, tree: Any) -> Any:
    """Returns for each array of a tree how parameters and their optimizer state lie on the mesh.

    The largest axis that the ``fsdp`` devices divide is split over them, for arrays of at least ``SMALLEST_SPLIT``
    elements; the others are whole on every device.
    """
    parts = mesh.shape[FSDP]

    def sharding(array) -> NamedSharding:
        shape = array.shape
        axes = [axis for axis, size in enumerate(shape) if size % parts == 0]
        if parts == 1 or not axes or math.prod(shape) < SMALLEST_SPLIT:
            return whole(mesh)
        largest = max(axes, key=lambda axis: shape[axis])
        return NamedSharding(mesh, PartitionSpec(*(FSDP if axis == largest else None for axis in range(largest + 1))))

    return jax.tree.map(sharding, tree)


def spread(tree: Tree, shardings: Any) -> Tree:
    """Returns arrays that every host has whole as arrays of the mesh.

    Args:
        tree: NumPy arrays or arrays of one device, the same on every host.
        shardings: one for all, or a tree of them.
    """

    def placed(array, sharding):
        values = np.asarray(array)
        return jax.make_array_from_callback(values.shape, sharding, lambda index: values[index])

    if isinstance(shardings, NamedSharding):
        return jax.tree.map(lambda array: placed(array, shardings), tree)
    return jax.tree.map(placed, tree, shardings)


def place(mesh: Mesh, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    """Returns a batch on the devices; each host gives its own rows of it."""
    sharding = by_samples(mesh)
    return {name: jax.make_array_from_process_local_data(sharding, rows) for name, rows in batch.items()}


def gathered(mesh: Mesh, tree: Tree) -> Tree:
    """Returns arrays of the mesh as NumPy arrays, whole on every host; all hosts must call it."""
    split_ones = [not array.is_fully_replicated for array in jax.tree.leaves(tree)]
    if any(split_ones):
        tree = _gather(mesh)(tree)
    return jax.device_get(tree)


@functools.cache
def _gather(mesh: Mesh):
    return jax.jit(lambda tree: tree, out_shardings=whole(mesh))


def local(tree: Tree) -> Tree:
    """Returns NumPy arrays on this host's first device."""
    return jax.device_put(tree, jax.local_devices()[0])
