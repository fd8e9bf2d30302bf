"""Grouped convolutions: our formulation against the compiler's own, forward, backward and in integers, in one run.

    python benchmarks/depthwise.py [--rounds 7] [--batch 8]

Each row is one layer of a known network. The two formulations take turns; the table gives the compiler's median time
divided by ours: above 1 ours is faster. "forward" and "backward" (both gradients) are what a float network runs on
this machine, "int8" is what an integer program runs.
"""

import argparse
import time

import jax
import jax.numpy as jnp
import numpy as np

from lglsq_jax.ops import Window
from lglsq_jax.ops.floats import convolve_groups, pull_back
from lglsq_jax.ops.integer import convolve_int32
from lglsq_jax.ops.window import convolve

# name, image size, channels, groups, outputs, stride; 3x3 kernels
LAYERS = (
    ("MobileNetV2 features/2, stride 2", 112, 96, 96, 96, 2),
    ("MobileNetV2 features/3", 56, 144, 144, 144, 1),
    ("MobileNetV2 features/8", 14, 384, 384, 384, 1),
    ("MobileNetV2 features/17", 7, 960, 960, 960, 1),
    ("ShuffleNetV2 stage2", 28, 58, 58, 58, 1),
    ("depthwise, 2 outputs a channel", 28, 96, 96, 192, 1),
    ("ResNeXt conv2, 4 channels a group", 28, 128, 32, 128, 1),
    ("8 channels a group", 14, 256, 32, 256, 1),
    ("4 groups of 32 channels", 28, 128, 4, 128, 1),
)


def medians(functions, arguments, rounds: int) -> list[float]:
    """Returns the median seconds of each function; they take turns."""
    compiled = [jax.jit(function) for function in functions]
    for function in compiled:
        jax.block_until_ready(function(*arguments))
    times: list[list[float]] = [[] for _ in functions]
    for _ in range(rounds):
        for function, seen in zip(compiled, times, strict=True):
            began = time.perf_counter()
            jax.block_until_ready(function(*arguments))
            seen.append(time.perf_counter() - began)
    return [float(np.median(seen)) for seen in times]


def ratio(functions, arguments, rounds: int) -> str:
    """Returns the compiler's time over ours, and ours in milliseconds."""
    compiler, ours = medians(functions, arguments, rounds)
    return f"{compiler / ours:7.1f}x {1e3 * ours:8.2f} ms"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch", type=int, default=8)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    print(f"batch {options.batch}, {jax.devices()[0].device_kind}; the compiler's time over ours, and ours")
    print(f"{'layer':36} {'forward':>20} {'backward':>20} {'int8':>20}")
    for name, size, channels, groups, outputs, stride in LAYERS:
        window = Window((stride,) * 2, ((1, 1),) * 2, (1, 1), (1, 1), groups)
        x = jnp.asarray(rng.normal(size=(options.batch, size, size, channels)), jnp.float32)
        kernel = jnp.asarray(rng.normal(size=(3, 3, channels // groups, outputs)), jnp.float32)
        gradient = jnp.ones_like(convolve(x, kernel, window))

        def gradients_of_compiler(x, kernel, gradient, window=window):
            return jax.vjp(lambda x, kernel: convolve(x, kernel, window), x, kernel)[1](gradient)

        forward = [
            lambda x, kernel, window=window: convolve(x, kernel, window),
            lambda x, kernel, window=window: convolve_groups(x, kernel, window),
        ]
        backward = [
            gradients_of_compiler,
            lambda x, kernel, gradient, window=window: pull_back(x, kernel, gradient, window),
        ]
        integers = [
            lambda x, kernel, window=window: convolve(x, kernel, window, jnp.int32),
            lambda x, kernel, window=window: convolve_int32(x, kernel, window, 15),
        ]
        codes = (
            jnp.asarray(rng.integers(0, 16, x.shape), jnp.int8),
            jnp.asarray(rng.integers(-8, 8, kernel.shape), jnp.int8),
        )
        cells = [
            ratio(forward, (x, kernel), options.rounds),
            ratio(backward, (x, kernel, gradient), max(1, options.rounds // 3)),
            ratio(integers, codes, options.rounds),
        ]
        print(f"{name:36} " + " ".join(cell.rjust(20) for cell in cells), flush=True)


if __name__ == "__main__":
    main()
