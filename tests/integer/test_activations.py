"""Activations beyond ReLU are tables of codes, or steps over accumulators: exactly the codes of the model."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

import lglsq_jax as lq
from lglsq_jax.integer.steps import steps_of

from .checks import assert_integers_only, assert_same_codes, fake, normal, verified
from .test_lower import CHANNELS, OUTPUT, STEP, conv, signed, unsigned, weights

X = normal(8, 6, 6, 4)
ACTIVATIONS = {
    "silu": nnx.silu,
    "gelu": nnx.gelu,
    "gelu by erf": lambda x: nnx.gelu(x, approximate=False),
    "hard swish": nnx.hard_swish,
    "hard sigmoid": nnx.hard_sigmoid,
    "sigmoid": nnx.sigmoid,
    "tanh": nnx.tanh,
    "elu": nnx.elu,
    "softplus": nnx.softplus,
    "leaky relu": nnx.leaky_relu,
    "mish": lambda x: x * jnp.tanh(nnx.softplus(x)),
    "absolute": jnp.abs,
    "square": lambda x: x * x,
}
PLACES = {
    "of codes": (lambda f, x: f(signed(x) * CHANNELS), {"table"}),
    "of accumulators": (lambda f, x: f(conv(signed(x), weights(3, 3, 4, 5)) * 0.3 + 0.1), {"table", "staircase"}),
    "of a sum of branches": (lambda f, x: f(signed(x) + unsigned(x)), {"staircase"}),
    "added to another branch": (lambda f, x: f(signed(x)) + unsigned(x), {"table"}),
    "moved": (lambda f, x: f(conv(signed(x), weights(3, 3, 4, 5)) * 0.3).reshape(x.shape[0], -1)[:, ::2], {"table"}),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_an_activation_has_the_codes_of_the_model(activation, place):
    function, (build, ops) = ACTIVATIONS[activation], PLACES[place]
    program = assert_same_codes(lambda x: fake(build(function, x), STEP, OUTPUT), X, STEP)
    found = {step.op for step in program.instructions}
    assert found & ops or activation == "hard sigmoid"  # which is a clip


def test_a_table_of_codes_is_right_for_every_code():
    codes = jnp.arange(-128, 128, dtype=jnp.float32)[:, None] * 0.05
    eight = lq.QuantSpec(8, method=lq.methods.LSQ)

    def model(x):
        return fake(nnx.silu(fake(x, 0.05, eight)), 0.04, eight)

    program = lq.integer.lower(model, codes)
    np.testing.assert_allclose(program(codes), jax.jit(model)(codes), rtol=1e-6)
    (table,) = (step for step in program.instructions if step.op == "table")
    assert table.constants["table"].size == 256


class SqueezeAndExcite(nnx.Module):
    """MobileNetV3's block, with quantizers where two values of the network are multiplied."""

    def __init__(self, rngs, gate):
        weights, inputs = lq.QuantSpec(4, channel_axis=-1), lq.QuantSpec(6, batch_axis=0)
        self.conv = lq.QuantConv(4, 8, (3, 3), weights=weights, inputs=inputs, rngs=rngs)
        self.kept = lq.Quantizer(lq.QuantSpec(8))
        self.reduce = lq.QuantLinear(8, 4, weights=weights, inputs=inputs, rngs=rngs)
        self.expand = lq.QuantLinear(4, 8, weights=weights, inputs=inputs, rngs=rngs)
        self.gate_codes = lq.Quantizer(lq.QuantSpec(8))
        self.last = lq.QuantConv(8, 3, (1, 1), weights=weights, inputs=inputs, rngs=rngs)
        self.gate = gate

    def __call__(self, x):
        x = self.kept(nnx.hard_swish(self.conv(x)))
        pooled = nnx.relu(self.reduce(x.mean((1, 2))))
        return self.last(x * self.gate(self.gate_codes(self.expand(pooled)))[:, None, None, :])


