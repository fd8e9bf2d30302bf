"""Integer programs against the float network under XLA: time, memory, and the time that lowering takes, in one run.

    python benchmarks/integer_inference.py [--network resnet18 mobilenet_v2] [--batch 1 16] [--size 224] [--bits 4]
        [--rounds 7] [--layers] [--lowering]

The networks have random weights; the float one is the network as this package runs it, with depthwise convolutions as
shifted products. Both are compiled, and take turns. "float / integer" is the median float time divided by the integer
program's: above 1 the integers are faster. The memory is the largest resident size of a process that runs one of them
alone, with what such a process takes before it has a network taken off: "in all" with compiling, and "running" once it
is compiled and what the compiler left is given back.

--layers times every distinct convolution and linear layer by itself: from codes to the next codes where they are made
of its sum alone, else to the sum, against the same layer in float with its bias and a ReLU. Both take turns, and the
fastest of the rounds counts, so that other programs count little; pinned to one core (taskset -c 1) it varies least.
--lowering prints the seconds that lowering the three ResNets takes, by the clock and of the processor, which is what
counts on a busy machine.
"""

import argparse
import ctypes
import dataclasses
import functools
import gc
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import lglsq_jax as lq
from lglsq_jax.integer.dimensions import decode, resolve
from lglsq_jax.integer.program import Instruction, IntegerProgram
from lglsq_jax.ops import floats

FOLLOWING = ("clip", "rescale", "table", "staircase")  # what makes codes of a sum


def float_network(name: str) -> nnx.Module:
    """Returns a float network with random weights, in evaluation mode."""
    network = getattr(lq.models, name)(num_classes=1000, rngs=nnx.Rngs(0))
    network.eval()
    return network


def quantized_network(name: str, bits: int, size: int) -> nnx.Module:
    """Returns the calibrated network behind ``Normalize``: it takes uint8 images."""
    network = float_network(name)
    weights, inputs = lq.QuantSpec(bits), lq.QuantSpec(bits, signed=False)
    network = lq.quantize_model(network, lq.models.recommended_rules(network, weights=weights, inputs=inputs))
    model = nnx.Sequential(lq.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), network)
    lq.calibrate(model, [images(2, size)], "max")
    model.eval()
    return model


def images(count: int, size: int) -> np.ndarray:
    """Returns random uint8 images."""
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def median_times(functions, rounds: int) -> list[float]:
    """Returns the median seconds of each function; they take turns."""
    for function in functions:
        jax.block_until_ready(function())
    times: list[list[float]] = [[] for _ in functions]
    for _ in range(rounds):
        for function, seen in zip(functions, times, strict=True):
            began = time.perf_counter()
            jax.block_until_ready(function())
            seen.append(time.perf_counter() - began)
    return [float(np.median(seen)) for seen in times]


def float_function(name: str, batch: int, size: int):
    """Returns the compiled float network with its input bound."""
    graph, state = nnx.split(float_network(name))
    compiled = jax.jit(lambda state, x: nnx.merge(graph, state)(x))
    x = jnp.asarray(images(batch, size), jnp.float32) / 255
    return lambda: compiled(state, x)


def compare(name: str, program: IntegerProgram, options: argparse.Namespace) -> None:
    """Prints a row a batch size."""
    for batch in options.batch:
        codes = jnp.asarray(images(batch, options.size))
        functions = float_function(name, batch, options.size), lambda codes=codes: program.integer_body(codes)
        seconds = median_times(functions, options.rounds)
        (whole, running), (own_whole, own_running) = memory_of(name, program, batch, options.size)
        memory = f"{whole:5.0f} {own_whole:5.0f} {own_whole / whole:5.2f}x {running:7.0f} {own_running:5.0f} "
        memory += f"{own_running / running:5.2f}x"
        print(
            f"{name:14} {batch:5} {1e3 * seconds[0]:9.1f} ms {1e3 * seconds[1]:9.1f} ms "
            f"{seconds[0] / seconds[1]:7.2f}x   {memory}",
            flush=True,
        )


