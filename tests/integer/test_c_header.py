"""A program in C gives the logits of the program, to the bit, for every operation and in the memory that it says."""

import functools
import re
import subprocess

import jax
import numpy as np
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st

import lglsq_jax as lq
from lglsq_jax.integer.export.arena import ALIGNMENT, Request, plan
from lglsq_jax.integer.export.c_header import c_header
from lglsq_jax.integer.fixed import split
from lglsq_jax.integer.program import Instruction

from .checks import fake, normal
from .in_c import FOLDER, Case, compile_c, needs_gcc, run_all
from .random_programs import RandomProgram, entry, program_of
from .test_lower import ARITHMETIC, ARRANGING, CONVOLUTIONS, OUTPUT, POOLING, PRODUCTS, STEP, X

OPERATIONS = {"convolution": CONVOLUTIONS, "product": PRODUCTS, "arithmetic": ARITHMETIC, "pooling": POOLING,
              "arranging": ARRANGING}  # fmt: skip
SAMPLES = 2


@pytest.fixture(scope="module", autouse=True)
def _compile_quickly():
    """Each program runs on a few samples only: leave out what makes its code fast."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


def case(program, samples) -> Case:
    """The case whose right logits are those of the program's integer body, sample by sample."""
    samples = [tuple(map(np.asarray, sample if isinstance(sample, tuple) else (sample,))) for sample in samples]
    expected = [np.asarray(program.integer_body(sample)) for sample in samples]
    return Case(program, samples, expected)


def encoded(program, x, count: int = SAMPLES) -> Case:
    return case(program, [program.encode(x[index : index + 1]) for index in range(count)])


def assert_all_right(cases: dict[str, Case], folder) -> None:
    found = run_all(cases, folder)
    for title, one in cases.items():
        for logits, expected in zip(found[title], one.expected, strict=True):
            np.testing.assert_array_equal(logits, expected, err_msg=title)


@needs_gcc
def test_every_operation_that_lowers_is_right_in_c(tmp_path):
    cases = {}
    for group, operations in OPERATIONS.items():
        for name, operation in operations.items():
            model = functools.partial(lambda operation, x: fake(operation(x), STEP, OUTPUT), operation)
            cases[f"{group}: {name}"] = encoded(lq.integer.lower(model, X), X)
    assert_all_right(cases, tmp_path)


@needs_gcc
def test_random_programs_are_right_in_c(tmp_path):
    cases = {}
    for seed in range(24):
        drawn = RandomProgram(seed, 16)
        (shape, dtype), rng = drawn.codes, np.random.default_rng(seed)
        ends = np.iinfo(dtype)
        samples = [rng.integers(ends.min, ends.max + 1, shape).astype(dtype) for _ in range(SAMPLES)]
        cases[f"seed {seed}"] = case(drawn.program, samples)
    assert_all_right(cases, tmp_path)
    used = {step.op for one in cases.values() for step in one.program.instructions}
    assert len(used) >= 20, used


def codes(shape, dtype: str, seed: int = 0) -> list[tuple[np.ndarray]]:
    rng, ends = np.random.default_rng(seed), np.iinfo(dtype)
    return [(rng.integers(ends.min, ends.max + 1, shape).astype(dtype),) for _ in range(SAMPLES)]


def tables(dtype: str, axes: tuple[int, ...]) -> Case:
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    table = np.random.default_rng(1).integers(-(2**20), 2**20, (*axes, high - low + 1)).astype(np.int32)
    step = Instruction("table", (1,), ("b*1", 3, 4), 0, 0, {"low": low, "dtype": "int32"}, {"table": table})
    samples = codes((1, 3, 4), dtype)
    entries = np.broadcast_to(table, (1, 3, 4, high - low + 1))
    expected = [np.take_along_axis(entries, x[..., None].astype(int) - low, -1)[..., 0] for (x,) in samples]
    return Case(program_of([*entry(("b*1", 3, 4), dtype), step]), samples, expected)


