"""Bits by layer: the divergence of one layer's rounding, multiply-adds, and the best choice against brute force."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import example, given, settings
from hypothesis import strategies as st

import lglsq_jax as lq
from lglsq_jax.bit_allocation import with_bits
from tests.test_inspection import INPUTS, WEIGHTS, Small
from tests.test_layer_sensitivity import COUNT, SHAPE, model_of, samples


def logits(model, quantized: set[str]) -> np.ndarray:
    """With the quantizers of all other layers taken out, in float64."""
    copy = nnx.merge(*nnx.split(model), copy=True)
    for path in ("stem", "body", "fc"):
        layer = getattr(copy, path)
        if path not in quantized:
            layer.kernel[...] = layer.quantizer_kernel
            layer.weights = layer.inputs = layer.weight_scale = layer.input_scale = layer.input_offset = None
    copy.eval()
    return np.asarray(nnx.jit(lambda model, x: model(x))(copy, jnp.asarray(samples()[0])), np.float64)


def softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


@pytest.mark.parametrize("method", ["lg_lsq", "lsq_plus", "dorefa"])
def test_the_divergence_is_that_of_one_layer_alone_in_float64(method):
    model, images = model_of(method), samples()[0]
    before = jax.tree.map(np.asarray, nnx.state(model))
    found = lq.layer_divergence(model, [images[:16], images[16:32], images[32:]])
    p = softmax(logits(model, set()))
    assert list(found) == ["body", "fc", "stem"]
    for path, value in found.items():
        q = softmax(logits(model, {path}))
        assert value == pytest.approx((p * np.log(p / q)).sum() / COUNT, rel=1e-3, abs=1e-7) and value > 0
    jax.tree.map(np.testing.assert_array_equal, before, jax.tree.map(np.asarray, nnx.state(model)))


def test_multiply_adds_are_counted_by_hand():
    model = model_of()
    height, width, channels = SHAPE
    found = lq.multiply_adds(model, np.zeros((3, *SHAPE), np.float32))
    by_hand = {path: layer.kernel.size * (1 if path == "fc" else height * width)
               for path, layer in (("stem", model.stem), ("body", model.body), ("fc", model.fc))}  # fmt: skip
    assert found == by_hand and model.stem.kernel.shape[2] == channels
    strided = nnx.Sequential(
        lq.QuantConv(2, 4, (3, 3), strides=2, padding="VALID", feature_group_count=2, weights=WEIGHTS, inputs=INPUTS,
                     rngs=nnx.Rngs(0))
    )  # fmt: skip
    assert lq.multiply_adds(strided, np.zeros((1, 7, 9, 2))) == {"layers/0": 3 * 4 * 3 * 3 * 1 * 4}


@st.composite
def tables(draw):
    layers, choices = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    names, bits = [f"layer{n}" for n in range(layers)], range(2, 2 + choices)
    spread = draw(st.sampled_from([1.0, 6.0]))
    sensitivities = {name: {b: float(10 ** (-spread * rng.random())) for b in bits} for name in names}
    sizes = {name: int(rng.integers(1, 10 ** draw(st.integers(1, 7)))) for name in names}
    costs = {name: {b: b * sizes[name] for b in bits} for name in names}
    totals = [sum(c) for c in itertools.product(*(list(costs[name].values()) for name in names))]
    return sensitivities, costs, draw(st.sampled_from([min(totals), *totals])) * draw(st.sampled_from([1, 1.01]))


NINE_IN_FIFTEEN_MILLION = (
    {"small": {2: 0.24, 3: 0.13}, "large": {2: 0.5, 3: 0.13}},
    {"small": {2: 18, 3: 27}, "large": {2: 9995736, 3: 14993604}},
    14993622,  # small 3 and large 3 are above it by less than a millionth
)


@given(tables())
@example(NINE_IN_FIFTEEN_MILLION)
@settings(max_examples=60)
def test_the_choice_is_the_best_of_all_within_the_budget(case):
    sensitivities, costs, budget = case
    found = lq.allocate_bits(sensitivities, costs, budget)
    names = list(sensitivities)
    assert list(found) == names
    assert sum(costs[name][found[name]] for name in names) <= budget * (1 + 1e-9)
    best = math.inf
    for choice in itertools.product(*(sensitivities[name] for name in names)):
        if sum(costs[name][b] for name, b in zip(names, choice, strict=True)) <= budget:
            best = min(best, sum(sensitivities[name][b] for name, b in zip(names, choice, strict=True)))
    total = sum(sensitivities[name][b] for name, b in found.items())
    assert total <= best + 1e-8 * max(max(row.values()) for row in sensitivities.values())
    assert lq.allocate_bits(sensitivities, costs, budget) == found


def test_a_network_of_a_hundred_layers_is_solved_within_its_budget():
    rng = np.random.default_rng(0)
    sizes = {f"layer{n}": int(rng.integers(1, 10**6)) for n in range(100)}
    harm = {name: rng.random() for name in sizes}
    sensitivities = {name: {b: harm[name] * 4.0**-b for b in range(2, 9)} for name in sizes}
    costs = {name: {b: b * size for b in range(2, 9)} for name, size in sizes.items()}
    budget = 3 * sum(sizes.values())
    found = lq.allocate_bits(sensitivities, costs, budget)
    spent = sum(found[name] * size for name, size in sizes.items())
    assert 0.999 * budget < spent <= budget
    uniform = sum(row[3] for row in sensitivities.values())
    assert sum(sensitivities[name][b] for name, b in found.items()) < 0.9 * uniform


@pytest.mark.parametrize(
    ("sensitivities", "costs", "budget", "sentence"),
    [
        ({}, {}, 1.0, "`costs` must be of the same layers as `sensitivities`, at least one"),
        ({"a": {2: 1.0}}, {"b": {2: 1}}, 9.0, "`costs` must be of the same layers"),
        ({"a": {2: 1.0}}, {"a": {3: 1}}, 9.0, "`costs` must have the same choices as `sensitivities` for 'a'"),
        ({"a": {2: math.nan}}, {"a": {2: 1}}, 9.0, "`sensitivities` must be finite, got nan for 2 in 'a'"),
        ({"a": {2: 1.0}}, {"a": {2: -1}}, 9.0, "`costs` must be finite and at least 0, got -1 for 2 in 'a'"),
        ({"a": {2: 1.0}}, {"a": {2: 10}}, 9.0, "`budget` must be at least what the cheapest choices cost, 10, got 9"),
        ({"a": {2: 1.0}}, {"a": {2: 1}}, math.inf, "`budget` must be finite, got inf"),
    ],
)
def test_tables_that_make_no_sense_are_refused(sensitivities, costs, budget, sentence):
    with pytest.raises(ValueError, match=f"^{sentence}"):
        lq.allocate_bits(sensitivities, costs, budget)


def test_free_choices_fit_a_budget_of_nothing():
    assert lq.allocate_bits({"a": {2: 3.0, 4: 1.0, 8: 0.0}}, {"a": {2: 0, 4: 0, 8: 1}}, 0.0) == {"a": 4}


def test_rules_with_other_bits_keep_everything_else():
    rules = [lq.Rule(".*", weights=WEIGHTS, inputs=INPUTS), lq.Rule("stem", weights=WEIGHTS)]
    model = Small(nnx.Rngs(0))
    changed = lq.quantize_model(model, with_bits(model, rules, {"body": (5, 7)}))
    assert (changed.body.weights.bits, changed.body.inputs.bits) == (5, 7)
    plain = lq.quantize_model(model, rules)
    assert changed.stem.weights == plain.stem.weights and changed.body.inputs.signed == plain.body.inputs.signed
    for path in ("stem", "nothing"):  # a float input; no layer
        with pytest.raises(ValueError, match=f"^`bits` must name layers that the rules quantize, got '{path}'"):
            with_bits(model, rules, {path: (2, 2)})


def test_a_model_that_cannot_be_measured_is_refused():
    with pytest.raises(ValueError, match="no quantized layer: call quantize_model"):
        lq.layer_divergence(Small(nnx.Rngs(0)), [samples()[0]])
    with pytest.raises(ValueError, match="at least one sample, got none"):
        lq.layer_divergence(model_of(), [])


def test_multiply_adds_of_a_batch_by_vmap_are_those_of_one_sample():
    class Mapped(nnx.Module):
        def __init__(self):
            self.conv = nnx.Conv(1, 3, (1, 1), rngs=nnx.Rngs(0))
            self.fc = nnx.Linear(3, 2, rngs=nnx.Rngs(0))

        def __call__(self, x):
            return jax.vmap(lambda x: self.fc(self.conv(x)))(x)

    model = lq.quantize_model(Mapped(), [lq.Rule(".*", weights=WEIGHTS, inputs=INPUTS)])
    assert lq.multiply_adds(model, np.ones((4, 5, 7, 1), np.float32)) == {"conv": 5 * 7 * 3, "fc": 5 * 7 * 6}


def test_a_class_that_is_masked_out_counts_nothing():
    class Masked(nnx.Module):
        def __init__(self):
            self.fc = nnx.Linear(4, 3, rngs=nnx.Rngs(0))

        def __call__(self, x):
            return jnp.where(jnp.arange(3) == 1, -jnp.inf, self.fc(x))

    model = lq.quantize_model(Masked(), [lq.Rule(".*", weights=lq.QuantSpec(2), inputs=lq.QuantSpec(2))])
    x = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
    lq.calibrate(model, [x])
    assert 0 < lq.layer_divergence(model, [x])["fc"] < 10
