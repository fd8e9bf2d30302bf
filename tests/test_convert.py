"""quantize_model, calibrate and set_progress on models of every make."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

import lglsq_jax as lq
from lglsq_jax.paths import quantized_layers

WEIGHTS = lq.QuantSpec(4, channel_axis=-1)
INPUTS = lq.QuantSpec(4, batch_axis=0)
UNSIGNED = lq.QuantSpec(4, signed=False, batch_axis=0)
EVERYTHING = [lq.Rule(".*", weights=WEIGHTS, inputs=INPUTS)]


class Block(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Linear(4, 4, rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.rest = nnx.List([nnx.Linear(4, 4, rngs=rngs), nnx.Linear(4, 4, use_bias=False, rngs=rngs)])

    def __call__(self, x):
        x = nnx.relu(self.norm(self.first(x)))
        for layer in self.rest:
            x = layer(x)
        return x


class Nested(nnx.Module):
    """Attributes, lists, dicts and a Sequential inside each other, and a layer that is used twice."""

    def __init__(self, rngs):
        self.stem = nnx.Conv(2, 4, (2, 2), rngs=rngs)
        self.blocks = nnx.List([Block(rngs), Block(rngs)])
        self.heads = nnx.Dict(main=nnx.Sequential(nnx.Linear(4, 4, rngs=rngs), nnx.relu, nnx.Linear(4, 3, rngs=rngs)))
        self.shared = nnx.Linear(4, 4, rngs=rngs)
        self.alias = self.shared

    def __call__(self, x):
        x = self.stem(x).mean(axis=(1, 2))
        for block in self.blocks:
            x = block(x)
        return self.heads["main"](self.alias(self.shared(x)))


PATHS = [
    "alias",
    "blocks/0/first",
    "blocks/0/rest/0",
    "blocks/0/rest/1",
    "blocks/1/first",
    "blocks/1/rest/0",
    "blocks/1/rest/1",
    "heads/main/layers/0",
    "heads/main/layers/2",
    "stem",
]


def nested():
    return Nested(nnx.Rngs(0))


def images(count=6, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(count, 3, 3, 2)), jnp.float32)


def quantized_paths(model):
    return [row.path for row in lq.plan(model).rows if row.weights is not None or row.inputs is not None]


@pytest.fixture(scope="module")
def calibrated():
    model = lq.quantize_model(nested(), EVERYTHING)
    lq.calibrate(model, [images(), images(seed=1)])
    model.eval()
    return model


def test_every_layer_of_a_nested_model_is_found_once():
    model = lq.quantize_model(nested(), EVERYTHING)
    assert quantized_paths(model) == PATHS
    assert isinstance(model.blocks[1].rest[0], lq.QuantLinear) and isinstance(model.stem, lq.QuantConv)
    assert isinstance(model.blocks[0].norm, nnx.BatchNorm)


def test_a_shared_layer_stays_shared():
    model = lq.quantize_model(nested(), EVERYTHING)
    assert model.shared is model.alias and isinstance(model.shared, lq.QuantLinear)


def test_the_last_match_wins_and_the_pattern_covers_the_whole_path():
    eight, two = lq.QuantSpec(8), lq.QuantSpec(2)
    rules = [
        lq.Rule(".*", weights=WEIGHTS, inputs=INPUTS),
        lq.Rule(r"blocks/\d/.*", weights=two),
        lq.Rule("stem", weights=eight),
        lq.Rule(r"blocks/1/first"),
    ]
    rows = {row.path: row for row in lq.plan(lq.quantize_model(nested(), rules)).rows}
    assert (rows["alias"].weights, rows["alias"].inputs) == (WEIGHTS, INPUTS)
    assert (rows["blocks/0/first"].weights, rows["blocks/0/first"].inputs) == (two, None)
    assert rows["stem"].weights == eight
    assert (rows["blocks/1/first"].weights, rows["blocks/1/first"].kind) == (None, "Linear")
    only = lq.quantize_model(nested(), [lq.Rule("blocks/0/rest/1", weights=two)])
    assert quantized_paths(only) == ["blocks/0/rest/1"]


class Branches(nnx.Module):
    """Places for quantizers, a quantizer of the user's own, and a layer, whose path a place has in common."""

    def __init__(self, rngs):
        self.inner = nnx.Linear(4, 4, rngs=rngs)
        self.branch, self.out = lq.Identity(), nnx.List([lq.Identity()])
        self.own = lq.Quantizer(INPUTS)

    def __call__(self, x):
        return self.out[0](self.own(x) + self.branch(self.inner(x)))