def memory_of(name: str, program: IntegerProgram, batch: int, size: int) -> np.ndarray:
    """Returns the largest resident MB in all and while running: float network, then program, a process each."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "program"
        program.save(file)
        for which in ("nothing", "float", str(file)):
            command = [sys.executable, __file__, "--measure", which, "--network", name]
            command += ["--batch", str(batch), "--size", str(size)]
            printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            found.append([int(number) / 1e6 for number in printed.split()])
    return np.array(found[1:]) - found[0]


def measure(which: str, name: str, batch: int, size: int) -> None:
    """Runs one network ten times and prints the peak resident size of this process."""
    jax.block_until_ready(jax.jit(lambda x: x + 1)(jnp.ones(8)))
    if which == "float":
        run = float_function(name, batch, size)
    elif which == "nothing":
        run = functools.partial(jnp.zeros, ())
    else:
        program = lq.integer.load(which)
        run = functools.partial(program.integer_body, jnp.asarray(images(batch, size)))
    jax.block_until_ready(run())
    whole = _largest_resident()
    gc.collect()
    if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the largest size is counted anew
    for _ in range(10):
        jax.block_until_ready(run())
    running = _largest_resident()
    print(max(whole, running), running)


def _largest_resident() -> int:
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return 1024 * int(status["VmHWM"].split()[0])  # unlike ru_maxrss it begins anew with the program


def distinct_layers(program: IntegerProgram) -> list[tuple[list[Instruction], bool]]:
    """Returns the products of a program that differ in shape, each as a program, and whether it ends in codes.

    The instructions are its input codes, its weights, the product, and what makes codes of the sum where that alone
    reads it and reads nothing else.
    """
    steps = program.instructions
    found: dict[tuple, tuple[list[Instruction], bool]] = {}
    for index, step in enumerate(steps):
        if step.op not in ("convolve", "multiply"):
            continue
        source, kernel = (steps[number] for number in step.inputs)
        attributes = {"index": 0, "dtype": "int8" if source.high <= 127 else "uint8"}
        layer = [
            dataclasses.replace(source, op="input", inputs=(), attributes=attributes, constants={}, name=""),
            kernel,
        ]
        layer.append(dataclasses.replace(step, inputs=(0, 1)))
        while not layer[-1].name:
            readers = [other for other in steps if index in other.inputs]
            if len(readers) != 1 or len(readers[0].inputs) != 1 or readers[0].op not in FOLLOWING:
                break
            layer.append(dataclasses.replace(readers[0], inputs=(len(layer) - 1,)))
            index = steps.index(readers[0])
        to_codes = bool(layer[-1].name)
        layer[-1] = dataclasses.replace(layer[-1], name="result")
        geometry = [step.attributes.get(name) for name in ("strides", "padding", "groups")]
        found.setdefault((source.shape, kernel.shape, str(geometry), to_codes), (layer, to_codes))
    return list(found.values())


def layer_functions(layer: list[Instruction], batch: int):
    """Returns the float layer and the integer one, each compiled, with an input of its own bound."""
    entry, kernel, product = layer[:3]
    shape = resolve(decode(list(entry.shape)), batch)
    codes = np.random.default_rng(0).integers(entry.low, entry.high + 1, shape).astype(entry.attributes["dtype"])
    program = IntegerProgram(tuple(layer), (decode(list(entry.shape)),), (entry.attributes["dtype"],), 1.0)
    integer = program.layer_codes

    @jax.jit
    def in_float(x, kernel, bias):
        if product.op == "multiply":
            return nnx.relu(x @ kernel + bias)
        attributes = product.attributes
        numbers = ("NHWC", "HWIO", "NHWC")
        geometry = attributes["strides"], attributes["padding"], attributes["input_dilation"]
        y = floats.conv_general_dilated(
            x, kernel, *geometry, attributes["kernel_dilation"], numbers, feature_group_count=attributes["groups"]
        )
        return nnx.relu(y + bias)

    x, weights = jnp.asarray(codes, jnp.float32), jnp.asarray(kernel.constants["codes"], jnp.float32)
    codes, bias = jnp.asarray(codes), jnp.ones(kernel.shape[-1])
    return lambda: in_float(x, weights, bias), lambda: integer(codes)["result"]


def fastest_times(functions, rounds: int) -> list[float]:
    """Returns the least seconds of each function; they take turns, of about 10 ms each."""
    counts = []
    for function in functions:
        jax.block_until_ready(function())
        began = time.perf_counter()
        jax.block_until_ready(function())
        counts.append(max(1, int(0.01 / max(time.perf_counter() - began, 1e-5))))
    times = [float("inf")] * len(functions)
    for _ in range(rounds):
        for index, (function, count) in enumerate(zip(functions, counts, strict=True)):
            began = time.perf_counter()
            for _ in range(count):
                jax.block_until_ready(function())
            times[index] = min(times[index], (time.perf_counter() - began) / count)
    return times


def compare_layers(name: str, program: IntegerProgram, options: argparse.Namespace) -> None:
    """Prints a row a distinct layer and batch size, and the worst of each batch size."""
    for batch in options.batch:
        ratios = []
        for layer, to_codes in distinct_layers(program):
            seconds = fastest_times(layer_functions(layer, batch), options.rounds)
            entry, kernel, product = layer[:3]
            words = f"{'x'.join(map(str, entry.shape[1:]))} * {'x'.join(map(str, kernel.shape))}"
            words += f" / {product.attributes['strides'][0]}" if product.op == "convolve" else ""
            ratios.append((seconds[0] / seconds[1], product.path))
            print(
                f"{name:14} {batch:5} {1e3 * seconds[0]:9.2f} ms {1e3 * seconds[1]:9.2f} ms {ratios[-1][0]:7.2f}x   "
                f"{product.path}: {words}, to {'codes' if to_codes else 'sums'}",
                flush=True,
            )
        slower, (worst, path) = sum(ratio < 1 for ratio, _ in ratios), min(ratios)
        print(f"{name}, batch {batch}: {slower} of {len(ratios)} layers slower, the worst {worst:.2f}x ({path})")


def print_lowering(bits: int) -> None:
    """Prints the seconds that lowering takes."""
    for name in ("resnet18", "resnet34", "resnet50"):
        model, example = quantized_network(name, bits, 64), images(1, 224)
        began = time.perf_counter(), time.process_time()
        program = lq.integer.lower(model, example)
        seconds = time.perf_counter() - began[0], time.process_time() - began[1]
        count = len(program.instructions)
        print(
            f"lowering {name}: {seconds[0]:.1f} s ({seconds[1]:.1f} s of the processor), {count} instructions, "
            f"{1e3 * seconds[1] / count:.0f} ms each",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", nargs="+", default=["resnet18", "mobilenet_v2"])
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 16])
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--layers", action="store_true", help="time layer by layer")
    parser.add_argument("--lowering", action="store_true", help="print the time that lowering takes, and nothing else")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(options.measure, options.network[0], options.batch[0], options.size)
        return
    if options.lowering:
        print_lowering(options.bits)
        return
    last = "layer" if options.layers else "memory in MB, float and integers: in all, running"
    print(f"{'network':14} {'batch':>5} {'float':>12} {'integers':>12} {'float / int.':>9}   {last}")
    for name in options.network:
        program = lq.integer.lower(quantized_network(name, options.bits, options.size), images(1, options.size))
        (compare_layers if options.layers else compare)(name, program, options)


if __name__ == "__main__":
    main()
