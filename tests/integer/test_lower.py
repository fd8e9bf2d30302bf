"""Every supported operation lowers to integers alone and gives the codes of the fake-quantized model.

An operation stands between two quantizers, so that its result is seen as codes; the model is a plain function there.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from jax import lax

import lglsq_jax as lq

from .checks import SIGNED, UNSIGNED, assert_integers_only, assert_same_codes, fake, normal, verified

X = normal(4, 6, 6, 4)
CHANNELS = normal(4, seed=3)
KERNEL = normal(3, 3, 4, 5, seed=1)
OUTPUT = lq.QuantSpec(bits=6, method=lq.methods.LSQ)
STEP = float(np.float32(0.0937))
PER_CHANNEL = lq.QuantSpec(bits=3, channel_axis=-1, method=lq.methods.LSQ)
EIGHT_BITS = lq.QuantSpec(bits=8, signed=False, method=lq.methods.LSQ)


def signed(x):
    return fake(x, 0.25, SIGNED)


def unsigned(x):
    return fake(x, 0.11, UNSIGNED)


def conv(x, kernel, strides=(1, 1), padding="SAME", **options):
    layout = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=layout, **options)


def weights(*shape):
    return fake(normal(*shape, seed=2), 0.3, SIGNED)


def lowered(operation):
    return assert_same_codes(lambda x: fake(operation(x), STEP, OUTPUT), X, STEP)


CONVOLUTIONS = {
    "same": lambda x: conv(signed(x), weights(3, 3, 4, 5)),
    "strides": lambda x: conv(signed(x), weights(3, 3, 4, 5), (2, 1)),
    "valid": lambda x: conv(signed(x), weights(3, 3, 4, 5), padding="VALID"),
    "padding on one side": lambda x: conv(signed(x), weights(3, 3, 4, 5), padding=((0, 2), (3, 1))),
    "dilated kernel": lambda x: conv(signed(x), weights(3, 3, 4, 5), rhs_dilation=(2, 1)),
    "dilated input": lambda x: conv(signed(x), weights(3, 3, 4, 5), padding=((1, 1),) * 2, lhs_dilation=(2, 1)),
    "groups": lambda x: conv(signed(x), weights(3, 3, 2, 6), feature_group_count=2),
    "depthwise": lambda x: conv(signed(x), weights(3, 3, 1, 4), feature_group_count=4),
    "two filters a channel": lambda x: conv(signed(x), weights(3, 3, 1, 8), feature_group_count=4),
    "a scale for each input channel": lambda x: conv(signed(x) * CHANNELS, weights(3, 3, 1, 8), feature_group_count=4),
    "a scale for each output channel": lambda x: conv(
        signed(x), fake(KERNEL, np.linspace(0.2, 0.6, 5), PER_CHANNEL), (2, 2)
    ),
    "unsigned 8 bits": lambda x: conv(fake(x, 0.01, EIGHT_BITS), weights(3, 3, 4, 5)),
    "unsigned 8 bits, depthwise": lambda x: conv(fake(x, 0.01, EIGHT_BITS), weights(3, 3, 1, 4), feature_group_count=4),
    "channels first": lambda x: lax.conv(
        jnp.transpose(signed(x), (0, 3, 1, 2)), jnp.transpose(weights(3, 3, 4, 5), (3, 2, 0, 1)), (1, 1), "SAME"
    ),
    "one axis": lambda x: lax.conv_general_dilated(
        signed(x)[:, 0], weights(3, 4, 5), (1,), "SAME", dimension_numbers=("NHC", "HIO", "NHC")
    ),
    "a kernel that only repeats": lambda x: 0.1 * conv(signed(x), fake(jnp.ones((3, 3, 4, 5)), 0.3, SIGNED)),
    "an offset": lambda x: conv(fake(x, 0.2, UNSIGNED, jnp.float32(-1.5)), weights(3, 3, 4, 5)),
}

PRODUCTS = {
    "last axis": lambda x: signed(x) @ weights(4, 5),
    "constant on the left": lambda x: weights(5, 4) @ jnp.swapaxes(signed(x), -1, -2),
    "two axes": lambda x: jnp.einsum("nhwc,hwo->nco", signed(x), weights(6, 6, 3)),
    "a scale for each output": lambda x: signed(x) @ fake(KERNEL[0, 0], np.linspace(0.2, 0.6, 5), PER_CHANNEL),
    "unsigned 8 bits": lambda x: fake(x, 0.01, EIGHT_BITS).reshape(-1, 144) @ weights(144, 3),
    "an offset": lambda x: fake(x, 0.2, UNSIGNED, jnp.float32(-1.5)) @ weights(4, 5),
    "rows of a batch": lambda x: fake(x.reshape(-1, 12), 0.25, SIGNED).reshape(-1, 4) @ weights(4, 3),
}

ARITHMETIC = {
    "bias": lambda x: signed(x) + CHANNELS,
    "batch norm": lambda x: (signed(x) - CHANNELS) * lax.rsqrt(CHANNELS**2 + 1e-3) * CHANNELS[::-1] + 1,
    "division": lambda x: signed(x) / 3 - 1,
    "negation": lambda x: 1 - signed(x),
    "a factor for each row": lambda x: signed(x) * jnp.arange(6.0)[:, None],
    "relu": lambda x: nnx.relu(signed(x) - 0.1),
    "relu of a product": lambda x: nnx.relu(conv(signed(x), weights(3, 3, 4, 5)) + 0.3),
    "relu6": lambda x: nnx.relu6(signed(x) * 10) / 3,
    "clip": lambda x: jnp.clip(signed(x), -0.6, 0.8),
    "clip at codes": lambda x: jnp.clip(signed(x), -0.5, 0.75),
    "clip beyond all codes": lambda x: jnp.maximum(signed(x), 3.0) * 0.3 + unsigned(x),
    "residual add": lambda x: signed(x) + unsigned(x),
    "residual add of a stream": lambda x: (
        nnx.relu(signed(x) + unsigned(x) - 0.05) + conv(signed(x), weights(3, 3, 4, 4))
    ),
    "stream of large numbers beside few codes": lambda x: nnx.relu(signed(x) * 300 - 1) / 200 + fake(x, 0.2, SIGNED),
    "relu below what only the padding reaches": lambda x: (
        5
        * nnx.relu(
            0.02 * conv(jnp.maximum(fake(x, 0.125, UNSIGNED), 1.25), fake(jnp.ones((3, 3, 4, 2)), 1.0, SIGNED)) - 0.85
        )
    ),
    "the same twice": lambda x: signed(x) + signed(x),
    "larger of two": lambda x: jnp.maximum(signed(x), fake(-1.3 * x, 0.11, UNSIGNED)),
    "smaller of two of one scale": lambda x: jnp.minimum(signed(x), signed(-x * 1.3)),
    "offset": lambda x: fake(x, 0.3, UNSIGNED, jnp.float32(-1.23)) * 2,
    "input normalised": lambda x: signed((x - 0.1) / 0.7),
    "checkpointed": lambda x: jax.checkpoint(lambda y: y * 1.7)(signed(x)),
    "constant as large as the batch": lambda x: signed(x) + jnp.ones((x.shape[0], 1, 1, 1)) * CHANNELS,
}

POOLING = {
    "max": lambda x: nnx.max_pool(signed(x), (2, 2), strides=(2, 2)),
    "max, padded, negative": lambda x: nnx.max_pool(signed(x) - 2, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1))),
    "max, scales of both signs": lambda x: nnx.max_pool(signed(x) * CHANNELS, (3, 3), strides=(2, 2), padding="SAME"),
    "average": lambda x: nnx.avg_pool(signed(x), (2, 2), strides=(2, 2)),
    "average, padded, of biased values": lambda x: nnx.avg_pool(signed(x) + CHANNELS, (3, 3), padding="SAME"),
    "average without the padding": lambda x: nnx.avg_pool(signed(x), (3, 3), padding="SAME", count_include_pad=False),
    "global mean": lambda x: 2 * signed(x).mean((1, 2)),
    "mean over channels of scales of their own": lambda x: (signed(x) * CHANNELS + 1).mean(-1),
    "sum over two axes": lambda x: 0.2 * (signed(x) + CHANNELS).sum((1, 3)),
    "largest": lambda x: (signed(x) * CHANNELS).max((1, 3)),
    "smallest": lambda x: (signed(x) * CHANNELS).min((1, 3)),
    "min, padded": lambda x: nnx.min_pool(signed(x) + 2, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1))),
    "what is left of a mean": lambda x: signed(x) - signed(x).mean(-1, keepdims=True),
}

ARRANGING = {
    "reshape": lambda x: (signed(x) * CHANNELS).reshape(x.shape[0], -1),
    "rows of a batch": lambda x: signed(x).reshape(-1, 4) + CHANNELS,
    "transpose": lambda x: (signed(x) * CHANNELS).transpose(0, 3, 2, 1),
    "concatenate scales": lambda x: jnp.concatenate([signed(x) * CHANNELS, unsigned(x) * 2 + 1], -1),
    "concatenate along a row": lambda x: jnp.concatenate([signed(x), unsigned(x)], 1),
    "stack": lambda x: jnp.stack([signed(x), unsigned(x)], 1),
    "pad": lambda x: jnp.pad(signed(x), ((0, 0), (1, 2), (0, 1), (0, 0))),
    "pad with a value between codes": lambda x: jnp.pad(
        signed(x), ((0, 0), (1, 2), (0, 1), (0, 0)), constant_values=0.33
    ),
    "pad biased values": lambda x: jnp.pad(
        signed(x) + CHANNELS, ((0, 0), (1, 2), (0, 1), (0, 0)), constant_values=-0.4
    ),
    "pad the input": lambda x: signed(jnp.pad(x, ((0, 0), (1, 2), (0, 1), (0, 0)), constant_values=0.33)),
    "slices": lambda x: (signed(x) * CHANNELS)[:, 1:5:2, ::-1, :3],
    "split": lambda x: sum(jnp.split(signed(x) * CHANNELS, 2, -1)),
    "unequal parts": lambda x: jnp.split(signed(x), [1], 1)[1],
    "one index": lambda x: (signed(x) * CHANNELS)[:, 2],
    "squeeze": lambda x: signed(x)[:, :1].squeeze(1),
    "new axis": lambda x: signed(x)[:, None],
    "repeat": lambda x: jnp.repeat(signed(x), 2, axis=1),
    "tile": lambda x: jnp.tile(signed(x) * CHANNELS, (1, 2, 1, 1)),
    "picks": lambda x: (signed(x) * CHANNELS)[..., np.array([3, 0, 0, 2])],
    "broadcast": lambda x: jnp.broadcast_to(signed(x)[:, :1], x.shape),
    "nearest-neighbour resize": lambda x: jax.image.resize(signed(x), (x.shape[0], 12, 9, 4), "nearest"),
}


@pytest.mark.parametrize("operation", CONVOLUTIONS.values(), ids=CONVOLUTIONS)
def test_convolution(operation):
    lowered(operation)


@pytest.mark.parametrize("operation", PRODUCTS.values(), ids=PRODUCTS)
def test_matrix_product(operation):
    lowered(operation)


@pytest.mark.parametrize("operation", ARITHMETIC.values(), ids=ARITHMETIC)
def test_arithmetic(operation):
    lowered(operation)


@pytest.mark.parametrize("operation", POOLING.values(), ids=POOLING)
def test_pooling(operation):
    lowered(operation)


@pytest.mark.parametrize("operation", ARRANGING.values(), ids=ARRANGING)
def test_arranging(operation):
    lowered(operation)


@settings(max_examples=6, phases=[Phase.explicit, Phase.generate])  # an example compiles a program
@given(
    st.integers(2, 8), st.integers(2, 8), st.booleans(), st.booleans(), st.floats(0.02, 0.9), st.integers(0, 2**32 - 1)
)
def test_a_layer_of_any_widths_has_the_codes_of_the_model(input_bits, weight_bits, positive, wide, scale, seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(64, 7)).astype(np.float32)
    inputs = lq.QuantSpec(input_bits, signed=not positive, method=lq.methods.LSQ)
    kernels = lq.QuantSpec(weight_bits, channel_axis=-1 if wide else None, method=lq.methods.LSQ)
    kernel, bias = rng.normal(size=(7, 5)).astype(np.float32), rng.normal(size=5).astype(np.float32)
    kernel_scale = rng.uniform(0.02, 0.9, (5,) if wide else ()).astype(np.float32)

    def model(x):
        return fake(nnx.relu(fake(x, scale, inputs) @ fake(kernel, kernel_scale, kernels) + bias), 0.11, UNSIGNED)

    program = lq.integer.lower(model, x)
    verified(model, program, x)
    (product,) = (step for step in program.instructions if step.op == "multiply")
    codes = program.encode(x)
    np.testing.assert_array_equal(codes, lq.quantize(x, np.float32(scale), inputs))  # equal to the bit
    sums = np.asarray(codes, np.int64) @ program.weights["constant"].astype(np.int64)
    assert product.low <= sums.min() and sums.max() <= product.high


class Network(nnx.Module):
    """Convolutions, batch norm, ReLU, pooling and a linear layer, all small."""

    def __init__(self, *, weights, inputs, rngs):
        first = lq.QuantSpec(bits=8, signed=True, method=inputs.method)
        self.conv1 = lq.QuantConv(3, 6, (3, 3), padding=1, weights=weights, inputs=first, rngs=rngs)
        self.norm = nnx.BatchNorm(6, rngs=rngs, use_running_average=True)
        self.conv2 = lq.QuantConv(6, 6, (3, 3), strides=2, weights=weights, inputs=inputs, rngs=rngs)
        self.fc = lq.QuantLinear(6, 5, weights=weights, inputs=inputs, rngs=rngs)
        self.norm.mean[...] = jax.random.normal(rngs.params(), (6,))
        self.norm.var[...] = jax.random.uniform(rngs.params(), (6,), minval=0.5, maxval=2.0)
        self.norm.scale[...] = jax.random.normal(rngs.params(), (6,))
        self.norm.bias[...] = jax.random.normal(rngs.params(), (6,))

    def __call__(self, x):
        x = nnx.relu(self.norm(self.conv1(x)))
        x = nnx.max_pool(self.conv2(x), (2, 2), strides=(2, 2))
        return self.fc(nnx.relu(x).mean((1, 2)))


def network(weights, inputs, seed=0):
    model = Network(weights=weights, inputs=inputs, rngs=nnx.Rngs(seed))
    lq.calibrate(model, [normal(16, 8, 8, 3)])
    model.eval()
    return model


IMAGES = normal(48, 8, 8, 3, seed=5)


@pytest.fixture(scope="module")
def small():
    method = lq.methods.LG_LSQ
    weights = lq.QuantSpec(bits=3, channel_axis=-1, narrow_range=True, method=method)
    model = network(weights, lq.QuantSpec(bits=4, signed=False, batch_axis=0, method=method))
    return model, lq.integer.lower(model, IMAGES[:1])


def test_a_network_of_layers_has_the_codes_of_the_model(small):
    model, program = small
    assert_integers_only(program, IMAGES)
    report = verified(model, program, IMAGES[:32], IMAGES[32:])
    assert [layer.path for layer in report.layers] == ["conv1", "conv2", "fc"]
    assert report.samples == 48 and report.top1_agreement == 1.0
    assert [layer.codes for layer in report.layers] == [48 * 8 * 8 * 3, 48 * 8 * 8 * 6, 48 * 6]


def test_a_network_of_layers_is_the_same_network_in_numpy(small):
    """The reference shares no code with the package: integer products, real arithmetic in float64."""
    model, program = small

    def codes(value, layer, low, high):
        return np.clip(np.rint(value / float(layer.input_scale[...])), low, high).astype(np.int64)

    def kernel(layer):
        scale = np.asarray(layer.weight_scale[...], np.float64)
        return np.clip(np.rint(np.asarray(layer.kernel[...], np.float64) / scale), -3, 3).astype(np.int64), scale

    def product(value, layer, low, high, stride, padding):
        q, (k, scale) = codes(value, layer, low, high), kernel(layer)
        found[layer] = q
        q = np.pad(q, [(0, 0), padding, padding, (0, 0)])
        view = np.lib.stride_tricks.sliding_window_view(q, k.shape[:2], axis=(1, 2))[:, ::stride, ::stride]
        total = np.einsum("nhwcij,ijco->nhwo", view, k)
        return total * (float(layer.input_scale[...]) * scale) + np.asarray(layer.bias[...], np.float64)

    found: dict = {}
    y = product(IMAGES.astype(np.float64), model.conv1, -128, 127, 1, (1, 1))
    norm = {name: np.asarray(getattr(model.norm, name)[...], np.float64) for name in ("mean", "var", "scale", "bias")}
    y = (y - norm["mean"]) / np.sqrt(norm["var"] + model.norm.epsilon) * norm["scale"] + norm["bias"]
    y = product(np.maximum(y, 0), model.conv2, 0, 15, 2, (0, 1))  # SAME at stride 2 pads on the far side
    y = np.maximum(y.reshape(48, 2, 2, 2, 2, 6).max((2, 4)), 0).mean((1, 2))
    found[model.fc] = q = codes(y, model.fc, 0, 15)
    k, scale = kernel(model.fc)
    logits = (q @ k) * (float(model.fc.input_scale[...]) * scale) + np.asarray(model.fc.bias[...], np.float64)

    produced = program.layer_codes(program.encode(IMAGES))
    for path, layer in (("conv1", model.conv1), ("conv2", model.conv2), ("fc", model.fc)):
        difference = np.abs(np.asarray(produced[path], np.int64) - found[layer])
        assert difference.max() <= 1 and (difference == 0).mean() >= 0.999, path
    settled = (np.asarray(produced["fc"], np.int64) == q).all(1)
    assert settled.mean() > 0.9
    np.testing.assert_allclose(np.asarray(program(IMAGES))[settled], logits[settled], atol=1e-5)
    np.testing.assert_array_equal(program.weights["conv2"], kernel(model.conv2)[0])


def test_any_batch_size_runs_where_the_model_leaves_it_open(small):
    _, program = small
    whole = np.asarray(program(IMAGES[:7]))
    np.testing.assert_array_equal(np.concatenate([program(IMAGES[:4]), program(IMAGES[4:7])]), whole)


def edges_repeated(x):
    return fake(jnp.pad(nnx.relu(signed(x)), ((0, 0), (1, 1), (2, 0), (0, 0)), mode="edge"), 0.5, OUTPUT)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (lambda x: fake(signed(x).reshape(4, -1)[:, ::2] * float(len(x)), 0.5, OUTPUT), "TypeError: '_DimExpr' object"),
        (lambda x: fake(signed(x).reshape(4, 144), 0.5, OUTPUT), "reshape: a tensor of shape"),
        (edges_repeated, "the dimension batch - 1 is not a multiple of the batch size"),
    ],
    ids=["its length", "a number", "a part of it"],
)
def test_a_batch_size_that_the_model_fixes_stays_fixed(model, reason):
    message = "^the program takes 4 samples at a time, as the example has, since .* its batch open"
    with pytest.warns(UserWarning, match=message) as warned:
        program = lq.integer.lower(model, X)
    assert reason in str(warned[0].message)
    np.testing.assert_array_equal(program(X), model(X))
    with pytest.raises(ValueError, match=r"`x` must have shape \[4, 6, 6, 4\], got \[3, 6, 6, 4\]"):
        program(X[:3])


def test_an_offset_of_the_inputs_reaches_the_padding():
    plus = lq.methods.LSQ_PLUS
    model = network(lq.QuantSpec(bits=4, method=plus), lq.QuantSpec(bits=4, signed=True, method=plus, batch_axis=0))
    program = lq.integer.lower(model, IMAGES)
    assert float(np.abs(model.conv2.input_offset[...])) > 0.01
    assert_integers_only(program, IMAGES)
    verified(model, program, IMAGES)


def test_the_model_is_left_as_it_was(small):
    model, _ = small
    before = jax.tree.leaves(nnx.state(model))
    kinds = [type(module) for _, module in nnx.iter_modules(model)]
    lq.integer.lower(model, IMAGES[:2])
    assert [type(module) for _, module in nnx.iter_modules(model)] == kinds
    assert all((a == b).all() for a, b in zip(before, jax.tree.leaves(nnx.state(model)), strict=True))


def test_several_quantizers_of_the_input_make_several_codes():
    def model(x):
        return fake(signed(x) + fake(x, 0.01, EIGHT_BITS), STEP, OUTPUT)

    program = lowered(lambda x: signed(x) + fake(x, 0.01, EIGHT_BITS))
    first, second = program.encode(X)
    assert (first.dtype, second.dtype) == (np.int8, np.uint8)
    verified(model, program, X)


@pytest.mark.parametrize("power", [-60, -25, 20, 60])
def test_the_unit_of_the_values_does_not_change_a_number(power):
    """A network whose activations are tiny or huge is as exact: scaling by a power of two changes no integer."""

    def codes(unit):
        @jax.jit
        def model(x):
            stream = jnp.clip(fake(x, 0.25 * unit, SIGNED) - 0.3 * unit * CHANNELS, 0, 6 * unit)
            stream = stream + fake(x, 0.11 * unit, UNSIGNED) * CHANNELS
            return fake(jnp.maximum(stream, 0.1 * unit).mean((1, 2)), STEP * unit, OUTPUT) / unit

        program = lq.integer.lower(model, X * unit)
        steps = [step for step in program.instructions if step.op != "encode"]
        return program.encode(X * unit), program(X * unit), [step.constants for step in steps]

    for found, expected in zip(jax.tree.leaves(codes(2.0**power)), jax.tree.leaves(codes(1.0)), strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("gain", [1e12, -3e15])
def test_a_factor_that_no_fixed_point_holds_makes_its_codes_by_thresholds(gain):
    """Of the numbers that occur one is within the clip: ReLU6 of huge values."""

    def model(x):
        return fake(nnx.relu6(signed(x) * gain + 2.3), STEP, OUTPUT)

    program = assert_same_codes(model, X, STEP)
    assert "staircase" in [step.op for step in program.instructions]


def test_logits_that_can_only_be_zero_lower_whatever_their_unit_is():
    def model(x):
        dead = fake(nnx.relu(signed(x) - 100), 1.0, UNSIGNED)
        return dead.mean((1, 2)) * 1e30 + signed(x).mean((1, 2))

    program = lq.integer.lower(model, X)
    np.testing.assert_allclose(program(X), jax.jit(model)(X), atol=1e-5)


def test_a_clip_of_a_clip_is_one_clip_and_one_rounding():
    gains = np.float32([2e3, 0.11, 0.02, 0.05])

    def model(x):
        return fake(nnx.relu6(signed(x) * gains + 1e-4), STEP / 50, OUTPUT)

    program = assert_same_codes(model, X, STEP / 50)
    inner = [step.op for step in program.instructions if step.op in ("rescale", "clip")]
    assert inner[0] == "rescale" and inner.count("rescale") <= 2 and "clip" not in inner  # codes, and the output


@pytest.mark.parametrize("bounds", [(0, 6, 2, 4), (0, 6, -1, 9), (2, 6, 0, 1), (0, 1, 3, 5)])
def test_clips_compose_as_they_do_on_numbers(bounds):
    first_low, first_high, low, high = bounds

    def model(x):
        inner = jnp.minimum(jnp.maximum(signed(x) * 3.1, first_low), first_high)
        return signed(x) * 0.3 + jnp.minimum(jnp.maximum(inner, low), high)

    program = lq.integer.lower(model, X)
    np.testing.assert_allclose(program(X), jax.jit(model)(X), atol=1e-5)


def test_a_layer_that_gets_other_channels_says_so():
    model = network(lq.QuantSpec(4), lq.QuantSpec(4, batch_axis=0))
    for images in (np.repeat(IMAGES, 3, axis=-1), IMAGES[..., 0]):
        with pytest.raises((ValueError, TypeError)) as raised:
            lq.integer.lower(model, images)
        assert "traced" not in str(raised.value)
