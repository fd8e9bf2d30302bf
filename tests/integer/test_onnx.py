"""A program as an ONNX model: the integer form equals the program to the bit, the QDQ form has its codes.

ONNX Runtime runs each model with its optimisations off and with all of them.
"""

import builtins
import json
from fractions import Fraction
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

import lglsq_jax as lq
from lglsq_jax.integer.export.thresholds import fit
from lglsq_jax.integer.fixed import split
from lglsq_jax.integer.program import Instruction, IntegerProgram
from lglsq_jax.integer.ties import tie_correction

from .checks import SIGNED, UNSIGNED, fake, normal
from .test_lower import EIGHT_BITS, KERNEL, OUTPUT, PER_CHANNEL, STEP, conv, signed, unsigned, weights

X = normal(3, 6, 6, 4)
CHANNELS = normal(4, seed=3)
LEVELS = (onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL, onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL)


def session(path, level=LEVELS[1], optimized=None) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = level
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def run(path, *arrays, level=LEVELS[1]) -> np.ndarray:
    runner = session(path, level)
    given = zip((item.name for item in runner.get_inputs()), arrays, strict=True)
    return runner.run(None, {name: np.asarray(array) for name, array in given})[0]


def elements(model: onnx.ModelProto) -> set[str]:
    """Names of the element types anywhere in a model: inputs, constants, and what shape inference finds."""
    inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True).graph
    values = [*inferred.input, *inferred.output, *inferred.value_info]
    kinds = {value.type.tensor_type.elem_type for value in values} | {array.data_type for array in inferred.initializer}
    assert {name for node in inferred.node for name in node.output} <= {value.name for value in values}
    for node in inferred.node:
        for attribute in node.attribute:
            assert attribute.type in (onnx.AttributeProto.INT, onnx.AttributeProto.INTS, onnx.AttributeProto.STRING)
    return {onnx.TensorProto.DataType.Name(kind) for kind in kinds}


def assert_no_float(path) -> None:
    found = elements(onnx.load(path))
    assert found <= {"INT8", "UINT8", "INT32", "INT64", "UINT64", "BOOL"}, found


def assert_both_forms(program, x, tmp_path, *, step: float = STEP) -> None:
    """The integer form is equal to the bit; of the QDQ form no code differs by more than a tie, 99.9 % not at all."""
    codes = program.encode(x)
    codes = codes if isinstance(codes, tuple) else (codes,)
    expected = np.asarray(program.integer_body(codes))
    program.to_onnx(tmp_path / "integer.onnx")
    program.to_onnx(tmp_path / "qdq.onnx", form="qdq")
    assert_no_float(tmp_path / "integer.onnx")
    for level in LEVELS:
        found = run(tmp_path / "integer.onnx", *codes, level=level)
        assert found.dtype == np.int32
        np.testing.assert_array_equal(found, expected)
        logits = run(tmp_path / "qdq.onnx", x, level=level)
        assert logits.dtype == np.float32 and logits.shape == expected.shape
        difference = np.abs(np.rint(logits / step) - np.rint(expected * (program.output_step / step)))
        assert difference.max() <= 1 and (difference == 0).mean() >= 0.999


