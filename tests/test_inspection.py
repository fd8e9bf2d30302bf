"""Looking at a quantized model: plan, codes, statistics, and the check of its scales."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import lglsq_jax as lq
from lglsq_jax.inspection import statistics_and_histograms

WEIGHTS = lq.QuantSpec(3, channel_axis=-1)
INPUTS = lq.QuantSpec(2, signed=False, batch_axis=0)


class Small(nnx.Module):
    def __init__(self, rngs):
        self.stem = nnx.Conv(2, 4, (2, 2), rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.body = nnx.Conv(4, 4, (1, 1), mask=jnp.eye(4)[None, None], rngs=rngs)
        self.fc = nnx.Linear(4, 3, dtype=jnp.bfloat16, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.norm(self.stem(x)))
        return self.fc(nnx.relu(self.body(x)).mean(axis=(1, 2)))


def small(calibrate=True):
    rules = [
        lq.Rule(".*", weights=WEIGHTS, inputs=INPUTS),
        lq.Rule("stem", weights=lq.QuantSpec(8, narrow_range=True)),
    ]
    model = lq.quantize_model(Small(nnx.Rngs(0)), rules)
    if calibrate:
        lq.calibrate(model, [images()])
    return model


def images():
    return jnp.asarray(np.random.default_rng(0).normal(size=(6, 4, 4, 2)), jnp.float32)


@pytest.fixture(scope="module")
def model():
    return small()


def test_the_plan_prints_as_a_table():
    model = small(calibrate=False)
    model.fc.set_scales(weights=np.ones(3), inputs=1.0)
    assert str(lq.plan(model)) == (
        "layer  kind         kernel   weights                    inputs           calibrated\n"
        "body   QuantConv    1x1x4x4  3 bits signed per channel  2 bits unsigned  no\n"
        "fc     QuantLinear  4x3      3 bits signed per channel  2 bits unsigned  yes\n"
        "stem   QuantConv    2x2x2x4  8 bits signed narrow       float            no"
    )
    assert [row.weight_bytes for row in lq.plan(model).rows] == [16 * 3 / 8, 12 * 3 / 8, 32.0]
    plain = lq.plan(nnx.Linear(2, 2, rngs=nnx.Rngs(0)))
    assert str(plain).splitlines()[1] == "(the model)  Linear  2x2     float    float"
    assert plain.rows[0].weight_bytes == 16


def test_weight_codes_are_those_that_the_layers_multiply(model):
    codes = lq.weight_codes(model)
    assert {path: (found.dtype, found.shape) for path, found in codes.items()} == {
        "body": (jnp.int8, (1, 1, 4, 4)),
        "fc": (jnp.int8, (4, 3)),
        "stem": (jnp.int8, (2, 2, 2, 4)),
    }
    masked = np.asarray(codes["body"])[0, 0]
    assert (masked[~np.eye(4, dtype=bool)] == 0).all() and masked.any()
    layer, x = model.fc, jnp.eye(4) * 1000  # every input is clipped to the largest code
    clipped = layer.input_scale[...] * INPUTS.maximum
    products = codes["fc"] * (layer.weight_scale[...] * clipped)
    np.testing.assert_allclose(layer(x) - layer.bias[...].astype(jnp.bfloat16), products, rtol=0.02, atol=0.02)
    in_bfloat16 = layer.kernel[...].astype(jnp.bfloat16).astype(jnp.float32)
    np.testing.assert_array_equal(codes["fc"], lq.quantize(in_bfloat16, layer.weight_scale[...], WEIGHTS))


def test_statistics_describe_the_quantizers_on_a_batch(model):
    found = lq.layer_statistics(model, images())
    assert set(found) == {"body", "fc", "stem"}
    assert set(found["stem"]) == {"weight_scale", "weight_clipped", "weight_codes_used"}
    model.eval()
    x = nnx.relu(model.norm(model.stem(images())))
    scale = float(model.body.input_scale[...])
    codes = np.asarray(lq.quantize(x, scale, INPUTS))
    expected = {
        "weight_scale": float(model.body.weight_scale[...].mean()),
        "input_scale": scale,
        "weight_clipped": 0.0,
        "input_clipped": float((x / scale > 3).mean()),
        "weight_codes_used": len(np.unique(lq.weight_codes(model)["body"])) / 8,
        "input_codes_used": len(np.unique(codes)) / 4,
    }
    masked = model.body.kernel[...] * jnp.eye(4) / model.body.weight_scale[...]
    expected["weight_clipped"] = float(((masked < -4) | (masked > 3)).mean())
    assert found["body"] == pytest.approx(expected, rel=1e-5)


def test_looking_changes_nothing(model):
    before = jax.tree.map(np.asarray, nnx.state(model))
    lq.layer_statistics(model, images())
    lq.weight_codes(model)
    assert jax.tree.all(jax.tree.map(np.array_equal, before, jax.tree.map(np.asarray, nnx.state(model))))


def test_a_scale_that_went_wrong_is_named():
    model = small()
    lq.check_scales(model)
    for value in (-0.5, np.inf, 0.0):
        model.body.weight_scale[...] = jnp.asarray([1.0, value, 1.0, 1.0])
        with pytest.raises(ValueError) as caught:
            lq.check_scales(model)
        assert str(caught.value) == f"the weight scale of layer 'body' must be finite and positive, got {float(value)}"


@pytest.mark.parametrize("look", [lq.check_scales, lq.weight_codes, lambda model: lq.layer_statistics(model, images())])
def test_an_uncalibrated_model_is_refused_by_name(look):
    with pytest.raises(ValueError) as caught:
        look(small(calibrate=False))
    assert str(caught.value) == (
        "the weight scale of layer 'body' must be finite and positive, got nan "
        "(not calibrated: call calibrate(model, batches) first)"
    )


def test_an_offset_that_went_wrong_is_named():
    spec = lq.QuantSpec(4, batch_axis=0, method=lq.methods.LSQ_PLUS)
    layer = lq.QuantLinear(2, 2, inputs=spec, rngs=nnx.Rngs(0))
    layer.set_scales(inputs=0.1)
    with pytest.raises(ValueError, match=r"^the input offset of layer '' must be finite, got nan$"):
        lq.check_scales(layer)
    layer.set_scales(input_offset=0.5)
    lq.check_scales(layer)
    found = lq.layer_statistics(layer, jnp.asarray([[0.5, 0.6], [100.0, 0.5]]))[""]
    assert found == pytest.approx({"input_scale": 0.1, "input_clipped": 0.25, "input_codes_used": 3 / 16})


def test_histograms_lie_on_the_codes(model):
    statistics, found = statistics_and_histograms(model, images())
    assert statistics == lq.layer_statistics(model, images())
    assert {path: set(kinds) for path, kinds in found.items()} == {
        "body": {"weights", "input_codes"},
        "fc": {"weights", "input_codes"},
        "stem": {"weights"},
    }
    codes = found["body"]["input_codes"]
    np.testing.assert_array_equal(codes.edges, [-0.5, 0.5, 1.5, 2.5, 3.5])
    x = nnx.relu(model.norm(model.stem(images())))
    expected = np.bincount(np.asarray(lq.quantize(x, model.body.input_scale[...], INPUTS)).ravel(), minlength=4)
    np.testing.assert_array_equal(codes.counts, expected)
    weights = found["body"]["weights"]
    v = np.asarray(model.body.kernel[...] * jnp.eye(4) / model.body.weight_scale[...])
    inside = np.clip(v, weights.edges[0], np.nextafter(weights.edges[-1], 0))
    np.testing.assert_array_equal(weights.counts, np.histogram(inside, weights.edges)[0])
    assert weights.edges[0] == WEIGHTS.minimum - 1.5 and weights.edges[-1] == WEIGHTS.maximum + 1.5


def test_every_call_of_a_layer_is_looked_at():
    class Twice(nnx.Module):
        def __init__(self):
            self.layer = nnx.Linear(1, 1, kernel_init=nnx.initializers.ones_init(), rngs=nnx.Rngs(0))

        def __call__(self, x):
            return jax.vmap(self.layer)(x) + self.layer(1000 * self.layer(x[:2]))

    spec = lq.QuantSpec(4)
    model = lq.quantize_model(Twice(), [lq.Rule(".*", weights=spec, inputs=spec)])
    model.layer.set_scales(weights=1.0, inputs=1.0)
    x = np.asarray([[0], [1]], np.float32)
    row = lq.layer_statistics(model, x)["layer"]
    assert row["input_clipped"] == pytest.approx(1 / 6)  # of twice 0 and 1, and 0 and 1000
