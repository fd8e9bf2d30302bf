"""Codes through 1x1 convolutions: as float32 products against int8 products, exact both, in one run.

    python benchmarks/pointwise.py [--batch 32] [--rounds 15]

Each row is one layer of a known network at 2 bits. The two arithmetics take turns; the table gives float32's median
time and the median of int8's time divided by float32's in the same round: above 1 float32 is faster.
"""

import argparse
import functools
import time

import jax
import jax.numpy as jnp
import numpy as np

from lglsq_jax.ops import Window
from lglsq_jax.ops.exact import convolve_in

# name, image size, input channels, outputs, stride
LAYERS = (
    ("ResNet-20 shortcut, stride 2", 16, 32, 64, 2),
    ("DS-CNN pointwise", 7, 64, 64, 1),
    ("MobileNetV2 expansion", 14, 64, 384, 1),
    ("MobileNetV2 projection", 14, 384, 64, 1),
    ("MobileNetV2 last blocks", 7, 960, 160, 1),
    ("ResNet-50 conv3", 14, 256, 1024, 1),
    ("ResNet-50 shortcut, stride 2", 28, 512, 1024, 2),
)
ARITHMETICS = ("float32", "int8")


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    print(f"{jax.devices()[0].platform}, batch {options.batch}, {options.rounds} rounds")
    print(f"{'layer':30}{'float32 ms':>12}{'int8 / float32':>16}{'min..max':>14}")
    for name, size, inputs, outputs, stride in LAYERS:
        x = jnp.asarray(rng.integers(0, 4, (options.batch, size, size, inputs)), jnp.float32)
        kernel = jnp.asarray(rng.integers(-2, 2, (1, 1, inputs, outputs)), jnp.float32)
        window = Window((stride, stride), ((0, 0), (0, 0)), (1, 1), (1, 1))
        runs = [jax.jit(functools.partial(convolve_in, way, window=window, x_range=(0, 3))) for way in ARITHMETICS]
        np.testing.assert_array_equal(*(run(x, kernel) for run in runs))
        seconds = np.empty((options.rounds, len(runs)))
        for row in seconds:
            for column, run in enumerate(runs):
                began = time.perf_counter()
                jax.block_until_ready(run(x, kernel))
                row[column] = time.perf_counter() - began
        ratios = seconds[:, 1] / seconds[:, 0]
        span = f"{ratios.min():.2f}..{ratios.max():.2f}"
        print(f"{name:30}{1e3 * np.median(seconds[:, 0]):12.2f}{np.median(ratios):16.2f}{span:>14}")


if __name__ == "__main__":
    main()