def paths_of(model) -> list[str]:
    return [path for path, _ in quantized_layers(model)]


def test_values_of_a_rule_go_to_places_and_nothing_else_does():
    model, eight = Branches(nnx.Rngs(0)), lq.QuantSpec(8, batch_axis=0)
    layers = lq.quantize_model(model, EVERYTHING)
    assert paths_of(layers) == ["inner", "own"] and type(layers.branch) is lq.Identity
    rules = [*EVERYTHING, lq.Rule(".*", values=INPUTS), lq.Rule("out/0", values=eight)]
    every = lq.quantize_model(model, rules)
    assert paths_of(every) == ["branch", "inner", "out/0", "own"]
    assert every.branch.inputs == INPUTS and every.out[0].inputs == eight and every.inner.inputs == INPUTS
    x = jnp.asarray(np.random.default_rng(0).normal(size=(6, 4)), jnp.float32)
    lq.calibrate(every, [x])
    step = float(every.out[0].input_scale[...])
    np.testing.assert_allclose(every(x) / step, np.rint(every(x) / step), atol=1e-4)
    assert type(model.branch) is lq.Identity
    np.testing.assert_array_equal(model.branch(x), x)


def test_values_that_have_no_place_are_one_sentence():
    with pytest.raises(
        ValueError, match=r"^rule 'inner' matches no `Identity` for its `values`; .*: 'branch', 'out/0'$"
    ):
        lq.quantize_model(Branches(nnx.Rngs(0)), [lq.Rule("inner", values=INPUTS)])


def test_a_rule_that_matches_nothing_lists_the_paths():
    with pytest.raises(ValueError) as caught:
        lq.quantize_model(nested(), [*EVERYTHING, lq.Rule("block/0", weights=WEIGHTS)])
    assert str(caught.value) == (
        "rule 'block/0' matches no convolution or linear layer; their paths are: " + ", ".join(map(repr, PATHS))
    )


@pytest.mark.parametrize(
    ("make", "error", "sentence"),
    [
        (lambda: lq.Rule("layer[1"), ValueError, r"`pattern` must be a regular expression, got 'layer\[1': "),
        (lambda: lq.Rule(".*", weights=4), TypeError, "`weights` must be a QuantSpec or None, got 4"),
        (lambda: lq.Rule(".*", inputs="w"), TypeError, "`inputs` must be a QuantSpec or None, got 'w'"),
        (lambda: lq.Rule(".*", inputs=INPUTS, values=INPUTS), ValueError, "`values` must stand in a rule of their own"),
        (lambda: lq.quantize_model(nested(), []), ValueError, "`rules` must hold at least one rule"),
        (lambda: lq.quantize_model(nnx.BatchNorm(3, rngs=nnx.Rngs(0)), EVERYTHING), ValueError, ".* paths are: none$"),
        (
            lambda: lq.quantize_model(nested(), [lq.Rule("stem", weights=lq.QuantSpec(4, channel_axis=0))]),
            ValueError,
            "`weights.channel_axis` must be None or the output axis",
        ),
    ],
)
def test_a_wrong_rule_is_one_sentence(make, error, sentence):
    with pytest.raises(error, match=f"^{sentence}"):
        make()


def test_a_layer_may_be_the_whole_model():
    layer = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    model = lq.quantize_model(layer, EVERYTHING)
    assert isinstance(model, lq.QuantLinear) and type(layer) is nnx.Linear
    np.testing.assert_array_equal(model.kernel[...], layer.kernel[...])


@pytest.mark.parametrize("padding", ["SAME", "CIRCULAR", ((1, 0), (0, 1))])
def test_every_argument_of_a_layer_is_kept(padding):
    arguments = {
        "strides": 2,
        "padding": padding,
        "kernel_dilation": (1, 2),
        "feature_group_count": 2,
        "use_bias": False,
        "dtype": jnp.bfloat16,
        "mask": jnp.tri(2)[:, :, None, None].repeat(4, 3),
    }
    layer = nnx.Conv(2, 4, (2, 2), rngs=nnx.Rngs(0), **arguments)
    model = lq.quantize_model(layer, [lq.Rule(".*", weights=lq.QuantSpec(8, channel_axis=-1))])
    lq.calibrate(model, [images()])
    expected, found = layer(images()), model(images())
    assert found.dtype == jnp.bfloat16 and found.shape == expected.shape
    np.testing.assert_allclose(np.float32(found), np.float32(expected), atol=0.05)