def staircases(axes: tuple[int, ...], steps: int) -> Case:
    rng = np.random.default_rng(2)
    thresholds = np.sort(rng.integers(-(2**31), 2**31, (*axes, steps)).astype(np.int32), -1)
    values = rng.integers(-128, 128, (*axes, steps + 1)).astype(np.int8)
    constants = {"thresholds": thresholds, "values": values}
    step = Instruction("staircase", (1,), ("b*1", 3, 4), 0, 0, {"dtype": "int8"}, constants)
    samples = codes((1, 3, 4), "int32")
    samples[0][0].flat[: min(steps, 5)] = thresholds.flat[: min(steps, 5)]  # what lies on a step has reached it
    expected = []
    for (x,) in samples:
        count = (x[..., None] >= thresholds).sum(-1)
        whole = np.broadcast_to(values, (1, 3, 4, steps + 1))
        expected.append(np.take_along_axis(whole, count[..., None], -1)[..., 0].astype(np.int32))
    return Case(program_of([*entry(("b*1", 3, 4), "int32"), step]), samples, expected)


def rescales(shift: int, bias: int, clamp: tuple[int, int] | None) -> Case:
    """Two terms whose sum is small, so that every second one or so lies in the middle between two whole numbers."""
    samples = [tuple(np.random.default_rng(seed).integers(-9, 10, (2, 1, 3, 4), np.int32)) for seed in range(SAMPLES)]
    factors, extra = np.int32([[3, -1, 2, -5], [9, 8, -7, 6]]), [0, 3]
    halves = None if clamp is None else [[end >> 32, end & 0xFFFFFFFF] for end in clamp]
    attributes = {"shift": shift, "low": -60, "high": 50, "clamp": halves, "dtype": "int8", "term_shifts": extra}
    constants = {"multiplier0": factors[0], "multiplier1": factors[1]}
    constants["bias_high"], constants["bias_low"] = split(np.array([bias, -bias, 0, 1], np.int64))
    steps = [*entry(("b*1", 3, 4), "int32"), Instruction("encode", (0,), ("b*1", 3, 4), 0, 0, {"dtype": "int32"}, {})]
    steps.append(Instruction("rescale", (1, 2), ("b*1", 3, 4), -60, 50, attributes, constants))
    expected = []
    for x, y in samples:
        total = np.array([bias, -bias, 0, 1]) + x * factors[0] + (y * factors[1] >> extra[1])
        total = total if clamp is None else np.clip(total, *clamp)
        expected.append(np.clip(np.rint(total / 2**shift), -60, 50).astype(np.int32))  # exact: rint takes ties to even
    return Case(program_of(steps), samples, expected)


def products() -> Case:
    """A tensor times its mean along an axis, which is broadcast, of a raw image and of codes."""
    image = Instruction("input", (), ("b*1", 3, 4), 0, 255, {"index": 0, "dtype": "uint8"}, {})
    other = Instruction("input", (), ("b*1", 1, 4), -128, 127, {"index": 1, "dtype": "int8"}, {})
    step = Instruction("times", (0, 1), ("b*1", 3, 4), -32640, 32385, {}, {})
    rng = np.random.default_rng(3)
    samples = [
        (rng.integers(0, 256, (1, 3, 4)).astype(np.uint8), rng.integers(-128, 128, (1, 1, 4)).astype(np.int8))
        for _ in range(SAMPLES)
    ]
    expected = [x.astype(np.int32) * y for x, y in samples]
    return Case(program_of([image, other, step]), samples, expected)


def images() -> Case:
    """A raw uint8 image is the integer input; no encode follows it."""
    image = Instruction("input", (), ("b*1", 4, 4, 3), 0, 255, {"index": 0, "dtype": "uint8"}, {})
    kernel = np.random.default_rng(4).integers(-8, 8, (4, 4, 3, 5)).astype(np.int8)
    weights = Instruction("constant", (), kernel.shape, -8, 7, {"bits": 4, "signed": True}, {"codes": kernel})
    window = {"strides": [1, 1], "padding": [[0, 0]] * 2, "input_dilation": [1, 1], "kernel_dilation": [1, 1]}
    window |= {"groups": 1, "code_maximum": 255}
    step = Instruction("convolve", (0, 1), ("b*1", 1, 1, 5), -(2**20), 2**20, window, {})
    samples = codes((1, 4, 4, 3), "uint8")
    expected = [np.einsum("nhwc,hwco->no", x.astype(np.int32), kernel).reshape(1, 1, 1, 5) for (x,) in samples]
    return Case(program_of([image, weights, step]), samples, expected)


