"""Configs go to JSON and back, and every field is checked where it enters."""

import dataclasses
import json
import re

import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st

from lglsq_jax.errors import UserError
from lglsq_jax.training import ModelConfig, PhaseConfig, QuantizedConfig, TrainConfig
from lglsq_jax.training.config import as_dict, differences, from_dict
from lglsq_jax.training.networks import NETWORKS


@given(
    st.integers(2, 8), st.integers(1, 500), st.floats(1e-6, 10), st.integers(0, 2**32 - 1), st.sampled_from([None, 0.3])
)
def test_a_config_survives_json(bits, epochs, rate, seed, scale_rate):
    quantized = QuantizedConfig(
        weight_bits=bits, epochs=epochs, learning_rate=rate, scale_learning_rate=scale_rate, warmup_epochs=0.5,
        learning_rates=(("fc/.*", rate), (r"layer1/\d+/.*", 2.0)),
    )  # fmt: skip
    config = TrainConfig(quantized=quantized, seed=seed)
    assert from_dict(json.loads(json.dumps(as_dict(config)))) == config
    assert differences(as_dict(config), as_dict(config)) == []


def test_differences_name_the_fields():
    old, new = TrainConfig(), TrainConfig(seed=1, quantized=QuantizedConfig(input_bits=2))
    assert differences(as_dict(old), as_dict(new)) == ["quantized.input_bits (3, now 2)", "seed (0, now 1)"]


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        (PhaseConfig, "epochs", 0),
        (PhaseConfig, "epochs", 1.5),
        (PhaseConfig, "learning_rate", 0),
        (PhaseConfig, "learning_rate", float("nan")),
        (PhaseConfig, "momentum", 1.0),
        (PhaseConfig, "warmup_epochs", 21.0),
        (PhaseConfig, "weight_decay", -1e-4),
        (PhaseConfig, "label_smoothing", 1.0),
        (QuantizedConfig, "weight_bits", 1),
        (QuantizedConfig, "input_bits", 9),
        (QuantizedConfig, "method", "nothing"),
        (QuantizedConfig, "method", "lsq+asr+asr"),
        (QuantizedConfig, "scale_start_factor", 0),
        (QuantizedConfig, "distillation", 1.1),
        (QuantizedConfig, "scale_floor", 0.0),
        (QuantizedConfig, "ema_decay", 1.0),
        (QuantizedConfig, "batch_norm_batches", -1),
        (QuantizedConfig, "dampening", -0.1),
        (QuantizedConfig, "freeze_threshold", 1.5),
        (QuantizedConfig, "freeze_threshold_start", 0.0),
        (QuantizedConfig, "oscillation_momentum", 0.0),
        (QuantizedConfig, "track_oscillations", 1),
        (QuantizedConfig, "learning_rates", "fc"),
        (QuantizedConfig, "learning_rates", (("fc", 0.1, 2),)),
        (QuantizedConfig, "learning_rates", (("(", 0.1),)),
        (QuantizedConfig, "learning_rates", ((3, 0.1),)),
        (QuantizedConfig, "learning_rates", (("fc", -1),)),
        (ModelConfig, "name", "vgg"),
        (ModelConfig, "stem_stride", 0),
        (TrainConfig, "seed", -1),
    ],
)
def test_a_field_out_of_range_is_refused_by_name(kind, field, value):
    with pytest.raises(UserError, match=f"`{field}` must (be|add)"):
        kind(**{field: value})


def test_an_option_that_a_network_lacks_is_refused():
    with pytest.raises(UserError, match=r"^`stem_stride` must be None for resnet18, which takes no option; got 2$"):
        ModelConfig("resnet18", stem_stride=2)
    with pytest.raises(UserError, match=r"^`width` must be None for resnet20, which takes stem_stride; got 0.5$"):
        ModelConfig("resnet20", width=0.5)
    with pytest.raises(UserError, match=r"^`dropout` must be None for ds_cnn, which takes stem_stride; got 0.2$"):
        ModelConfig("ds_cnn", dropout=0.2)
    with pytest.raises(UserError, match=r"^`width` must be one of 0.5, 1, 1.5, 2 for shufflenet_v2, got 0.7$"):
        ModelConfig("shufflenet_v2", width=0.7)


def test_every_network_is_built_with_every_option_it_takes():
    values = {"stem_stride": 1, "stem_pool": False, "width": 0.5, "dropout": 0.1}
    for name, network in NETWORKS.items():
        config = ModelConfig(name, **{option: values[option] for option in network.options})
        model = network.blank(3, 1, config.options)
        found = dict(nnx.iter_modules(model))
        layers = {"/".join(map(str, path)): module for path, module in found.items()}
        assert isinstance(layers[network.first], nnx.Conv) and layers[network.first].in_features == 1
        assert isinstance(layers[network.last], nnx.Linear) and layers[network.last].out_features == 3


@pytest.mark.parametrize("change", [{"colour": 1}, {"seed": None}, {"quantized": {"colour": 1}}, {"data": 3}])
def test_a_damaged_dictionary_is_refused(change):
    fields = {**dataclasses.asdict(TrainConfig()), **change}
    with pytest.raises(UserError):
        from_dict(fields)


def test_a_field_that_an_older_run_did_not_have_takes_its_default():
    config = TrainConfig(seed=3, quantized=QuantizedConfig(weight_bits=2))
    fields = as_dict(config)
    del fields["mesh"], fields["accumulate"], fields["quantized"]["learning_rates"], fields["data"]["flip"]
    assert from_dict(fields) == config


def test_codes_of_transformed_weights_are_not_frozen():
    with pytest.raises(UserError, match=r"^`freeze_threshold` must be 0 for dorefa"):
        QuantizedConfig(method="dorefa+asr", freeze_threshold=0.01)


@pytest.mark.parametrize("method", ["dorefa", "pact", "pact+asr"])
@pytest.mark.parametrize(
    "field",
    [{"freeze_threshold": 0.02}, {"bit_choices": (2, 4), "size_budget": 3.0}, {"progressive_bits": (8, 3)}],
    ids=lambda field: next(iter(field)),
)
def test_what_judges_weights_as_they_are_is_refused_where_a_function_of_them_is_rounded(method, field):
    QuantizedConfig(method="lsq", **field)
    with pytest.raises(
        UserError, match=f"`{next(iter(field))}` must be (0|empty) for {re.escape(method)}, which rounds"
    ):
        QuantizedConfig(method=method, **field)
