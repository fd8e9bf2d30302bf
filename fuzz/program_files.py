"""Damaged and forged program files: each is refused in one sentence, or is a program that runs.

    python fuzz/program_files.py [--inputs 100000] [--seed 0]

Valid files of tiny programs are damaged (bytes flipped, cut off, inserted) or forged (numbers, words, lists and whole
instructions of the list changed, constants overwritten, with a checksum that fits again). What ``load`` lets through
must then be a program of which every instruction can be traced, its layers can be read, and, for one in 50, logits are
computed. Anything but a ``UserError`` is a failure; it is printed with its number, which makes the same file again.
"""

import argparse
import collections
import copy
import functools
import hashlib
import json
import sys
import tempfile
import time
import warnings
import zlib
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

import lglsq_jax as lq
from lglsq_jax.errors import UserError
from lglsq_jax.integer import IntegerProgram
from lglsq_jax.integer.dimensions import resolve
from lglsq_jax.integer.kernels import KERNELS

SIGNED, UNSIGNED = lq.QuantSpec(4), lq.QuantSpec(4, signed=False)
RUN_ONE_IN = 50
BATCH = 3
INTERESTING = (
    0, 1, -1, 2, 3, 7, 31, 32, 62, 63, 64, 127, 128, 255, 256, -128, -129, 2**31 - 1, 2**31, -(2**31), 2**32, 2**60,
    10**30, 1.5, 1e400, float("nan"), True, False, None, "", "b*1", "b*2", "b*0", "b*99999999999", "int8", "uint8",
    "int32", "float32", "rescale", "__import__", [], {}, [[]], [[0, 0]], [1, 1], ["b*1"], {"shift": 1},
)  # fmt: skip


def fake(x, scale: float, spec: lq.QuantSpec):
    """Quantizes and dequantizes with one scale."""
    return lq.fake_quantize(x, jnp.float32(scale), spec)


def normal(*shape: int) -> np.ndarray:
    """Standard normal numbers, the same at every call."""
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def convolutions(x):
    """Products, windows, sums."""
    kernels = normal(3, 3, 2, 4), normal(2, 2, 1, 4)
    for kernel, groups, pad in zip(kernels, (1, 4), ("SAME", "VALID"), strict=True):
        kernel = fake(kernel, 0.3, SIGNED)
        layout = ("NHWC", "HWIO", "NHWC")
        x = fake(x, 0.25, UNSIGNED)
        x = lax.conv_general_dilated(x, kernel, (1, 1), pad, dimension_numbers=layout, feature_group_count=groups)
    x = lax.reduce_window(x, -np.inf, lax.max, (1, 2, 2, 1), (1, 1, 1, 1), "VALID")
    x = lax.reduce_window(x, 0.0, lax.add, (1, 2, 1, 1), (1, 1, 1, 1), "SAME")
    return fake(x.mean((1, 2)), 0.1, SIGNED) @ fake(normal(4, 3), 0.3, SIGNED)


def branches(x):
    """Elementwise operations, tables, staircases."""
    x = fake(x, 0.25, SIGNED)
    y = jnp.maximum(x, fake(jax.nn.sigmoid(x), 0.1, UNSIGNED))
    z = fake(x @ fake(normal(4, 4), 0.3, SIGNED), 0.2, SIGNED) * y
    wide = jax.nn.silu(fake(x * 0.9, 0.01, lq.QuantSpec(8)) @ fake(normal(4, 4)[::-1], 0.02, lq.QuantSpec(8)))
    return jnp.minimum(z, y) + fake(wide, 0.2, SIGNED) + jnp.clip(x, -0.5, 0.75)


def arrangements(x):
    """Operations that only move elements."""
    x = fake(x, 0.25, SIGNED)
    y = jnp.concatenate([x.transpose(0, 2, 1)[:, ::-1], jnp.pad(x, ((0, 0), (0, 0), (1, 1)))[:, :, 1:4]], axis=1)
    y = jnp.broadcast_to(y[:, None], (y.shape[0], 2, *y.shape[1:])).reshape(y.shape[0], -1, 3)
    return y[:, jnp.array([0, 2, 5, 5])].max(2) + lax.slice(x, (0, 1, 0), (x.shape[0], 2, 3)).sum(2)


def raw(image, extra):
    """Two inputs, one of them integer."""
    image = fake(image.astype(jnp.float32) / 255, 1 / 255, lq.QuantSpec(8, signed=False))
    return image @ fake(normal(4, 3), 0.3, SIGNED) + fake(extra, 0.5, SIGNED)


