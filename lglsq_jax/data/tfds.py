"""Any prepared data set of TensorFlow Datasets that has one image and one label a sample; read without TensorFlow."""

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError
from .arrays import IMAGES_AT_ONCE, channel_statistics
from .config import DataConfig
from .dataset import Dataset, Sample, gather

MOST_PIXELS = 2**24
EVALUATION_SPLITS = ("test", "validation")


@dataclasses.dataclass(frozen=True)
class TfdsSamples:
    """A split of a prepared data set.

    Attributes:
        name: name of the data set, for errors.
        source: what ``tfds.data_source`` gives for the split.
    """

    name: str
    source: Any

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Sample:
        try:
            sample = self.source[index]
        except Exception as error:  # every storage format has its own
            raise UserError(f"sample {index} of {self.name} cannot be read: {first_line(error)}") from error
        return {"image": sample["image"], "label": int(sample["label"])}


def read(config: DataConfig) -> Dataset:
    """Opens ``config.name`` in the folder ``config.path``: its split ``train``, and ``test`` or else ``validation``.

    Mean and standard deviation are those of evenly spaced training images, at most 2^24 pixels of them. The fingerprint
    is the SHA-256 of name, version and number of samples of both splits; images are not read for it.

    Raises:
        UserError: the data set is not prepared, has no such splits, or no images of one fixed shape with labels.
    """
    builder = open_builder(str(config.name), config.path)
    image_shape, num_classes = _image_and_classes(builder)
    full_name = builder.info.full_name
    train, test = (
        TfdsSamples(full_name, open_split(builder, str(config.name), split, config.path))
        for split in ("train", _evaluation_split(builder))
    )
    for samples in (train, test):
        samples[0]  # TFDS notices missing or damaged files only now
    unmeasured = Dataset(
        name=full_name,
        train=train,
        test=test,
        num_classes=num_classes,
        image_shape=image_shape,
        mean=(0.0,) * image_shape[2],
        std=(1.0,) * image_shape[2],
        fingerprint=hashlib.sha256(f"{full_name} {len(train)} {len(test)}".encode()).hexdigest(),
    )
    mean, std = _statistics(unmeasured)
    return dataclasses.replace(unmeasured, mean=mean, std=std)


def open_builder(name: str, folder: str | None) -> Any:
    """The TFDS builder of that name for a folder of prepared data sets (None: TFDS's own).

    Raises:
        UserError: TFDS knows no such data set.
    """
    import tensorflow_datasets as tfds

    try:
        return tfds.builder(name, data_dir=str(Path(folder).expanduser()) if folder else None)
    except (ValueError, AssertionError) as error:
        raise UserError(
            f"`name` must be a data set that TFDS has prepared or knows, got {name!r} ({first_line(error)})"
        ) from None


def _image_and_classes(builder: Any) -> tuple[tuple[int, int, int], int]:
    features, name = builder.info.features, builder.info.full_name
    classes = getattr(features["label"], "num_classes", None) if "label" in features else None
    if "image" not in features or classes is None:
        raise UserError(f"{name} must have the features `image` and `label` (a class), got {', '.join(features)}")
    shape = tuple(features["image"].shape)
    if len(shape) != 3 or None in shape or np.dtype(features["image"].np_dtype) != np.uint8:
        raise UserError(
            f"the images of {name} must be uint8 of one fixed shape (height, width, channels), "
            f"got {np.dtype(features['image'].np_dtype)} of shape {shape}"
        )
    return shape, classes


def _evaluation_split(builder: Any) -> str:
    splits = builder.info.splits
    for split in EVALUATION_SPLITS:
        if split in splits or not splits:
            return split
    raise UserError(f"{builder.info.full_name} must have a split test or validation, got {', '.join(splits)}")


def open_split(builder: Any, name: str, split: str, folder: str | None, **options: Any) -> Any:
    """Opens a split for random access; ``options`` go to ``as_data_source``.

    Raises:
        UserError: it is not prepared, not for random access, or has no samples.
    """
    data_dir = f" --data_dir={folder}" if folder else ""
    command = f"tfds build {name}{data_dir} --file_format=array_record"
    try:
        samples = builder.as_data_source(split=split, **options)
    except Exception as error:  # whatever TFDS happens to meet first
        if not builder.is_prepared():
            where = folder or "the folder of TFDS"
            raise UserError(
                f"{name} is not prepared in {where}: prepare it once with `{command}`, which needs TensorFlow"
            ) from None
        raise UserError(
            f"the split {split} of {name} must be prepared for random access ({first_line(error)}): "
            f"prepare it in a new folder with `{command}`"
        ) from None
    if len(samples) == 0:
        raise UserError(f"the split {split} of {name} must hold at least one sample, got none")
    return samples


def first_line(error: Exception) -> str:
    """The first line of what an error says."""
    return (str(error) or repr(error)).split("\n")[0].rstrip(".:")


def _statistics(dataset: Dataset) -> tuple[tuple[float, ...], tuple[float, ...]]:
    height, width, _ = dataset.image_shape
    count = min(len(dataset.train), max(1, MOST_PIXELS // (height * width)))
    chosen = np.arange(count) * len(dataset.train) // count
    pieces = (chosen[start : start + IMAGES_AT_ONCE] for start in range(0, count, IMAGES_AT_ONCE))
    return channel_statistics(gather(dataset, dataset.train, piece)[0] for piece in pieces)
