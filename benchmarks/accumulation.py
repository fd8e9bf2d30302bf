"""Time and temporary memory of the gradients of one batch: at once, and from 2, 4 and 8 parts.

    python benchmarks/accumulation.py [--model resnet20] [--bits 4] [--batch 64] [--size 32] [--rounds 5]

The ways take turns, so the machine's drift meets all of them; the table gives each one's temporary memory, as XLA
reserves it for the compiled gradients, its median time, and its median ratio to the whole batch of the same round.
"""

import argparse
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import lglsq_jax as lq


def loss(model, batch):
    """Mean cross entropy."""
    images, labels = batch
    return optax.softmax_cross_entropy_with_integer_labels(model(images), labels).mean()


def compile_gradients(model: nnx.Module, batch, parts: int):
    """Returns the compiled gradients as a function of the model's state and a batch; 1 part: at once."""
    graph, state = nnx.split(model)

    def gradients(state, batch):
        merged = nnx.merge(graph, state, copy=True)
        if parts == 1:
            found = nnx.value_and_grad(loss)(merged, batch)
        else:
            found = lq.accumulate_gradients(loss, merged, batch, parts)
        return found, nnx.state(merged, nnx.Not(nnx.Param))

    return jax.jit(gradients).lower(state, batch).compile(), state


def main():
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.normal(size=(options.batch, options.size, options.size, 3)), jnp.float32)
    batch = images, jnp.asarray(rng.integers(0, 10, options.batch))
    model = getattr(lq.models, options.model)(num_classes=10, in_channels=3, rngs=nnx.Rngs(0))
    weights = lq.QuantSpec(bits=options.bits, channel_axis=-1)
    inputs = lq.QuantSpec(bits=options.bits, signed=False, batch_axis=0)
    model = lq.quantize_model(model, lq.models.recommended_rules(model, weights=weights, inputs=inputs))
    lq.calibrate(model, [images[:16]])
    model.train()
    kinds = (1, 2, 4, 8)
    compiled: dict[int, Any] = {parts: compile_gradients(model, batch, parts) for parts in kinds}
    times: dict[int, list[float]] = {parts: [] for parts in kinds}
    for round_number in range(options.rounds + 1):
        for parts, (run, state) in compiled.items():
            start = time.perf_counter()
            jax.block_until_ready(run(state, batch))
            if round_number:
                times[parts].append(time.perf_counter() - start)
    print(
        f"{options.model} W{options.bits}A{options.bits}, batch {options.batch}, {options.size}x{options.size}, "
        f"{jax.devices()[0].device_kind}, {options.rounds} rounds"
    )
    print(f"{'parts':6}{'temporary MB':>14}{'median ms':>11}{'x whole':>9}")
    for parts, (run, _) in compiled.items():
        ratio = np.median(np.asarray(times[parts]) / np.asarray(times[1]))
        memory = run.memory_analysis().temp_size_in_bytes / 2**20
        print(f"{parts:<6}{memory:14.1f}{1e3 * np.median(times[parts]):11.1f}{ratio:9.2f}")


if __name__ == "__main__":
    main()
