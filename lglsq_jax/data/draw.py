"""A part of the training set, or one with wrong labels: for studies of little data and of noise."""

import dataclasses
import hashlib

import numpy as np
from jaxtyping import Int

from ..errors import UserError
from .config import DataConfig
from .dataset import ArraySamples, AugmentedSamples, Dataset, Sample, Samples

_KEPT, _WRONG, _PARTS = 0x6B657074, 0x77726F6E, 0x70617274  # tells random numbers of the same seed apart


def drawn(dataset: Dataset, config: DataConfig) -> Dataset:
    """Returns the data set with ``config.train_images`` training images, a share of them with wrong labels.

    The images are the first of a permutation by ``draw_seed``, so that fewer are a part of more; with ``held_out`` the
    last of it take the place of the test images. With ``train_part`` both come from one of the equal parts of the
    training set alone, which no seed changes. Of ``n`` images ``round(label_noise * n)`` get one of the other classes,
    each as likely; those held out keep their labels. Mean and standard deviation stay those of the whole training set;
    the fingerprint changes with all of it.

    Raises:
        UserError: there are fewer training images than ``train_images``, besides those held out.
    """
    pool = _part(len(dataset.train), config.train_part)
    if not len(pool):
        raise UserError(
            f"`train_part` must be one of at most {len(dataset.train)} parts, the number of training images of "
            f"{dataset.name}, got {config.train_part!r}, which is empty"
        )
    if config.held_out >= len(pool):
        raise UserError(
            f"`held_out` must be below {len(pool)}, the number of training images of {dataset.name} there are, "
            f"got {config.held_out}"
        )
    there = len(pool) - config.held_out
    count = there if config.train_images is None else config.train_images
    if count > there:
        raise UserError(
            f"`train_images` must be at most {there}, the number of training images of {dataset.name}"
            f"{' that are left' if there < len(dataset.train) else ''}, got {count}"
        )
    permutation = pool[np.random.default_rng([config.draw_seed, _KEPT]).permutation(len(pool))]
    indices, held_out = permutation[:count], np.sort(permutation[there:])
    if config.train_images is None:
        indices = np.sort(indices)
    random = np.random.default_rng([config.draw_seed, _WRONG])
    offsets = np.zeros(count, np.int32)
    wrong = random.permutation(count)[: round(config.label_noise * count)]
    offsets[wrong] = random.integers(1, dataset.num_classes, len(wrong))
    facts: tuple = (config.train_images, config.label_noise, config.draw_seed)
    if config.held_out or config.train_part is not None:
        facts += (config.held_out, config.train_part)
    test = dataset.test
    if config.held_out:
        test = _chosen(dataset.train, held_out, np.zeros(len(held_out), np.int32), dataset.num_classes)
    return dataclasses.replace(
        dataset,
        train=_chosen(dataset.train, indices, offsets, dataset.num_classes),
        test=test,
        fingerprint=hashlib.sha256((dataset.fingerprint + repr(facts)).encode()).hexdigest(),
    )


def _part(count: int, part: str | None) -> np.ndarray:
    """Indices of the training images in part ``I/N``, in order."""
    if part is None:
        return np.arange(count)
    index, parts = map(int, part.split("/"))
    return np.sort(np.random.default_rng(_PARTS).permutation(count)[index::parts])


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