@pytest.mark.parametrize("gate", [nnx.sigmoid, nnx.hard_sigmoid], ids=["sigmoid", "hard sigmoid"])
def test_squeeze_and_excite(gate):
    model = SqueezeAndExcite(nnx.Rngs(0), gate)
    lq.calibrate(model, [X])
    model.eval()
    program = lq.integer.lower(model, X)
    assert_integers_only(program, X)
    assert "times" in {step.op for step in program.instructions}
    verified(model, program, X)


def test_a_quantizer_behind_the_gate_will_do():
    eight = lq.QuantSpec(8, signed=False, method=lq.methods.LSQ)

    def model(x):
        features = conv(signed(x), weights(3, 3, 4, 5)) * 0.3 + 0.1
        gate = fake(nnx.sigmoid(features.mean((1, 2), keepdims=True)), 1 / 255, eight)
        return fake(features * gate, STEP, OUTPUT)

    assert_same_codes(model, X, STEP)


@settings(max_examples=25, deadline=None, phases=[Phase.explicit, Phase.generate])
@given(st.integers(4, 24), st.integers(2, 8), st.integers(0, 2**32 - 1))
def test_steps_say_where_a_function_of_integers_changes(size, bits, seed):
    rng = np.random.default_rng(seed)
    centre, width = rng.uniform(-0.5, 0.5, (2, 3, 1)) * [[[1]], [[0.5]]] + [[[0]], [[0.6]]]
    largest = 2**size

    def values(n):
        x = n / largest / width - centre
        return x / (1 + np.exp(-6 * x)) * 2**bits * 0.4

    def codes(n):
        return np.clip(np.rint(values(n)), -3, 2**bits - 4)

    thresholds, results = steps_of(codes, values, -largest, largest, (3,))
    thresholds, results = (np.broadcast_to(found, (3, found.shape[-1])) for found in (thresholds, results))
    assert (np.diff(thresholds) >= 0).all() and (abs(np.diff(results)) <= 1).all()
    n = np.unique(np.concatenate([rng.integers(-largest, largest + 1, 500), [-largest, largest]]))
    near = (thresholds[..., None].astype(np.int64) + np.arange(-2, 3)).reshape(3, -1)
    for row in range(3):
        tried = np.unique(np.clip(np.concatenate([n, near[row]]), -largest, largest))
        expected = codes(np.tile(tried, (3, 1)))[row]
        found = results[row][np.searchsorted(thresholds[row], tried, side="right")]
        np.testing.assert_array_equal(found, expected)


def assert_steps(values, largest: int, bits: int = 8):
    """The steps of a function, quantized, are right on both sides of each and at 2,000 integers."""
    ends = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    thresholds, results = steps_of(lambda n: np.clip(np.rint(values(n)), *ends), values, -largest, largest, (1,))
    near = (thresholds[0][:, None].astype(np.int64) + np.arange(-1, 2)).ravel()
    tried = np.concatenate([np.random.default_rng(0).integers(-largest, largest + 1, 2000), near])
    tried = np.clip(tried, -largest, largest)
    found = results[0][np.searchsorted(thresholds[0], tried, side="right")]
    np.testing.assert_array_equal(found, np.clip(np.rint(values(tried)), *ends))
    return results[0]


def test_last_digits_where_a_function_is_flat_are_no_turns():
    """As of a saturated tanh, which rises and falls by the last digit of float64."""

    def values(n):
        return 100 * np.tanh(n / 3e4) + 1e-13 * ((n * 7919) % 5)

    assert set(assert_steps(values, 2**24)) == set(range(-100, 101))


@pytest.mark.parametrize("width", [2500, 5000, 10**6])
def test_a_peak_in_the_middle_between_two_samples_is_found(width):
    """Equal samples on both sides of it look flat."""
    middle = 2**24 // 1024 * 5 + 2**24 // 2048

    def values(n):
        return 100 * np.exp(-(((n - middle) / width) ** 2)) - 20

    assert assert_steps(values, 2**24).max() == 80
