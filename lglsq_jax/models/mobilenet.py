"""MobileNetV2 as a plain float Flax NNX module, with TorchVision's module names.

Source: Sandler et al., MobileNetV2: Inverted Residuals and Linear Bottlenecks, CVPR 2018 (table 2).
"""

import math
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from ..identity import Identity
from .parts import apply, batch_norm, check_images, conv, require_count

# Table 2 of the paper: expansion, channels, blocks, stride of the first block.
_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
_LAST_CHANNELS = 1280
_DROPOUT = 0.2


def _conv_norm(before: int, after: int, kernel_size: int, stride: int, rngs: nnx.Rngs, groups: int = 1) -> nnx.List:
    """Convolution, batch norm and ReLU6."""
    layers = [conv(before, after, kernel_size, stride, rngs, groups), batch_norm(after, rngs), nnx.relu6]
    return nnx.List(layers)


class InvertedResidual(nnx.Module):
    """1x1 expansion, 3x3 depthwise and linear 1x1 convolution, with a shortcut where the shapes allow one.

    Modules, as in TorchVision: ``conv/0`` (expansion, absent where it is 1), the depthwise one, then convolution and
    batch norm without an activation. Places for quantizers of the residual stream: ``branch``, and after a sum ``out``.
    """

    def __init__(self, in_features: int, out_features: int, stride: int, expansion: int, *, rngs: nnx.Rngs):
        self.has_shortcut = stride == 1 and in_features == out_features
        hidden = in_features * expansion
        layers = [] if expansion == 1 else [_conv_norm(in_features, hidden, 1, 1, rngs)]
        layers.append(_conv_norm(hidden, hidden, 3, stride, rngs, groups=hidden))
        self.conv = nnx.List([*layers, conv(hidden, out_features, 1, 1, rngs), batch_norm(out_features, rngs)])
        self.branch = Identity()
        self.out = Identity() if self.has_shortcut else None

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h2 w2 c2"]:
        y = x
        for part in self.conv:
            y = apply(part, y) if isinstance(part, nnx.List) else part(y)
        y = self.branch(y)
        return y if self.out is None else self.out(x + y)


class MobileNetV2(nnx.Module):
    """A stem, inverted residuals, a 1x1 convolution, the mean over all positions, dropout, and one linear layer.

    Modules, by path: ``features/0/0`` (convolution), ``features/0/1`` (batch norm), ``features/1/conv/0/0``, ...,
    ``features/18/0``, ``classifier/1``.

    Args:
        num_classes: outputs of the classifier.
        in_channels: channels of the images.
        width: multiplies the channels of every layer, rounded to a multiple of 8 as the paper's code does.
        stem_stride: stride of the first convolution; the image is divided by 16 times this.
        dropout: share of the classifier's inputs that training leaves out.
        rngs: the source of the start values (stream ``params``) and of the dropout (stream ``dropout``).

    Raises:
        ValueError: a count is not a whole number of at least 1, ``width`` is not a finite number > 0, or ``dropout``
            not in [0, 1).
    """

    def __init__(
        self,
        num_classes: int = 1000,
        in_channels: int = 3,
        *,
        width: float = 1.0,
        stem_stride: int = 2,
        dropout: float = _DROPOUT,
        rngs: nnx.Rngs,
    ):
        counts = {"num_classes": num_classes, "in_channels": in_channels, "stem_stride": stem_stride}
        for name, count in counts.items():
            require_count(name, count)
        _require_number("width", width, 0 < width < math.inf, "a finite number > 0")
        _require_number("dropout", dropout, 0 <= dropout < 1, "in [0, 1)")
        self.in_channels = in_channels
        features = _multiple_of_8(32 * width)
        layers: list[Any] = [_conv_norm(in_channels, features, 3, stem_stride, rngs)]
        for expansion, channels, blocks, stride in _STAGES:
            after = _multiple_of_8(channels * width)
            for index in range(blocks):
                layers.append(InvertedResidual(features, after, stride if index == 0 else 1, expansion, rngs=rngs))
                features = after
        last = _multiple_of_8(_LAST_CHANNELS * max(1.0, width))
        layers.append(_conv_norm(features, last, 1, 1, rngs))
        self.features = nnx.List(layers)
        start = nnx.initializers.normal(0.01)
        classifier = nnx.Linear(last, num_classes, kernel_init=start, rngs=rngs)
        self.classifier = nnx.List([nnx.Dropout(dropout, rngs=rngs), classifier])

    def __call__(self, images: Float[Array, "n h w c"]) -> Float[Array, "n classes"]:
        """Logits of normalised images.

        Raises:
            ValueError: ``images`` is not a batch of images with ``in_channels`` channels.
        """
        check_images(images, self.in_channels)
        x = apply(self.features[0], images)
        for block in self.features[1:-1]:
            x = block(x)
        x = apply(self.features[len(self.features) - 1], x)
        return apply(self.classifier, jnp.mean(x, axis=(1, 2)))


def _require_number(name: str, value: Any, allowed: bool, which: str) -> None:
    if isinstance(value, bool) or not allowed:
        raise ValueError(f"`{name}` must be {which}, got {value!r}")


def _multiple_of_8(channels: float) -> int:
    """Rounds to a multiple of 8, at least 8 and at least nine tenths of ``channels``."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


def mobilenet_v2(
    num_classes: int = 1000,
    in_channels: int = 3,
    *,
    width: float = 1.0,
    stem_stride: int = 2,
    dropout: float = _DROPOUT,
    rngs: nnx.Rngs,
) -> MobileNetV2:
    """MobileNetV2 for images of about 224x224 (3.5 million parameters for 1000 classes); see :class:`MobileNetV2`.

    ``stem_stride=1`` suits images of about 32x32.
    """
    return MobileNetV2(num_classes, in_channels, width=width, stem_stride=stem_stride, dropout=dropout, rngs=rngs)
