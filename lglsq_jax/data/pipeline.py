"""Batches for training (endless, shuffled, restartable) and evaluation (every test sample once)."""

from __future__ import annotations

import itertools
import os
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import UserError
from .batches import AugmentedBatch, EvalBatch, Finished, TrainBatch
from .config import DataConfig, whole_number
from .damaged import DamagedImages
from .dataset import ArraySamples, AugmentedSamples, Dataset, Samples
from .stream import Batches, Stream

if TYPE_CHECKING:
    import grain

LARGEST_SEED = 2**32 - 1
BATCHES_AHEAD = 4
BATCHES_AHEAD_IN_WORKER = 2
MOST_THREADS = 16
EPOCHS = 2**31  # as good as endless; a truly endless list of batches of one image has no length that fits an index


def steps_per_epoch(dataset: Dataset, config: DataConfig) -> int:
    """Batches after which every training image was seen: ``ceil(len(train) / batch_size)``.

    The last of them may begin the next epoch: batches run on from epoch to epoch and no image is dropped.
    """
    return -(-len(dataset.train) // config.batch_size)


def train_batches(
    dataset: Dataset,
    config: DataConfig,
    *,
    seed: int,
    first_step: int = 0,
    host: int = 0,
    hosts: int = 1,
    damaged: DamagedImages | None = None,
) -> Stream:
    """Endless training batches, from batch ``first_step`` on.

    Batch ``i`` holds places ``i·b .. i·b + b - 1`` of an endless list of samples, ``b = batch_size``: epoch after
    epoch, each the whole training set in another order. With ``n`` training images, place ``j`` is the image at
    ``shuffle(j mod n)``, a permutation of ``0..n-1`` made from ``(seed, j div n)``. Crops and mirrorings of batch ``i``
    come from a counter-based generator at ``(seed, i)``; of images of any size (``folder``, ``imagenet``), those of
    place ``j`` from one at ``(seed, j)``. So a batch depends on the data, the config, the seed and ``i``
    only, not on the batches before it nor on ``workers``: starting at ``first_step=k`` costs nothing and gives exactly
    the stream from batch ``k`` on. Of ``hosts`` hosts, host ``h`` gets rows ``h·b/hosts .. (h+1)·b/hosts - 1`` of it.

    Where an image cannot be decoded, the next one of the training set that can takes its place.

    Args:
        dataset: the data.
        config: batch size (of all hosts together), augmentation, workers.
        seed: from 0 to 2^32 - 1.
        first_step: number of the first batch.
        host: which of the hosts this is, from 0.
        hosts: how many there are.
        damaged: counts the images that cannot be decoded; None: a new one that warns with ``warnings.warn``.

    Returns:
        Batches of ``image`` (float32 [b/hosts h w c], normalized) and ``label`` (int32 [b/hosts]). Closing the iterator
        ends its threads and processes.

    Raises:
        UserError: the batch size is larger than the training set or no multiple of ``hosts``, or an argument is out of
            range; while iterating, a sample that is not as the data set says, or more than ``max_damaged`` images that
            cannot be decoded.
    """
    seed, first_step = whole_number("seed", seed, 0), whole_number("first_step", first_step, 0)
    if seed > LARGEST_SEED:
        raise UserError(f"`seed` must be at most {LARGEST_SEED}, got {seed}")
    dataset.check_batch_size(config.batch_size)
    rows = _host_rows("batch_size", config.batch_size, host, hosts)
    samples = dataset.train
    places = _places(dataset, seed)
    batches = places.batch(config.batch_size, batch_fn=np.asarray)
    if isinstance(samples, AugmentedSamples):
        batches = batches.map_with_index(Batches(AugmentedBatch(dataset, samples, config, seed, rows)))
        damaged = damaged or DamagedImages(samples, config.max_damaged, warnings.warn)
        return _opened(batches[first_step:], samples, config.workers, Finished(dataset), damaged.take)
    batches = batches.random_map(Batches(TrainBatch(dataset, config, rows)))
    return _opened(batches[first_step:], samples, config.workers, Finished(dataset))


def batch_indices(dataset: Dataset, config: DataConfig, seed: int, step: int) -> np.ndarray:
    """Returns the indices of the training images of batch ``step`` of ``train_batches``, of all hosts, int64 [b]."""
    places = _places(dataset, seed)
    return np.asarray([places[step * config.batch_size + row] for row in range(config.batch_size)], np.int64)


def _places(dataset: Dataset, seed: int) -> grain.MapDataset:
    """The endless list of samples that batches are cut from, as indices."""
    import grain

    return grain.MapDataset.range(len(dataset.train)).seed(seed).shuffle().repeat(EPOCHS)


def eval_batches(
    dataset: Dataset, config: DataConfig, *, host: int = 0, hosts: int = 1, raw: bool = False
) -> Iterator[dict[str, np.ndarray]]:
    """Every test sample once, in order, in batches of one size; of several hosts, each gets its rows of every batch.

    Args:
        dataset: the data.
        config: batch size, preparation of images of any size, workers.
        host: which of the hosts this is, from 0.
        hosts: how many there are.
        raw: whether images are handed out as uint8 pixels, cropped and resized but not normalized: what an integer
            program takes that begins with :class:`lglsq_jax.Normalize`.

    Returns:
        Batches of ``image`` (float32 [b/hosts h w c], normalized; uint8 where ``raw``), ``label`` (int32 [b/hosts])
        and ``mask`` (bool [b/hosts]) with ``b = eval_batch_size``. Where ``mask`` is False, at the end of the last
        batch, image and label are 0. Every host gets the same number of batches. Images that are decoded one by one
        are prepared by ``workers`` processes, those in memory by a thread.

    Raises:
        UserError: ``eval_batch_size`` is no multiple of ``hosts``; while iterating, an image cannot be decoded (it is
            named: a result without it would be another); after the last batch, if it was not exactly the host's part
            of the ``len(dataset.test)`` samples.
    """
    size, count, samples = config.eval_batch_size, len(dataset.test), dataset.test
    rows = _host_rows("eval_batch_size", size, host, hosts)
    import grain

    starts = range(0, count, size)
    share = sum(max(0, min(start + rows.stop, count) - (start + rows.start)) for start in starts)
    # Workers that have come to an end leave shared memory behind when they are closed: they go on with empty batches.
    batches = grain.MapDataset.range(0, EPOCHS * size, size).map(Batches(EvalBatch(dataset, rows)))
    workers = 0 if isinstance(samples, ArraySamples) else min(config.workers, len(starts))
    stream = _opened(batches, samples, workers, Finished(dataset, raw))
    return _counted(stream, dataset, len(starts), share)


def _host_rows(field: str, size: int, host: int, hosts: int) -> range:
    """The places of a host in a batch of all hosts."""
    host, hosts = whole_number("host", host, 0), whole_number("hosts", hosts, 1)
    if host >= hosts:
        raise UserError(f"`host` must be below the number of hosts, {hosts}, got {host}")
    if size % hosts:
        raise UserError(f"`{field}` must be a multiple of the number of hosts, {hosts}, got {size}")
    return range(host * size // hosts, (host + 1) * size // hosts)


def _counted(batches: Stream, dataset: Dataset, length: int, count: int) -> Iterator[dict[str, Any]]:
    seen = 0
    try:
        for batch in itertools.islice(batches, length):
            seen += int(batch["mask"].sum())
            yield batch
    finally:
        batches.close()
    if seen != count:
        raise UserError(f"the test set of {dataset.name} must give all of its {count} samples once, got {seen}")


def _opened(
    batches: grain.MapDataset,
    samples: Samples,
    workers: int,
    finish: Finished,
    look: Callable[[dict[str, Any]], None] | None = None,
) -> Stream:
    """Starts to make batches: in worker processes, or else in one thread where samples are in memory (more would wait
    for each other) and one a core where they are decoded."""
    import grain

    threads = 1 if workers or isinstance(samples, ArraySamples) else min(MOST_THREADS, os.cpu_count() or 1)
    ahead = BATCHES_AHEAD_IN_WORKER if workers else max(BATCHES_AHEAD, threads)
    reading = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=ahead)
    if not workers:
        return Stream(batches.map(finish).to_iter_dataset(reading), look=look)
    _mark_flags_as_parsed()
    options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=BATCHES_AHEAD_IN_WORKER)
    stream = batches.to_iter_dataset(reading).mp_prefetch(options, worker_init_fn=_stay_off_the_accelerator)
    return Stream(stream.map(finish), look=look)


def _mark_flags_as_parsed() -> None:
    """Grain reads its absl flags when it starts workers, which absl refuses in a program that never parsed any."""
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()


def _stay_off_the_accelerator(worker: int, workers: int) -> None:
    os.environ["JAX_PLATFORMS"] = "cpu"