def test_the_original_is_not_touched_and_its_float_values_are_kept(calibrated):
    model = nested()
    before = jax.tree.map(np.asarray, nnx.state(model))
    quantized = lq.quantize_model(model, EVERYTHING)
    lq.calibrate(quantized, [images()])
    assert jax.tree.all(jax.tree.map(np.array_equal, before, jax.tree.map(np.asarray, nnx.state(model))))
    assert type(model.stem) is nnx.Conv
    for path in ("stem", "shared"):
        np.testing.assert_array_equal(getattr(quantized, path).kernel[...], getattr(model, path).kernel[...])
    quantized.stem.kernel[...] = quantized.stem.kernel[...] * 2
    assert jax.tree.all(jax.tree.map(np.array_equal, before, jax.tree.map(np.asarray, nnx.state(model))))


def test_a_quantized_model_can_be_quantized_again(calibrated):
    model = lq.quantize_model(calibrated, [lq.Rule("stem", weights=lq.QuantSpec(2))])
    rows = {row.path: row for row in lq.plan(model).rows}
    assert rows["stem"].weights == lq.QuantSpec(2) and rows["stem"].inputs is None and not rows["stem"].calibrated
    assert rows["alias"].calibrated


def test_calibration_is_deterministic_and_changes_scales_only():
    models = [lq.quantize_model(nested(), EVERYTHING) for _ in range(2)]
    others = nnx.All(nnx.Not(lq.Scale), nnx.Not(lq.Offset))
    before = jax.tree.map(np.asarray, nnx.state(models[0], others))
    for model in models:
        lq.calibrate(model, iter([images(), images(seed=1)]))
        lq.check_scales(model)
    states = [jax.tree.map(np.asarray, nnx.state(model)) for model in models]
    assert jax.tree.all(jax.tree.map(np.array_equal, *states))
    assert jax.tree.all(jax.tree.map(np.array_equal, before, jax.tree.map(np.asarray, nnx.state(models[0], others))))


@pytest.mark.parametrize("how", ["mse", "max", "lsq"])
def test_scales_are_those_of_the_float_networks_own_inputs(how):
    model = lq.quantize_model(nested(), EVERYTHING)
    batches = [images(), images(seed=1)]
    lq.calibrate(model, batches, how=how)
    stem = model.stem
    starts = [float(lq.init_scale(batch, INPUTS, how)) for batch in batches]
    np.testing.assert_allclose(stem.input_scale[...], (max if how == "max" else np.mean)(starts), rtol=1e-6)
    np.testing.assert_allclose(stem.weight_scale[...], lq.init_scale(stem.kernel[...], WEIGHTS, how), rtol=1e-6)
    plain = nested()
    plain.eval()
    second = [plain.blocks[0].first(plain.stem(batch).mean(axis=(1, 2))) for batch in batches]
    second = [nnx.relu(plain.blocks[0].norm(x)) for x in second]
    starts = [float(lq.init_scale(x, INPUTS, how)) for x in second]
    expected = (max if how == "max" else np.mean)(starts)
    np.testing.assert_allclose(model.blocks[0].rest[0].input_scale[...], expected, rtol=1e-4)


def test_methods_choose_their_own_starts_and_offsets():
    method = lq.methods.LSQ_PLUS
    layer = nnx.Linear(4, 3, rngs=nnx.Rngs(0))
    x = jnp.asarray(np.random.default_rng(0).uniform(2, 3, (8, 4)), jnp.float32)
    for signed, offset in ((False, float(x.min())), (True, float((x.min() + x.max()) / 2))):
        weights, inputs = lq.QuantSpec(4, method=method), lq.QuantSpec(4, signed=signed, batch_axis=0, method=method)
        model = lq.quantize_model(layer, [lq.Rule(".*", weights=weights, inputs=inputs)])
        lq.calibrate(model, [x])
        np.testing.assert_allclose(model.weight_scale[...], lq.init_scale(layer.kernel[...], weights, "sigma"))
        np.testing.assert_allclose(model.input_offset[...], offset, rtol=1e-6)
        np.testing.assert_allclose(model.input_scale[...], 1 / 15, rtol=0.2)