OPERATIONS = {
    "same": lambda x: conv(signed(x), weights(3, 3, 4, 5)),
    "strides and padding on one side": lambda x: conv(signed(x), weights(3, 3, 4, 5), (2, 1), ((0, 2), (3, 1))),
    "padding that cuts": lambda x: conv(signed(x), weights(3, 3, 4, 5), padding=((-1, 2), (0, 1))),
    "dilated kernel": lambda x: conv(signed(x), weights(3, 3, 4, 5), rhs_dilation=(2, 1)),
    "dilated input": lambda x: conv(unsigned(x), weights(3, 3, 4, 5), padding=((1, 1),) * 2, lhs_dilation=(2, 1)),
    "groups": lambda x: conv(signed(x), weights(3, 3, 2, 6), feature_group_count=2),
    "depthwise": lambda x: conv(unsigned(x), weights(3, 3, 1, 4), feature_group_count=4),
    "a scale for each output channel": lambda x: conv(signed(x), fake(KERNEL, np.linspace(0.2, 0.6, 5), PER_CHANNEL)),
    "negative factors": lambda x: conv(signed(x), weights(3, 3, 4, 4)) * CHANNELS + CHANNELS[::-1],
    "a factor of zero": lambda x: conv(signed(x), weights(3, 3, 4, 4)) * np.float32([0, 1, 0, -1]) + CHANNELS,
    "unsigned 8 bits": lambda x: conv(fake(x, 0.01, EIGHT_BITS), weights(3, 3, 4, 5)),
    "channels first": lambda x: lax.conv(
        jnp.transpose(signed(x), (0, 3, 1, 2)), jnp.transpose(weights(3, 3, 4, 5), (3, 2, 0, 1)), (1, 1), "SAME"
    ),
    "one axis": lambda x: lax.conv_general_dilated(
        signed(x)[:, 0], weights(3, 4, 5), (1,), "SAME", dimension_numbers=("NHC", "HIO", "NHC")
    ),
    "an offset": lambda x: conv(fake(x, 0.2, UNSIGNED, jnp.float32(-1.5)), weights(3, 3, 4, 5)),
    "product": lambda x: signed(x) @ weights(4, 5) + normal(5),
    "rows": lambda x: fake(x, 0.01, EIGHT_BITS).reshape(-1, 144) @ weights(144, 3) + 0.3,
    "rows of a batch": lambda x: fake(x.reshape(-1, 12), 0.25, SIGNED).reshape(-1, 4) @ weights(4, 3),
    "residual add of a stream": lambda x: (
        nnx.relu(signed(x) + unsigned(x) - 0.05) + conv(signed(x), weights(3, 3, 4, 4))
    ),
    "stream of large numbers beside few codes": lambda x: nnx.relu(signed(x) * 300 - 1) / 200 + fake(x, 0.2, SIGNED),
    "clip at codes": lambda x: jnp.clip(signed(x), -0.5, 0.75),
    "relu6 of a product": lambda x: nnx.relu6(conv(signed(x), weights(3, 3, 4, 5)) * 3) / 3 + 0.1,
    "larger of two": lambda x: jnp.maximum(signed(x), fake(-1.3 * x, 0.11, UNSIGNED)),
    "smaller of two of one scale": lambda x: jnp.minimum(signed(x), signed(-x * 1.3)),
    "input normalised": lambda x: signed((x - 0.1) / 0.7),
    "max pool, padded": lambda x: nnx.max_pool(signed(x) - 2, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1))),
    "max pool of sums": lambda x: nnx.max_pool(conv(signed(x), weights(3, 3, 4, 5)), (2, 2), strides=(2, 2)),
    "average pool, padded": lambda x: nnx.avg_pool(signed(x) + CHANNELS, (3, 3), padding="SAME"),
    "global mean": lambda x: 2 * signed(x).mean((1, 2)),
    "what is left of a mean": lambda x: signed(x) - signed(x).mean(-1, keepdims=True),
    "largest": lambda x: (signed(x) * CHANNELS).max((1, 3)),
    "concatenate scales": lambda x: jnp.concatenate([signed(x) * CHANNELS, unsigned(x) * 2 + 1], -1),
    "pad": lambda x: jnp.pad(signed(x) + CHANNELS, ((0, 0), (1, 2), (0, 1), (0, 0)), constant_values=-0.4),
    "slices": lambda x: (signed(x) * CHANNELS)[:, 1:5:2, ::-1, :3],
    "repeat": lambda x: jnp.repeat(signed(x), 2, axis=1),
    "picks": lambda x: (signed(x) * CHANNELS)[..., np.array([3, 0, 0, 2])],
    "broadcast": lambda x: jnp.broadcast_to(signed(x)[:, :1], x.shape),
    "shuffled channels": lambda x: (
        conv(unsigned(x), weights(1, 1, 4, 8)).reshape(*x.shape[:3], 2, 4).swapaxes(-1, -2).reshape(*x.shape[:3], 8)
    ),
    "codes of several kinds": lambda x: signed(x) + fake(x, 0.01, EIGHT_BITS),
}


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)
def test_an_operation_has_the_codes_of_the_program_in_both_forms(operation, tmp_path):
    program = lq.integer.lower(lambda x: fake(operation(x), STEP, OUTPUT), X)
    assert_both_forms(program, X, tmp_path)


