"""A folder of image files a class, as ImageNet's is laid out: ``train/CLASS/*.jpg`` and ``val/CLASS/*.jpg``."""

import dataclasses
import hashlib
import os
import stat
from pathlib import Path

import numpy as np
from jaxtyping import Int

from ..errors import UserError
from .config import DataConfig
from .dataset import Dataset
from .photos import MEAN, STD, Photos
from .preparation import Preparation

ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
TRAINING_FOLDER = "train"
EVALUATION_FOLDERS = ("val", "validation", "test")


@dataclasses.dataclass(frozen=True)
class ClassFolders:
    """The image files of a folder of class folders, sorted by class and name.

    Attributes:
        root: the folder.
        classes: names of the class folders; their order gives the labels.
        labels: int32 [n].
        names: the names of all files, one after the other: a million separate strings would take long to hand to a
            worker process.
        ends: int64 [n], where each name ends.
    """

    root: Path
    classes: tuple[str, ...]
    labels: Int[np.ndarray, "n"]
    names: bytes
    ends: Int[np.ndarray, "n"]

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int) -> tuple[bytes, int]:
        """The bytes of a file and its class."""
        with open(self.where(index), "rb") as file:
            return file.read(), int(self.labels[index])

    def where(self, index: int) -> str:
        """The path of a file."""
        start = int(self.ends[index - 1]) if index else 0
        name = os.fsdecode(self.names[start : int(self.ends[index])])
        return os.path.join(self.root, self.classes[self.labels[index]], name)


def read(config: DataConfig) -> Dataset:
    """Lists the files below ``config.path``: training images in ``train``, test images in ``val`` (or ``validation``
    or ``test``), each with the same class folders. The classes are their sorted names.

    Files with other endings, deeper folders and names that begin with a dot are passed over. Images may have any size
    and are converted to RGB where they are not (see ``decoding``; ImageNet itself has grey and CMYK files); nothing is
    decoded here. Mean and standard deviation are ImageNet's, which a network trained on it expects. The fingerprint is
    the SHA-256 of all paths and sizes.

    Raises:
        UserError: a folder is missing or cannot be read, a class is missing in one of the two, or it has no image.
    """
    return read_folders("folder", Path(str(config.path)).expanduser(), config)


def read_folders(name: str, root: Path, config: DataConfig) -> Dataset:
    """As ``read``, for the folder ``root`` and a data set called ``name``."""
    training, evaluation = root / TRAINING_FOLDER, evaluation_folder(root)
    if not training.is_dir() or evaluation is None:
        what = "a file" if root.is_file() else "nothing" if not root.exists() else "a folder without them"
        raise UserError(
            f"`path` must be a folder with {TRAINING_FOLDER}/CLASS/*.jpg and {EVALUATION_FOLDERS[0]}/CLASS/*.jpg, "
            f"{root} is {what}"
        )
    classes = _class_names(training)
    if len(classes) < 2:
        raise UserError(f"{training} must hold at least two folders, one a class, got {len(classes)}")
    for missing in sorted(set(classes) ^ set(_class_names(evaluation))):
        has, lacks = (training, evaluation) if missing in classes else (evaluation, training)
        raise UserError(
            f"{training} and {evaluation} must have the same classes, but {missing} of {has} is not in {lacks}"
        )
    digest = hashlib.sha256(name.encode())
    train, test = (_listed(folder, classes, digest) for folder in (training, evaluation))
    preparation = Preparation.of(config)
    return Dataset(
        name=name,
        train=Photos(train, preparation),
        test=Photos(test, preparation),
        num_classes=len(classes),
        image_shape=(config.image_size, config.image_size, 3),
        mean=MEAN,
        std=STD,
        fingerprint=digest.hexdigest(),
    )


def evaluation_folder(root: Path) -> Path | None:
    """The first of ``val``, ``validation`` and ``test`` that there is."""
    return next((root / name for name in EVALUATION_FOLDERS if (root / name).is_dir()), None)


def _class_names(folder: Path) -> tuple[str, ...]:
    try:
        with os.scandir(folder) as entries:
            return tuple(sorted(entry.name for entry in entries if entry.name[0] != "." and entry.is_dir()))
    except OSError as error:
        raise UserError(f"{folder} cannot be read: {error.strerror}") from None


def _listed(folder: Path, classes: tuple[str, ...], digest) -> ClassFolders:
    counts, names, lengths = [], [], []
    for name in classes:
        found = _images(folder / name)
        if not found:
            raise UserError(
                f"every class must have an image, but {folder / name} has no file that ends in {', '.join(ENDINGS)}"
            )
        encoded = [os.fsencode(file) for file, _ in found]
        names += encoded
        lengths += map(len, encoded)
        counts.append(len(found))
        sizes = " ".join(str(size) for _, size in found)
        digest.update(b"\0".join((os.fsencode(f"{folder.name}/{name}"), *encoded, sizes.encode(), b"\n")))
    labels = np.repeat(np.arange(len(classes), dtype=np.int32), counts)
    return ClassFolders(folder, classes, labels, b"".join(names), np.cumsum(lengths, dtype=np.int64))


def _images(folder: Path) -> list[tuple[str, int]]:
    """Names and sizes of the image files of a folder, sorted by name."""
    found = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.lower().endswith(ENDINGS) and entry.name[0] != ".":
                    facts = entry.stat()
                    if stat.S_ISREG(facts.st_mode):
                        found.append((entry.name, facts.st_size))
    except OSError as error:
        raise UserError(f"{error.filename or folder} cannot be read: {error.strerror}") from None
    return sorted(found)
