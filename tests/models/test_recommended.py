"""The recommended rules: the caller's quantizers inside, 8 bits at both ends, and nothing for a network unknown."""

import re

import jax
import numpy as np
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st

from lglsq_jax import methods, models
from lglsq_jax.convert import Rule, quantize_model
from lglsq_jax.identity import Identity
from lglsq_jax.paths import places, quantized_layers
from lglsq_jax.spec import QuantSpec

from .test_mobile import filled

BUILDERS = [models.resnet8, models.resnet20, models.resnet18, models.resnet50]
OUTLINES = [nnx.eval_shape(lambda build=build: build(rngs=nnx.Rngs(0))) for build in BUILDERS]

some_method = st.sampled_from([methods.LG_LSQ, methods.LSQ, methods.EWGS])
some_weights = st.builds(
    QuantSpec,
    bits=st.integers(2, 8),
    channel_axis=st.sampled_from([None, -1, 3]),
    narrow_range=st.booleans(),
    method=some_method,
)
some_inputs = st.builds(
    QuantSpec, bits=st.integers(2, 8), signed=st.booleans(), batch_axis=st.just(0), method=some_method
)


def last_match(rules: list[Rule], path: str) -> Rule:
    return [rule for rule in rules if re.fullmatch(rule.pattern, path)][-1]


def layer_paths(model: nnx.Module) -> list[str]:
    kinds = (nnx.Conv, nnx.Linear)
    return ["/".join(map(str, path)) for path, module in nnx.iter_modules(model) if isinstance(module, kinds)]


@given(st.sampled_from(OUTLINES), some_weights, some_inputs)
def test_inner_layers_get_what_was_asked_for_and_the_ends_get_8_bits(model, weights, inputs):
    rules = models.recommended_rules(model, weights=weights, inputs=inputs)
    for path in layer_paths(model):
        rule = last_match(rules, path)
        assert rule.weights is not None and rule.inputs is not None
        assert (rule.weights.method, rule.inputs.method) == (weights.method, inputs.method)
        if path not in ("conv1", "fc"):
            assert (rule.weights, rule.inputs) == (weights, inputs)
            continue
        assert (rule.weights.bits, rule.weights.signed) == (8, True)
        assert (rule.inputs.bits, rule.inputs.signed, rule.inputs.batch_axis) == (8, path == "conv1", 0)


@pytest.mark.parametrize(("axis", "expected"), [(None, None), (-1, -1), (3, 1)])
def test_channels_stay_channels_in_the_matrix_of_the_last_layer(axis, expected):
    weights = QuantSpec(bits=4, channel_axis=axis)
    rules = models.recommended_rules(OUTLINES[0], weights=weights)
    assert last_match(rules, "fc").weights.channel_axis == expected
    assert last_match(rules, "conv1").weights.channel_axis == axis


@pytest.mark.parametrize(
    ("build", "ends"),
    [
        (models.mobilenet_v2, ("features/0/0", "classifier/1")),
        (models.shufflenet_v2, ("conv1/0", "fc")),
        (models.ds_cnn, ("conv1", "fc")),
    ],
)
def test_mobile_networks_have_channel_scales_where_depthwise_and_signed_inputs_where_nothing_clips_at_zero(build, ends):
    model = nnx.eval_shape(lambda: build(in_channels=3, rngs=nnx.Rngs(0)))
    weights, inputs = QuantSpec(bits=4), QuantSpec(bits=4, signed=False, batch_axis=0)
    rules = models.recommended_rules(model, weights=weights, inputs=inputs)
    modules = {"/".join(map(str, path)): module for path, module in nnx.iter_modules(model)}
    signed = set()
    for path in layer_paths(model):
        rule = last_match(rules, path)
        if path in ends:
            assert (rule.weights.bits, rule.inputs.bits, rule.inputs.signed) == (8, 8, path == ends[0])
            continue
        depthwise = modules[path].feature_group_count > 1
        assert rule.weights == (QuantSpec(bits=4, channel_axis=-1) if depthwise else weights)
        assert rule.inputs.bits == 4
        signed |= {path} if rule.inputs.signed else set()
    assert signed == inputs_below_zero(build, in_channels=3) - {ends[0]}


