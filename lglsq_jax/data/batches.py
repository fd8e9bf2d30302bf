"""How one batch is made of its indices, in whichever thread or process: picklable functions of data and config.

Images stay uint8 until ``Finished``, which is applied in the main process: a worker then hands over a quarter of the
bytes, and making them float32 is the copy out of shared memory that would be needed anyway.
"""

import dataclasses

import numpy as np

from ..errors import UserError
from .augmentation import crop_and_flip
from .config import DataConfig
from .damaged import KEY
from .dataset import AugmentedSamples, DamagedImage, Dataset, checked, gather, normalize

AUGMENTATION = 0x617567  # tells the random numbers of augmentation from others of the same seed


@dataclasses.dataclass(frozen=True)
class TrainBatch:
    """A host's rows of a training batch of images of one size.

    Attributes:
        dataset: the data.
        config: batch size and augmentation.
        rows: this host's places in the batch of all hosts.
    """

    dataset: Dataset
    config: DataConfig
    rows: range

    def __call__(self, indices: np.ndarray, random: np.random.Generator) -> dict[str, np.ndarray]:
        images, labels = gather(self.dataset, self.dataset.train, indices[self.rows.start : self.rows.stop])
        images = crop_and_flip(
            images,
            random,
            padding=self.config.crop_padding,
            flip=self.config.flip,
            rows=self.rows,
            batch=len(indices),
        )
        return {"image": images, "label": labels}


@dataclasses.dataclass(frozen=True)
class AugmentedBatch:
    """A host's rows of a training batch of samples that augment themselves, with the damaged ones replaced.

    Attributes:
        dataset: the data.
        samples: its training samples.
        config: how many images may be damaged.
        seed: of the augmentation.
        rows: this host's places in the batch of all hosts.
    """

    dataset: Dataset
    samples: AugmentedSamples
    config: DataConfig
    seed: int
    rows: range

    def __call__(self, number: int, indices: np.ndarray) -> dict[str, np.ndarray]:
        images = np.empty((len(self.rows), *self.dataset.image_shape), np.uint8)
        labels = np.empty(len(self.rows), np.int32)
        damaged = np.full(len(self.rows), -1, np.int64)
        for at, row in enumerate(self.rows):
            index = int(indices[row])
            images[at], labels[at], found = self._readable(index, place=number * len(indices) + row)
            if found != index:
                damaged[at] = index
        return {"image": images, "label": labels, KEY: damaged}

    def _readable(self, index: int, place: int) -> tuple[np.ndarray, int, int]:
        """The image at ``index`` or the next one that can be decoded, augmented; its label; and its index."""
        damaged = None
        for _ in range(self.config.max_damaged + 1):
            random = np.random.Generator(np.random.Philox(key=[self.seed, AUGMENTATION], counter=[0, place, 0, 0]))
            try:
                image, label = checked(self.dataset, self.samples.augmented(index, random), index)
                return image, label, index
            except DamagedImage as error:
                damaged, index = error, (index + 1) % len(self.samples)
        raise UserError(
            f"{damaged}, nor can the {self.config.max_damaged} images before it, "
            "which is more than `max_damaged` allows"
        )


@dataclasses.dataclass(frozen=True)
class EvalBatch:
    """A host's rows of an evaluation batch that begins at a sample.

    Rows after the last sample are zeros, and a batch after it is empty.

    Attributes:
        dataset: the data.
        rows: this host's places in the batch of all hosts.
    """

    dataset: Dataset
    rows: range

    def __call__(self, start: int) -> dict[str, np.ndarray]:
        count = len(self.dataset.test)
        if start >= count:
            return {}
        indices = np.arange(min(start + self.rows.start, count), min(start + self.rows.stop, count))
        images, labels = gather(self.dataset, self.dataset.test, indices)
        batch = {"image": images, "label": labels, "mask": np.ones(len(labels), bool)}
        short = len(self.rows) - len(labels)
        return {key: np.pad(value, [(0, short)] + [(0, 0)] * (value.ndim - 1)) for key, value in batch.items()}


@dataclasses.dataclass(frozen=True)
class Finished:
    """A batch as it is handed out: its images normalized or raw, zeros where it is masked; all its arrays are new.

    Attributes:
        dataset: mean and standard deviation.
        raw: whether images stay uint8 as they are.
    """

    dataset: Dataset
    raw: bool = False

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        finished = {key: np.array(value) for key, value in batch.items() if key != "image"}
        if "image" in batch:
            image = np.array(batch["image"]) if self.raw else normalize(self.dataset, np.asarray(batch["image"]))
            finished = {"image": image, **finished}
        if "mask" in batch:
            finished["image"][~batch["mask"]] = 0
        return finished
