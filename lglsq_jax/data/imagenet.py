"""ImageNet (ILSVRC 2012) from TensorFlow Datasets or from folders of JPEGs, with all that makes a result comparable."""

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError
from .config import DataConfig
from .dataset import Dataset
from .folder import TRAINING_FOLDER, read_folders
from .photos import MEAN, STD, Photos
from .preparation import Preparation
from .tfds import first_line, open_builder, open_split

CLASSES = 1000
TEST_IMAGES = 50_000
DATA_SET = "imagenet2012"


@dataclasses.dataclass(frozen=True)
class TfdsPhotos:
    """A split of prepared data whose images are still encoded.

    Attributes:
        name: of the data set and the split, for errors.
        source: what ``tfds.data_source`` gives for the split.
    """

    name: str
    source: Any

    def __len__(self) -> int:
        return len(self.source)

    def read(self, index: int) -> tuple[bytes | np.ndarray, int]:
        """The bytes of an image (its pixels, where TFDS decoded it) and its class."""
        sample = self._sample(index)
        return sample["image"], int(sample["label"])

    def where(self, index: int) -> str:
        """Its number and the name it had as a file."""
        try:
            name = self._sample(index)["file_name"]
        except (OSError, KeyError):
            return f"{index} of {self.name}"
        return f"{index} ({name.decode(errors='replace') if isinstance(name, bytes) else name}) of {self.name}"

    def _sample(self, index: int) -> dict[str, Any]:
        try:
            return self.source[index]
        except Exception as error:  # every storage format has its own
            raise OSError(first_line(error)) from None


def read(config: DataConfig) -> Dataset:
    """Opens ImageNet: 1000 classes, exactly 50,000 test images, which are those of its validation part.

    Where ``config.path`` is a folder with ``train``, its class folders are read as the source ``folder`` does.
    Otherwise TFDS opens ``config.name``, or else ``imagenet2012``, which has to be prepared in the folder
    ``config.path`` (None: TFDS's own). Images are decoded by Pillow, in the processes that prepare batches.

    Raises:
        UserError: it is not there, not prepared, or not the whole of it; other data sets have the source ``folder``.
    """
    root = Path(config.path).expanduser() if config.path else None
    if root is not None and (root / TRAINING_FOLDER).is_dir():
        dataset = read_folders("imagenet", root, config)
        _check_count(dataset.num_classes, CLASSES, f"the class folders of {root}")
        _check_count(len(dataset.test), TEST_IMAGES, f"the test images of {root}")
        return dataset
    if root is not None and not root.is_dir():
        what = "a file" if root.exists() else "nothing"
        raise UserError(f"`path` must be a folder with train and val, or of prepared TFDS data, {root} is {what}")
    return _from_tfds(config)


def _from_tfds(config: DataConfig) -> Dataset:
    name = config.name or DATA_SET
    if name.split(":")[0] != DATA_SET:
        raise UserError(f"`name` must be {DATA_SET} or one of its versions for the source 'imagenet', got {name!r}")
    builder = open_builder(name, config.path)
    full_name = builder.info.full_name
    train, test = (
        TfdsPhotos(f"{full_name}, {split}", _encoded(builder, name, split, config)) for split in ("train", "validation")
    )
    if builder.info.splits:  # TFDS's mock data, which are for trying things out, declare none and have any number
        _check_count(len(test), TEST_IMAGES, f"the validation images of {full_name}")
    preparation = Preparation.of(config)
    return Dataset(
        name=full_name,
        train=Photos(train, preparation),
        test=Photos(test, preparation),
        num_classes=CLASSES,
        image_shape=(config.image_size, config.image_size, 3),
        mean=MEAN,
        std=STD,
        fingerprint=hashlib.sha256(f"{full_name} {len(train)} {len(test)}".encode()).hexdigest(),
    )


def _encoded(builder: Any, name: str, split: str, config: DataConfig) -> Any:
    """The samples of a split with the bytes of their images; with pixels where TFDS cannot give bytes (mock data)."""
    import tensorflow_datasets as tfds

    samples = open_split(builder, name, split, config.path, decoders={"image": tfds.decode.SkipDecoding()})
    try:
        samples[0]
    except ImportError:
        samples = open_split(builder, name, split, config.path)
    except Exception as error:  # of array_record, where a shard is missing or damaged
        raise UserError(f"sample 0 of {name}, {split} cannot be read: {first_line(error)}") from error
    return samples


def _check_count(found: int, wanted: int, what: str) -> None:
    if found != wanted:
        raise UserError(
            f"{what} must be {wanted:,}, as in ImageNet, got {found:,}; for other data use the source 'folder'"
        )
