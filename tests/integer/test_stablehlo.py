"""The exported body is the body, to the bit, on any machine that has JAX and nothing else of ours."""

import functools
import re
import subprocess
import sys

import jax
import jax.export
import numpy as np
import pytest
from flax import nnx

import lglsq_jax as lq
from lglsq_jax.integer import Instruction, IntegerProgram
from lglsq_jax.integer.export.stablehlo import stablehlo

from .checks import SIGNED, UNSIGNED, fake, normal
from .random_programs import RandomProgram
from .test_lower import ARITHMETIC, ARRANGING, CONVOLUTIONS, OUTPUT, POOLING, PRODUCTS, STEP, X

OPERATIONS = {**CONVOLUTIONS, **{f"product, {name}": of for name, of in PRODUCTS.items()}, **ARITHMETIC, **POOLING,
              **{f"arranging, {name}": of for name, of in ARRANGING.items()}}  # fmt: skip

WITHOUT_THE_PACKAGE = """
import sys


class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("lglsq_jax", "flax"):
            raise ImportError(f"{name} is not here")


sys.meta_path.insert(0, Refuse())
try:
    import lglsq_jax
except ImportError:
    pass
else:
    raise SystemExit("the package could be imported")

import jax.export
import numpy as np

with open(sys.argv[1], "rb") as file:
    network = jax.export.deserialize(bytearray(file.read()))
codes = np.load(sys.argv[2])
np.savez(sys.argv[3], one=network.call(codes[:1]), five=network.call(codes))
"""


@pytest.fixture(scope="module", autouse=True)
def _compile_quickly():
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


class Network(nnx.Module):
    """A small residual network."""

    def __init__(self, rngs):
        weights, inputs = lq.QuantSpec(3, channel_axis=-1), lq.QuantSpec(4, signed=False, batch_axis=0)
        self.stem = lq.QuantConv(1, 4, (3, 3), weights=weights, inputs=lq.QuantSpec(8, signed=False), rngs=rngs)
        self.deep = lq.QuantConv(4, 4, (3, 3), feature_group_count=4, weights=weights, inputs=inputs, rngs=rngs)
        self.fc = lq.QuantLinear(4, 5, weights=weights, inputs=inputs, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.stem(x))
        return self.fc(nnx.relu(x + self.deep(x)).mean((1, 2)))


@pytest.fixture(scope="module")
def program() -> IntegerProgram:
    images = np.abs(normal(8, 6, 6, 1))
    model = Network(nnx.Rngs(0))
    lq.calibrate(model, [images])
    model.eval()
    return lq.integer.lower(model, images)


IMAGES = np.abs(normal(5, 6, 6, 1, seed=1))


def assert_integers_only(exported) -> None:
    text = re.sub(r"padding = dense<[^>]*> : tensor<\w+xi64>", "", exported.mlir_module())  # not a value
    types = set(re.findall(r"tensor<(?:[\d?]+x)*(\w+)[,>]", text))
    assert types <= {"i1", "i8", "ui8", "i16", "i32", "ui32"}, types
    assert not re.search(r"\b(bf16|f8\w*|f16|f32|f64)\b", text)


def test_jax_alone_runs_the_file_at_two_batch_sizes(program, tmp_path):
    program.to_stablehlo(tmp_path / "network.bin")
    codes = np.asarray(program.encode(IMAGES))
    np.save(tmp_path / "codes.npy", codes)
    (tmp_path / "run.py").write_text(WITHOUT_THE_PACKAGE)
    command = [sys.executable, "-I", "run.py", "network.bin", "codes.npy", "logits.npz"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-3000:]
    expected = np.asarray(program.integer_body(codes))
    with np.load(tmp_path / "logits.npz") as file:
        found = dict(file)
    assert found["one"].dtype == found["five"].dtype == np.int32
    np.testing.assert_array_equal(found["five"], expected)
    np.testing.assert_array_equal(found["one"], expected[:1])
    assert len(np.unique(expected)) > 10