MANY = 24
INT32 = st.one_of(st.integers(-(2**31), 2**31 - 1), st.integers(-300, 300))


def of_instructions(*steps: Instruction, output_step: float = 1.0) -> IntegerProgram:
    return IntegerProgram(tuple(steps), ((MANY,),), ("float32",), output_step)


def whole_input(dtype: str, low: int, high: int, shape=(MANY,)) -> Instruction:
    return Instruction("input", (), shape, low, high, {"dtype": dtype}, {})


def given_codes(dtype: str, low: int, high: int, shape=(MANY,)) -> list[Instruction]:
    """An input and its codes of any integer type, so that a body can be fed with chosen numbers."""
    one, zero = np.ones(1, np.float32), np.zeros(1, np.float32)
    constants = {"gain": one, "bias": zero, "scale": np.float32(1), "offset": np.float32(0)}
    ends = {"low": low, "high": high, "dtype": dtype}
    return [
        Instruction("input", (), shape, 0, 0, {}, {}),
        Instruction("encode", (0,), shape, low, high, ends, constants),
    ]


def rescaling(multipliers, bias, shift, low, high, clamp, term_shifts, dtype="int32") -> IntegerProgram:
    ends = {"low": low, "high": high, "shift": shift, "clamp": clamp, "dtype": dtype, "term_shifts": term_shifts}
    constants = {f"multiplier{index}": np.array(number, np.int32) for index, number in enumerate(multipliers)}
    constants["bias_high"], constants["bias_low"] = split(np.array(bias, np.int64))
    (source, codes) = given_codes("int32", -(2**31), 2**31 - 1)
    codes = [codes] * len(multipliers)
    inputs = tuple(range(1, 1 + len(codes)))
    return of_instructions(source, *codes, Instruction("rescale", inputs, (MANY,), low, high, ends, constants))


@st.composite
def rescales(draw):
    """Numbers near ties of a small shift as well as anywhere, such that the sum stays below 2**62."""
    shift = draw(st.one_of(st.integers(1, 4), st.integers(1, 61)))
    count = draw(st.integers(1, 2))
    numbers = [draw(st.lists(INT32, min_size=MANY, max_size=MANY)) for _ in range(count)]
    small = draw(st.booleans())
    multipliers = [draw(st.integers(-8, 8) if small else st.integers(-(2**29), 2**29)) for _ in range(count)]
    bias = draw(st.integers(-16, 16) if small else st.integers(-(2**61) + 1, 2**61 - 1))
    dtype, low, high = draw(
        st.sampled_from([("int8", -8, 7), ("uint8", 0, 255), ("int8", 0, 15), ("int32", -(2**31) + 1, 2**31 - 1)])
    )
    extra = draw(st.lists(st.sampled_from([0, 0, 1, 5, 62]), min_size=count, max_size=count))
    return numbers, multipliers, bias, shift, low, high, dtype, extra


