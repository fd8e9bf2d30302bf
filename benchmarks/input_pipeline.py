"""Images a second of the input pipeline against a bare Pillow loop on one core, in one run.

    python benchmarks/input_pipeline.py [--folder DIR] [--workers 0 1 2] [--images 512] [--rounds 5]

The bare loop opens, decodes, converts to RGB, crops at random and resizes to 224x224 with Pillow, in one process; the
pipeline does that and also mirrors, normalizes, makes batches and hands them over. All take turns, so the machine's
drift meets all of them; the table gives medians. "a core" is images a second of processor time, of the main process
and its workers together, so that other programs on the machine count little; its ratio to the bare loop is of the same
round. Without ``--folder`` (class
folders below ``train`` and ``val``) it measures on pictures of its own, 500x375 smoothed noise, at JPEG quality 90.
"""

import argparse
import multiprocessing
import os
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from lglsq_jax.data import DataConfig, open_dataset, train_batches
from lglsq_jax.data.preparation import random_box

BATCH = 32
PICTURES = 64
NAMES = 256  # of every picture


def write_pictures(folder: Path) -> Path:
    """Writes a data set whose JPEGs are about as large and as hard to decode as ImageNet's (110 kB).

    Every picture has many names: the order of a data set of only 64 files would take grain half a millisecond an image
    (its permutation of few numbers is one of 65,536 with the others left out); of ImageNet's 1,281,167, it takes 13 µs.
    """
    random = np.random.default_rng(0)
    for number in range(PICTURES + 2):
        below = folder / ("train" if number < PICTURES else "val") / f"class_{number % 2}"
        below.mkdir(parents=True, exist_ok=True)
        layers = [
            Image.fromarray(random.integers(0, 256, (375 // scale, 500 // scale, 3), np.uint8)).resize((500, 375))
            for scale in (1, 2, 8, 64)
        ]
        weights = (0.25, 0.2, 0.25, 0.3)
        mixed = sum(weight * np.asarray(layer, np.float32) for weight, layer in zip(weights, layers, strict=True))
        picture = Image.fromarray(np.asarray(mixed).astype(np.uint8)).filter(ImageFilter.GaussianBlur(0.5))
        picture.save(below / f"{number:03d}.jpg", quality=90)
        for copy in range(NAMES if number < PICTURES else 0):
            os.link(below / f"{number:03d}.jpg", below / f"{number:03d}_{copy:03d}.jpg")
    return folder


def processor_time() -> float:
    """Seconds of processor time of this process and its workers."""
    ticks = 0
    for worker in multiprocessing.active_children():
        fields = Path(f"/proc/{worker.pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")


def settled() -> float:
    """``processor_time`` once the buffers are full, so that nothing is being made."""
    before, now = -1.0, processor_time()
    while now - before > 0.02:
        time.sleep(0.5)
        before, now = now, processor_time()
    return now


def bare_loop(paths: list[str], count: int) -> tuple[float, float]:
    """Images a second of time and of processor time in plain Pillow."""
    random = np.random.default_rng(0)
    began, used = time.perf_counter(), processor_time()
    for number in range(count):
        with open(paths[number % len(paths)], "rb") as file, Image.open(file) as opened:
            picture = opened.convert("RGB")
        box = random_box(*picture.size, random, min_area=0.08)
        np.asarray(picture.resize((224, 224), Image.Resampling.BILINEAR, box=box))
    return count / (time.perf_counter() - began), count / (processor_time() - used)


class Pipeline:
    """A stream of training batches, measured from batch to batch."""

    def __init__(self, folder: Path, workers: int):
        config = DataConfig(source="folder", path=str(folder), batch_size=BATCH, flip=True, workers=workers)
        self.stream = train_batches(open_dataset(config), config, seed=0)
        self.ahead = 10 * (workers or os.cpu_count() or 1)  # at least as many batches as wait in all the buffers

    def rates(self, count: int) -> tuple[float, float]:
        """Images a second of time, once what was made ahead is used up, and of processor time, from full to full."""
        next(self.stream)
        used = settled()
        for _ in range(self.ahead):
            next(self.stream)
        began = time.perf_counter()
        for _ in range(count // BATCH):
            next(self.stream)
        wall = count / (time.perf_counter() - began)
        return wall, (count + self.ahead * BATCH) / (settled() - used)


def main():
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    count = max(options.images // BATCH, 1) * BATCH
    bare = "bare Pillow loop"
    rates: dict[str, list[tuple[float, float]]] = {bare: []}
    with tempfile.TemporaryDirectory() as own:
        folder = options.folder or write_pictures(Path(own))
        samples = open_dataset(DataConfig(source="folder", path=str(folder), batch_size=BATCH)).train
        files = samples.files  # pyright: ignore[reportAttributeAccessIssue]
        paths = [files.where(index * len(files) // PICTURES) for index in range(PICTURES)]
        size = np.mean([os.path.getsize(path) for path in paths])
        bare_loop(paths, BATCH)
        for _ in range(options.rounds):
            rates[bare].append(bare_loop(paths, count))
            for workers in options.workers:
                name = f"{workers} workers" if workers else "0 workers (threads)"
                pipeline = Pipeline(folder, workers)
                rates.setdefault(name, []).append(pipeline.rates(count))
                pipeline.stream.close()
    print(f"JPEGs of {size / 1000:.0f} kB to 224x224, {os.cpu_count()} cores, {count} images, {options.rounds} rounds")
    print(f"{'':22}{'images/s':>10}{'a core':>10}{'x bare loop':>13}{'min..max':>14}")
    for name, measured in rates.items():
        wall, core = np.median(np.asarray(measured), 0)
        ratios = np.asarray(measured)[:, 1] / np.asarray(rates[bare])[:, 1]
        print(
            f"{name:22}{wall:10.0f}{core:10.0f}{np.median(ratios):13.2f}{f'{ratios.min():.2f}..{ratios.max():.2f}':>14}"
        )


if __name__ == "__main__":
    main()
