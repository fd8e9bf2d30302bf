r"""What the type of an array says about a mesh of devices: over which axes it varies, and how it is laid out.

In ``jax.shard_map`` each device runs the program on its part of the batch, and an array either *varies* over a mesh
axis (the batch) or is the same on all of it (scales, kernels). A gradient rule is not linear, so what it looks at is
summed over the devices first:

.. math:: g_s = R\Big(\sum_d \sum_{i \in d} t(g_i, x_i)\Big), \quad\text{not}\quad \sum_d R\Big(\sum_{i \in d} t\Big)

for the terms ``t`` and the rule ``R``. The sum is over the axes over which the tensor varies and its scale does not.

On a mesh with *explicit* axes the types say where each axis of an array lies. A quantizer's result lies where its input
lies; between the two the compiler decides, as it does on a mesh with automatic axes.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Shaped


def varying_axes(*arrays: Shaped[Array, "..."] | jax.ShapeDtypeStruct | None) -> frozenset[str]:
    """Returns the mesh axes of ``jax.shard_map`` over which any of the arrays varies; Nones count for nothing."""
    types = (_type(array).manual_axis_type for array in arrays if array is not None)
    return frozenset().union(*(kind.varying for kind in types if kind is not None))


def vary_together(*arrays: Shaped[Array, "..."] | None) -> tuple[Any, ...]:
    """Returns the arrays, each made to vary over every axis over which one of them does; values stay."""
    axes = varying_axes(*arrays)
    return tuple(None if array is None else _vary(array, axes) for array in arrays)


def summed_like(array: Shaped[Array, "..."], *like: Shaped[Array, "..."] | None) -> Shaped[Array, "..."]:
    """Returns the array, summed over the mesh axes over which it varies and none of ``like`` does.

    As the cotangent of a value that is the same on all devices: what each device adds to it, added up. The result
    varies over exactly the axes over which one of ``like`` does.
    """
    axes = varying_axes(*like)
    return _vary(sum_over(array, varying_axes(array) - axes), axes)


def sum_over(arrays: Any, axes: frozenset[str]) -> Any:
    """Returns arrays in any structure, each summed over mesh axes; no axes, or no arrays: as they are."""
    return lax.psum(arrays, _ordered(axes)) if axes and jax.tree.leaves(arrays) else arrays


def devices_along(axes: frozenset[str]) -> int:
    """Returns how many devices lie along mesh axes together: 1 for none."""
    shape = jax.sharding.get_abstract_mesh().shape
    return math.prod(shape[axis] for axis in axes)


def devices_of_compiler() -> int:
    """Returns over how many devices the compiler may split an array: those along axes that are not manual."""
    mesh = jax.sharding.get_abstract_mesh()
    return devices_along(frozenset(mesh.axis_names) - frozenset(mesh.manual_axes))


def unknown_axes() -> tuple[str, ...]:
    """Returns the axes of a ``jax.shard_map`` with ``check_vma=False`` around the call, where no type says what varies.

    Axes of one device are left out: nothing is lost there.
    """
    mesh = jax.sharding.get_abstract_mesh()
    axes = tuple(axis for axis in mesh.manual_axes if mesh.shape[axis] > 1)
    return () if not axes or varying_axes(lax.axis_index(axes[0])) else axes


def layout(array: Shaped[Array, "..."]) -> tuple[Any, ...]:
    """Returns the mesh axes, explicit ones, over which each axis of the array is split: None, a name or a tuple."""
    spec = tuple(_type(array).sharding.spec)
    return spec + (None,) * (array.ndim - len(spec))


def devices_at(array: Shaped[Array, "..."], axis: int) -> int:
    """Returns over how many devices, by explicit mesh axes, an axis of the array is split: 1 where it is not."""
    shape = _type(array).sharding.mesh.shape
    return math.prod(shape[name] for name in _names(layout(array)[axis]))


def layout_of_product(x: Shaped[Array, "..."], kernel: Shaped[Array, "*taps i o"]) -> tuple[Any, ...]:
    """Returns the layout of a convolution or matrix product: rows lie as in ``x``, channels as in the kernel.

    Raises:
        ValueError: an image axis of ``x`` is split.
    """
    taps = kernel.ndim - 2
    *rows, _ = layout(x)
    image = rows[len(rows) - taps :] if taps else []
    if any(axis is not None for axis in image):
        raise ValueError(f"`x` of a convolution must not be split along its image axes, got the layout {layout(x)}")
    used = {name for axis in rows for name in _names(axis)}
    channels = layout(kernel)[-1]
    return (*rows, None if used & set(_names(channels)) else channels)


def type_of(array: Shaped[Array, "..."] | jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    """Returns shape, dtype and the axes over which the array varies."""
    return jax.ShapeDtypeStruct(array.shape, array.dtype, manual_axis_type=_type(array).manual_axis_type)


def zeros_of(kind: jax.ShapeDtypeStruct) -> Shaped[Array, "..."]:
    """Returns zeros of a type that ``type_of`` or ``jax.eval_shape`` gives."""
    return _vary(jnp.zeros(kind.shape, kind.dtype), varying_axes(kind))


def type_of_row(rows: Shaped[Array, "n ..."]) -> jax.ShapeDtypeStruct:
    """Returns the type of ``rows[0]``, whatever the mesh."""
    kind = _type(rows)
    if kind.sharding.mesh.empty:
        return jax.ShapeDtypeStruct(rows.shape[1:], rows.dtype)
    sharding = NamedSharding(kind.sharding.mesh, PartitionSpec(*layout(rows)[1:]))
    return jax.ShapeDtypeStruct(rows.shape[1:], rows.dtype, sharding=sharding, manual_axis_type=kind.manual_axis_type)


def left_to_compiler(function: Callable[..., Any], layouts: Any, *operands: Shaped[Array, "..."] | None) -> Any:
    """Returns ``function(*operands)``, traced with the explicit axes of the mesh left to the compiler.

    Args:
        function: of arrays; what it differentiates itself stays so.
        layouts: of the result, as ``layout`` gives it; a list of them, or Nones, where the result is a tuple.
        operands: arrays or None.

    Raises:
        ValueError: some axes of the mesh are explicit and others manual.
    """
    meshes = (_type(operand).sharding.mesh for operand in operands if operand is not None)
    mesh = next((mesh for mesh in meshes if mesh.explicit_axes), None)
    if mesh is None:
        return function(*operands)
    if mesh.manual_axes:
        raise ValueError(
            "the axes of a mesh that jax.shard_map leaves out must be AxisType.Auto around a quantizer, got "
            f"AxisType.Explicit for {', '.join(mesh.explicit_axes)}"
        )

    def placed(spec: Sequence[Any] | None):
        return None if spec is None else NamedSharding(mesh, PartitionSpec(*spec))

    placement = tuple(map(placed, layouts)) if isinstance(layouts, list) else placed(layouts)
    return jax.sharding.auto_axes(function, axes=mesh.explicit_axes, out_sharding=placement)(*operands)


def _names(axis: Any) -> tuple[str, ...]:
    """The mesh axes in one entry of a layout: None, a name or a tuple of them."""
    return () if axis is None else axis if isinstance(axis, tuple) else (axis,)


def _type(array) -> Any:
    return array if isinstance(array, jax.ShapeDtypeStruct) else jax.typeof(array)


def _vary(array, axes: frozenset[str]):
    missing = axes - varying_axes(array)
    return lax.pcast(array, _ordered(missing), to="varying") if missing else array


def _ordered(axes: frozenset[str]) -> tuple[str, ...]:
    """The axes in the mesh's order, so that every process traces the same program."""
    return tuple(axis for axis in jax.sharding.get_abstract_mesh().axis_names if axis in axes)