@settings(max_examples=60)
@given(rescales())
def test_rescale_is_one_rounding_of_the_exact_sum_ties_to_even_then_clipped(tmp_path_factory, case):
    numbers, multipliers, bias, shift, low, high, dtype, extra = case
    clamp = [[end << shift >> 32, (end << shift) & 0xFFFFFFFF] for end in (low, high)]
    path = tmp_path_factory.mktemp("rescale") / "model.onnx"
    rescaling(multipliers, bias, shift, low, high, clamp, extra, dtype).to_onnx(path)
    arrays = [np.array(column, np.int32) for column in numbers]
    found = run(path, *arrays).tolist()
    sums = [
        sum(n * m >> t for n, m, t in zip(row, multipliers, extra, strict=True)) + bias
        for row in zip(*numbers, strict=True)
    ]
    assert found == [min(max(round(Fraction(total, 2**shift)), low), high) for total in sums]


def test_a_clamp_of_its_own_holds_the_sum_before_rounding(tmp_path):
    smallest, largest = -5, 2**33 + 7
    clamp = [[end >> 32, end & 0xFFFFFFFF] for end in (smallest, largest)]
    rescaling([2**20], 3, 2, -(2**30), 2**30, clamp, [0]).to_onnx(tmp_path / "model.onnx")
    x = np.arange(MANY, dtype=np.int32) * 4000 - 5000
    held = [min(max(int(number) * 2**20 + 3, smallest), largest) for number in x]
    expected = [min(round(Fraction(total, 4)), 2**30) for total in held]
    assert run(tmp_path / "model.onnx", x).tolist() == expected


@given(st.integers(-40, 40), st.integers(-(2**9), 2**9), st.integers(1, 7), st.integers(-60, 0), st.integers(0, 60))
def test_ties_are_found_before_they_happen(multiplier, bias, shift, low, high):
    found = tie_correction(np.array([multiplier]), np.array([bias]), shift, low, high)
    numbers = range(low, high + 1)
    exact = [round(Fraction(n * multiplier + bias, 2**shift)) for n in numbers]
    plain = [(n * multiplier + bias + 2 ** (shift - 1)) >> shift for n in numbers]
    if found is None:
        both = [
            a % 2
            for a, n in zip(plain, numbers, strict=True)
            if (2 * (n * multiplier + bias)) % 2 ** (shift + 1) == 2**shift
        ]
        assert set(both) == {0, 1}
    else:
        correction = int(found[0])
        assert [(n * multiplier + bias + correction + 2 ** (shift - 1)) >> shift for n in numbers] == exact


@settings(max_examples=100)
@given(
    st.lists(st.tuples(st.integers(0, 2**20), st.integers(-(2**24), 2**24)), min_size=1, max_size=4),
    st.integers(2, 18),
    st.sampled_from([(0, 15), (-8, 7), (0, 3), (0, 255)]),
    st.integers(1, 40),
)
def test_a_fitted_kernel_has_the_codes_of_the_rescale_for_every_sum(channels, shift, codes, gain):
    multipliers, biases = (np.array(column, object) for column in zip(*channels, strict=True))
    low, high = np.full(len(channels), -200), np.full(len(channels), 220)
    found = fit(multipliers, biases, shift, codes, (low, high), np.full(len(channels), gain))
    for index, (multiplier, bias) in enumerate(channels):
        if not found.exact[index]:
            continue
        n = range(-200, 221)
        exact = [min(max(round(Fraction(i * multiplier + bias, 2**shift)), codes[0]), codes[1]) for i in n]
        sums = np.array([0 if found.constant[index] else i * gain for i in n]) + found.counts[index]
        kernel = np.rint(sums.astype(np.float32) * np.float32(1 / found.steps[index]))
        assert np.clip(kernel, *codes).tolist() == exact


def test_a_kernel_of_few_bits_is_fitted_in_every_channel():
    rng = np.random.default_rng(0)
    multipliers, biases = rng.integers(2**24, 2**27, 200), rng.integers(-(2**31), 2**31, 200)
    ends = np.full(200, -400), np.full(200, 500)
    found = fit(multipliers.astype(object), biases.astype(object), 31, (0, 15), ends, np.full(200, 15))
    assert found.exact.all()


