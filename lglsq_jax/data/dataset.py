"""A data set: random access to training and test samples, and the facts a network and a run need about them."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol, TypedDict, runtime_checkable

import numpy as np
from jaxtyping import Float, Int, UInt8

from ..errors import UserError


class Sample(TypedDict):
    """One image with its class: ``image`` is uint8 [h w c], ``label`` counts from 0."""

    image: UInt8[np.ndarray, "h w c"]
    label: int


class Samples(Protocol):
    """Random access to samples; the same index gives the same sample for ever."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any:
        """The ``Sample`` at ``index``."""


@runtime_checkable
class AugmentedSamples(Samples, Protocol):
    """Samples that augment each image by themselves; in their ``[index]`` they are prepared for evaluation."""

    def augmented(self, index: int, random: np.random.Generator) -> Sample:
        """The sample for training; raises ``DamagedImage`` where there is none to be had."""
        ...


class DamagedImage(UserError):
    """An image of the data set cannot be decoded; the message names it."""


@dataclasses.dataclass(frozen=True)
class ArraySamples:
    """Samples in memory.

    Attributes:
        images: uint8 [n h w c].
        labels: int32 [n].
    """

    images: UInt8[np.ndarray, "n h w c"]
    labels: Int[np.ndarray, "n"]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Sample:
        return {"image": self.images[index], "label": int(self.labels[index])}

    def rows(self, indices: Sequence[int] | Int[np.ndarray, "b"]) -> tuple[np.ndarray, np.ndarray]:
        """Images and labels at ``indices``, in one copy; what makes batches of small images fast."""
        return self.images[indices], self.labels[indices]


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Training and test samples with what is known about them.

    Attributes:
        name: name for people, such as ``digits`` or ``mnist/3.0.1``.
        train: training samples.
        test: samples for evaluation.
        num_classes: number of classes; every label is below it.
        image_shape: (height, width, channels), the same for all images.
        mean: mean of each channel over the training images, scaled to [0, 1].
        std: standard deviation of each channel, in the same unit; at least 1/255.
        fingerprint: a hash that changes when the data do; stored in checkpoints.
    """

    name: str
    train: Samples
    test: Samples
    num_classes: int
    image_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fingerprint: str

    def check_batch_size(self, batch_size: int) -> None:
        """Raises ``UserError`` where a training batch would hold an image twice."""
        if not 1 <= batch_size <= len(self.train):
            raise UserError(
                f"`batch_size` must be between 1 and {len(self.train)}, the number of training images of {self.name}, "
                f"got {batch_size}"
            )


def gather(
    dataset: Dataset, samples: Samples, indices: Int[np.ndarray, "b"]
) -> tuple[UInt8[np.ndarray, "b h w c"], Int[np.ndarray, "b"]]:
    """Images and labels (int32) of ``samples`` at ``indices``; checks what a source could not check when it was opened.

    Raises:
        UserError: an image has another shape or type, or a label is not one of the classes.
    """
    if isinstance(samples, ArraySamples):
        return samples.rows(indices)
    images = np.empty((len(indices), *dataset.image_shape), np.uint8)
    labels = np.empty(len(indices), np.int32)
    for row, index in enumerate(indices.tolist()):
        images[row], labels[row] = checked(dataset, samples[index], index)
    return images, labels


def checked(dataset: Dataset, sample: Sample, index: int) -> tuple[UInt8[np.ndarray, "h w c"], int]:
    """Image and label of a sample that is as the data set says, a ``UserError`` otherwise."""
    image, label = np.asarray(sample["image"]), int(sample["label"])
    if image.shape != dataset.image_shape or image.dtype != np.uint8:
        raise UserError(
            f"image {index} of {dataset.name} must be uint8 of shape {dataset.image_shape}, "
            f"got {image.dtype} of shape {image.shape}"
        )
    if not 0 <= label < dataset.num_classes:
        raise UserError(f"label {index} of {dataset.name} must be between 0 and {dataset.num_classes - 1}, got {label}")
    return image, label


def normalize(dataset: Dataset, images: UInt8[np.ndarray, "*b h w c"]) -> Float[np.ndarray, "*b h w c"]:
    """What a network sees: ``(images / 255 - mean) / std``, float32."""
    std, (width, channels) = np.asarray(dataset.std), images.shape[-2:]
    # Whole rows of pixels at once: over the few channels alone, NumPy's loop takes several times as long.
    normalized = images.reshape(*images.shape[:-2], width * channels) * np.tile(
        (1 / (255 * std)).astype(np.float32), width
    )
    normalized -= np.tile((np.asarray(dataset.mean) / std).astype(np.float32), width)
    return normalized.reshape(images.shape)