@functools.cache
def valid_files() -> tuple[bytes, ...]:
    """Returns the files of a few programs that have every operation between them."""
    image = (np.abs(normal(2, 4)) * 60).astype(np.uint8)
    cases = [(convolutions, (normal(2, 5, 5, 2),)), (branches, (normal(2, 4),)), (arrangements, (normal(2, 3, 3),))]
    files = []
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "program"
        for model, examples in [*cases, (raw, (image, normal(2, 3)))]:
            lq.integer.lower(model, *examples).save(place)
            files.append(place.read_bytes())
    return tuple(files)


def damaged(data: bytes, rng: np.random.Generator) -> bytes:
    """Returns a file with bytes flipped, cut off, inserted or moved."""
    changed = bytearray(data)
    for _ in range(int(rng.integers(1, 4))):
        at, length = int(rng.integers(len(changed) + 1)), int(rng.geometric(0.1))
        kind = rng.integers(5)
        if kind == 0 and at < len(changed):
            changed[at] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            del changed[at:]
        elif kind == 2:
            changed[at:at] = rng.bytes(length)
        elif kind == 3:
            del changed[at : at + length]
        else:
            changed[at : at + length] = changed[: min(length, len(changed))]
        if not changed:
            break
    return bytes(changed)


def forged(data: bytes, rng: np.random.Generator) -> bytes:
    """Returns a file whose list of instructions or constants are changed, with a checksum that fits again."""
    length = int.from_bytes(data[:8], "little")
    metadata = json.loads(data[8 : 8 + length])["__metadata__"]
    tensors = load_tensors(data)
    header = json.loads(zlib.decompress(tensors["program"].tobytes()))
    constants = bytearray(tensors["constants"].tobytes())
    for _ in range(int(rng.geometric(0.6))):
        if rng.random() < 0.1 and constants:
            constants[int(rng.integers(len(constants)))] = int(rng.integers(256))
        else:
            change(header, rng)
    program = zlib.compress(json.dumps(header).encode(), 1)
    if rng.random() < 0.05:
        program = damaged(program, rng)
    if rng.random() < 0.02:
        metadata[list(metadata)[int(rng.integers(len(metadata)))]] = str(
            INTERESTING[int(rng.integers(len(INTERESTING)))]
        )
    arrays = {"program": np.frombuffer(program, np.uint8), "constants": np.frombuffer(bytes(constants), np.uint8)}
    return save_tensors(arrays, {**metadata, "sha256": hashlib.sha256(program + bytes(constants)).hexdigest()})


def change(header: dict[str, Any], rng: np.random.Generator) -> None:
    """Changes one thing in a list of instructions: a value, an item of a list, a whole instruction."""
    steps: Any = header.get("instructions")
    whole = rng.random() < 0.15 or not isinstance(steps, list) or not steps
    place = _somewhere(header if whole else steps[int(rng.integers(len(steps)))], rng)
    if place is None:
        return
    parent, key = place
    kind = rng.integers(8)
    old: Any = parent[key]
    if kind == 0:
        del parent[key]
    elif kind in (1, 2) and isinstance(parent, list):
        other = int(rng.integers(len(parent)))
        if kind == 1:
            parent.insert(key, copy.deepcopy(parent[other]))
        else:
            parent[key], parent[other] = parent[other], parent[key]
    elif kind in (3, 4) and type(old) is int:
        parent[key] = old + int(rng.integers(-3, 4)) if kind == 3 else old * int(rng.integers(-2, 3))
    elif kind == 5 and isinstance(steps, list):
        other = _somewhere(steps, rng)
        parent[key] = old if other is None else copy.deepcopy(other[0][other[1]])
    else:
        parent[key] = copy.deepcopy(INTERESTING[int(rng.integers(len(INTERESTING)))])


def _somewhere(tree: Any, rng: np.random.Generator) -> tuple[Any, Any] | None:
    """Returns a list or object somewhere in a tree, and one of its keys."""
    found: Any = None
    while isinstance(tree, list | dict) and tree:
        keys = list(tree) if isinstance(tree, dict) else range(len(tree))
        key = keys[int(rng.integers(len(keys)))]
        found, tree = (tree, key), tree[key]
        if rng.random() < 0.15:
            break
    return found