@needs_gcc
def test_tables_staircases_rescales_products_and_raw_images_are_those_of_numpy(tmp_path):
    cases = {
        f"table {dtype} {axes}": tables(dtype, axes) for dtype in ("int8", "uint8") for axes in [(1, 1, 1), (1, 3, 4)]
    }
    cases["table without batch axis"] = tables("int8", (4,))
    cases |= {f"staircase {axes} {k}": staircases(axes, k) for axes in [(1, 1, 1), (1, 1, 4)] for k in (0, 1, 15, 70)}
    cases |= {"times": products(), "image": images()}
    cases |= {f"rescale {own}": rescales(*own) for own in [(1, 0, None), (2, 1, (-9, 5)), (33, 3 << 32, None)]}
    assert_all_right(cases, tmp_path)


def network(name: str, image: tuple[int, ...], **options):
    model = getattr(lq.models, name)(num_classes=6, rngs=nnx.Rngs(0), **options)
    weights, inputs = lq.QuantSpec(3, channel_axis=-1), lq.QuantSpec(3, signed=False, batch_axis=0)
    model = lq.quantize_model(model, lq.models.recommended_rules(model, weights=weights, inputs=inputs))
    images = normal(4, *image, seed=7)
    lq.calibrate(model, [images], how="max")  # which compiles in no time
    model.eval()
    return lq.integer.lower(model, images), images


@pytest.fixture(scope="module")
def resnet():
    return network("resnet8", (8, 8, 1), in_channels=1, stem_stride=2)


@needs_gcc
def test_the_interpreter_runs_a_residual_network_from_its_standard_input(resnet, tmp_path):
    program, images = resnet
    program.to_c_header(tmp_path / "small.h", name="small")
    compile_c(
        FOLDER / "interpreter.c", tmp_path / "run", f"-I{tmp_path}", '-DNETWORK_HEADER="small.h"', "-DNETWORK=small"
    )
    given = np.asarray(program.encode(images))
    run = subprocess.run([str(tmp_path / "run")], input=given.tobytes(), capture_output=True, check=True)
    expected = np.asarray(program.integer_body(given))
    np.testing.assert_array_equal(np.frombuffer(run.stdout, np.int32).reshape(expected.shape), expected)
    assert len(np.unique(expected)) > 6
    cut = subprocess.run([str(tmp_path / "run")], input=given.tobytes()[:-1], capture_output=True)
    assert (cut.returncode, len(cut.stdout)) == (2, 3 * 6 * 4)
    assert cut.stderr == b"the input ends in the middle of a sample\n"


class Depthwise(nnx.Module):
    """A narrow network of depthwise convolutions, with a residual connection and clips at 6."""

    def __init__(self, rngs):
        weights, inputs = lq.QuantSpec(4, channel_axis=-1), lq.QuantSpec(4, signed=False, batch_axis=0)
        options = {"weights": weights, "inputs": inputs, "rngs": rngs}
        self.stem = lq.QuantConv(1, 4, (3, 3), strides=2, weights=weights, inputs=lq.QuantSpec(8), rngs=rngs)
        self.wide = lq.QuantConv(4, 12, (1, 1), **options)
        self.deep = lq.QuantConv(12, 12, (3, 3), feature_group_count=12, **options)
        self.narrow = lq.QuantConv(12, 4, (1, 1), **options)
        self.fc = lq.QuantLinear(4, 5, weights=weights, inputs=lq.QuantSpec(4), rngs=rngs)

    def __call__(self, x):
        x = nnx.relu6(self.stem(x))
        x = x + self.narrow(nnx.relu6(self.deep(nnx.relu6(self.wide(x)))))
        return self.fc(x.mean((1, 2)))


@needs_gcc
def test_networks_are_right_in_c(resnet, tmp_path):
    images = normal(4, 8, 8, 1, seed=3)
    model = Depthwise(nnx.Rngs(0))
    lq.calibrate(model, [images], how="max")
    model.eval()
    with pytest.warns(UserWarning, match="^the program takes 4 samples at a time"):
        fixed = lq.integer.lower(
            lambda x: fake(fake(x, 0.25, OUTPUT).reshape(4, -1)[:, ::2] * float(len(x)), 0.5, OUTPUT), X
        )
    assert_all_right(
        {
            "depthwise": encoded(lq.integer.lower(model, images), images),
            "residual": encoded(*resnet),
            "a fixed batch is one sample": case(fixed, [fixed.encode(X), fixed.encode(X[::-1])]),
        },
        tmp_path,
    )