class Unused(nnx.Module):
    def __init__(self, rngs):
        self.used, self.spare = nnx.Linear(2, 2, rngs=rngs), nnx.Linear(2, 2, rngs=rngs)

    def __call__(self, x):
        return self.used(x)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (
            lambda: lq.calibrate(lq.quantize_model(Unused(nnx.Rngs(0)), EVERYTHING), [jnp.ones((2, 2))]),
            "cannot calibrate layer 'spare': the model does not call it on these batches",
        ),
        (
            lambda: lq.calibrate(nested(), [images()]),
            "`model` has no quantized layer to calibrate: call quantize_model(model, rules) first",
        ),
        (
            lambda: lq.calibrate(lq.quantize_model(nested(), EVERYTHING), []),
            "`batches` must hold at least one batch to calibrate from, got none",
        ),
        (
            lambda: lq.calibrate(
                lq.quantize_model(nested(), EVERYTHING), [images(), images().at[0, 0, 0, 0].set(np.nan)]
            ),
            "batch 1 for calibration must be finite, got NaN or infinity in it",
        ),
        (
            lambda: lq.calibrate(lq.quantize_model(nested(), EVERYTHING), [images()], how="best"),
            "`how` must be one of mse, lsq, max, sigma, got 'best'",
        ),
    ],
)
def test_what_cannot_be_calibrated_is_one_sentence(call, sentence):
    with pytest.raises(ValueError) as caught:
        call()
    assert str(caught.value) == sentence


TRANSFORMED = {
    "jit": lambda f, x: jax.jit(f)(x),
    "checkpoint": lambda f, x: jax.checkpoint(f)(x),
    "branch": lambda f, x: lax.cond(x.sum() < jnp.inf, f, lambda x: x, x),
    "scan": lambda f, x: lax.scan(lambda x, _: (f(x), None), x, None, length=2)[0],
    "loop": lambda f, x: lax.fori_loop(0, 2, lambda _, x: f(x), x),
}


class Transformed(nnx.Module):
    """A layer that is called inside a transformation, twice where it is a loop."""

    def __init__(self, how, rngs):
        self.first, self.second = nnx.Linear(4, 4, rngs=rngs), nnx.Linear(4, 4, rngs=rngs)
        self.how = how

    def __call__(self, x):
        def block(module, x):
            return jnp.tanh(module(x))

        x = self.first(x)
        if self.how == "nnx.jit":
            return nnx.jit(block)(self.second, x)
        if self.how == "nnx.remat":
            return nnx.remat(block)(self.second, x)
        if self.how == "nnx.scan":
            turn = nnx.scan(lambda x, module: block(module, x), in_axes=(nnx.Carry, None), out_axes=nnx.Carry, length=2)
            return turn(x, self.second)
        if self.how.startswith("plain"):
            for _ in range(2 if self.how == "plain twice" else 1):
                x = block(self.second, x)
            return x
        return TRANSFORMED[self.how](lambda x: block(self.second, x), x)


@pytest.mark.parametrize("how", [*TRANSFORMED, "nnx.jit", "nnx.remat", "nnx.scan"])
def test_layers_inside_a_transformation_are_calibrated_as_outside(how):
    plain = "plain twice" if how in ("scan", "loop", "nnx.scan") else "plain"
    one, other = (lq.quantize_model(Transformed(kind, nnx.Rngs(0)), EVERYTHING) for kind in (how, plain))
    batches = [jnp.asarray(np.random.default_rng(seed).normal(size=(8, 4)), jnp.float32) for seed in (0, 1)]
    for model in (one, other):
        lq.calibrate(model, batches)
        model.eval()
    found, expected = (nnx.to_pure_dict(nnx.state(model)) for model in (one, other))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), found, expected)
    statistics = [lq.layer_statistics(model, batches[0]) for model in (one, other)]
    assert statistics[0].keys() == {"first", "second"}
    assert statistics[0]["second"] == pytest.approx(statistics[1]["second"], abs=0.02)


def test_a_model_that_holds_a_list_or_a_dict_is_calibrated_and_looked_at_as_any():
    """Its definition has no hash, which a static argument of ``jit`` needs."""

    class Listing(nnx.Module):
        def __init__(self):
            self.sizes, self.names = [4, 3], {"first": 4}
            self.fc = nnx.Linear(*self.sizes, rngs=nnx.Rngs(0))

        def __call__(self, x):
            return self.fc(x)

    x = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    four = lq.QuantSpec(4, batch_axis=0)
    listing, plain = (
        lq.quantize_model(model, [lq.Rule(".*", weights=lq.QuantSpec(4), inputs=four)])
        for model in (Listing(), nnx.Linear(4, 3, rngs=nnx.Rngs(0)))
    )
    for model in (listing, plain):
        lq.calibrate(model, [x])
    assert lq.layer_statistics(listing, [x])["fc"] == lq.layer_statistics(plain, [x])[""]


