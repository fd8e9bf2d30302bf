"""bfloat16 between layers, float32 codes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import lglsq_jax as lq
from lglsq_jax.quantizers import float_codes

WEIGHTS, INPUTS = lq.QuantSpec(8, channel_axis=-1), lq.QuantSpec(8, signed=False, batch_axis=0)


@pytest.fixture(scope="module")
def layer():
    layer = lq.QuantConv(3, 5, (3, 3), weights=WEIGHTS, inputs=INPUTS, rngs=nnx.Rngs(0))
    layer.bias[...] = jnp.arange(5.0)
    lq.calibrate(layer, [images()])
    return layer


def images():
    return np.random.default_rng(0).uniform(0, 2, (2, 6, 6, 3)).astype(np.float32)


def test_codes_of_a_kernel_are_those_of_float32_and_only_the_result_is_rounded(layer):
    x = jnp.asarray(images(), jnp.bfloat16)
    expected = layer(x.astype(jnp.float32))  # same inputs, nothing else rounded
    rounded_kernel = nnx.clone(layer)
    rounded_kernel.kernel[...] = layer.kernel[...].astype(jnp.bfloat16).astype(jnp.float32)
    narrow = nnx.clone(layer)
    lq.compute_in(narrow, jnp.bfloat16)
    found = narrow(x)
    assert found.dtype == jnp.bfloat16 and narrow.kernel[...].dtype == jnp.float32
    np.testing.assert_allclose(found.astype(jnp.float32), expected, rtol=2**-7, atol=2**-6)
    error = np.abs(found.astype(jnp.float32) - expected).mean()
    other = np.abs(rounded_kernel(x.astype(jnp.float32)) - expected).mean()
    assert other > 0  # a kernel that was rounded before has other codes
    product = (expected - layer.bias[...]).astype(jnp.bfloat16) + layer.bias[...].astype(jnp.bfloat16)
    np.testing.assert_array_equal(found.astype(jnp.float32), product.astype(jnp.float32))
    assert error > 0


def test_a_float_network_gives_bfloat16_with_float32_statistics():
    model = nnx.Sequential(nnx.Linear(4, 3, rngs=nnx.Rngs(0)), lq.BatchNorm(3, rngs=nnx.Rngs(0)))
    lq.compute_in(model, "bfloat16")
    assert model(jnp.ones((8, 4))).dtype == jnp.bfloat16
    assert {array.dtype for array in nnx.to_flat_state(nnx.state(model)).leaves} == {jnp.dtype("float32")}


def test_a_layer_with_half_a_quantizer_is_refused():
    model = nnx.Sequential(lq.QuantLinear(4, 3, weights=WEIGHTS, rngs=nnx.Rngs(0)))
    with pytest.raises(ValueError, match="'layers/0' must quantize its kernel and its inputs"):
        lq.compute_in(model, jnp.bfloat16)


@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_codes_that_accumulation_puts_off_are_those_of_evaluation(dtype):
    spec = lq.QuantSpec(8, method=lq.methods.LSQ)
    layer = lq.QuantLinear(64, 32, weights=spec, inputs=spec, rngs=nnx.Rngs(0))
    layer.set_scales(weights=layer.start_weight_scale(), inputs=0.1)
    expected = float_codes(layer.kernel[...], layer.weight_scale[...], None, spec)
    if dtype is not None:
        lq.compute_in(layer, dtype)
    deferred = layer.defer(jax.ShapeDtypeStruct((8, 64), dtype or jnp.float32))
    np.testing.assert_array_equal(np.asarray(deferred.codes, np.float32), expected)


def test_a_refusal_changes_no_layer():
    model = nnx.Sequential(nnx.Linear(4, 4, rngs=nnx.Rngs(0)), lq.QuantLinear(4, 3, weights=WEIGHTS, rngs=nnx.Rngs(0)))
    with pytest.raises(ValueError, match="must quantize its kernel and its inputs"):
        lq.compute_in(model, jnp.bfloat16)
    assert model.layers[0].dtype is None