def traced(program: IntegerProgram) -> None:
    """Traces every instruction of the integer body, each as ``integer_body`` would."""
    kinds: dict[int, tuple[tuple[int, ...], str]] = {}
    for number, step in enumerate(program.instructions):
        sizes = tuple(BATCH * int(d[2:]) if isinstance(d, str) else d for d in step.shape)
        if step.op == "encode" or (step.op == "input" and "int" in step.attributes["dtype"]):
            kinds[number] = sizes, step.attributes["dtype"]
        elif step.op != "input" and all(index in kinds for index in step.inputs):
            own = tuple((name, array.shape, array.dtype.name) for name, array in step.constants.items())
            inputs = tuple(kinds[index] for index in step.inputs)
            kinds[number] = _result(step.op, json.dumps(step.attributes), own, inputs)
            if kinds[number][0] != sizes:
                raise AssertionError(f"{step.op} makes {kinds[number][0]}, not {sizes}")
    if len(program.instructions) - 1 not in kinds:
        raise AssertionError("the last instruction never runs")


@functools.lru_cache(100_000)
def _result(op: str, attributes: str, constants: tuple, inputs: tuple) -> tuple[tuple[int, ...], str]:
    arrays = {name: np.zeros(shape, dtype) for name, shape, dtype in constants}
    given = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in inputs]
    made = jax.eval_shape(lambda *xs: KERNELS[op]({**json.loads(attributes), "batch": BATCH}, arrays, *xs), *given)
    return made.shape, made.dtype.name


def run(program: IntegerProgram) -> None:
    """Computes logits of zeros and saves the program again."""
    inputs = []
    for shape, dtype in zip(program.input_shapes, program.input_dtypes, strict=True):
        inputs.append(jnp.zeros(resolve(shape, 2), "float32" if dtype == "float64" else dtype))
    jax.block_until_ready(program(*inputs))
    with tempfile.TemporaryDirectory() as folder:
        program.save(Path(folder) / "again")
        lq.integer.load(Path(folder) / "again")


def made(number: int, seed: int) -> tuple[str, bytes]:
    """Returns what kind of file a number stands for, and the file."""
    rng = np.random.default_rng([seed, number])
    data = valid_files()[int(rng.integers(len(valid_files())))]
    return ("damaged", damaged(data, rng)) if rng.random() < 0.25 else ("forged", forged(data, rng))


def check(data: bytes, place: Path, thoroughly: bool) -> str:
    """Loads a file and returns "refused", "loaded" or "run".

    Raises:
        Exception: what a reader of such a file would see, and should not.
    """
    place.write_bytes(data)
    try:
        program = lq.integer.load(place)
    except UserError as error:
        if "\n" in str(error) or len(str(error)) > 1000:
            raise AssertionError(f"the sentence is too long: {str(error)[:200]}") from None
        return "refused"
    traced(program)
    str(program.summary())
    small = all(np.prod(_sizes(step.shape), dtype=object) < 10**6 for step in program.instructions)
    if thoroughly and small:
        run(program)
        return "run"
    return "loaded"


def _sizes(shape: tuple[int | str, ...]) -> list[int]:
    return [int(dim[2:]) if isinstance(dim, str) else dim for dim in shape]


def fuzz(inputs: int, seed: int, say=print) -> collections.Counter:
    """Tries so many files and returns how many of each kind were refused, loaded, run, or failed."""
    counts: collections.Counter = collections.Counter()
    slowest = 0.0
    with tempfile.TemporaryDirectory() as folder:
        for number in range(inputs):
            kind, data = made(number, seed)
            began = time.perf_counter()
            try:
                outcome = check(data, Path(folder) / "program", number % RUN_ONE_IN == 0)
            except Exception as error:
                outcome = "failed"
                say(f"{kind} file {number} of seed {seed}: {type(error).__name__}: {str(error)[:300]}")
            if outcome == "refused":
                slowest = max(slowest, time.perf_counter() - began)
            counts[kind, outcome] += 1
            if (number + 1) % 10_000 == 0:
                say(f"{number + 1:,} files: {_told(counts)}")
    say(f"slowest refusal {1e3 * slowest:.0f} ms")
    return counts


def _told(counts: collections.Counter) -> str:
    return ", ".join(f"{kind} and {outcome} {count:,}" for (kind, outcome), count in sorted(counts.items()))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    began = time.perf_counter()
    counts = fuzz(options.inputs, options.seed)
    print(f"{_told(counts)}; {time.perf_counter() - began:.0f} s")
    failed = sum(count for (_, outcome), count in counts.items() if outcome == "failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