def test_weights_alone_need_no_layer_to_be_reached():
    model = lq.quantize_model(Unused(nnx.Rngs(0)), [lq.Rule(".*", weights=WEIGHTS)])
    lq.calibrate(model, [jnp.ones((2, 2))])
    lq.check_scales(model)


def test_negative_inputs_of_an_unsigned_quantizer_are_warned_about():
    model = lq.quantize_model(nested(), [lq.Rule("stem", inputs=UNSIGNED)])
    with pytest.warns(
        UserWarning, match=r"^\d+ % of the inputs of layer 'stem' are negative and its unsigned quantizer"
    ):
        lq.calibrate(model, [images()])
    rectified = lq.quantize_model(nested(), [lq.Rule("blocks/0/rest/0", inputs=UNSIGNED)])
    lq.calibrate(rectified, [images()])


def test_progress_reaches_every_layer_without_compiling_again():
    model, traces = lq.quantize_model(nested(), EVERYTHING), []

    @nnx.jit
    def step(model, fraction):
        traces.append(1)
        lq.set_progress(model, fraction)

    for fraction in (0.0, 0.3, 1.0):
        step(model, fraction)
        values = nnx.state(model, lq.Progress)
        assert {float(leaf) for leaf in jax.tree.leaves(values)} == {float(np.float32(fraction))}
    assert len(traces) == 1
    assert len(jax.tree.leaves(values)) == len(PATHS)


def test_a_last_rule_without_quantizers_leaves_a_layer_in_float_again(calibrated):
    model = lq.quantize_model(calibrated, [*EVERYTHING, lq.Rule("stem|shared|alias")])
    assert type(model.stem) is nnx.Conv
    assert type(model.alias) is nnx.Linear
    assert model.alias is model.shared
    assert isinstance(model.blocks[0].first, lq.QuantLinear)
    np.testing.assert_array_equal(model.stem.kernel[...], calibrated.stem.kernel[...])
    images = jnp.ones((2, 5, 5, 2))
    assert model.stem(images).shape == calibrated.stem(images).shape


def test_a_stack_of_kernels_is_named():
    @nnx.vmap(in_axes=0, out_axes=0)
    def stacked(key):
        return nnx.Linear(3, 3, rngs=nnx.Rngs(key))

    model = nnx.Dict(stack=stacked(jax.random.split(jax.random.key(0), 2)))
    with pytest.raises(ValueError, match=r"^layer 'stack' must hold one kernel, of 2 axes, .* of shape \(2, 3, 3\), "):
        lq.quantize_model(model, EVERYTHING)


def test_a_calibration_that_fails_sets_nothing():
    class Half(nnx.Module):
        def __init__(self, rngs):
            self.a, self.b = nnx.Linear(2, 2, rngs=rngs), nnx.Linear(2, 2, rngs=rngs)

        def __call__(self, x):
            return self.a(x)

    model = lq.quantize_model(Half(nnx.Rngs(0)), EVERYTHING)
    with pytest.raises(ValueError, match=r"^cannot calibrate layer 'b': the model does not call it"):
        lq.calibrate(model, [np.ones((4, 2), np.float32)])
    assert all(np.isnan(scale).all() for scale in jax.tree.leaves(nnx.state(model, lq.layers.Scale)))
    with pytest.raises(ValueError, match=r"^`inputs` must be finite and positive, got -1"):
        model.a.set_scales(weights=np.full(2, 0.7), inputs=-1)
    assert np.isnan(model.a.weight_scale[...]).all()


def test_layers_of_another_kind_that_a_rule_matches_are_named():
    model = nnx.Sequential(nnx.Linear(2, 2, rngs=nnx.Rngs(0)), nnx.ConvTranspose(2, 2, (3, 3), rngs=nnx.Rngs(0)))
    with pytest.warns(UserWarning, match=r"^the rules match 'layers/1' \(ConvTranspose\), which stay in float: "):
        lq.quantize_model(model, EVERYTHING)
    lq.quantize_model(model, [lq.Rule("layers/0", weights=WEIGHTS)])