def test_every_product_of_extreme_codes_is_exact(tmp_path):
    """ONNX Runtime adds products of uint8 by int8 in 16 bits on some machines; the export must not run into that."""
    for dtype, ends in (("uint8", (0, 255)), ("int8", (-128, 127))):
        source, codes = given_codes(dtype, *ends, (2, 200))
        bits = {"bits": 8, "signed": True}
        for value in (127, -128):
            kernel = Instruction(
                "constant", (), (200, 3), value, value, bits, {"codes": np.full((200, 3), value, np.int8)}
            )
            product = Instruction("multiply", (1, 2), (2, 3), -(2**24), 2**24, {"code_maximum": ends[1]}, {})
            of_instructions(source, codes, kernel, product).to_onnx(tmp_path / "model.onnx")
            x = np.array([[ends[0]] * 200, [ends[1]] * 200], dtype)
            np.testing.assert_array_equal(
                run(tmp_path / "model.onnx", x), np.repeat(x.astype(int).sum(1)[:, None] * value, 3, 1)
            )


def looked_up(step: Instruction, x: np.ndarray) -> np.ndarray:
    """``table`` and ``staircase`` in NumPy."""
    if step.op == "table":
        entries, index = step.constants["table"], x - step.attributes["low"]
    else:
        thresholds = np.broadcast_to(step.constants["thresholds"], (*x.shape, step.constants["thresholds"].shape[-1]))
        entries, index = step.constants["values"], (x[..., None] >= thresholds).sum(-1)
    wide = np.broadcast_to(entries, (*x.shape, entries.shape[-1]))
    return np.take_along_axis(wide, index[..., None], -1)[..., 0].astype(np.int32)


@pytest.mark.parametrize("axes", [(1, 1), (1, 5), (3, 5)])
@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32"])
@pytest.mark.parametrize("op", ["table", "staircase of 6", "staircase of 40"])
def test_tables_and_staircases(op, dtype, axes, tmp_path):
    rng = np.random.default_rng(0)
    ends = np.iinfo(dtype)
    if op == "table":
        constants = {"table": rng.integers(ends.min, ends.max, (*axes, 16)).astype(dtype)}
        attributes = {"low": -7, "dtype": dtype}
        codes = given_codes("int8", -7, 8, (3, 5))
    else:
        count = int(op.split()[-1])
        thresholds = np.sort(rng.integers(-90, 90, (*axes, count)), axis=-1).astype(np.int32)
        constants = {
            "thresholds": thresholds,
            "values": rng.integers(ends.min, ends.max, (*axes, count + 1)).astype(dtype),
        }
        attributes = {"dtype": dtype}
        codes = given_codes("int32", -100, 100, (3, 5))
    step = Instruction(op.split()[0], (1,), (3, 5), ends.min, ends.max, attributes, constants)
    program = of_instructions(*codes, step)
    x = rng.integers(codes[1].low, codes[1].high + 1, (3, 5)).astype(codes[1].attributes["dtype"])
    expected = looked_up(step, x.astype(np.int64))
    program.to_onnx(tmp_path / "model.onnx")
    assert_no_float(tmp_path / "model.onnx")
    np.testing.assert_array_equal(run(tmp_path / "model.onnx", x), expected)
    if codes[1].attributes["dtype"] == "int8":
        program.to_onnx(tmp_path / "qdq.onnx", form="qdq")
        np.testing.assert_allclose(run(tmp_path / "qdq.onnx", x.astype(np.float32)), expected, rtol=1e-6)


