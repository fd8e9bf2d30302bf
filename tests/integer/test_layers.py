"""A program's layers as arrays: a second implementation needs nothing else to compute one layer's codes."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

import lglsq_jax as lq
from lglsq_jax.integer.layers import Layer

from .checks import SIGNED, fake, normal

WEIGHTS, CODES = lq.QuantSpec(3, channel_axis=-1), lq.QuantSpec(4, signed=False, batch_axis=0)


class Network(nnx.Module):
    def __init__(self, activation, rngs):
        first = lq.QuantSpec(8, batch_axis=0)
        self.first = lq.QuantConv(2, 6, (3, 3), strides=2, weights=WEIGHTS, inputs=first, rngs=rngs)
        self.second = lq.QuantConv(6, 6, (3, 3), feature_group_count=3, weights=WEIGHTS, inputs=CODES, rngs=rngs)
        self.head = lq.QuantLinear(6, 5, weights=WEIGHTS, inputs=CODES, rngs=rngs)
        self.activation = activation

    def __call__(self, x):
        x = self.activation(self.first(x))
        return self.head(nnx.relu(self.second(x)).mean((1, 2)))


@pytest.fixture(scope="module", params=[nnx.relu, nnx.sigmoid], ids=["relu", "sigmoid"])
def program(request):
    model, x = Network(request.param, nnx.Rngs(0)), normal(4, 8, 8, 2)
    lq.calibrate(model, [x])
    model.eval()
    return lq.integer.lower(model, x)


def requantized(requantizer, sums: np.ndarray) -> np.ndarray:
    constants = requantizer.constants
    if requantizer.op == "rescale":
        wide = sums.astype(np.int64) * constants["multiplier0"] + constants["bias"]
        whole = [round(int(number) / 2**requantizer.shift) for number in wide.ravel()]
        return np.clip(whole, requantizer.low, requantizer.high).reshape(sums.shape)
    reached = (sums[..., None] >= constants["thresholds"]).sum(-1)
    table = np.broadcast_to(constants["values"], (*sums.shape, constants["values"].shape[-1]))
    return np.take_along_axis(table, reached[..., None], -1)[..., 0]


def test_the_codes_of_a_layer_follow_from_the_layer_before_it(program):
    x = normal(3, 8, 8, 2, seed=1)
    codes = {name: np.asarray(array) for name, array in program.layer_codes(program.encode(x)).items()}
    first, *_ = program.layers
    sums = lax.conv_general_dilated(
        jnp.asarray(codes["first"], jnp.float32),
        jnp.asarray(first.weights, jnp.float32),
        first.strides,
        first.padding,
        first.input_dilation,
        first.kernel_dilation,
        ("NHWC", "HWIO", "NHWC"),
        first.groups,
    )
    sums = np.asarray(sums).astype(np.int64)
    assert first.accumulator_low <= sums.min() and sums.max() <= first.accumulator_high
    np.testing.assert_array_equal(requantized(first.requantizer, sums), codes["second"])


def test_each_layer_has_its_geometry_and_bits(program):
    first, second, head = program.layers
    assert [layer.path for layer in program.layers] == ["first", "second", "head"]
    assert [layer.op for layer in program.layers] == ["convolve", "convolve", "multiply"]
    assert (first.strides, first.padding, first.groups, second.groups) == ((2, 2), ((0, 1), (0, 1)), 1, 3)
    assert (head.strides, head.padding, head.groups) == (None, None, None)
    assert [layer.weights.shape for layer in program.layers] == [(3, 3, 2, 6), (3, 3, 2, 6), (6, 5)]
    assert [layer.weight_bits for layer in program.layers] == [3, 3, 3]
    assert [layer.output_shape for layer in program.layers] == [(4, 4, 6), (4, 4, 6), (5,)]
    assert first.requantizer.nearest and (first.requantizer.low, first.requantizer.high) == (0, 15)
    for layer, row in zip(program.layers, program.summary().rows, strict=True):
        assert (layer.multiply_adds, layer.accumulator_bits) == (row.multiply_adds, row.accumulator_bits)


def test_a_layer_cannot_be_changed_and_documents_every_field(program):
    with pytest.raises(dataclasses.FrozenInstanceError):
        program.layers[0].path = "other"
    for field in dataclasses.fields(Layer):
        assert f"        {field.name}: " in Layer.__doc__


def test_the_second_product_of_a_module_has_a_name_of_its_own():
    kernel = normal(3, 3)

    def model(x):
        weights = fake(kernel, 0.25, SIGNED)
        for _ in range(2):
            x = fake(x, 0.25, SIGNED) @ weights
        return x

    program = lq.integer.lower(model, normal(2, 3))
    assert [layer.path for layer in program.layers] == ["", "#2"]
    assert program.layers[0].requantizer is not None
