"""What the networks are made of: convolution, batch norm and linear layers with TorchVision's geometry and start."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from flax import nnx
from jaxtyping import Array, Float

from ..batch_norm import BatchNorm
from ..ops.floats import conv_general_dilated

he_normal = nnx.initializers.variance_scaling(2.0, "fan_out", "normal")
torch_uniform = nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
"""PyTorch's own start of convolutions and linear layers: uniform within ``1 / sqrt(fan_in)``."""


def conv(
    in_features: int,
    out_features: int,
    kernel_size: int | Sequence[int],
    stride: int,
    rngs: nnx.Rngs,
    groups: int = 1,
    start: Callable[..., Array] = he_normal,
) -> nnx.Conv:
    """A convolution without bias, padded so that each side is divided by the stride, rounded up.

    ``kernel_size`` is one for both sides, or height and width. There are ``(size - 1) // 2`` zeros above and to the
    left and ``size // 2`` below and to the right, equally many for an odd size. The padding is explicit because
    ``"SAME"`` pads only below and to the right at stride 2, which shifts every feature map against weights trained
    elsewhere. Several groups are convolved in the way that is fast on the machine.
    """
    sizes = (kernel_size, kernel_size) if isinstance(kernel_size, int) else tuple(kernel_size)
    return nnx.Conv(
        in_features,
        out_features,
        sizes,
        strides=(stride, stride),
        padding=tuple(((size - 1) // 2, size // 2) for size in sizes),
        feature_group_count=groups,
        use_bias=False,
        kernel_init=start,
        conv_general_dilated=conv_general_dilated,
        rngs=rngs,
    )


def batch_norm(features: int, rngs: nnx.Rngs) -> BatchNorm:
    """Batch norm with TorchVision's constants: epsilon 1e-5, and 0.1 of each batch in the running statistics."""
    return BatchNorm(features, momentum=0.9, epsilon=1e-5, rngs=rngs)


def linear(in_features: int, out_features: int, rngs: nnx.Rngs) -> nnx.Linear:
    """A linear layer that starts as PyTorch's: kernel and bias uniform within ``1 / sqrt(in_features)``."""
    bound = in_features**-0.5
    return nnx.Linear(
        in_features,
        out_features,
        kernel_init=torch_uniform,
        bias_init=lambda key, shape, dtype: jax.random.uniform(key, shape, dtype, -bound, bound),
        rngs=rngs,
    )


def apply(layers: nnx.List | None, x: jax.Array) -> jax.Array:
    """Applies the layers one after another; none where there are none."""
    for layer in layers or ():
        x = layer(x)
    return x


def check_images(images: Float[Array, "..."], in_channels: int) -> None:
    """Raises ValueError unless ``images`` is a batch of images with ``in_channels`` channels."""
    if images.ndim != 4 or images.shape[-1] != in_channels:
        raise ValueError(f"`images` must have shape [n, h, w, {in_channels}], got {list(images.shape)}")


def require_count(name: str, count: Any) -> None:
    """Raises ValueError unless ``count`` is a whole number of at least 1."""
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise ValueError(f"`{name}` must be a whole number >= 1, got {count!r}")
