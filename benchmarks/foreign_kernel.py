"""What a kernel in C++ would give the two layers that XLA's integers do not win at batch 1, in one run.

    python benchmarks/foreign_kernel.py [--rounds 200]

The classifier of ResNet-18 with its rescale to logits, and the first depthwise layer of MobileNetV2, at 224x224 and
W4A4: in float under XLA, as the integer program runs them, and as foreign functions of XLA (jax.ffi) on one thread,
which g++ compiles for this machine from foreign_kernel.cc. Every result is compared with the program's, bit by bit.
The three take turns, and the fastest of the rounds counts; "float / ..." above 1 is faster than in float.
"""

import argparse
import ctypes
import subprocess
import tempfile
from pathlib import Path

import integer_inference as inference
import jax
import jax.numpy as jnp
import numpy as np

import lglsq_jax as lq
from lglsq_jax.integer.dimensions import decode, resolve
from lglsq_jax.integer.program import Instruction

SOURCE = Path(__file__).with_suffix(".cc")
LAYERS = {"resnet18": ("multiply", "lglsq_linear"), "mobilenet_v2": ("convolve", "lglsq_depthwise")}


def compile_kernels(folder: Path) -> None:
    """Compiles the kernels for this machine and registers them with XLA."""
    library = folder / "kernels.so"
    flags = ["-O3", "-march=native", "-std=c++17", "-shared", "-fPIC", "-isystem", jax.ffi.include_dir()]
    subprocess.run(["g++", *flags, str(SOURCE), "-o", str(library)], check=True)
    loaded = ctypes.CDLL(str(library))
    for _, name in LAYERS.values():
        jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(getattr(loaded, name)), platform="cpu")


def chosen_layer(name: str) -> list[Instruction]:
    """Returns the instructions of the layer: input codes, weights, product, rescale."""
    program = lq.integer.lower(inference.quantized_network(name, 4, 224), inference.images(1, 224))
    op = LAYERS[name][0]
    for layer, _ in inference.distinct_layers(program):
        if layer[2].op == op and (op == "multiply" or layer[2].attributes["groups"] > 1):
            return layer
    raise AssertionError(f"{name} has no such layer")


def foreign(layer: list[Instruction], target: str):
    """Returns the layer as a foreign function, compiled, with the codes that ``inference.layer_functions`` takes."""
    entry, kernel, _, rescale = layer
    constants, attributes = rescale.constants, rescale.attributes
    codes = np.random.default_rng(0).integers(entry.low, entry.high + 1, resolve(decode(list(entry.shape)), 1))
    weights = kernel.constants["codes"]
    weights = weights.T if target == "lglsq_linear" else weights.reshape(9, -1)
    bias = constants["bias_high"].astype(np.int64) * 2**32 + constants["bias_low"]
    result = jax.ShapeDtypeStruct(resolve(decode(list(rescale.shape)), 1), attributes["dtype"])
    call = jax.ffi.ffi_call(target, result)
    numbers = {name: np.int64(attributes[name]) for name in ("shift", "low", "high")}
    with jax.enable_x64(True):
        arrays = [
            jnp.asarray(codes.astype(entry.attributes["dtype"])),
            jnp.asarray(np.ascontiguousarray(weights)),
            jnp.asarray(constants["multiplier0"].ravel()),
            jnp.asarray(bias.ravel()),
        ]
        compiled = jax.jit(lambda *arrays: call(*arrays, **numbers)).lower(*arrays).compile()
    return lambda: compiled(*arrays)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200)
    options = parser.parse_args()
    print(f"{'layer':28} {'float':>9} {'program':>9} {'C++':>9}   float / program   float / C++   equal")
    with tempfile.TemporaryDirectory() as folder:
        compile_kernels(Path(folder))
        for name, (_, target) in LAYERS.items():
            layer = chosen_layer(name)
            functions = *inference.layer_functions(layer, 1), foreign(layer, target)
            equal = bool((np.asarray(functions[1]()) == np.asarray(functions[2]())).all())
            in_float, program, native = inference.fastest_times(functions, options.rounds)
            print(
                f"{name + ' ' + layer[2].path:28} {1e3 * in_float:6.3f} ms {1e3 * program:6.3f} ms "
                f"{1e3 * native:6.3f} ms {in_float / program:17.2f} {in_float / native:13.2f}   {equal}",
                flush=True,
            )
            assert equal, "the kernel's results are not the program's"


if __name__ == "__main__":
    main()
