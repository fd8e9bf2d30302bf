"""A part of the training set, or one with wrong labels: for studies of little data and of noise."""

import dataclasses
import hashlib

import numpy as np
from jaxtyping import Int

from ..errors import UserError
from .config import DataConfig
from .dataset import ArraySamples, AugmentedSamples, Dataset, Sample, Samples

_KEPT, _WRONG = 0x6B657074, 0x77726F6E  # tells random numbers of the same seed apart


def drawn(dataset: Dataset, config: DataConfig) -> Dataset:
    """Returns the data set with ``config.train_images`` training images, a share of them with wrong labels.

    The images are the first of a permutation by ``draw_seed``, so that fewer are a part of more. Of ``n`` images
    ``round(label_noise * n)`` get one of the other classes, each as likely. Mean and standard deviation stay those of
    the whole training set; the fingerprint changes with all three fields.

    Raises:
        UserError: there are fewer training images than ``train_images``.
    """
    count = len(dataset.train) if config.train_images is None else config.train_images
    if count > len(dataset.train):
        raise UserError(
            f"`train_images` must be at most {len(dataset.train)}, the number of training images of {dataset.name}, "
            f"got {count}"
        )
    indices = np.random.default_rng([config.draw_seed, _KEPT]).permutation(len(dataset.train))[:count]
    if config.train_images is None:
        indices = np.sort(indices)
    random = np.random.default_rng([config.draw_seed, _WRONG])
    offsets = np.zeros(count, np.int32)
    wrong = random.permutation(count)[: round(config.label_noise * count)]
    offsets[wrong] = random.integers(1, dataset.num_classes, len(wrong))
    facts = repr((config.train_images, config.label_noise, config.draw_seed))
    return dataclasses.replace(
        dataset,
        train=_chosen(dataset.train, indices, offsets, dataset.num_classes),
        fingerprint=hashlib.sha256((dataset.fingerprint + facts).encode()).hexdigest(),
    )


def _chosen(samples: Samples, indices: np.ndarray, offsets: np.ndarray, classes: int) -> Samples:
    if isinstance(samples, ArraySamples):
        labels = (samples.labels[indices] + offsets) % classes
        return ArraySamples(samples.images[indices], labels.astype(np.int32))
    if isinstance(samples, AugmentedSamples):
        return _ChosenAugmented(samples, indices, offsets, classes)
    return _Chosen(samples, indices, offsets, classes)


@dataclasses.dataclass(frozen=True)
class _Chosen:
    """Samples at ``indices`` of others, their labels moved on by ``offsets`` modulo the number of classes."""

    samples: Samples
    indices: Int[np.ndarray, "n"]
    offsets: Int[np.ndarray, "n"]
    classes: int

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Sample:
        return self._relabelled(self.samples[int(self.indices[index])], index)

    def _relabelled(self, sample: Sample, index: int) -> Sample:
        if not self.offsets[index]:
            return sample  # a label that is out of range stays so, for the check that comes later
        return {**sample, "label": (int(sample["label"]) + int(self.offsets[index])) % self.classes}


@dataclasses.dataclass(frozen=True)
class _ChosenAugmented(_Chosen):
    """The same of samples that augment themselves."""

    samples: AugmentedSamples

    def augmented(self, index: int, random: np.random.Generator) -> Sample:
        """The sample for training."""
        return self._relabelled(self.samples.augmented(int(self.indices[index]), random), index)
