"""QuantConv and QuantLinear: nnx's layers with codes inside."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import lglsq_jax as lq
from lglsq_jax.ops import ARITHMETICS, exact

FINE_WEIGHTS = lq.QuantSpec(8, channel_axis=-1)
FINE_INPUTS = lq.QuantSpec(8, batch_axis=0)
FINE = {"weights": FINE_WEIGHTS, "inputs": FINE_INPUTS}

# Arguments of nnx.Conv and the shape of an input, one of each kind.
CONVOLUTIONS = {
    "same": (((3, 4, (3, 3)), {}), (2, 6, 5, 3)),
    "valid, strides": (((3, 4, (3, 2)), {"strides": (2, 1), "padding": "VALID"}), (2, 7, 6, 3)),
    "circular": (((3, 4, (3, 3)), {"padding": "CIRCULAR"}), (2, 5, 5, 3)),
    "reflect": (((3, 4, (3, 3)), {"padding": "REFLECT", "strides": 2}), (2, 5, 5, 3)),
    "causal, one axis": (((3, 4, 3), {"padding": "CAUSAL", "kernel_dilation": 2}), (2, 8, 3)),
    "padding by a number": (((3, 4, (3, 3)), {"padding": 2}), (2, 5, 5, 3)),
    "padding by pairs, dilated input": (
        ((3, 4, (2, 2)), {"padding": ((1, 0), (2, 1)), "input_dilation": (2, 1)}),
        (1, 4, 5, 3),
    ),
    "dilated kernel": (((3, 4, (3, 3)), {"kernel_dilation": (2, 1)}), (2, 7, 6, 3)),
    "groups": (((4, 6, (3, 3)), {"feature_group_count": 2}), (2, 5, 5, 4)),
    "depthwise": (((4, 4, (3, 3)), {"feature_group_count": 4}), (2, 5, 5, 4)),
    "mask, no bias": (
        ((3, 4, (3, 3)), {"use_bias": False, "mask": jnp.tri(9)[:, ::-1][:, :4].reshape(3, 3, 1, 4).repeat(3, 2)}),
        (2, 5, 5, 3),
    ),
    "without a batch axis": (((3, 4, (3, 3)), {}), (6, 5, 3)),
    "two batch axes": (((3, 4, (3, 3)), {}), (2, 2, 5, 5, 3)),
    "three axes": (((2, 3, (2, 2, 2)), {}), (1, 3, 4, 3, 2)),
    "bfloat16": (((3, 4, (3, 3)), {"dtype": jnp.bfloat16}), (2, 5, 5, 3)),
    "bfloat16, float32 results": (
        ((3, 4, (3, 3)), {"dtype": jnp.bfloat16, "preferred_element_type": jnp.float32}),
        (2, 5, 5, 3),
    ),
}
LINEARS = {
    "plain": (((6, 4), {}), (5, 6)),
    "no bias, two batch axes": (((6, 4), {"use_bias": False}), (2, 3, 6)),
    "without a batch axis": (((6, 4), {}), (6,)),
    "bfloat16": (((6, 4), {"dtype": jnp.bfloat16}), (5, 6)),
    "float32 results": (((6, 4), {"dtype": jnp.bfloat16, "preferred_element_type": jnp.float32}), (5, 6)),
}


def sample(shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def pair(float_kind, kind, arguments, **specs):
    """A float layer and a quantized one with the same weights, uncalibrated."""
    positional, named = arguments
    plain = float_kind(*positional, rngs=nnx.Rngs(0), **named)
    quantized = kind(*positional, rngs=nnx.Rngs(1), **named, **specs)
    quantized.kernel, quantized.bias = plain.kernel, plain.bias
    return plain, quantized


def set_from(layer, x):
    if layer.weights is not None:
        layer.set_scales(weights=layer.start_weight_scale("max"))
    if layer.inputs is not None:
        layer.set_scales(inputs=lq.init_scale(x, layer.inputs, "max"))


@pytest.mark.parametrize(
    ("float_kind", "kind", "case"),
    [
        *[pytest.param(nnx.Conv, lq.QuantConv, case, id=f"conv {name}") for name, case in CONVOLUTIONS.items()],
        *[pytest.param(nnx.Linear, lq.QuantLinear, case, id=f"linear {name}") for name, case in LINEARS.items()],
    ],
)
def test_eight_fine_bits_come_close_to_nnx(float_kind, kind, case):
    arguments, shape = case
    x = sample(shape)
    plain, quantized = pair(float_kind, kind, arguments, **FINE)
    set_from(quantized, x)
    expected, found = plain(x), quantized(x)
    assert found.dtype == expected.dtype and found.shape == expected.shape
    expected, found = np.float32(expected), np.float32(found)
    assert np.abs(found - expected).max() <= 0.03 * np.abs(expected).max()
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.999


@pytest.mark.parametrize("specs", [{}, {"weights": FINE_WEIGHTS}, {"inputs": FINE_INPUTS}], ids=["none", "w", "x"])
def test_either_half_may_stay_float(specs):
    x = sample((2, 5, 5, 3))
    plain, quantized = pair(nnx.Conv, lq.QuantConv, ((3, 4, (3, 3)), {}), **specs)
    set_from(quantized, x)
    kernel, inputs = plain.kernel[...], x
    if "weights" in specs:
        kernel = lq.fake_quantize(kernel, quantized.weight_scale[...], FINE_WEIGHTS)
    if "inputs" in specs:
        inputs = lq.fake_quantize(x, quantized.input_scale[...], FINE_INPUTS)
    plain.kernel[...] = kernel
    np.testing.assert_allclose(quantized(x), plain(inputs), rtol=1e-5, atol=1e-6)
    assert (quantized.weight_scale is None, quantized.input_scale is None) == (
        "weights" not in specs,
        "inputs" not in specs,
    )


@pytest.mark.parametrize("name", lq.methods.names())
def test_every_method_trains_weights_scales_and_offset(name):
    method = lq.methods.get(name)
    layer = lq.QuantLinear(
        6,
        4,
        weights=lq.QuantSpec(3, channel_axis=-1, method=method),
        inputs=lq.QuantSpec(3, signed=False, batch_axis=0, method=method),
        rngs=nnx.Rngs(0),
    )
    x = sample((5, 6)) + 1
    layer.set_scales(weights=layer.start_weight_scale(), inputs=0.2)
    assert (layer.input_offset is not None) == method.learn_offset
    if method.learn_offset:
        layer.set_scales(input_offset=-0.3)
    kernel = layer.transformed(layer.kernel[...])
    x_hat = lq.fake_quantize(x, 0.2, layer.inputs, -0.3 if method.learn_offset else None)
    kernel_hat = lq.fake_quantize(kernel, layer.weight_scale[...], layer.weights)
    np.testing.assert_allclose(layer(x), x_hat @ kernel_hat + layer.bias[...], rtol=1e-4, atol=1e-5)
    gradients = nnx.grad(lambda layer: jnp.sum(layer(x) ** 2))(layer)
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(gradients))
    assert jnp.any(gradients["kernel"][...] != 0)
    assert bool(jnp.any(gradients["input_scale"][...] != 0)) == (name not in ("ste", "dorefa"))


def test_dorefa_quantizes_the_normalised_kernel():
    spec = lq.QuantSpec(3, method=lq.methods.DOREFA)
    layer = lq.QuantLinear(6, 4, weights=spec, rngs=nnx.Rngs(0))
    layer.set_scales(weights=layer.start_weight_scale())
    np.testing.assert_allclose(layer.weight_scale[...], 1 / 3, rtol=1e-6)
    normalised = np.tanh(layer.kernel[...])
    codes = lq.quantize(jnp.asarray(normalised / abs(normalised).max()), layer.weight_scale[...], spec)
    np.testing.assert_allclose(layer(jnp.eye(6)), codes / 3, rtol=1e-6)


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
def test_a_nan_in_the_input_is_a_nan_in_the_output_in_every_arithmetic(arithmetic, monkeypatch):
    monkeypatch.setattr(exact, "choose_arithmetic", lambda *_: arithmetic)
    shape = (1, 4, 4, 2 + ARITHMETICS.index(arithmetic))  # of its own, so that nothing compiled before is met again
    x = sample(shape).at[0, 1, 1, 0].set(jnp.nan)
    layer = lq.QuantConv(shape[-1], 3, (3, 3), rngs=nnx.Rngs(0), **FINE)
    layer.set_scales(weights=jnp.full(3, 0.01), inputs=0.02)
    assert np.isnan(layer(x)[0, :3, :3]).all()
    assert np.isnan(nnx.jit(lambda layer, x: layer(x))(layer, x)[0, :3, :3]).all()
    assert np.isfinite(layer(jnp.nan_to_num(x))).all()


def test_a_quantized_layer_traces_to_named_operations():
    layer = lq.QuantConv(2, 3, (3, 3), rngs=nnx.Rngs(0), **FINE)
    layer.set_scales(weights=jnp.full(3, 0.01), inputs=0.02)
    jaxpr = str(jax.make_jaxpr(layer)(sample((1, 4, 4, 2))))
    assert jaxpr.count("= lglsq_quantize[") == 2 and jaxpr.count("= lglsq_convolve[") == 1


def test_gradients_are_not_put_off_for_an_offset_or_a_progress_that_went_wrong():
    spec = lq.QuantSpec(4, method=lq.methods.LSQ_PLUS)
    layer, x = lq.QuantLinear(3, 4, inputs=spec, rngs=nnx.Rngs(0)), jax.ShapeDtypeStruct((2, 3), jnp.float32)
    layer.set_scales(inputs=0.1, input_offset=0.0)
    layer.defer(x)
    for variable, value, sentence in (
        (layer.progress, 1.5, "`progress` must be a finite number from 0 to 1, got 1.5"),
        (layer.input_offset, np.nan, "`x_offset` must be finite, got nan"),
    ):
        right = variable[...]
        variable[...] = jnp.float32(value)
        with pytest.raises(ValueError) as caught:
            layer.defer(x)
        assert str(caught.value) == sentence
        variable[...] = right


def test_a_call_with_an_offset_that_was_never_set_says_what_to_call():
    layer = lq.QuantLinear(3, 4, inputs=lq.QuantSpec(4, method=lq.methods.LSQ_PLUS), rngs=nnx.Rngs(0))
    layer.set_scales(inputs=0.1)
    with pytest.raises(ValueError, match=r"^the layer's scales are not set: call calibrate\(model, batches\) first$"):
        layer(sample((2, 3)))


def test_progress_is_traced_state():
    layer = lq.QuantLinear(3, 2, rngs=nnx.Rngs(0), weights=lq.QuantSpec(2), inputs=lq.QuantSpec(2, batch_axis=0))
    layer.set_scales(weights=0.3, inputs=0.3)
    x, traces = sample((4, 3)), []

    @nnx.jit
    def gradient(layer, x, progress):
        traces.append(1)
        lq.set_progress(layer, progress)
        return nnx.grad(lambda layer: jnp.sum(layer(x) ** 2))(layer)["kernel"][...]

    early, late = gradient(layer, x, 0.0), gradient(layer, x, 1.0)
    assert len(traces) == 1 and layer.progress[...] == 1.0
    assert not np.array_equal(early, late)


@pytest.mark.parametrize("kind", ["conv", "linear"])
def test_an_uncalibrated_layer_says_what_to_call(kind):
    layer = (
        lq.QuantConv(3, 4, (3, 3), rngs=nnx.Rngs(0), **FINE)
        if kind == "conv"
        else lq.QuantLinear(3, 4, rngs=nnx.Rngs(0), **FINE)
    )
    assert not layer.calibrated
    with pytest.raises(ValueError, match=r"^the layer's scales are not set: call calibrate\(model, batches\) first$"):
        layer(sample((2, 5, 5, 3)))
    layer.set_scales(weights=np.full(4, 0.1), inputs=0.1)
    assert layer.calibrated
    layer(sample((2, 5, 5, 3)))


def test_an_uncalibrated_layer_under_jit_gives_nan_and_no_number():
    layer = lq.QuantLinear(3, 4, rngs=nnx.Rngs(0), **FINE)
    assert np.isnan(nnx.jit(lambda layer, x: layer(x))(layer, sample((2, 3)))).all()


def test_another_mistake_keeps_its_own_error_under_jit():
    layer = lq.QuantConv(3, 4, (3, 3), rngs=nnx.Rngs(0), **FINE)
    layer.set_scales(weights=np.full(4, 0.1), inputs=0.1)
    with pytest.raises((TypeError, ValueError), match="feature"):
        nnx.jit(lambda layer, x: layer(x))(layer, sample((2, 5, 5, 7)))


def test_set_scales_sets_what_is_given_and_leaves_the_rest():
    layer = lq.QuantLinear(3, 4, rngs=nnx.Rngs(0), **FINE)
    layer.set_scales(weights=[0.1, 0.2, 0.3, 0.4])
    assert np.isnan(layer.input_scale[...])
    layer.set_scales(inputs=0.5)
    np.testing.assert_allclose(layer.weight_scale[...], [0.1, 0.2, 0.3, 0.4])
    assert layer.input_scale[...] == 0.5


@pytest.mark.parametrize(
    ("specs", "scales", "sentence"),
    [
        (FINE, {"weights": 0.1}, "`weights` must have shape (4,) for a tensor of shape (3, 4), got ()"),
        (FINE, {"inputs": [0.1, 0.2]}, "`inputs` must have shape () for a tensor of shape (), got (2,)"),
        (FINE, {"inputs": np.nan}, "`inputs` must be finite and positive, got nan"),
        (FINE, {"inputs": 0.0}, "`inputs` must be finite and positive, got 0.0"),
        (FINE, {"weights": [0.1, 0.1, -2.0, 0.1]}, "`weights` must be finite and positive, got -2.0"),
        ({"weights": FINE_WEIGHTS}, {"inputs": 1.0}, "`inputs` are not quantized in this layer, got a scale for them"),
        ({"inputs": FINE_INPUTS}, {"weights": 1.0}, "`weights` are not quantized in this layer, got a scale for them"),
        (
            FINE,
            {"input_offset": 1.0},
            "`input_offset` needs a method with a learned offset, such as methods.LSQ_PLUS",
        ),
        (
            {"inputs": lq.QuantSpec(4, method=lq.methods.LSQ_PLUS)},
            {"input_offset": np.inf},
            "`input_offset` must be finite, got inf",
        ),
        (
            {"inputs": lq.QuantSpec(4, method=lq.methods.LSQ_PLUS)},
            {"input_offset": [0.1, 0.2]},
            "`input_offset` must have shape () for a tensor of shape (), got (2,)",
        ),
    ],
)
def test_a_scale_that_does_not_fit_is_one_sentence(specs, scales, sentence):
    layer = lq.QuantLinear(3, 4, rngs=nnx.Rngs(0), **specs)
    with pytest.raises(ValueError) as caught:
        layer.set_scales(**scales)
    assert str(caught.value) == sentence


@pytest.mark.parametrize(
    ("options", "error", "sentence"),
    [
        ({"weights": 4}, TypeError, "`weights` must be a QuantSpec or None, got 4"),
        (
            {"inputs": lq.QuantSpec(4, channel_axis=-1)},
            ValueError,
            "`inputs.channel_axis` must be None in a layer, got -1",
        ),
        (
            {"weights": lq.QuantSpec(4, channel_axis=0)},
            ValueError,
            "`weights.channel_axis` must be None or the output axis, 1 or -1, got 0",
        ),
        (
            {"weights": lq.QuantSpec(8, signed=False)},
            ValueError,
            "`weights` must have codes that fit int8: signed, or unsigned with at most 7 bits, got 8 bits",
        ),
        (
            {"dot_general": jax.lax.dot_general},
            TypeError,
            "`dot_general` cannot be replaced in QuantLinear, which is a product of its own",
        ),
    ],
)
def test_a_layer_that_cannot_be_is_one_sentence(options, error, sentence):
    with pytest.raises(error) as caught:
        lq.QuantLinear(3, 4, rngs=nnx.Rngs(0), **options)
    assert str(caught.value) == sentence


def test_a_replaced_convolution_is_refused():
    with pytest.raises(TypeError, match=r"^`conv_general_dilated` cannot be replaced in QuantConv"):
        lq.QuantConv(3, 4, (3, 3), conv_general_dilated=jax.lax.conv_general_dilated, rngs=nnx.Rngs(0))


def test_a_layer_splits_merges_clones_and_says_nothing():
    layer = lq.QuantConv(3, 4, (3, 3), rngs=nnx.Rngs(0), **FINE)
    x = sample((2, 5, 5, 3))
    set_from(layer, x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = nnx.merge(*nnx.split(nnx.clone(layer)))
    np.testing.assert_array_equal(again(x), layer(x))
    assert {type(variable) for variable in (layer.weight_scale, layer.input_scale)} == {lq.Scale}
    assert set(nnx.to_flat_state(nnx.state(layer, lq.Scale)).paths) == {("weight_scale",), ("input_scale",)}
