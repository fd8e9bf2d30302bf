"""Residual networks as plain float Flax NNX modules, with TorchVision's module names.

They know nothing of quantization: ``quantize_model`` rewrites any of them by rules, and ``recommended_rules`` names
the rules.

Source: He et al., Deep Residual Learning for Image Recognition, CVPR 2016 (sections 3.3 and 4.2). As in TorchVision the
stride of a bottleneck is on its 3x3 convolution, and a shortcut that has to fit is a 1x1 convolution with batch norm.
"""

from collections.abc import Sequence

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from ..identity import Identity
from .parts import apply, batch_norm, check_images, conv, linear, require_count


def _shortcut(in_features: int, out_features: int, stride: int, rngs: nnx.Rngs) -> nnx.List | None:
    """Convolution, batch norm and a place for a quantizer, from the block's input; None where it fits already."""
    if stride == 1 and in_features == out_features:
        return None
    return nnx.List([conv(in_features, out_features, 1, stride, rngs), batch_norm(out_features, rngs), Identity()])


class BasicBlock(nnx.Module):
    """Two 3x3 convolutions and a shortcut (He et al., figure 5 left)."""

    expansion = 1

    def __init__(self, in_features: int, features: int, stride: int, *, rngs: nnx.Rngs):
        self.conv1 = conv(in_features, features, 3, stride, rngs)
        self.bn1 = batch_norm(features, rngs)
        self.conv2 = conv(features, features, 3, 1, rngs)
        self.bn2 = batch_norm(features, rngs)
        self.branch = Identity()
        self.downsample = _shortcut(in_features, features, stride, rngs)
        self.out = Identity()

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h2 w2 c2"]:
        y = nnx.relu(self.bn1(self.conv1(x)))
        y = self.branch(self.bn2(self.conv2(y)))
        return self.out(nnx.relu(y + apply(self.downsample, x)))


class Bottleneck(nnx.Module):
    """1x1, 3x3 and 1x1 convolutions and a shortcut (He et al., figure 5 right); the stride is on the 3x3 one."""

    expansion = 4

    def __init__(self, in_features: int, features: int, stride: int, *, rngs: nnx.Rngs):
        out_features = features * self.expansion
        self.conv1 = conv(in_features, features, 1, 1, rngs)
        self.bn1 = batch_norm(features, rngs)
        self.conv2 = conv(features, features, 3, stride, rngs)
        self.bn2 = batch_norm(features, rngs)
        self.conv3 = conv(features, out_features, 1, 1, rngs)
        self.bn3 = batch_norm(out_features, rngs)
        self.branch = Identity()
        self.downsample = _shortcut(in_features, out_features, stride, rngs)
        self.out = Identity()

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h2 w2 c2"]:
        y = nnx.relu(self.bn1(self.conv1(x)))
        y = nnx.relu(self.bn2(self.conv2(y)))
        y = self.branch(self.bn3(self.conv3(y)))
        return self.out(nnx.relu(y + apply(self.downsample, x)))