def test_it_is_for_all_platforms_and_holds_its_weights_and_no_float(program):
    exported = stablehlo(program)
    assert exported.platforms == ("cpu", "cuda", "tpu")
    (codes,) = exported.in_avals
    assert (str(codes.shape), codes.dtype) == ("(b, 6, 6, 1)", np.uint8)
    assert [result.dtype for result in exported.out_avals] == [np.int32]
    assert_integers_only(exported)
    written = bytes(exported.serialize())
    stem, fc = program.weights["stem"], program.weights["fc"]  # a depthwise kernel is split into its taps
    assert stem.tobytes() in written and fc.T.tobytes() in written  # the kernel of a product lies transposed


def test_the_same_program_is_the_same_bytes_and_says_nothing_of_the_machine(program, tmp_path):
    for name in ("first", "second"):
        program.to_stablehlo(tmp_path / name)
    written = (tmp_path / "first").read_bytes()
    assert written == (tmp_path / "second").read_bytes()
    assert b".py" not in written and b"lglsq_jax" not in written


def test_every_operation_that_lowers_is_exported_without_a_float():
    for name, operation in OPERATIONS.items():
        model = functools.partial(lambda operation, x: fake(operation(x), STEP, OUTPUT), operation)
        exported = stablehlo(lq.integer.lower(model, X))
        assert_integers_only(exported)
        assert exported.in_avals[0].shape[0] != 4, f"{name}: the batch is fixed"


@pytest.mark.parametrize("seed", range(6))
def test_random_programs_are_exported_to_the_bit(seed):
    drawn = RandomProgram(seed, 14)
    (shape, dtype), ends = drawn.codes, np.iinfo(drawn.codes[1])
    exported = jax.export.deserialize(stablehlo(drawn.program).serialize())
    codes = np.random.default_rng(seed).integers(ends.min, ends.max + 1, (3 * shape[0], *shape[1:])).astype(dtype)
    np.testing.assert_array_equal(exported.call(codes), drawn.program.integer_body(codes))
    assert_integers_only(exported)


def test_a_fixed_batch_stays_fixed():
    def model(x):
        return fake(fake(x, 0.25, SIGNED).reshape(4, -1)[:, ::2] * float(len(x)), 0.5, OUTPUT)

    with pytest.warns(UserWarning, match="^the program takes 4 samples at a time"):
        program = lq.integer.lower(model, X)
    exported, codes = stablehlo(program), program.encode(X)
    assert exported.in_avals[0].shape == (4, 6, 6, 4)
    np.testing.assert_array_equal(exported.call(codes), program.integer_body(codes))
    with pytest.raises(ValueError, match="Shape mismatch"):
        exported.call(codes[:3])


def test_an_input_quantized_in_two_ways_is_two_arguments():
    program = lq.integer.lower(lambda x: fake(x, 0.25, SIGNED) + fake(x, 0.01, UNSIGNED), X)
    exported, codes = stablehlo(program), program.encode(X[:3])
    assert isinstance(codes, tuple)
    np.testing.assert_array_equal(exported.call(*codes), program.integer_body(codes))


def test_raw_images_are_an_argument_as_they_are():
    raw = Instruction("input", (), ("b*1", 4), 0, 255, {"index": 0, "dtype": "uint8"}, {})
    other = Instruction("input", (), ("b*1", 1), -128, 127, {"index": 1, "dtype": "int8"}, {})
    product = Instruction("times", (0, 1), ("b*1", 4), -32640, 32385, {}, {})
    batch = lq.integer.dimensions.Batch(1)
    program = IntegerProgram((raw, other, product), ((batch, 4), (batch, 1)), ("uint8", "int8"), 1.0)
    x, y = np.arange(8, dtype=np.uint8).reshape(2, 4) * 30, np.int8([[-128], [7]])
    exported = stablehlo(program)
    assert [aval.dtype for aval in exported.in_avals] == [np.uint8, np.int8]
    np.testing.assert_array_equal(exported.call(x, y), x.astype(np.int32) * y)


def test_a_path_that_cannot_be_written_is_told(program, tmp_path):
    with pytest.raises(lq.errors.UserError, match=r"cannot write .*nowhere/x: No such file or directory"):
        program.to_stablehlo(tmp_path / "nowhere" / "x")