def inputs_below_zero(build, kind: type = nnx.Conv, **arguments) -> set[str]:
    """The layers of a kind whose inputs really go below zero, seen in a forward pass."""
    graph, state = nnx.split(filled(build, num_classes=3, **arguments))
    images = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype(np.float32)

    @jax.jit
    def smallest_inputs(state, images):
        model = nnx.merge(graph, state)
        names = {id(module): "/".join(map(str, path)) for path, module in nnx.iter_modules(model)}
        seen, call = {}, kind.__call__

        def watched(self, x):
            seen[names[id(self)]] = x.min()
            return call(self, x)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(kind, "__call__", watched)
            model(images)
        return seen

    return {path for path, smallest in smallest_inputs(state, images).items() if smallest < 0}


def test_no_quantizer_stays_no_quantizer():
    weights = QuantSpec(bits=4)
    assert all(rule.inputs is None for rule in models.recommended_rules(OUTLINES[0], weights=weights))
    assert all(rule.weights is None for rule in models.recommended_rules(OUTLINES[0], inputs=weights))


def test_narrow_signed_inputs_become_a_valid_unsigned_end():
    inputs = QuantSpec(bits=4, signed=True, narrow_range=True, batch_axis=0)
    last = last_match(models.recommended_rules(OUTLINES[0], inputs=inputs), "fc").inputs
    assert (last.signed, last.narrow_range) == (False, False)


@pytest.mark.parametrize("build", [models.resnet8, models.mobilenet_v2])
def test_a_stream_is_quantized_at_every_place_and_signed_where_it_goes_below_zero(build):
    model = nnx.eval_shape(lambda: build(rngs=nnx.Rngs(0)))
    rules = models.recommended_rules(model, stream=QuantSpec(8, signed=False, batch_axis=0))
    quantized = quantized_layers(quantize_model(model, rules))
    assert [path for path, _ in quantized] == [path for path, _ in places(model)]
    assert all(layer.inputs.bits == 8 for _, layer in quantized)
    below_zero = {path for path, layer in quantized if layer.inputs.signed}
    assert below_zero == inputs_below_zero(build, Identity, in_channels=3)
    sums = [path for path, module in nnx.iter_modules(model) if getattr(module, "downsample", None) is not None]
    ends = {path.rpartition("/")[2] for path, _ in places(model)}
    assert ends == ({"stem", "branch", "out", "2"} if sums else {"branch", "out"})


def test_a_class_of_its_own_has_the_stream_of_the_network_it_is():
    class Mine(models.MobileNetV2):
        pass

    model = nnx.eval_shape(lambda: Mine(num_classes=3, rngs=nnx.Rngs(0)))
    (rule,) = models.recommended_rules(model, stream=QuantSpec(8, batch_axis=0))[-1:]
    assert rule.values is not None and rule.values.signed


@pytest.mark.parametrize(("build", "name"), [(models.shufflenet_v2, "ShuffleNetV2"), (models.ds_cnn, "DSCNN")])
def test_a_stream_that_is_not_there_is_refused(build, name):
    stream = QuantSpec(8, batch_axis=0)
    message = f"`stream` must be None for {name}, which has no residual additions"
    with pytest.raises(ValueError, match=message):
        models.recommended_rules(nnx.eval_shape(lambda: build(rngs=nnx.Rngs(0))), stream=stream)


def test_a_model_with_rules_of_its_own_says_where_its_stream_is():
    model = nnx.Linear(2, 2, rngs=nnx.Rngs(0))
    model.quantization_rules = lambda weights, inputs: []
    with pytest.raises(ValueError, match="`stream` must be None for Linear, which has quantization_rules of its own"):
        models.recommended_rules(model, stream=QuantSpec(8, batch_axis=0))


def test_a_network_without_rules_is_refused():
    with pytest.raises(
        TypeError, match=r"`model` must be one of .*\(ResNet, MobileNetV2, ShuffleNetV2, DSCNN\), got Linear"
    ):
        models.recommended_rules(nnx.eval_shape(lambda: nnx.Linear(2, 2, rngs=nnx.Rngs(0))))


def test_a_stream_without_a_shortcut_convolution_has_a_rule_for_what_there_is():
    model = nnx.eval_shape(
        lambda: models.ResNet(
            models.BasicBlock, (1,), (4,), stem_kernel=3, stem_stride=1, stem_pool=False, num_classes=2, in_channels=1,
            rngs=nnx.Rngs(0),
        )
    )  # fmt: skip
    rules = models.recommended_rules(model, stream=QuantSpec(8, batch_axis=0))
    assert [path for path, _ in quantized_layers(quantize_model(model, rules))] == [path for path, _ in places(model)]
