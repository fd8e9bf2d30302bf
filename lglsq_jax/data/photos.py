"""Samples that are image files of any size, decoded when they are asked for."""

import dataclasses
from typing import Protocol

import numpy as np

from .dataset import DamagedImage, Sample
from .decoding import Undecodable, to_picture
from .preparation import Preparation

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's training images; every network that was trained on it expects them."""


class PhotoFiles(Protocol):
    """Random access to encoded images."""

    def __len__(self) -> int: ...

    def read(self, index: int) -> tuple[bytes | np.ndarray, int]:
        """The bytes of a file (or its pixels, uint8 [h w 3]) and its class; raises ``OSError`` where it cannot."""
        ...

    def where(self, index: int) -> str:
        """What people call the file, such as its path."""
        ...


@dataclasses.dataclass(frozen=True)
class Photos:
    """Pictures as ``preparation`` makes them; a sample by its index is the one for evaluation.

    Attributes:
        files: where the bytes come from.
        preparation: what becomes of a picture.
    """

    files: PhotoFiles
    preparation: Preparation

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Sample:
        picture, label = self._picture(index)
        return {"image": self.preparation.evaluated(picture), "label": label}

    def augmented(self, index: int, random: np.random.Generator) -> Sample:
        """The sample for training.

        Raises:
            DamagedImage: it cannot be decoded; names the file.
        """
        picture, label = self._picture(index)
        return {"image": self.preparation.augmented(picture, random), "label": label}

    def _picture(self, index: int):
        try:
            data, label = self.files.read(index)
            return to_picture(data), label
        except OSError as error:
            reason = error.strerror or str(error)
        except Undecodable as error:
            reason = str(error)
        raise DamagedImage(f"the image {self.files.where(index)} cannot be decoded: {reason}") from None