class ResNet(nnx.Module):
    """A stem, stages of residual blocks, the mean over all positions, and one linear layer.

    Modules, by path: ``conv1``, ``bn1``, ``layer1/0/conv1``, ..., ``layer2/0/downsample/0`` (convolution) and
    ``layer2/0/downsample/1`` (batch norm), ..., ``fc``. Places for quantizers of the residual stream: ``stem``,
    ``layer1/0/branch``, ``layer1/0/out``, ``layer2/0/downsample/2``, ...

    ``model.train()`` normalises by the batch and updates the running statistics, ``model.eval()`` uses them.

    Args:
        block: ``BasicBlock`` or ``Bottleneck``.
        depths: blocks of each stage.
        widths: channels of each stage, before the block's ``expansion``; every stage but the first halves the image.
        stem_kernel: kernel size of ``conv1``.
        stem_stride: stride of ``conv1``.
        stem_pool: whether 3x3 max pooling with stride 2 follows ``conv1``.
        num_classes: outputs of ``fc``.
        in_channels: channels of the images.
        rngs: the source of the start values (stream ``params``).

    Raises:
        ValueError: a count is not a whole number of at least 1.
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        depths: Sequence[int],
        widths: Sequence[int],
        *,
        stem_kernel: int,
        stem_stride: int,
        stem_pool: bool,
        num_classes: int,
        in_channels: int,
        rngs: nnx.Rngs,
    ):
        counts = {"num_classes": num_classes, "in_channels": in_channels, "stem_stride": stem_stride}
        for name, count in counts.items():
            require_count(name, count)
        self.in_channels = in_channels
        self.stages = len(depths)
        self.stem_pool = stem_pool

        self.conv1 = conv(in_channels, widths[0], stem_kernel, stem_stride, rngs)
        self.bn1 = batch_norm(widths[0], rngs)
        self.stem = Identity()
        features = widths[0]
        for stage, (depth, width) in enumerate(zip(depths, widths, strict=True)):
            blocks = []
            for index in range(depth):
                stride = 2 if stage > 0 and index == 0 else 1
                blocks.append(block(features, width, stride, rngs=rngs))
                features = width * block.expansion
            setattr(self, f"layer{stage + 1}", nnx.List(blocks))

        self.fc = linear(features, num_classes, rngs)

    def __call__(self, images: Float[Array, "n h w c"]) -> Float[Array, "n classes"]:
        """Logits of normalised images.

        Raises:
            ValueError: ``images`` is not a batch of images with ``in_channels`` channels.
        """
        check_images(images, self.in_channels)
        x = self.stem(nnx.relu(self.bn1(self.conv1(images))))
        if self.stem_pool:
            border = ((1, 1), (1, 1))
            x = nnx.max_pool(x, (3, 3), strides=(2, 2), padding=border)  # pyright: ignore[reportArgumentType]
        for stage in range(self.stages):
            x = apply(getattr(self, f"layer{stage + 1}"), x)
        return self.fc(jnp.mean(x, axis=(1, 2)))


def _imagenet(block, depths: Sequence[int], num_classes: int, in_channels: int, rngs: nnx.Rngs) -> ResNet:
    return ResNet(
        block,
        depths,
        (64, 128, 256, 512),
        stem_kernel=7,
        stem_stride=2,
        stem_pool=True,
        num_classes=num_classes,
        in_channels=in_channels,
        rngs=rngs,
    )


def _small_images(depth: int, num_classes: int, in_channels: int, stem_stride: int, rngs: nnx.Rngs) -> ResNet:
    return ResNet(
        BasicBlock,
        (depth,) * 3,
        (16, 32, 64),
        stem_kernel=3,
        stem_stride=stem_stride,
        stem_pool=False,
        num_classes=num_classes,
        in_channels=in_channels,
        rngs=rngs,
    )


def resnet18(num_classes: int = 1000, in_channels: int = 3, *, rngs: nnx.Rngs) -> ResNet:
    """ResNet-18 for images of about 224x224 (11.7 million parameters for 1000 classes)."""
    return _imagenet(BasicBlock, (2, 2, 2, 2), num_classes, in_channels, rngs)


def resnet34(num_classes: int = 1000, in_channels: int = 3, *, rngs: nnx.Rngs) -> ResNet:
    """ResNet-34 for images of about 224x224 (21.8 million parameters for 1000 classes)."""
    return _imagenet(BasicBlock, (3, 4, 6, 3), num_classes, in_channels, rngs)


def resnet50(num_classes: int = 1000, in_channels: int = 3, *, rngs: nnx.Rngs) -> ResNet:
    """ResNet-50 for images of about 224x224 (25.6 million parameters for 1000 classes)."""
    return _imagenet(Bottleneck, (3, 4, 6, 3), num_classes, in_channels, rngs)


def resnet20(num_classes: int = 10, in_channels: int = 3, *, stem_stride: int = 1, rngs: nnx.Rngs) -> ResNet:
    """ResNet-20 for images of about 32x32: three stages of three blocks with 16, 32 and 64 channels.

    ``stem_stride=2`` halves the image at once, which makes the network about four times cheaper.
    """
    return _small_images(3, num_classes, in_channels, stem_stride, rngs)


def resnet8(num_classes: int = 10, in_channels: int = 3, *, stem_stride: int = 1, rngs: nnx.Rngs) -> ResNet:
    """ResNet-8 for images of about 8x8 to 32x32: three stages of one block with 16, 32 and 64 channels.

    ``stem_stride=2`` halves the image at once, which makes the network about four times cheaper.
    """
    return _small_images(1, num_classes, in_channels, stem_stride, rngs)