@pytest.mark.parametrize("form", ["integer", "qdq"])
@pytest.mark.parametrize(("dtype", "low", "high"), [("uint8", 0, 255), ("int8", -128, 127)])
def test_times_broadcasts_and_an_image_of_bytes_is_read_as_it_is(dtype, low, high, form, tmp_path):
    image = whole_input(dtype, low, high, ("b*1", 3, 4))
    maximum = Instruction("max", (0,), ("b*1", 4), low, high, {"axes": [1]}, {})
    wide = Instruction("reshape", (1,), ("b*1", 1, 4), low, high, {"sizes": ["b*1", 1, 4]}, {})
    product = Instruction("times", (0, 2), ("b*1", 3, 4), low * high, 255**2, {}, {})
    of_instructions(image, maximum, wide, product).to_onnx(tmp_path / "model.onnx", form=form)
    x = np.random.default_rng(0).integers(low, high + 1, (2, 3, 4)).astype(dtype)
    runner = session(tmp_path / "model.onnx")
    assert [(item.name, item.type, item.shape) for item in runner.get_inputs()] == [
        ("image", f"tensor({dtype})", ["batch", 3, 4])
    ]
    expected = x.astype(np.int32) * x.max(1, keepdims=True)
    np.testing.assert_array_equal(run(tmp_path / "model.onnx", x), expected)


WEIGHTS = lq.QuantSpec(4, channel_axis=-1, narrow_range=True)


def network(model: nnx.Module, rules, size: int, channels: int):
    """Returns the program of a network with random batch statistics, quantized, and images."""
    rng = np.random.default_rng(1)
    for _, module in nnx.iter_modules(model):
        if isinstance(module, nnx.BatchNorm):
            shape = module.mean[...].shape
            module.mean[...], module.bias[...] = (jnp.asarray(0.3 * rng.normal(size=shape), jnp.float32) for _ in "12")
            module.var[...] = jnp.asarray(rng.uniform(0.3, 2.0, shape), jnp.float32)
            module.scale[...] = jnp.asarray(rng.uniform(-0.5, 1.5, shape), jnp.float32)
    model = lq.quantize_model(model, rules)
    images = normal(24, size, size, channels, seed=7)
    lq.calibrate(model, [images])
    model.eval()
    return lq.integer.lower(model, images[:1]), images