def test_the_header_says_what_memory_it_needs(resnet):
    text = c_header(resnet[0])
    ((ram, least),) = re.findall(r"RAM  ([\d,]+) bytes of arena \(([\d,]+) in use", text)
    rom = int(re.search(r"ROM  ([\d,]+) bytes", text)[1].replace(",", ""))
    summary = resnet[0].summary()
    assert rom == pytest.approx(summary.weight_bytes + summary.constant_bytes, rel=0.05)
    activations = 4 * 4 * 16  # of the first stage: int32 sums over codes, beside the int32 residual stream
    assert f"network_arena_bytes = {ram.replace(',', '')}" in text
    assert int(least.replace(",", "")) <= int(ram.replace(",", "")) <= 3 * 4 * activations
    assert "float" not in text and "double" not in text and all(len(line) < 300 for line in text.splitlines())


@pytest.mark.parametrize("name", ["2nd", "int", "_hidden", "a-b", "", "lglsq_x", "uint8_t", "main", "é"])
def test_a_name_that_c_does_not_take_is_refused(resnet, tmp_path, name):
    with pytest.raises(ValueError, match=r"`name` must be a C identifier such as 'network' .*, got "):
        resnet[0].to_c_header(tmp_path / "x.h", name)
    assert not list(tmp_path.iterdir())


def test_a_path_that_cannot_be_written_is_told(resnet, tmp_path):
    with pytest.raises(lq.errors.UserError, match=r"cannot write .*nowhere/x\.h: No such file or directory"):
        resnet[0].to_c_header(tmp_path / "nowhere" / "x.h")


def test_a_path_of_a_module_does_not_end_a_comment():
    step = Instruction("clip", (1,), ("b*1", 2), 0, 9, {"low": 0, "high": 9}, {}, path="a*/b/*c\nd")
    text = c_header(program_of([*entry(("b*1", 2), "int8"), step]))
    assert "/* 1: clip, int8 [1, 2], a* /b/ *c d */" in text


def test_a_tensor_of_too_many_axes_is_refused():
    step = Instruction("reshape", (1,), ("b*1", *(1,) * 12), 0, 9, {"sizes": ["b*1", *(1,) * 12]}, {})
    with pytest.raises(ValueError, match="`reshape` has a result of 13 axes; a C header may have 12"):
        c_header(program_of([*entry(("b*1", 1), "int8"), step]))


@st.composite
def requests(draw):
    found = [Request(draw(st.integers(1, 300)), from_start=True)]
    for number in range(1, draw(st.integers(2, 14))):
        inputs = tuple(draw(st.lists(st.integers(max(0, number - 5), number - 1), min_size=1, max_size=3)))
        kind = draw(st.sampled_from(["new", "overwrites", "shares"]))
        own = found[inputs[0]].size
        shares = inputs[0] if kind == "shares" else None
        overwrites = inputs if kind == "overwrites" else ()
        found.append(Request(own if shares is not None else draw(st.integers(1, 300)), inputs, shares, overwrites))
    return found


@given(requests())
def test_nothing_that_is_still_needed_is_overwritten(found):
    """Runs the steps on real bytes: every input must still be what its step wrote."""
    arena = plan(found)
    assert all(place is not None and place % ALIGNMENT == 0 for place in arena.places)
    assert arena.least <= arena.size <= sum(request.size + ALIGNMENT for request in found)
    memory, content = np.zeros(arena.size, np.int64), {}
    for number, (request, place) in enumerate(zip(found, arena.places, strict=True)):
        for index in request.inputs:
            at, size = arena.places[index], found[index].size
            assert (memory[at : at + size] == content[index]).all()
        if request.shares is not None:
            assert place == arena.places[request.shares]
            content[number] = content[request.shares]
        else:
            content[number] = number + 1
            memory[place : place + request.size] = number + 1
    assert (memory[arena.places[-1] :][: found[-1].size] == content[len(found) - 1]).all()


def test_a_chain_of_equal_steps_needs_one_place_where_it_may_overwrite():
    chain = [Request(64, from_start=True), *(Request(64, (index,), overwrites=(index,)) for index in range(5))]
    assert plan(chain).size == 64
    apart = [Request(64, from_start=True), *(Request(64, (index,)) for index in range(5))]
    assert plan(apart).size == plan(apart).least == 128
