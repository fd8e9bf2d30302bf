"""A residual network with random batch norm, from float to a saved integer program."""

import jax
import numpy as np
import pytest
from flax import nnx

import lglsq_jax as lq

from .checks import assert_integers_only, float_types, normal, verified

BITS = 3
IMAGES = normal(96, 8, 8, 1, seed=7)


@pytest.fixture(scope="module")
def model():
    rngs = nnx.Rngs(0)
    network = lq.models.resnet8(num_classes=6, in_channels=1, stem_stride=2, rngs=rngs)
    for _, module in nnx.iter_modules(network):
        if isinstance(module, nnx.BatchNorm):
            shape = module.mean[...].shape
            module.mean[...] = 0.3 * jax.random.normal(rngs.params(), shape)
            module.var[...] = jax.random.uniform(rngs.params(), shape, minval=0.3, maxval=2.0)
            module.scale[...] = jax.random.uniform(rngs.params(), shape, minval=-0.5, maxval=1.5)
            module.bias[...] = 0.3 * jax.random.normal(rngs.params(), shape)
    weights = lq.QuantSpec(bits=BITS, channel_axis=-1, narrow_range=True)
    inputs = lq.QuantSpec(bits=BITS, signed=False, batch_axis=0)
    model = lq.quantize_model(network, lq.models.recommended_rules(network, weights=weights, inputs=inputs))
    lq.calibrate(model, [IMAGES])
    model.eval()
    return model


@pytest.fixture(scope="module")
def program(model):
    return lq.integer.lower(model, IMAGES[:1])


@pytest.fixture(scope="module")
def report(model, program):
    return verified(model, program, IMAGES[:48], IMAGES[48:])


def test_every_layer_has_the_codes_of_the_model(model, report):
    assert sorted(layer.path for layer in report.layers) == sorted(row.path for row in lq.plan(model).rows)
    assert {layer.path: layer.equal_fraction for layer in report.layers}["conv1"] == 1.0
    assert all(layer.equal_fraction >= 0.999 and layer.max_difference <= 1 for layer in report.layers)


def test_it_chooses_the_class_of_the_model(report):
    assert report.samples == 96 and report.unexplained == 0
    assert report.top1_agreement >= 1 - report.tied_samples / report.samples


def test_the_body_holds_no_float_at_any_depth(program):
    assert_integers_only(program, IMAGES)
    codes = program.encode(IMAGES)
    assert float_types(jax.make_jaxpr(program.layer_codes)(codes)) == set()


def test_the_weights_are_the_codes_of_the_layers(model, program):
    expected = lq.weight_codes(model)
    for row in program.summary().rows:
        np.testing.assert_array_equal(program.weights[row.path], expected[row.path], err_msg=row.path)
        assert row.weight_bits == (8 if row.path in ("conv1", "fc") else BITS)
        assert row.accumulator_bits <= 32


def test_it_is_saved_and_loaded_to_the_bit_in_few_bytes(program, tmp_path):
    path = tmp_path / "resnet8"
    program.save(path)
    loaded = lq.integer.load(path)
    np.testing.assert_array_equal(loaded(IMAGES[:48]), program(IMAGES[:48]))
    summary = program.summary()
    assert path.stat().st_size < summary.weight_bytes + summary.constant_bytes + 4000
