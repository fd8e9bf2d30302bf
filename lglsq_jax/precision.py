"""Training that computes in bfloat16 between layers, with the codes that float32 parameters have."""

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array

from .layers import QuantConv, Quantizer, QuantLinear
from .paths import named_modules


def compute_in(model: nnx.Module, dtype: Any) -> None:
    """Makes every layer of a model give values of ``dtype``, in place; parameters stay float32.

    A layer whose kernel and inputs are both quantized rounds its float32 kernel, so that its weight codes are those of
    evaluation and of the integers, multiplies codes, which are whole numbers that bfloat16 holds exactly, and rounds
    only what it gives. Every other layer computes in ``dtype`` as Flax does, with batch norm's sums in float32.

    Args:
        model: a copy for training: evaluate and lower the model in float32.
        dtype: such as ``jnp.bfloat16``.

    Raises:
        ValueError: a layer (named) quantizes only its kernel or only its inputs, which would round a kernel twice; then
            nothing is changed.
    """
    modules = list(named_modules(model))
    for path, module in modules:
        if isinstance(module, QuantConv | QuantLinear) and (module.weights is None) != (module.inputs is None):
            raise ValueError(
                f"layer {path!r} must quantize its kernel and its inputs, or neither, to compute in "
                f"{jnp.dtype(dtype).name}"
            )
    for _, module in modules:
        if isinstance(module, QuantConv | QuantLinear) and module.weights is not None:
            module.promote_dtype = _promoted  # pyright: ignore[reportAttributeAccessIssue]
            module.dtype = jnp.dtype(dtype)
        elif hasattr(module, "dtype") and not isinstance(module, Quantizer):
            module.dtype = jnp.dtype(dtype)  # pyright: ignore[reportAttributeAccessIssue]


def _promoted(arrays: tuple[Array, Array, Array | None], *, dtype: Any) -> tuple[Array, Array, Array | None]:
    """Inputs, kernel and bias of a layer: the kernel keeps its dtype."""
    inputs, kernel, bias = arrays
    return inputs.astype(dtype), kernel, None if bias is None else bias.astype(dtype)
