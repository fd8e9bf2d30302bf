"""Random networks to integers: no float in the body, and the codes of the trained network, layer by layer.

    python fuzz/architectures.py [--inputs 2000] [--seed 0]

Each network has its own depth, branches (residual, dense, squeeze-and-excite), strides, groups, activations, bits and
scales; in a third of them the values of each block are as small as 2^-30 or as large as 2^30. For each it is checked
that the integer body holds no float at any depth, that every layer gives the codes that the model makes of the same
inputs, or at a rounding tie the next one, and that the chosen class is the same or has a tie to explain it; and that
99.9 % of the codes are equal, ties or not, of all networks together and in each of all but one of 20. The first network
that fails is printed with its seed, and the status is 1.
"""

import argparse
import os
import sys
import time
from pathlib import Path

import jax
import numpy as np
from flax import nnx

import lglsq_jax as lq

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.integer.checks import float_types

ACTIVATIONS = {
    "none": lambda x: x,
    "relu": nnx.relu,
    "relu6": nnx.relu6,
    "leaky relu": nnx.leaky_relu,
    "silu": nnx.silu,
    "gelu": nnx.gelu,
    "hard swish": nnx.hard_swish,
    "sigmoid": nnx.sigmoid,
    "tanh": nnx.tanh,
}


# Most of a network's time goes into compiling what runs once. An option from the environment has the last word.
QUICK_COMPILATION = "--xla_cpu_use_fusion_emitters=false --xla_backend_optimization_level=0"


EQUAL_CODES = 0.999
MOST_TIED = 0.05  # of the networks: a whole channel may lie in the middle between two codes


def normal(rng: np.random.Generator):
    """Returns an initializer of kernels from NumPy's numbers, which no shape has to be compiled for."""

    def kernel(key, shape, dtype):
        return jax.numpy.asarray(rng.normal(size=shape) / np.sqrt(np.prod(shape[:-1])), dtype)

    return kernel


class Block(nnx.Module):
    """One step of a random network: a convolution and what is around it."""

    def __init__(self, channels: int, rng: np.random.Generator, rngs: nnx.Rngs):
        self.kind = str(rng.choice(["plain", "residual", "dense", "gated"]))
        self.activation = str(rng.choice(list(ACTIVATIONS)))
        self.norm_first = bool(rng.integers(2))
        stride = 1 if self.kind in ("residual", "dense") else int(rng.integers(1, 3))
        self.out = channels if self.kind == "residual" else int(rng.choice([4, 6, 8]))
        groups = int(
            rng.choice([divisor for divisor in (1, 2, channels) if channels % divisor == self.out % divisor == 0])
        )
        size = int(rng.choice([1, 3]))
        weights = lq.QuantSpec(int(rng.integers(2, 9)), channel_axis=-1 if rng.integers(2) else None)
        inputs = lq.QuantSpec(int(rng.integers(2, 9)), batch_axis=0)
        shape = {"strides": stride, "feature_group_count": groups, "use_bias": bool(rng.integers(2))}
        specs = {"weights": weights, "inputs": inputs, "kernel_init": normal(rng)}
        self.conv = lq.QuantConv(channels, self.out, (size, size), **shape, **specs, rngs=rngs)
        self.norm = nnx.BatchNorm(self.out, rngs=rngs)
        for array, low, high in ((self.norm.mean, -0.3, 0.3), (self.norm.var, 0.3, 2), (self.norm.scale, -1.5, 1.5)):
            assert array is not None
            array[...] = jax.numpy.asarray(rng.uniform(low, high, self.out), jax.numpy.float32)
        # The form in which a function of a value can be summed or multiplied is a table of codes.
        needed = self.kind != "plain" or not self.norm_first
        self.codes = lq.Quantizer(lq.QuantSpec(8)) if needed else nnx.identity
        if self.kind == "gated":
            self.gate = lq.QuantLinear(self.out, self.out, **specs, rngs=rngs)
            self.gate_codes = lq.Quantizer(lq.QuantSpec(8))

    def __call__(self, x):
        activation = ACTIVATIONS[self.activation]
        y = self.conv(x)
        y = activation(self.norm(y)) if self.norm_first else self.norm(self.codes(activation(y)))
        if self.kind == "plain":
            return y
        y = self.codes(y) if self.norm_first else y
        if self.kind == "residual":
            return self.codes(x) + y if self.norm_first else y + self.codes(x)
        if self.kind == "dense":
            return jax.numpy.concatenate([self.codes(x), y], -1)
        gate = nnx.sigmoid(self.gate_codes(self.gate(y.mean((1, 2)))))
        return y * gate[:, None, None, :]

    @property
    def channels(self) -> int:
        """How many channels it gives."""
        return self.out + (self.conv.in_features if self.kind == "dense" else 0)


