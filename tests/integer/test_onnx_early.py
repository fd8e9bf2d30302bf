"""The QDQ form of networks whose quantizer is behind a pooling or a reshape, and of those that end in a clip."""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st

import lglsq_jax as lq
from lglsq_jax.integer.export.onnx_qdq_early import quantized_early
from lglsq_jax.integer.fixed import split
from lglsq_jax.integer.program import Instruction

from .checks import SIGNED, UNSIGNED, fake, normal
from .test_lower import STEP, conv, signed, weights
from .test_onnx import LEVELS, OUTPUT, assert_both_forms, network, run, session

X = normal(3, 6, 6, 4)
BIAS = normal(5, seed=3)

CHAINS = {
    "max pool, padded": lambda x: nnx.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1))),
    "rows": lambda x: x.reshape(x.shape[0], -1),
    "largest": lambda x: x.max((1, 2)),
    "moved and cut": lambda x: jnp.transpose(x, (0, 3, 1, 2))[:, ::-1, 1:5, ::2],
    "clipped and padded": lambda x: jnp.pad(jnp.clip(x, -1, 0.7), ((0, 0), (1, 1), (0, 2), (0, 0))),
    "repeated": lambda x: jnp.broadcast_to(x[:, :1], x.shape),
}  # fmt: skip


@pytest.mark.parametrize("start", [lambda x: x, lambda x: nnx.relu(x + BIAS), nnx.relu], ids=["sums", "bias", "relu"])
@pytest.mark.parametrize("chain", CHAINS.values(), ids=CHAINS)
def test_codes_behind_a_chain_are_those_of_the_program(start, chain, tmp_path):
    def operation(x):
        return fake(fake(chain(start(conv(signed(x), weights(3, 3, 4, 5)))), 0.31, SIGNED), STEP, OUTPUT)

    program = lq.integer.lower(operation, X)
    steps = quantized_early(program.instructions)
    (product,) = (index for index, step in enumerate(steps) if step.op == "convolve")
    assert steps[product + 1].op == "rescale" and steps[product + 1].attributes["dtype"] in ("int8", "uint8")
    assert_both_forms(program, X, tmp_path)


def test_two_quantizers_of_one_pooling_stay_where_they_are(tmp_path):
    def operation(x):
        pooled = nnx.max_pool(conv(signed(x), weights(3, 3, 4, 5)), (2, 2), strides=(2, 2))
        return fake(fake(pooled, 0.3, SIGNED) + fake(pooled, 0.7, UNSIGNED), STEP, OUTPUT)

    program = lq.integer.lower(operation, X)
    assert [step.op for step in quantized_early(program.instructions)] == [step.op for step in program.instructions]
    assert_both_forms(program, X, tmp_path)


@pytest.mark.parametrize("end", [nnx.relu, nnx.relu6, lambda x: jnp.clip(x, -1, 0.5)], ids=["relu", "relu6", "clip"])
def test_what_clips_the_logits_is_kept(end, tmp_path):
    program = lq.integer.lower(lambda x: end(4 * conv(signed(x), weights(3, 3, 4, 5)) + BIAS), X)
    program.to_onnx(tmp_path / "model.onnx", form="qdq")
    expected = np.asarray(program(X))
    assert len(np.unique(expected)) > 10
    for level in LEVELS:
        np.testing.assert_allclose(run(tmp_path / "model.onnx", X, level=level), expected, atol=1e-5)


class LeNet(nnx.Module):
    def __init__(self, *, rngs: nnx.Rngs):
        self.first, self.second = (nnx.Conv(i, 6, (3, 3), rngs=rngs) for i in (1, 6))
        self.fc, self.last = nnx.Linear(54, 12, rngs=rngs), nnx.Linear(12, 5, rngs=rngs)
        for layer in (self.first, self.second, self.fc):
            layer.bias[...] = 0.2 * jax.random.normal(rngs(), layer.bias.shape)

    def __call__(self, x):
        for layer in (self.first, self.second):
            x = nnx.max_pool(nnx.relu(layer(x)), (2, 2), strides=(2, 2))
        return self.last(nnx.relu(self.fc(x.reshape(x.shape[0], -1))))


