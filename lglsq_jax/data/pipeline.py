"""Batches for training (endless, shuffled, restartable) and evaluation (every test sample once)."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import UserError
from .augmentation import crop_and_flip
from .config import DataConfig, whole_number
from .dataset import ArraySamples, Dataset, Samples, gather, normalize
from .stream import Stream

if TYPE_CHECKING:
    import grain

LARGEST_SEED = 2**32 - 1
BATCHES_AHEAD = 4
MOST_THREADS = 16
EPOCHS = 2**31  # as good as endless; a truly endless list of batches of one image has no length that fits an index


def steps_per_epoch(dataset: Dataset, config: DataConfig) -> int:
    """Batches after which every training image was seen: ``ceil(len(train) / batch_size)``.

    The last of them may begin the next epoch: batches run on from epoch to epoch and no image is dropped.
    """
    return -(-len(dataset.train) // config.batch_size)


def train_batches(dataset: Dataset, config: DataConfig, *, seed: int, first_step: int = 0) -> Stream:
    """Endless training batches, from batch ``first_step`` on.

    Batch ``i`` holds places ``i·b .. i·b + b - 1`` of an endless list of samples, ``b = batch_size``: epoch after
    epoch, each the whole training set in another order. With ``n`` training images, place ``j`` is the image at
    ``shuffle(j mod n)``, a permutation of ``0..n-1`` made from ``(seed, j div n)``. Crops and mirrorings of batch ``i``
    come from a counter-based generator at ``(seed, i)``. So a batch depends on the data, the config, the seed and ``i``
    only, not on the batches before it nor on ``workers``: starting at ``first_step=k`` costs nothing and gives exactly
    the stream from batch ``k`` on.

    Args:
        dataset: the data.
        config: batch size, augmentation, workers.
        seed: from 0 to 2^32 - 1.
        first_step: number of the first batch.

    Returns:
        Batches of ``image`` (float32 [b h w c], normalized) and ``label`` (int32 [b]). Closing the iterator ends its
        threads and processes.

    Raises:
        UserError: the batch size is larger than the training set, or an argument is out of range; while iterating,
            a sample that is not as the data set says.
    """
    seed, first_step = whole_number("seed", seed, 0), whole_number("first_step", first_step, 0)
    if seed > LARGEST_SEED:
        raise UserError(f"`seed` must be at most {LARGEST_SEED}, got {seed}")
    dataset.check_batch_size(config.batch_size)
    import grain

    places = grain.MapDataset.range(len(dataset.train)).seed(seed).shuffle().repeat(EPOCHS)
    batches = places.batch(config.batch_size, batch_fn=np.asarray).random_map(_TrainBatch(dataset, config))
    stream = batches[first_step:].to_iter_dataset(_reading(dataset.train))
    if config.workers:
        _mark_flags_as_parsed()
        options = grain.MultiprocessingOptions(num_workers=config.workers, per_worker_buffer_size=2)
        stream = stream.mp_prefetch(options, worker_init_fn=_stay_off_the_accelerator)
    return Stream(stream, copy=config.workers > 0)


def eval_batches(dataset: Dataset, config: DataConfig) -> Iterator[dict[str, np.ndarray]]:
    """Every test sample once, in order, in batches of one size.

    Returns:
        Batches of ``image`` (float32 [b h w c], normalized), ``label`` (int32 [b]) and ``mask`` (bool [b]) with
        ``b = eval_batch_size``. Where ``mask`` is False, at the end of the last batch, image and label are 0.

    Raises:
        UserError: after the last batch, if it was not exactly ``len(dataset.test)`` samples.
    """
    import grain

    size, count = config.eval_batch_size, len(dataset.test)
    starts = grain.MapDataset.range(0, count, size)
    stream = starts.map(functools.partial(_eval_batch, dataset, size)).to_iter_dataset(_reading(dataset.test))
    return _counted(Stream(stream), dataset, count)


@dataclasses.dataclass(frozen=True)
class _TrainBatch:
    dataset: Dataset
    config: DataConfig

    def __call__(self, indices: np.ndarray, random: np.random.Generator) -> dict[str, np.ndarray]:
        images, labels = gather(self.dataset, self.dataset.train, indices)
        images = crop_and_flip(images, random, padding=self.config.crop_padding, flip=self.config.flip)
        return {"image": normalize(self.dataset, images), "label": labels}


def _eval_batch(dataset: Dataset, size: int, start: int) -> dict[str, np.ndarray]:
    images, labels = gather(dataset, dataset.test, np.arange(start, min(start + size, len(dataset.test))))
    batch = {"image": normalize(dataset, images), "label": labels, "mask": np.ones(len(labels), bool)}
    short = size - len(labels)
    return {key: np.pad(value, [(0, short)] + [(0, 0)] * (value.ndim - 1)) for key, value in batch.items()}


def _counted(batches: Iterator[dict[str, Any]], dataset: Dataset, count: int) -> Iterator[dict[str, Any]]:
    seen = 0
    for batch in batches:
        seen += int(batch["mask"].sum())
        yield batch
    if seen != count:
        raise UserError(f"the test set of {dataset.name} must give all of its {count} samples once, got {seen}")


def _reading(samples: Samples) -> grain.ReadOptions:
    """One thread where samples are in memory (more would wait for each other), one a core where they are decoded."""
    import grain

    threads = 1 if isinstance(samples, ArraySamples) else min(MOST_THREADS, os.cpu_count() or 1)
    return grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(BATCHES_AHEAD, threads))


def _mark_flags_as_parsed() -> None:
    """Grain reads its absl flags when it starts workers, which absl refuses in a program that never parsed any."""
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()


def _stay_off_the_accelerator(worker: int, workers: int) -> None:
    os.environ["JAX_PLATFORMS"] = "cpu"
