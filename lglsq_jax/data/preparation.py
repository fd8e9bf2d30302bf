"""From a picture of any size to pixels of one size: ImageNet's standard augmentation and evaluation."""

import dataclasses
import math

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageEnhance

from .config import DataConfig

ASPECTS = (3 / 4, 4 / 3)
TRIES = 10
Box = tuple[int, int, int, int]
"""(left, top, right, bottom) in pixels."""


@dataclasses.dataclass(frozen=True)
class Preparation:
    """What becomes of a picture before it goes to the network.

    Attributes:
        size: height and width of the result.
        resize: shorter side before the centre crop of evaluation.
        min_area: smallest area of a random crop, as a share of the picture's.
        jitter: how far brightness, contrast and saturation may move; 0: not at all.
        flip: whether to mirror (left to right, with probability 1/2) in training.
    """

    size: int = 224
    resize: int = 256
    min_area: float = 0.08
    jitter: float = 0.0
    flip: bool = False

    @classmethod
    def of(cls, config: DataConfig) -> "Preparation":
        """The preparation that a config asks for."""
        return cls(config.image_size, config.shorter_side, config.min_crop_area, config.color_jitter, config.flip)

    def augmented(self, picture: Image.Image, random: np.random.Generator) -> UInt8[np.ndarray, "size size 3"]:
        """A random crop, resized (bilinear, antialiased), perhaps mirrored, its colours changed."""
        box = random_box(*picture.size, random, min_area=self.min_area)
        cut = picture.resize((self.size, self.size), Image.Resampling.BILINEAR, box=box)
        if self.flip and random.random() < 0.5:
            cut = cut.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if self.jitter:
            cut = jittered(cut, random, amount=self.jitter)
        return np.asarray(cut)

    def evaluated(self, picture: Image.Image) -> UInt8[np.ndarray, "size size 3"]:
        """The middle of the picture, resized (bilinear, antialiased) so that its shorter side is ``resize``."""
        shorter = min(picture.size)
        width, height = (self.resize * side // shorter for side in picture.size)
        resized = picture.resize((width, height), Image.Resampling.BILINEAR)
        left, top = round((width - self.size) / 2), round((height - self.size) / 2)
        return np.asarray(resized.crop((left, top, left + self.size, top + self.size)))


def random_box(width: int, height: int, random: np.random.Generator, *, min_area: float) -> Box:
    """A random part of a picture: its area uniform in ``[min_area, 1]`` of the picture's, the logarithm of its aspect
    uniform between those of 3/4 and 4/3, its place uniform. Where ten such parts do not fit, the largest one in the
    middle whose aspect is nearest to the picture's.

    Source: Szegedy et al., "Going Deeper with Convolutions", CVPR 2015, section 6; details as in TorchVision's
    ``RandomResizedCrop``.
    """
    areas = random.uniform(min_area, 1, TRIES) * (width * height)
    aspects = np.exp(random.uniform(math.log(ASPECTS[0]), math.log(ASPECTS[1]), TRIES))
    sizes = np.stack([np.sqrt(areas * aspects), np.sqrt(areas / aspects)], 1).round().astype(int).tolist()
    for w, h in sizes:
        if 0 < w <= width and 0 < h <= height:
            left, top = int(random.integers(0, width - w + 1)), int(random.integers(0, height - h + 1))
            return left, top, left + w, top + h
    w, h = min(width, round(height * ASPECTS[1])), min(height, round(width / ASPECTS[0]))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def jittered(picture: Image.Image, random: np.random.Generator, *, amount: float) -> Image.Image:
    """Brightness, contrast and saturation in random order, each times a factor uniform in ``[1 - amount, 1 + amount]``.

    Source: Howard, "Some Improvements on Deep Convolutional Neural Network Based Image Classification", 2013.
    """
    changes = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
    factors = random.uniform(1 - amount, 1 + amount, len(changes)).tolist()
    for which in random.permutation(len(changes)).tolist():
        picture = changes[which](picture).enhance(factors[which])
    return picture