@pytest.mark.parametrize("channel_axis", [None, -1])
def test_a_runtime_rounds_no_weights_of_its_own(channel_axis, tmp_path):
    """Poolings and reshapes between convolutions: the codes are the program's with all optimisations on."""
    four = lq.QuantSpec(4, channel_axis=channel_axis, narrow_range=True)
    inputs = [lq.QuantSpec(4, signed=signed, batch_axis=0) for signed in (False, True)]
    rules = [lq.Rule(".*", weights=four, inputs=inputs[0]), lq.Rule("first", weights=four, inputs=inputs[1])]
    program, images = network(LeNet(rngs=nnx.Rngs(0)), rules, 12, 1)
    program.to_onnx(tmp_path / "model.onnx", form="qdq")
    expected = np.asarray(program(images))
    for level in LEVELS:
        found = run(tmp_path / "model.onnx", images, level=level)
        np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())
    session(tmp_path / "model.onnx", optimized=tmp_path / "optimized.onnx")
    graph = onnx.load(tmp_path / "optimized.onnx").graph
    assert [node.op_type for node in graph.node].count("QLinearConv") == 2
    assert not [tensor.name for tensor in graph.initializer if "weight_q" in tensor.name]


def rescale(number: int, shape, low: int, high: int, dtype: str, multiplier: int, bias: int, shift: int):
    constants = {"multiplier0": np.full((1, 1), multiplier, np.int32)}
    constants["bias_high"], constants["bias_low"] = split(np.full((1, 1), bias, np.int64))
    ends = {"low": low, "high": high, "shift": shift, "clamp": None, "dtype": dtype}
    return Instruction("rescale", (number,), shape, low, high, ends, constants)


@given(
    st.integers(1, 2**30), st.integers(-(2**40), 2**40), st.integers(8, 31),
    st.integers(1, 2**30), st.integers(-(2**50), 2**50), st.integers(20, 58), st.booleans(),
)  # fmt: skip
def test_two_rescales_in_one_round_as_both_but_next_to_a_tie(m1, b1, s1, m2, b2, s2, clipped):
    shape = ("b*1", 3)
    low, high = (0, 2**29) if clipped else (-(2**31) + 1, 2**31 - 1)
    steps = [
        Instruction("constant", (), shape, -(2**20), 2**20, {}, {}),
        rescale(0, shape, low, high, "int32", m1, b1, s1),
        Instruction("reshape", (1,), ("b*1", 3), low, high, {}, {}),
        rescale(2, shape, -8, 7, "int8", m2, b2, s2),
        Instruction("reshape", (3,), shape, -8, 7, {}, {}),
    ]

    def code(step, value):
        bias = (int(step.constants["bias_high"].flat[0]) << 32) + int(step.constants["bias_low"].flat[0])
        exact = Fraction(value * int(step.constants["multiplier0"].flat[0]) + bias, 1 << step.attributes["shift"])
        return exact, min(max(round(exact), step.attributes["low"]), step.attributes["high"])

    found = quantized_early(steps)
    if [step.op for step in found] == [step.op for step in steps]:  # one code alone can occur
        ends = {code(steps[3], code(steps[1], value)[1])[1] for value in (-(2**40), 2**40)}
        assert len(ends) == 1 or clipped
        return
    assert [step.op for step in found] == ["constant", "rescale", "reshape", "reshape"]
    for value in np.random.default_rng(m1 % 1000).integers(-(2**20), 2**20, 50).tolist():
        exact, joined = code(found[1], value)
        twice = code(steps[3], code(steps[1], value)[1])[1]
        near = abs(exact - round(exact * 2) / Fraction(2)) <= Fraction(m2, 1 << s2)  # as far as one unit goes
        assert joined == twice or near
