"""Time and memory of one training step: float, quantized, and quantized in the naive formulation, in one run.

    python benchmarks/training_step.py [--model resnet20] [--bits 4] [--batch 64] [--size 32] [--rounds 15]

The three steps take turns, so the machine's drift meets all of them; the table gives each step's median time, its
median ratio to the float step of the same round, and the temporary memory that XLA reserves for the compiled step.
"naive" is the straight-through formulation with ``stop_gradient`` that most code bases use: fake-quantize input and
kernel with ordinary operations, convolve the results in float, let autodiff do the rest (LSQ and STE).
"""

import argparse
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import lglsq_jax as lq


def naive_fake_quantize(x, scale, spec):
    """Fake quantization by ``stop_gradient``, with LSQ's gradient scale."""
    elements = spec.elements(x.shape)
    factor = 1 / np.sqrt(elements * spec.maximum)
    scale = scale * factor + jax.lax.stop_gradient(scale - scale * factor)
    if spec.channel_axis is not None:
        scale = scale.reshape((1,) * (x.ndim - 1) + (-1,))
    clipped = jnp.clip(x / scale, spec.minimum, spec.maximum)
    return (clipped + jax.lax.stop_gradient(jnp.round(clipped) - clipped)) * scale


class NaiveConv(lq.QuantConv):
    """A quantized convolution as ordinary differentiable operations."""

    def conv_general_dilated(self, x, kernel, *args, **kwargs):
        x = naive_fake_quantize(x, self.input_scale[...], self.inputs)
        kernel = naive_fake_quantize(kernel, self.weight_scale[...], self.weights)
        return jax.lax.conv_general_dilated(x, kernel, *args, **kwargs)


def build(kind: str, options: argparse.Namespace, images) -> nnx.Module:
    """Returns the network as float, quantized or naive."""
    model = getattr(lq.models, options.model)(num_classes=10, in_channels=3, rngs=nnx.Rngs(0))
    if kind == "float":
        return model
    method = lq.methods.get(options.method if kind == "quantized" else "lsq")
    weights = lq.QuantSpec(bits=options.bits, signed=True, channel_axis=-1, method=method)
    inputs = lq.QuantSpec(bits=options.bits, signed=False, batch_axis=0, method=method)
    model = lq.quantize_model(model, lq.models.recommended_rules(model, weights=weights, inputs=inputs))
    lq.calibrate(model, [images])
    if kind == "naive":
        for _, module in nnx.iter_modules(model):
            if type(module) is lq.QuantConv:
                object.__setattr__(module, "__class__", NaiveConv)
    return model


def compile_step(model: nnx.Module, images, labels):
    """Returns the compiled ``(state, moments, images, labels, progress) -> (state, moments, loss)`` and its start."""
    graph, parameters, rest = nnx.split(model, nnx.Param, ...)
    optimizer = optax.sgd(0.1, momentum=0.9)

    def step(parameters, rest, moments, images, labels, progress):
        def loss_of(parameters):
            merged = nnx.merge(graph, parameters, rest, copy=True)
            merged.train()
            lq.set_progress(merged, progress)
            loss = optax.softmax_cross_entropy_with_integer_labels(merged(images), labels).mean()
            return loss, nnx.state(merged, nnx.Not(nnx.Param))

        (loss, new_rest), gradients = jax.value_and_grad(loss_of, has_aux=True)(parameters)
        updates, moments = optimizer.update(gradients, moments, parameters)
        return optax.apply_updates(parameters, updates), new_rest, moments, loss

    state = (parameters, rest, optimizer.init(parameters))
    arguments = (*state, images, labels, jnp.float32(0.5))
    return jax.jit(step, donate_argnums=(0, 1, 2)).lower(*arguments).compile(), state


def main():
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--method", default="lg_lsq")
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.normal(size=(options.batch, options.size, options.size, 3)), jnp.float32)
    labels = jnp.asarray(rng.integers(0, 10, options.batch))
    kinds = ("float", "quantized", "naive")
    compiled, states, memory = {}, {}, {}
    for kind in kinds:
        compiled[kind], states[kind] = compile_step(build(kind, options, images), images, labels)
        memory[kind] = compiled[kind].memory_analysis().temp_size_in_bytes
    times: dict[str, list[float]] = {kind: [] for kind in kinds}
    for round_number in range(options.rounds + 2):
        for kind in kinds if round_number % 2 else reversed(kinds):
            start = time.perf_counter()
            *state, loss = compiled[kind](*states[kind], images, labels, jnp.float32(0.5))
            jax.block_until_ready(loss)
            states[kind] = tuple(state)
            if round_number >= 2:
                times[kind].append(time.perf_counter() - start)
    device = jax.devices()[0]
    print(
        f"{options.model} W{options.bits}A{options.bits} {options.method}, batch {options.batch}, "
        f"{options.size}x{options.size}, {device.platform} ({device.device_kind}), {options.rounds} rounds"
    )
    print(f"{'step':12}{'median ms':>10}{'x float':>9}{'min..max':>14}{'temporary MB':>14}{'x float':>9}")
    for kind in kinds:
        ratios = np.asarray(times[kind]) / np.asarray(times["float"])
        print(
            f"{kind:12}{1e3 * np.median(times[kind]):10.1f}{np.median(ratios):9.2f}"
            f"{f'{ratios.min():.2f}..{ratios.max():.2f}':>14}"
            f"{memory[kind] / 2**20:14.1f}{memory[kind] / memory['float']:9.2f}"
        )


if __name__ == "__main__":
    main()
