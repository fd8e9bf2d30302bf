"""ShuffleNetV2 as a plain float Flax NNX module, with TorchVision's module names.

Source: Ma et al., ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture Design, ECCV 2018 (table 5).
"""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from .parts import apply, batch_norm, check_images, conv, linear, require_count, torch_uniform

# Table 5 of the paper: channels after the stem, after each stage, and before the mean, by width.
_CHANNELS = {
    0.5: (24, 48, 96, 192, 1024),
    1.0: (24, 116, 232, 464, 1024),
    1.5: (24, 176, 352, 704, 1024),
    2.0: (24, 244, 488, 976, 2048),
}
_BLOCKS = (4, 8, 4)


def _pointwise(before: int, after: int, rngs: nnx.Rngs) -> list:
    return [conv(before, after, 1, 1, rngs, start=torch_uniform), batch_norm(after, rngs), nnx.relu]


def _depthwise(features: int, stride: int, rngs: nnx.Rngs) -> list:
    """A 3x3 depthwise convolution and batch norm, without an activation (section 3.2 of the paper)."""
    layer = conv(features, features, 3, stride, rngs, groups=features, start=torch_uniform)
    return [layer, batch_norm(features, rngs)]


class ShuffleUnit(nnx.Module):
    """One half of the channels passes, or is halved in size; the other is convolved; then both halves are interleaved.

    Modules, as in TorchVision: ``branch1/0`` (depthwise) and ``branch1/2`` (1x1) where the stride is 2, ``branch2/0``
    (1x1), ``branch2/3`` (depthwise) and ``branch2/5`` (1x1), each followed by its batch norm.
    """

    def __init__(self, in_features: int, out_features: int, stride: int, *, rngs: nnx.Rngs):
        half = out_features // 2
        self.splits = stride == 1
        self.branch1 = (
            None
            if self.splits
            else nnx.List([*_depthwise(in_features, stride, rngs), *_pointwise(in_features, half, rngs)])
        )
        before = half if self.splits else in_features
        self.branch2 = nnx.List(
            [*_pointwise(before, half, rngs), *_depthwise(half, stride, rngs), *_pointwise(half, half, rngs)]
        )

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h2 w2 c2"]:
        left, right = jnp.split(x, 2, axis=-1) if self.splits else (x, x)
        halves = jnp.concatenate([apply(self.branch1, left), apply(self.branch2, right)], axis=-1)
        return shuffle_channels(halves, 2)


def shuffle_channels(x: Float[Array, "n h w c"], groups: int) -> Float[Array, "n h w c"]:
    """Interleaves ``groups`` equal groups of channels: the first of each, then the second of each, ..."""
    *outer, channels = x.shape
    return x.reshape(*outer, groups, channels // groups).swapaxes(-1, -2).reshape(x.shape)


class ShuffleNetV2(nnx.Module):
    """A stem, three stages of shuffle units, a 1x1 convolution, the mean over all positions, and one linear layer.

    Modules, by path: ``conv1/0`` (convolution), ``conv1/1`` (batch norm), ``stage2/0/branch1/0``, ...,
    ``stage4/3/branch2/6``, ``conv5/0``, ``conv5/1``, ``fc``.

    Args:
        num_classes: outputs of ``fc``.
        in_channels: channels of the images.
        width: 0.5, 1.0, 1.5 or 2.0.
        stem_stride: stride of the first convolution.
        stem_pool: whether 3x3 max pooling with stride 2 follows it.
        rngs: the source of the start values (stream ``params``).

    Raises:
        ValueError: a count is not a whole number of at least 1, or there is no such width.
    """

    def __init__(
        self,
        num_classes: int = 1000,
        in_channels: int = 3,
        *,
        width: float = 1.0,
        stem_stride: int = 2,
        stem_pool: bool = True,
        rngs: nnx.Rngs,
    ):
        counts = {"num_classes": num_classes, "in_channels": in_channels, "stem_stride": stem_stride}
        for name, count in counts.items():
            require_count(name, count)
        if width not in _CHANNELS:
            raise ValueError(f"`width` must be one of {', '.join(map(str, _CHANNELS))}, got {width!r}")
        features, *stages, last = _CHANNELS[width]
        self.in_channels = in_channels
        self.stem_pool = stem_pool
        stem = conv(in_channels, features, 3, stem_stride, rngs, start=torch_uniform)
        self.conv1 = nnx.List([stem, batch_norm(features, rngs), nnx.relu])
        for stage, (after, blocks) in enumerate(zip(stages, _BLOCKS, strict=True)):
            units = [ShuffleUnit(features, after, 2, rngs=rngs)]
            units += [ShuffleUnit(after, after, 1, rngs=rngs) for _ in range(blocks - 1)]
            setattr(self, f"stage{stage + 2}", nnx.List(units))
            features = after
        self.conv5 = nnx.List(_pointwise(features, last, rngs))
        self.fc = linear(last, num_classes, rngs)

    def __call__(self, images: Float[Array, "n h w c"]) -> Float[Array, "n classes"]:
        """Logits of normalised images.

        Raises:
            ValueError: ``images`` is not a batch of images with ``in_channels`` channels.
        """
        check_images(images, self.in_channels)
        x = apply(self.conv1, images)
        if self.stem_pool:
            border = ((1, 1), (1, 1))
            x = nnx.max_pool(x, (3, 3), strides=(2, 2), padding=border)  # pyright: ignore[reportArgumentType]
        for stage in range(len(_BLOCKS)):
            x = apply(getattr(self, f"stage{stage + 2}"), x)
        x = apply(self.conv5, x)
        return self.fc(jnp.mean(x, axis=(1, 2)))


def shufflenet_v2(
    num_classes: int = 1000,
    in_channels: int = 3,
    *,
    width: float = 1.0,
    stem_stride: int = 2,
    stem_pool: bool = True,
    rngs: nnx.Rngs,
) -> ShuffleNetV2:
    """ShuffleNetV2 for images of about 224x224 (2.3 million parameters for 1000 classes); see :class:`ShuffleNetV2`.

    ``stem_stride=1, stem_pool=False`` suits images of about 32x32.
    """
    return ShuffleNetV2(num_classes, in_channels, width=width, stem_stride=stem_stride, stem_pool=stem_pool, rngs=rngs)