class Network(nnx.Module):
    """A random network from images or from raw pixels to four logits."""

    def __init__(self, seed: int):
        rng, rngs = np.random.default_rng(seed), nnx.Rngs(seed)
        self.raw = bool(rng.integers(3) == 0)
        self.normalize = lq.Normalize((0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
        channels, blocks = 3, []
        for _ in range(int(rng.integers(1, 5))):
            blocks.append(Block(channels, rng, rngs))
            channels = blocks[-1].channels
        self.blocks = nnx.List(blocks)
        sizes = np.random.default_rng([seed, 1])
        far = sizes.integers(3) == 0
        self.exponents = tuple(int(sizes.integers(-30, 31)) if far else 0 for _ in blocks)
        for block, exponent in zip(blocks, self.exponents, strict=True):
            block.conv.kernel[...] = block.conv.kernel[...] * 2.0**exponent
        self.pool = str(rng.choice(["mean", "max"]))
        self.pooled = lq.Quantizer(lq.QuantSpec(8))
        specs = {"weights": lq.QuantSpec(8, channel_axis=-1), "inputs": lq.QuantSpec(8, batch_axis=0)}
        self.last = lq.QuantLinear(channels, 4, **specs, kernel_init=normal(rng), rngs=rngs)

    def __call__(self, x):
        x = self.normalize(x) if self.raw else x
        for block in self.blocks:
            x = block(x)
        x = self.pooled(x)
        return self.last(x.mean((1, 2)) if self.pool == "mean" else x.max((1, 2)))

    def __str__(self) -> str:
        blocks = ", ".join(
            f"{b.kind} {b.conv.kernel_size} groups {b.conv.feature_group_count} W{b.conv.weights.bits}"
            f"A{b.conv.inputs.bits} {b.activation} 2^{exponent}"
            for b, exponent in zip(self.blocks, self.exponents, strict=True)
        )
        return f"{'raw pixels' if self.raw else 'images'}: {blocks}; {self.pool}"


def check(seed: int) -> tuple[str, int, int]:
    """Returns what is wrong with the network of a seed, empty where nothing is, and its codes: equal ones and all."""
    rng = np.random.default_rng(seed + 10**6)
    model = Network(seed)
    shape = (16, 7, 6, 3)
    x = rng.integers(0, 256, shape, dtype=np.uint8) if model.raw else rng.normal(size=shape).astype(np.float32)
    lq.calibrate(model, [x], "max")
    model.eval()
    program = lq.integer.lower(model, x)
    floats = float_types(jax.make_jaxpr(program.integer_body)(program.encode(x)))
    report = lq.integer.verify(model, program, [x])
    wrong = [f"the body holds {', '.join(sorted(floats))}"] if floats else []
    wrong += [f"{report.unexplained} classes are unexplained"] if report.unexplained else []
    for layer in report.layers:
        if layer.own_unexplained:
            wrong.append(
                f"{layer.path}: {layer.own_unexplained} of {layer.codes} codes differ, by up to "
                f"{layer.own_difference}, and are no ties"
            )
    equal = sum(round(layer.own_equal_fraction * layer.codes) for layer in report.layers)
    message = f"network {seed} ({model}): " + "; ".join(wrong) if wrong else ""
    return message, equal, sum(layer.codes for layer in report.layers)


def check_all(seeds: range) -> str:
    """Returns what is wrong with the networks of some seeds, and stops at the first; empty where nothing is."""
    began, equal, codes, tied = time.monotonic(), 0, 0, []
    for count, seed in enumerate(seeds, 1):
        wrong, own_equal, own_codes = check(seed)
        if wrong:
            return wrong
        equal, codes = equal + own_equal, codes + own_codes
        if own_equal < EQUAL_CODES * own_codes:
            tied.append(seed)
        if count % 50 == 0:
            jax.clear_caches()
            print(f"{count} networks, {time.monotonic() - began:.0f} s, {equal:,} of {codes:,} codes equal", flush=True)
    if equal < EQUAL_CODES * codes:
        return f"only {equal:,} of {codes:,} codes are equal"
    most = max(1, int(MOST_TIED * len(seeds)))
    return "" if len(tied) <= most else f"networks {tied} have more than {1 - EQUAL_CODES:.1%} of their codes at ties"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=2000, help="how many networks")
    parser.add_argument("--seed", type=int, default=0, help="of the first network; the others count on from it")
    options = parser.parse_args()
    os.environ["XLA_FLAGS"] = f"{QUICK_COMPILATION} {os.environ.get('XLA_FLAGS', '')}"  # read when JAX first computes
    wrong = check_all(range(options.seed, options.seed + options.inputs))
    print(wrong or f"{options.inputs} random networks: every promise kept")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