class Mobile(nnx.Module):
    """A stem, two inverted bottlenecks, the second of them residual, and a classifier: MobileNetV2 in small."""

    parts = ("expand", "depth", "project")

    def __init__(self, num_classes: int, in_channels: int, *, rngs: nnx.Rngs):
        def block(inside: int, outside: int, size: int, groups: int = 1) -> tuple[nnx.Conv, nnx.BatchNorm]:
            convolution = nnx.Conv(
                inside, outside, (size, size), padding=size // 2, feature_group_count=groups, use_bias=False, rngs=rngs
            )
            return convolution, nnx.BatchNorm(outside, rngs=rngs)

        self.conv1, self.bn1 = block(in_channels, 8, 3)
        for name in "ab":
            layers = block(8, 24, 1), block(24, 24, 3, 24), block(24, 8, 1)
            for part, layer in zip(self.parts, layers, strict=True):
                setattr(self, f"{name}_{part}", layer[0])
                setattr(self, f"{name}_{part}_bn", layer[1])
        self.fc = nnx.Linear(8, num_classes, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu6(self.bn1(self.conv1(x)))
        for name in "ab":
            y = x
            for part in self.parts:
                y = getattr(self, f"{name}_{part}_bn")(getattr(self, f"{name}_{part}")(y))
                y = y if part == "project" else nnx.relu6(y)
            x = x + y if name == "b" else y
        return self.fc(x.mean((1, 2)))


def resnet8(stream: lq.QuantSpec | None = None):
    model = lq.models.resnet8(num_classes=6, in_channels=1, stem_stride=2, rngs=nnx.Rngs(0))
    inputs = lq.QuantSpec(4, signed=False, batch_axis=0)
    return network(model, lq.models.recommended_rules(model, weights=WEIGHTS, inputs=inputs, stream=stream), 8, 1)


def mobile():
    signed, unsigned = (lq.QuantSpec(4, signed=signed, batch_axis=0) for signed in (True, False))
    eight = {"weights": lq.QuantSpec(8, channel_axis=-1), "inputs": lq.QuantSpec(8, batch_axis=0)}
    rules = [
        lq.Rule(r"[ab]_expand", weights=WEIGHTS, inputs=signed),
        lq.Rule(r"[ab]_(depth|project)", weights=WEIGHTS, inputs=unsigned),
        lq.Rule(r"conv1|fc", **eight),
    ]
    return network(Mobile(6, 3, rngs=nnx.Rngs(0)), rules, 8, 3)


NETWORKS = {
    "resnet8": resnet8,
    "resnet8 that adds bytes": lambda: resnet8(lq.QuantSpec(8, batch_axis=0)),
    "mobile": mobile,
}


def adds_bytes(program) -> bool:
    return "layer1/0/branch" in {step.name for step in program.instructions}


@pytest.fixture(scope="module", params=NETWORKS)
def whole(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    program, images = NETWORKS[request.param]()
    program.to_onnx(folder / "integer.onnx")
    program.to_onnx(folder / "qdq.onnx", form="qdq")
    return program, images, folder


@pytest.mark.parametrize("level", LEVELS, ids=["plain", "optimised"])
@pytest.mark.parametrize("batch", [1, 3, 24])
def test_a_network_of_any_batch_is_equal_to_the_bit(whole, level, batch):
    program, images, folder = whole
    codes = program.encode(images[:batch])
    found = run(folder / "integer.onnx", codes, level=level)
    np.testing.assert_array_equal(found, program.integer_body(codes))
    assert len(np.unique(found)) > 4


@pytest.mark.parametrize("level", LEVELS, ids=["plain", "optimised"])
def test_the_qdq_form_chooses_the_class_of_the_program(whole, level):
    program, images, folder = whole
    expected = np.asarray(program(images))
    found = run(folder / "qdq.onnx", images, level=level)
    same = np.abs(found - expected).max(1) <= 1e-4 * np.abs(expected).max()
    # The others have a code on the other side of a tie: an 8-bit stream has many codes, and more of them.
    assert same.mean() >= (0.7 if adds_bytes(program) else 0.9)
    np.testing.assert_array_equal(found.argmax(1)[same], expected.argmax(1)[same])


def test_products_become_kernels_of_bytes(whole, tmp_path):
    """All of them but the last, and every addition, where nothing flows between layers but bytes."""
    program, _, folder = whole
    session(folder / "qdq.onnx", optimized=tmp_path / "optimized.onnx")
    fused = [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node]
    if not adds_bytes(program):
        assert fused.count("QLinearConv") >= 3
        return
    assert fused.count("QLinearConv") == sum(step.op == "convolve" for step in program.instructions)
    sums = [step for step in program.instructions if step.op == "rescale" and len(step.inputs) == 2]
    assert len(sums) == 3 and all(program.instructions[n].high <= 255 for step in sums for n in step.inputs)


def test_weights_are_signed_bytes_where_sums_are_wide(whole, tmp_path):
    """ONNX Runtime multiplies in float where it fuses nothing, so the codes can be compared on any machine."""
    program, images, folder = whole
    program.to_onnx(tmp_path / "wide.onnx", form="qdq", wide_sums=True)
    types = {
        file.stem: {tensor.data_type for tensor in onnx.load(file).graph.initializer if len(tensor.dims) == 4}
        for file in (tmp_path / "wide.onnx", folder / "qdq.onnx")
    }
    assert onnx.TensorProto.UINT8 in types["qdq"] and onnx.TensorProto.UINT8 not in types["wide"]
    expected = np.asarray(program(images))
    for level in LEVELS if adds_in_32_bits() else LEVELS[:1]:
        found = run(tmp_path / "wide.onnx", images, level=level)
        same = np.abs(found - expected).max(1) <= 1e-4 * np.abs(expected).max()
        assert same.mean() >= (0.7 if adds_bytes(program) else 0.9)


def adds_in_32_bits() -> bool:
    """Whether this machine surely adds products of bytes in 32 bits."""
    facts = Path("/proc/cpuinfo")
    return facts.exists() and "vnni" in facts.read_text()


def test_the_integer_form_holds_no_float_and_says_what_it_is(whole):
    program, _, folder = whole
    model = onnx.load(folder / "integer.onnx")
    assert_no_float(folder / "integer.onnx")
    assert all(not dim.dim_param or dim.dim_param == "batch" for dim in model.graph.input[0].type.tensor_type.shape.dim)
    assert model.graph.output[0].name == "logits"
    names = {node.name for node in model.graph.node}
    assert {"conv1/convolve/ConvInteger", "fc/multiply/MatMulInteger"} <= names
    notes = {item.key: item.value for item in model.metadata_props}
    assert float(notes["output_step"]) == program.output_step and notes["form"] == "integer"


def test_the_notes_are_enough_to_make_codes_and_logits(whole):
    program, images, folder = whole
    notes = {item.key: item.value for item in onnx.load(folder / "integer.onnx").metadata_props}
    how = json.loads(notes["codes.encoding"])
    shifted = images * np.float32(how["gain"]) + np.float32(how["bias"]) - np.float32(how["offset"])
    codes = np.clip(np.rint(shifted * (np.float32(1) / np.float32(how["scale"]))), how["low"], how["high"])
    dtype = session(folder / "integer.onnx").get_inputs()[0].type
    codes = codes.astype(dtype.removeprefix("tensor(").removesuffix(")"))
    logits = run(folder / "integer.onnx", codes).astype(np.float32) * np.float32(float(notes["output_step"]))
    np.testing.assert_array_equal(logits, program(images))


@pytest.mark.parametrize("opset", [18, 24])
@pytest.mark.parametrize("form", ["integer", "qdq"])
def test_other_operator_sets(whole, form, opset, tmp_path):
    program, images, folder = whole
    program.to_onnx(tmp_path / "model.onnx", form=form, opset=opset)
    given = program.encode(images[:2]) if form == "integer" else images[:2]
    np.testing.assert_array_equal(run(tmp_path / "model.onnx", given), run(folder / f"{form}.onnx", given))


@pytest.fixture(scope="module")
def small():
    return lq.integer.lower(lambda x: signed(x) @ weights(4, 5), X)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"form": "float"}, r"`form` must be \"integer\" or \"qdq\", got 'float'"),
        ({"opset": 11}, "`opset` must be a whole number from 18 to 24, got 11"),
        ({"wide_sums": True}, "`wide_sums` is of `form` \"qdq\", got it with 'integer'"),
        ({"opset": "21"}, "`opset` must be a whole number from 18 to 24, got '21'"),
    ],
)
def test_an_argument_is_told_what_is_allowed(small, arguments, message, tmp_path):
    with pytest.raises(lq.errors.UserError, match=message):
        small.to_onnx(tmp_path / "model.onnx", **arguments)
    assert not list(tmp_path.iterdir())


def test_a_file_that_cannot_be_written_is_named(small, tmp_path):
    with pytest.raises(lq.errors.UserError, match=r"cannot write .*missing/model\.onnx: No such file or directory"):
        small.to_onnx(tmp_path / "missing" / "model.onnx")


def test_a_missing_package_is_named(small, tmp_path, monkeypatch):
    found = builtins.__import__

    def without_onnx(name, *arguments, **options):
        if name.partition(".")[0] == "onnx":
            raise ImportError("No module named 'onnx'")
        return found(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without_onnx)
    with pytest.raises(lq.errors.UserError, match=r"needs the package onnx, which is not installed: pip install"):
        small.to_onnx(tmp_path / "model.onnx")


def test_several_inputs_are_numbered(tmp_path):
    program = lq.integer.lower(lambda x: fake(signed(x) + fake(x, 0.01, EIGHT_BITS), STEP, OUTPUT), X)
    program.to_onnx(tmp_path / "model.onnx")
    assert [item.name for item in session(tmp_path / "model.onnx").get_inputs()] == ["codes_0", "codes_1"]
    jax.block_until_ready(program.encode(X))
