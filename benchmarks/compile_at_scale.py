# ruff: noqa: E402  (the number of devices is set before JAX is imported)
"""What the training step sends between hundreds of devices: compiled for simulated ones, never run.

    python benchmarks/compile_at_scale.py [--devices 512] [--fsdp 1] [--model resnet20] [--bits 4]

The step is that of a quantized phase, with the shapes of the whole state and no arrays. Printed are the time of
compiling, the memory of one device, and the operations between devices by kind: how many, and the bytes each device
gets from them in a step. It fails where activations are gathered (an all-gather that gives an array that has not the
shape of a parameter and is larger than 16 kB) or where gradients are sent more than once or one by one. A CPU's
compiler has no reduce-scatter of gradients; on GPUs and TPUs, XLA makes one where ``--fsdp`` is above 1.
"""

import argparse
import os
import sys


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", type=int, default=512)
    parser.add_argument("--fsdp", type=int, default=1, help="devices that share the parameters")
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--method", default="lg_lsq")
    parser.add_argument("--samples", type=int, default=3, help="of a batch, on each device")
    parser.add_argument("--size", type=int, help="of images; 32, or 224 for networks of ImageNet")
    parser.add_argument("--groups", type=int, default=1, help="batch_norm_groups")
    return parser.parse_args()


OPTIONS = _options()
os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={OPTIONS.devices}"
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"  # the time of compiling is measured

import dataclasses
import math
import time
from collections import Counter

import jax
import numpy as np

import lglsq_jax as lq
from lglsq_jax.training.collectives import collectives, complaints
from lglsq_jax.training.config import MeshConfig, QuantizedConfig
from lglsq_jax.training.mesh import make_mesh, split, whole
from lglsq_jax.training.network import Network
from lglsq_jax.training.networks import find_network
from lglsq_jax.training.optimizer import make_optimizer, make_schedule
from lglsq_jax.training.step import StepOptions, initial_state, make_train_step


def lowered(options: argparse.Namespace) -> tuple[jax.stages.Lowered, dict[str, tuple[int, ...]]]:
    """Returns the step's program before it is compiled, and the shapes of the parameters."""
    classes, size = (10, 32) if options.model in ("resnet8", "resnet20") else (1000, 224)
    size, batch = options.size or size, options.devices * options.samples
    mesh = make_mesh(MeshConfig(fsdp=options.fsdp), {"batch": batch})
    phase = QuantizedConfig(method=options.method, weight_bits=options.bits, input_bits=options.bits)
    method = lq.methods.get(options.method)
    model = find_network(options.model).blank(classes, 3, {})
    weights = lq.QuantSpec(options.bits, method=method)
    inputs = lq.QuantSpec(options.bits, signed=False, batch_axis=0, method=method)
    rules = lq.models.recommended_rules(model, weights=weights, inputs=inputs)
    network = Network.of(lq.quantize_model(model, rules))
    optimizer = make_optimizer(phase, network.skeleton.scales, 1000, 100)
    state = jax.eval_shape(
        lambda parameters, rest: initial_state(parameters, rest, optimizer, averaged=False),
        network.parameters,
        network.rest,
    )
    layout = dataclasses.replace(split(mesh, state), rest=jax.tree.map(lambda _: whole(mesh), state.rest))
    step = make_train_step(
        mesh, network.skeleton, optimizer, phase, make_schedule(phase, 0.04, 1000, 100), 1000,
        options=StepOptions(layout, batch_norm_groups=options.groups),
    )  # fmt: skip
    images = {
        "image": jax.ShapeDtypeStruct((batch, size, size, 3), np.float32),
        "label": jax.ShapeDtypeStruct((batch,), np.int32),
    }
    return step.lower(state, images), {path: array.shape for path, array in state.parameters.items()}


def main() -> int:
    """Prints the table; returns 1 where something is wrong."""
    began = time.perf_counter()
    program, parameters = lowered(OPTIONS)
    traced = time.perf_counter()
    compiled = program.compile()
    done = time.perf_counter()
    memory, text = compiled.memory_analysis(), compiled.as_text()
    assert memory is not None and text is not None  # a CPU's compiler says both
    found = collectives(text)
    print(
        f"{OPTIONS.model} W{OPTIONS.bits}A{OPTIONS.bits} {OPTIONS.method} on {OPTIONS.devices // OPTIONS.fsdp} x "
        f"{OPTIONS.fsdp} devices (data x fsdp), {OPTIONS.samples} images each, "
        f"{sum(map(math.prod, parameters.values())):,} parameters"
    )
    print(f"traced in {traced - began:.1f} s, compiled in {done - traced:.1f} s")
    print(
        f"a device: {memory.argument_size_in_bytes / 2**20:.1f} MB of state and batch, "
        f"{memory.temp_size_in_bytes / 2**20:.1f} MB temporary"
    )
    print(f"{'operation':20}{'number':>8}{'kB':>10}{'largest kB':>12}")
    for kind, number in sorted(Counter(one.kind for one in found).items()):
        sizes = [one.bytes / 2**10 for one in found if one.kind == kind]
        print(f"{kind:20}{number:8}{sum(sizes):10.1f}{max(sizes):12.1f}")
    wrong = complaints(found, parameters, OPTIONS.fsdp)
    for sentence in wrong:
        print(f"FAILED: {sentence}")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
