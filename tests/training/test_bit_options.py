"""Options for low bits: what goes with what, and what becomes of them in the quantizers of a network."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

import lglsq_jax as lq
from lglsq_jax.convert import quantize_model
from lglsq_jax.errors import UserError
from lglsq_jax.paths import products, quantized_layers
from lglsq_jax.training import QuantizedConfig, TrainConfig
from lglsq_jax.training.bit_options import describe_bits
from lglsq_jax.training.config import as_dict, differences, from_dict
from lglsq_jax.training.network import Network
from lglsq_jax.training.networks import find_network
from lglsq_jax.training.stages import quantization_rules, stages_of


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"sharpness": -1}, "`sharpness` must be a finite number of at least 0, got -1"),
        ({"sharpness_start": float("inf")}, "`sharpness_start` must be a finite number"),
        ({"strength": 2.0}, "`strength` must be a finite number of at least 0 and below 2, got 2.0"),
        ({"strength_schedule": "step"}, "`strength_schedule` must be one of linear, constant, decaying, cosine"),
        ({"strength_power": -1.0}, "`strength_power` must be a finite number of at least 0, got -1.0"),
        ({"tau": 0.0}, "`tau` must be a finite number above 0, got 0.0"),
        ({"eta": -0.1}, "`eta` must be a finite number of at least 0, got -0.1"),
        ({"method": "lsq", "eta": 0.1}, "`eta` must be None for a method without SSG, such as lsq, got 0.1"),
        ({"method": "lsq", "sharpness": 2.0}, "`sharpness` must be None for a method without ASR, such as lsq, got 2"),
        (
            {"method": "ewgs", "strength_schedule": "linear"},
            "`strength_schedule` must be None for a method without MDE",
        ),
        ({"weight_start": "median"}, "`weight_start` must be one of mse, lsq, max, sigma, got 'median'"),
        ({"bit_choices": 3, "size_budget": 3.0}, "`bit_choices` must be several whole numbers, got 3"),
        ({"bit_choices": (2, 9), "size_budget": 3.0}, "`bit_choices` must be a whole number between 2 and 8, got 9"),
        ({"bit_choices": (2, 2), "size_budget": 3.0}, "`bit_choices` must be at least two different numbers, got 2 2"),
        ({"bit_choices": (2, 4)}, "`bit_choices` must come with one of `size_budget` and `compute_budget`, got 0"),
        ({"size_budget": 3.0}, "`size_budget` must be None without `bit_choices`, got 3.0"),
        ({"bit_choices": (3, 4), "size_budget": 2.5}, "`size_budget` must be a finite number of at least 3, got 2.5"),
        ({"bit_choices": (3, 4), "compute_budget": 8.0}, "`compute_budget` must be a finite number of at least 9"),
        ({"progressive_bits": (4, 4, 3)}, "`progressive_bits` must fall from stage to stage, got 4 4 3"),
        ({"progressive_bits": (8, 4)}, "`progressive_bits` must end with the smaller of weight_bits and input_bits, 3"),
        ({"progressive_bits": (8, 3), "epochs": 1}, "`epochs` must be at least one for each of the 2 stages, got 1"),
        (
            {"progressive_bits": (8, 3), "bit_choices": (2, 3), "size_budget": 3.0},
            "`progressive_bits` must be empty with `bit_choices`, got 8 3",
        ),
    ],
)
def test_options_that_make_no_sense_are_refused(fields, sentence):
    with pytest.raises(UserError, match=f"^{sentence}"):
        QuantizedConfig(**{"warmup_epochs": 0, **fields})


def test_lists_of_bits_survive_json_and_a_restart():
    config = TrainConfig(quantized=QuantizedConfig(progressive_bits=[8, 4, 3]))  # a list, as from JSON
    assert config.quantized.progressive_bits == (8, 4, 3)
    fields = json.loads(json.dumps(as_dict(config)))
    assert from_dict(fields) == config and differences(fields, as_dict(config)) == []


def test_the_options_reach_every_quantizer():
    model = find_network("resnet8").blank(3, 1, {})
    constants: dict = {
        "sharpness": 3.0,
        "sharpness_start": 0.0,
        "strength": 0.1,
        "strength_schedule": "cosine",
        "strength_power": 2.0,
        "tau": 0.2,
        "eta": 0.02,
        "weight_start": "max",
    }
    settings = QuantizedConfig(**constants)
    method = lq.methods.with_constants("lg_lsq", **constants)
    rules = quantization_rules(TrainConfig(quantized=settings), model)
    assert {spec.method for rule in rules for spec in (rule.weights, rule.inputs)} == {method}
    plain = quantization_rules(TrainConfig(), model)
    assert {spec.method for rule in plain for spec in (rule.weights, rule.inputs)} == {lq.methods.LG_LSQ}


def test_the_stream_has_its_bits_in_every_stage():
    model = find_network("resnet8").blank(3, 1, {})
    settings = QuantizedConfig(progressive_bits=(8, 2), weight_bits=2, input_bits=2, epochs=4, stream_bits=6)
    for stage in stages_of(TrainConfig(quantized=settings)):
        rules = quantization_rules(stage.config, model)
        assert {rule.values.bits for rule in rules if rule.values is not None} == {6}
    assert all(rule.values is None for rule in quantization_rules(TrainConfig(), model))


def test_a_stage_quantizes_the_network_that_the_one_before_was_made_of():
    """An Identity that has become a quantizer is one again, and the weights are those of the stage before."""
    settings = QuantizedConfig(progressive_bits=(8, 2), weight_bits=2, input_bits=2, epochs=4, stream_bits=6)
    first, second = stages_of(TrainConfig(quantized=settings))
    before = find_network("resnet8").blank(3, 1, {})
    model = quantize_model(before, quantization_rules(first.config, before))
    model.conv1.kernel[...] = model.conv1.kernel[...] + 1
    now = Network.of(model).as_before(Network.of(before)).model()
    again = quantize_model(now, quantization_rules(second.config, now))
    assert [path for path, _ in quantized_layers(again)] == [path for path, _ in quantized_layers(model)]
    assert (again.conv1.kernel[...] == model.conv1.kernel[...]).all()
    assert again.layer2[0].conv1.weights.bits == 2 and again.layer2[0].conv1.weight_scale[...] != 0


@pytest.mark.parametrize("how", ["mse", "lsq", "max"])
def test_calibration_starts_each_channel_as_the_config_says(how):
    """Convolutions and the last matrix; the search for the least error is that of each output channel alone."""
    model, random = find_network("resnet8").blank(3, 1, {}), np.random.default_rng(0)
    for _, layer in products(model):
        layer.kernel[...] = random.standard_t(3, layer.kernel.shape).astype(np.float32)
    config = TrainConfig(quantized=QuantizedConfig(per_channel=True, weight_start=how))
    model = lq.quantize_model(model, quantization_rules(config, model))
    lq.calibrate(model, [random.normal(size=(2, 8, 8, 1)).astype(np.float32)])
    for layer in (model.conv1, model.layer2[0].conv1, model.fc):
        kernel, scale = layer.kernel[...], np.asarray(layer.weight_scale[...])
        assert scale.shape == kernel.shape[-1:]
        alone = [lq.init_scale(jnp.asarray(kernel[..., c]), lq.QuantSpec(layer.weights.bits), how) for c in range(3)]
        np.testing.assert_allclose(scale[:3], alone, rtol=1e-5)


def test_stages_share_the_epochs_and_end_at_the_network_that_was_asked_for():
    settings = QuantizedConfig(epochs=8, warmup_epochs=2.5, weight_bits=2, input_bits=4, progressive_bits=(8, 3, 2))
    config = TrainConfig(quantized=settings)
    stages = stages_of(config)
    assert [stage.name for stage in stages] == ["quantized-w8a8", "quantized-w3a4", "quantized"]
    found = [stage.config.quantized for stage in stages]
    assert [(each.weight_bits, each.input_bits) for each in found] == [(8, 8), (3, 4), (2, 4)]
    assert [each.epochs for each in found] == [2, 3, 3] and [each.warmup_epochs for each in found] == [2, 2.5, 2.5]
    assert [stage.name for stage in stages_of(TrainConfig())] == ["quantized"]
    assert stages_of(TrainConfig())[0].config == TrainConfig()


def test_bits_are_described_in_words():
    assert describe_bits(QuantizedConfig()) == "3-bit weights, 3-bit inputs"
    assert describe_bits(QuantizedConfig(progressive_bits=(8, 3))).endswith("inputs, in stages of 8, 3")
    size = QuantizedConfig(bit_choices=(4, 2), size_budget=3)
    assert describe_bits(size) == "weights of 2, 4 bits by layer, at most 3 on average, 3-bit inputs"
    assert "weights x inputs at most 9 a" in describe_bits(QuantizedConfig(bit_choices=(2, 4), compute_budget=9.0))
