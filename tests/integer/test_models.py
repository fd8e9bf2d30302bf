"""Any model: several inputs, loops over blocks, shared weights, dense and checkpointed networks, raw images."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

import lglsq_jax as lq

from .checks import SIGNED, UNSIGNED, assert_integers_only, fake, normal, verified

WEIGHTS, INPUTS = lq.QuantSpec(4, channel_axis=-1), lq.QuantSpec(5, batch_axis=0)
X = normal(32, 6)
EIGHT = lq.QuantSpec(8, method=lq.methods.LSQ)


def linear(before, after, rngs):
    return lq.QuantLinear(before, after, weights=WEIGHTS, inputs=INPUTS, rngs=rngs)


def block(x, kernel):
    y = nnx.relu(fake(x, 0.23, SIGNED) @ fake(kernel, 0.31, SIGNED))
    return y, y.sum(1)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("result", ["the last state", "what each turn gives"])
def test_a_scan_over_blocks(reverse, result):
    kernels = normal(4, 6, 6, seed=3)

    def model(x):
        last, each = lax.scan(block, x, kernels, reverse=reverse)
        return fake(last if result == "the last state" else each.T, 0.137, EIGHT)

    program = lq.integer.lower(model, X)
    verified(model, program, X)
    assert sum(step.op == "multiply" for step in program.instructions) == 4


def test_a_scan_over_the_inputs_of_a_recurrent_network():
    recurrent, entering = normal(5, 5, seed=1), normal(3, 5, seed=2)

    def model(x):
        def turn(state, inputs):
            state = nnx.tanh(
                fake(inputs, 0.21, SIGNED) @ fake(entering, 0.31, SIGNED)
                + fake(state, 0.13, SIGNED) @ fake(recurrent, 0.29, SIGNED)
            )
            return state, None

        start = 0.0 * fake(x[:, 0], 0.21, SIGNED) @ fake(entering, 0.31, SIGNED)
        return fake(lax.scan(turn, start, x.swapaxes(0, 1))[0], 0.0137, EIGHT)

    x = normal(16, 4, 3)
    verified(model, lq.integer.lower(model, x), x)


def test_a_scan_over_layers_of_a_module():
    class Blocks(nnx.Module):
        def __init__(self, rngs):
            @nnx.split_rngs(splits=3)
            @nnx.vmap(in_axes=0, out_axes=0)
            def make(rngs):
                return linear(6, 6, rngs)

            self.layers = make(rngs)
            self.layers.weight_scale[...] = jnp.full_like(self.layers.weight_scale[...], 0.11)
            self.layers.input_scale[...] = jnp.full_like(self.layers.input_scale[...], 0.17)

        def __call__(self, x):
            @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
            def run(x, layer):
                return nnx.relu(layer(x))

            return run(x, self.layers)

    model = Blocks(nnx.Rngs(0))
    model.eval()
    program = lq.integer.lower(model, X)
    verified(model, program, X)
    assert sum(step.op == "multiply" for step in program.instructions) == 3


def test_a_condition_known_now_takes_its_branch():
    def model(x, first=True):
        return fake(lax.cond(first, lambda x: x * 1.7, lambda x: -x, fake(x, 0.21, SIGNED)), 0.137, EIGHT)

    verified(model, lq.integer.lower(model, X), X)


def test_several_inputs():
    kernel = normal(6, 4, seed=5)

    def model(image, features):
        return fake(image, 0.23, SIGNED) @ fake(kernel, 0.31, SIGNED) + fake(features, 0.17, UNSIGNED) * 2

    features = normal(32, 4, seed=6)
    program = lq.integer.lower(model, X, features)
    np.testing.assert_allclose(program(X, features), model(X, features), rtol=1e-5)
    report = lq.integer.verify(model, program, [(X, features), (X[:5], features[:5])])
    assert report.equal_fraction == 1 and report.samples == 37
    with pytest.raises(ValueError, match="the program takes 2 inputs, got 1"):
        program(X)
    with pytest.raises(ValueError, match=r"`inputs\[1\]` must have shape \[n, 4\], got \[32, 6\]"):
        program(X, X)


def test_an_input_that_does_not_count_is_still_taken():
    def model(x, unused):
        return fake(x, 0.23, SIGNED) * 2

    np.testing.assert_allclose(lq.integer.lower(model, X, X)(X, X), model(X, X), rtol=1e-6)


class Dense(nnx.Module):
    """Each layer sees all before it; one layer is used twice; one block is checkpointed."""

    def __init__(self, rngs):
        self.first, self.second = linear(6, 5, rngs), linear(11, 7, rngs)
        self.shared, self.last = linear(18, 18, rngs), linear(18, 3, rngs)
        self.compiled = False

    def __call__(self, x):
        x = jnp.concatenate([x, nnx.relu(self.first(x))], -1)
        jit, checkpoint = (jax.jit, jax.checkpoint) if self.compiled else (lambda f: f,) * 2
        x = jnp.concatenate([x, jit(lambda y: nnx.relu(self.second(y)))(x)], -1)
        for _ in range(2):
            x = x + checkpoint(lambda y: nnx.relu(self.shared(y)))(x) * 0.5
        return self.last(x)


def test_a_dense_network_with_shared_weights():
    dense = Dense(nnx.Rngs(0))
    model = nnx.Sequential(lq.Quantizer(lq.QuantSpec(8)), dense)
    lq.calibrate(model, [X])
    model.eval()
    dense.compiled = True
    program = lq.integer.lower(model, X)
    assert_integers_only(program, X)
    verified(model, program, X)
    kernels = [step.constants["codes"] for step in program.instructions if step.op == "constant"]
    assert sorted(kernel.shape for kernel in kernels) == [(6, 5), (11, 7), (18, 3), (18, 18)]  # the shared one once


class TestRawImages:
    IMAGES = np.random.default_rng(0).integers(0, 256, (32, 8, 8, 3), dtype=np.uint8)

    def model(self):
        network = lq.models.resnet8(num_classes=4, in_channels=3, rngs=nnx.Rngs(0))
        weights, inputs = lq.QuantSpec(4), lq.QuantSpec(4, signed=False)
        network = lq.quantize_model(network, lq.models.recommended_rules(network, weights=weights, inputs=inputs))
        model = nnx.Sequential(lq.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), network)
        lq.calibrate(model, [self.IMAGES])
        model.eval()
        return model

    def test_uint8_in_int32_out_and_no_float_between(self, tmp_path):
        model = self.model()
        program = lq.integer.lower(model, self.IMAGES)
        assert program.input_dtype == "uint8"
        np.testing.assert_array_equal(program.encode(self.IMAGES), self.IMAGES)
        assert_integers_only(program, self.IMAGES)
        assert program.integer_body(self.IMAGES).dtype == jnp.int32
        verified(model, program, self.IMAGES)
        program.save(tmp_path / "raw")
        loaded = lq.integer.load(tmp_path / "raw")
        np.testing.assert_array_equal(loaded.integer_body(self.IMAGES), program.integer_body(self.IMAGES))
        with pytest.raises(ValueError, match="`x` must be uint8, as the model took, got float32"):
            program(self.IMAGES.astype(np.float32))

    def test_a_function_around_a_model_keeps_the_paths_of_its_layers(self):
        whole = self.model()
        normalize, network = whole.layers
        function = lq.integer.as_function(network)

        def on_pixels(images):
            return function(normalize(images))

        program, prefixed = lq.integer.lower(on_pixels, self.IMAGES), lq.integer.lower(whole, self.IMAGES)
        assert {layer.path for layer in program.layers} >= {"conv1", "layer1/0/conv1", "fc"}
        assert [f"layers/1/{layer.path}" for layer in program.layers] == [layer.path for layer in prefixed.layers]
        np.testing.assert_array_equal(program(self.IMAGES), prefixed(self.IMAGES))
        assert verified(on_pixels, program, self.IMAGES).layers[0].path == "conv1"
        network.train()
        with pytest.raises(ValueError, match="is in training mode"):
            lq.integer.as_function(network)

    def test_every_pixel_value_of_every_channel_has_the_code_of_the_model(self):
        normalize, eight = lq.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), lq.QuantSpec(8)
        pixels = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, 1)

        def model(x):
            return fake(normalize(x), 0.0187, eight)

        program = lq.integer.lower(model, pixels)
        np.testing.assert_allclose(program(pixels), jax.jit(model)(pixels), rtol=1e-6)


def test_normalize_follows_its_formula():
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 3, 2), dtype=np.uint8)
    mean, std = np.array([0.4, 0.5]), np.array([0.2, 0.3])
    expected = (images / 255 - mean) / std
    np.testing.assert_allclose(lq.Normalize(mean, std)(jnp.asarray(images)), expected, atol=1e-6)
    np.testing.assert_allclose(lq.Normalize(mean, std)(jnp.float32(images / 255)), expected, atol=1e-6)
    np.testing.assert_allclose(lq.Normalize(0.5, 2, unit=1.0)(jnp.asarray(images)), (images - 0.5) / 2, atol=1e-5)


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        (0, 0, "`std` finite and positive, got 0 and 0"),
        (float("nan"), 1, "`mean` must be finite"),
        ((1, 2), (1, 2, 3), r"got the shapes \(2,\) and \(3,\)"),
    ],
)
def test_normalize_refuses_what_is_no_range(mean, std, message):
    with pytest.raises(ValueError, match=message):
        lq.Normalize(mean, std)


def test_normalize_refuses_a_unit_that_is_none_and_other_channels():
    for unit in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=r"^`unit` must be finite and positive, or None, got "):
            lq.Normalize(0.5, 1, unit=unit)
    message = r"^`x` must have its 3 channels last, one for each of `mean`, got shape \(2, 4, 4, 1\)$"
    with pytest.raises(ValueError, match=message):
        lq.Normalize((0.5,) * 3, (0.2,) * 3)(jnp.ones((2, 4, 4, 1)))


def test_a_quantizer_layer_is_calibrated_and_quantizes():
    model = nnx.Sequential(lq.Quantizer(lq.QuantSpec(4)), nnx.relu)
    with pytest.raises(ValueError, match="scales are not set"):
        model(X)
    lq.calibrate(model, [X])
    scale = model.layers[0].input_scale[...]
    np.testing.assert_allclose(model(X), nnx.relu(lq.fake_quantize(X, scale, lq.QuantSpec(4))), rtol=1e-6)
    with pytest.raises(TypeError, match="`inputs` must be a QuantSpec, got 4"):
        lq.Quantizer(4)
