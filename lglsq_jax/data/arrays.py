"""A data set from four arrays, with every check that a source in memory needs."""

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Int, UInt8

from ..errors import UserError
from .dataset import ArraySamples, Dataset

ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")
IMAGES_AT_ONCE = 1024


def from_arrays(
    name: str,
    train_images: UInt8[np.ndarray, "n h w *c"],
    train_labels: Int[np.ndarray, "n"],
    test_images: UInt8[np.ndarray, "m h w *c"],
    test_labels: Int[np.ndarray, "m"],
    *,
    called: Sequence[str] = ARRAYS,
) -> Dataset:
    """Makes a data set of arrays in memory; the number of channels and classes follow from them.

    Args:
        name: name of the data set; part of the fingerprint.
        train_images: uint8, [n h w c] or [n h w].
        train_labels: whole numbers from 0; every class up to the largest has at least one training image.
        test_images: as ``train_images``, of the same height, width and channels.
        test_labels: one of the classes of ``train_labels`` an image.
        called: what errors call the four arrays, such as the names of their files.

    Returns:
        The data set. Its ``fingerprint`` is the SHA-256 of name, shapes, labels and pixels.

    Raises:
        UserError: an array is of another type or shape, or the four do not fit together.
    """
    train = _samples(train_images, train_labels, called[0], called[1])
    test = _samples(test_images, test_labels, called[2], called[3])
    if train.images.shape[1:] != test.images.shape[1:]:
        raise UserError(
            f"the images of `{called[2]}` must have the shape of those of `{called[0]}`, "
            f"{train.images.shape[1:]} (height, width, channels), got {test.images.shape[1:]}"
        )
    num_classes = _number_of_classes(train.labels, called[1])
    if test.labels.max() >= num_classes:
        raise UserError(
            f"the labels of `{called[3]}` must be between 0 and {num_classes - 1}, "
            f"as those of `{called[1]}` are, got {test.labels.max()}"
        )
    pieces = range(0, len(train), IMAGES_AT_ONCE)
    mean, std = channel_statistics(train.images[start : start + IMAGES_AT_ONCE] for start in pieces)
    return Dataset(
        name=name,
        train=train,
        test=test,
        num_classes=num_classes,
        image_shape=train.images.shape[1:],
        mean=mean,
        std=std,
        fingerprint=_fingerprint(name, train, test),
    )


def channel_statistics(
    batches: Iterable[UInt8[np.ndarray, "b h w c"]],
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of ``images / 255``, over all images of all batches.

    Sums are whole numbers, so the result is the same on every machine. A constant channel gets 1/255, one grey level,
    so that it can be divided by.
    """
    count, total, squares = 0, np.zeros(1, np.uint64), np.zeros(1, np.uint64)
    for images in batches:
        pixels = images.reshape(-1, images.shape[-1]).astype(np.uint16)
        count += len(pixels)
        total = total + pixels.sum(0, dtype=np.uint64)
        squares = squares + (pixels * pixels).sum(0, dtype=np.uint64)
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - mean**2, 0))
    return tuple((mean / 255).tolist()), tuple((np.maximum(std, 1) / 255).tolist())


def _samples(images: np.ndarray, labels: np.ndarray, images_called: str, labels_called: str) -> ArraySamples:
    images, labels = np.asarray(images), np.asarray(labels)
    if images.dtype != np.uint8:
        hint = "; multiply values in [0, 1] by 255 and round them" if images.dtype.kind == "f" else ""
        raise UserError(f"`{images_called}` must be uint8 (0 to 255), got {images.dtype}{hint}")
    if images.ndim not in (3, 4):
        raise UserError(f"`{images_called}` must have the shape [n h w] or [n h w c], got {images.shape}")
    if images.size == 0:
        raise UserError(f"`{images_called}` must hold at least one image, got the shape {images.shape}")
    if labels.dtype.kind not in "iu":
        raise UserError(f"`{labels_called}` must be whole numbers, got {labels.dtype}")
    if labels.ndim != 1:
        raise UserError(f"`{labels_called}` must have the shape [n], got {labels.shape}")
    if len(images) != len(labels):
        raise UserError(
            f"`{images_called}` and `{labels_called}` must hold as many images as labels, "
            f"got {len(images)} images and {len(labels)} labels"
        )
    if labels.min() < 0:
        raise UserError(f"the labels of `{labels_called}` must be 0 or more, got {labels.min()}")
    if labels.max() > np.iinfo(np.int32).max:
        raise UserError(f"the labels of `{labels_called}` must be below 2^31, got {labels.max()}")
    images = np.ascontiguousarray(images if images.ndim == 4 else images[..., None])
    return ArraySamples(images, labels.astype(np.int32))


def _number_of_classes(labels: Int[np.ndarray, "n"], called: str) -> int:
    present = np.unique(labels)
    num_classes = int(present[-1]) + 1
    if len(present) < num_classes:
        empty = next(label for label, seen in enumerate(present.tolist()) if label != seen)
        raise UserError(
            f"every class must have a training image, but `{called}` has none of class {empty} "
            f"(its largest label is {num_classes - 1}, so the classes are 0 to {num_classes - 1})"
        )
    if num_classes < 2:
        raise UserError(f"`{called}` must hold at least two classes, got only class 0")
    return num_classes


def _fingerprint(name: str, *parts: ArraySamples) -> str:
    digest = hashlib.sha256(name.encode())
    for part in parts:
        digest.update(repr(part.images.shape).encode())
        digest.update(part.labels.astype("<i8").tobytes())
        digest.update(part.images.data)
    return digest.hexdigest()
