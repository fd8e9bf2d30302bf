"""DS-CNN, the small network of depthwise-separable convolutions that microcontrollers find keywords with.

Source: Zhang et al., Hello Edge: Keyword Spotting on Microcontrollers, arXiv 1711.07128 (2017), the small one of its
DS-CNNs, as MLPerf Tiny takes it for its reference model (Banbury et al., arXiv 2106.07597, 2021).
"""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from .parts import apply, batch_norm, check_images, conv, linear, require_count


class DepthwiseSeparable(nnx.Module):
    """3x3 depthwise and 1x1 pointwise convolution, each with batch norm and ReLU.

    Modules: ``depthwise``, ``bn1``, ``pointwise``, ``bn2``.
    """

    def __init__(self, channels: int, *, rngs: nnx.Rngs):
        self.depthwise = conv(channels, channels, 3, 1, rngs, groups=channels)
        self.bn1 = batch_norm(channels, rngs)
        self.pointwise = conv(channels, channels, 1, 1, rngs)
        self.bn2 = batch_norm(channels, rngs)

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h w c"]:
        x = nnx.relu(self.bn1(self.depthwise(x)))
        return nnx.relu(self.bn2(self.pointwise(x)))


class DSCNN(nnx.Module):
    """A stem, depthwise-separable blocks of equal width, the mean over all positions, and one linear layer.

    As published (10x4 stem, 64 channels, 4 blocks, 12 classes, one input channel) it has 23,180 parameters: kernels,
    batch norms' scales and offsets, and the classifier with its bias. MLPerf Tiny's 23,756 count a bias for each
    channel of the nine convolutions besides: 576 numbers that the batch norm behind takes away again, so that no
    convolution has one here. Neither count holds the running statistics. MLPerf Tiny's dropout is left out.

    Modules, by path: ``conv1``, ``bn1``, ``blocks/0/depthwise``, ``blocks/0/bn1``, ``blocks/0/pointwise``,
    ``blocks/0/bn2``, ..., ``fc``.

    Args:
        num_classes: outputs of ``fc``.
        in_channels: channels of the images; 1 for features of sound over time and frequency.
        channels: channels of every layer.
        blocks: depthwise-separable blocks after the stem.
        stem_kernel: height and width of ``conv1``'s kernel.
        stem_stride: stride of ``conv1`` in both directions; the image is divided by it, rounded up.
        rngs: the source of the start values (stream ``params``).

    Raises:
        ValueError: a count is not a whole number of at least 1, or ``stem_kernel`` is no pair of them.
    """

    def __init__(
        self,
        num_classes: int = 12,
        in_channels: int = 1,
        *,
        channels: int = 64,
        blocks: int = 4,
        stem_kernel: tuple[int, int] = (10, 4),
        stem_stride: int = 2,
        rngs: nnx.Rngs,
    ):
        counts = {"num_classes": num_classes, "in_channels": in_channels, "channels": channels, "blocks": blocks}
        for name, count in (counts | {"stem_stride": stem_stride}).items():
            require_count(name, count)
        _require_kernel("stem_kernel", stem_kernel)
        self.in_channels = in_channels
        self.conv1 = conv(in_channels, channels, stem_kernel, stem_stride, rngs)
        self.bn1 = batch_norm(channels, rngs)
        self.blocks = nnx.List([DepthwiseSeparable(channels, rngs=rngs) for _ in range(blocks)])
        self.fc = linear(channels, num_classes, rngs)

    def __call__(self, images: Float[Array, "n h w c"]) -> Float[Array, "n classes"]:
        """Logits of normalised images.

        Raises:
            ValueError: ``images`` is not a batch of images with ``in_channels`` channels.
        """
        check_images(images, self.in_channels)
        x = nnx.relu(self.bn1(self.conv1(images)))
        x = apply(self.blocks, x)
        return self.fc(jnp.mean(x, axis=(1, 2)))


def _require_kernel(name: str, sizes: tuple[int, int]) -> None:
    if not isinstance(sizes, tuple | list) or len(sizes) != 2:
        raise ValueError(f"`{name}` must be a pair, height and width, got {sizes!r}")
    for size in sizes:
        require_count(name, size)


def ds_cnn(
    num_classes: int = 12,
    in_channels: int = 1,
    *,
    channels: int = 64,
    blocks: int = 4,
    stem_kernel: tuple[int, int] = (10, 4),
    stem_stride: int = 2,
    rngs: nnx.Rngs,
) -> DSCNN:
    """DS-CNN for 49x10 features of one second of sound (23,180 parameters for 12 keywords); see :class:`DSCNN`.

    ``stem_stride=4`` suits images of about 28x28, of which it leaves 7x7.
    """
    return DSCNN(
        num_classes,
        in_channels,
        channels=channels,
        blocks=blocks,
        stem_kernel=stem_kernel,
        stem_stride=stem_stride,
        rngs=rngs,
    )
