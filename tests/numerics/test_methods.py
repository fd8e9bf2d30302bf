"""The named methods, and rules of one's own."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import lglsq_jax as lq
from lglsq_jax.method_names import OF_A_FUNCTION

X = jnp.asarray(np.random.default_rng(0).normal(size=(4, 6)), jnp.float32)


def test_presets_are_the_compositions_of_the_method():
    methods = lq.methods
    rules = {
        name: (found.scale_rule, found.round_rule, found.error_rule)
        for name, found in ((name, methods.get(name)) for name in methods.names())
    }
    assert rules == {
        "ste": (lq.FixedScale(), lq.STE(), lq.NoErrorRule()),
        "lsq": (lq.LSQScale(), lq.STE(), lq.NoErrorRule()),
        "lsq_plus": (lq.LSQScale(), lq.STE(), lq.NoErrorRule()),
        "llsq": (lq.LLSQScale(), lq.STE(), lq.NoErrorRule()),
        "ewgs": (lq.LSQScale(), lq.STE(), lq.EWGS(0.2)),
        "pact": (lq.PACTScale(step="clip"), lq.STE(), lq.NoErrorRule()),
        "dorefa": (lq.FixedScale(), lq.STE(), lq.NoErrorRule()),
        "lg_lsq": (lq.SSG(tau=0.1, eta=0.01), lq.ASR(sharpness=2.0), lq.MDE(strength=0.05)),
    }
    assert [name for name in methods.names() if methods.get(name).learn_offset] == ["lsq_plus"]
    assert methods.LSQ_PLUS.weight_start == "sigma"
    assert [name for name in methods.names() if methods.get(name).weight_transform] == ["pact", "dorefa"]
    assert OF_A_FUNCTION == ("pact", "dorefa")
    assert [name for name in methods.names() if methods.get(name).weight_scale_rule] == ["pact"]


def test_a_method_is_linear_where_its_own_rules_say_so():
    class Sign(lq.LSQScale):
        def scale_gradient(self, context, sums):
            return jnp.sign(super().scale_gradient(context, sums))

    linear = [name for name in lq.methods.names() if lq.methods.get(name).linear]
    assert linear == ["ste", "lsq", "lsq_plus", "pact", "dorefa"]
    assert lq.methods.get("lsq+asr").linear and not lq.GradientMethod(scale_rule=Sign()).linear


def test_pact_learns_the_clip_level_of_inputs_and_keeps_the_scale_of_weights():
    assert lq.methods.PACT.for_weights() == dataclasses.replace(
        lq.methods.DOREFA, scale_rule=lq.FixedScale(), round_rule=lq.STE()
    )
    assert lq.methods.LSQ.for_weights() is lq.methods.LSQ
    spec = lq.QuantSpec(3, method=lq.methods.get("pact+ssg"))
    layer = lq.QuantLinear(4, 3, weights=spec, inputs=spec, rngs=nnx.Rngs(0))
    assert layer.inputs == spec and layer.weights.method.scale_rule == lq.FixedScale()
    layer.set_scales(weights=1 / 3, inputs=0.1)
    x = jnp.linspace(-1.0, 1.0, 8).reshape(2, 4)
    gradient = nnx.grad(lambda layer: (layer(x) ** 2).sum())(layer)
    assert gradient["weight_scale"][...] == 0 and gradient["input_scale"][...] != 0


@pytest.mark.parametrize("name", lq.methods.names())
def test_a_method_goes_by_its_name(name):
    assert lq.methods.get(name) is getattr(lq.methods, name.upper())
    assert hash(lq.methods.get(name)) == hash(dataclasses.replace(lq.methods.get(name)))


def test_an_unknown_name_gets_the_known_ones_and_the_closest():
    with pytest.raises(
        ValueError, match=r"`name` must be one of ste, lsq, .*, got 'lglsq' \(did you mean 'lg_lsq'\?\)"
    ):
        lq.methods.get("lglsq")


def test_parts_of_lg_lsq_are_added_and_left_out():
    get, full = lq.methods.get, lq.methods.LG_LSQ
    assert get("lsq+ssg+asr+mde") == get("lsq+mde+asr+ssg") == full
    assert get("lg_lsq-ssg-asr-mde") == lq.methods.LSQ
    assert get("lg_lsq-ssg") == get("lsq+asr+mde")
    assert get("lsq+asr") == dataclasses.replace(lq.methods.LSQ, round_rule=full.round_rule)
    assert get("lg_lsq-mde") == dataclasses.replace(full, error_rule=lq.NoErrorRule())


@pytest.mark.parametrize("base", ["lsq_plus", "pact"])
def test_a_part_on_top_of_a_method_leaves_the_rest_of_it(base):
    found, own = lq.methods.get(f"{base}+asr+mde"), lq.methods.get(base)
    assert (found.round_rule, found.error_rule) == (lq.ASR(sharpness=2.0), lq.MDE(strength=0.05))
    assert dataclasses.replace(found, round_rule=own.round_rule, error_rule=own.error_rule) == own


def test_constants_of_the_rules_are_replaced_where_given():
    change, full = lq.methods.with_constants, lq.methods.LG_LSQ
    assert change("lg_lsq") == full and change("lsq") == lq.methods.LSQ
    found = change("lg_lsq", sharpness=3.0, sharpness_start=0.5, strength=0.1, strength_schedule="cosine")
    assert found == dataclasses.replace(full, round_rule=lq.ASR(3.0, 0.5), error_rule=lq.MDE(0.1, "cosine"))
    assert change("lg_lsq", sharpness_start=0.0).round_rule == lq.ASR(2.0, 0.0)
    assert change("ewgs", strength=0.1).error_rule == lq.EWGS(0.1)
    assert change("lsq+mde", strength_schedule="decaying").error_rule == lq.MDE(0.05, "decaying")
    assert change("lsq+mde", strength_power=3.0).error_rule == lq.MDE(0.05, power=3.0)
    assert change("lsq+ssg", tau=0.3, eta=0.0).scale_rule == lq.SSG(tau=0.3, eta=0.0)
    assert change("lg_lsq", eta=0.1).scale_rule == lq.SSG(tau=0.1, eta=0.1)
    assert change("dorefa", weight_start="lsq") == dataclasses.replace(lq.methods.DOREFA, weight_start="lsq")


@pytest.mark.parametrize(
    ("name", "constants", "words"),
    [
        ("lsq", {"sharpness": 2.0}, "`sharpness` must be None for a method without ASR, such as lsq, got 2.0"),
        ("lg_lsq-asr", {"sharpness_start": 0.0}, "`sharpness_start` must be None for a method without ASR"),
        ("lsq+asr", {"strength": 0.1}, "`strength` must be None for a method without MDE or EWGS"),
        ("ewgs", {"strength_schedule": "linear"}, "`strength_schedule` must be None for a method without MDE"),
        ("lg_lsq", {"strength_schedule": "step"}, "`schedule` must be one of linear"),
        ("ewgs", {"strength_power": 2.0}, "`strength_power` must be None for a method without MDE, such as ewgs"),
        ("lsq+asr", {"tau": 0.1}, "`tau` must be None for a method without SSG, such as lsq\\+asr, got 0.1"),
        ("lg_lsq-ssg", {"eta": 0.1}, "`eta` must be None for a method without SSG"),
        ("lg_lsq", {"tau": 0.0}, "`tau` must be a finite number > 0"),
        ("lg_lsq", {"sharpness": -1.0}, "`sharpness` must be a finite number >= 0"),
    ],
)
def test_a_constant_of_a_rule_that_is_not_there_is_refused(name, constants, words):
    with pytest.raises(ValueError, match=words):
        lq.methods.with_constants(name, **constants)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("lsq+osr", "`name` must add or leave out ssg, asr, mde, such as lsq"),
        ("lsq+", "`name` must add or leave out"),
        ("lg_lsq+asr", "must add a part that is not there yet, but [+]asr in 'lg_lsq[+]asr' is"),
        ("lsq-mde", "must leave out a part that is there, but mde in 'lsq-mde' is not"),
        ("ewgs+mde", "must add mde to a method without an error rule"),
        ("lqs+asr", "got 'lqs[+]asr' [(]did you mean 'lsq'"),
        (None, "must be one of"),
    ],
)
def test_a_composed_name_that_makes_no_sense_is_refused(name, words):
    with pytest.raises(ValueError, match=words):
        lq.methods.get(name)


@dataclasses.dataclass(frozen=True)
class Triangle:
    """A round rule that the library knows nothing of."""

    height: float

    def slope(self, v):
        return self.height * (1 - 2 * jnp.abs(v - jnp.round(v)))


@dataclasses.dataclass(frozen=True)
class Halved:
    """A scale rule on top of another."""

    inner: lq.LSQScale = dataclasses.field(default_factory=lq.LSQScale)

    def terms(self, context):
        return self.inner.terms(context)

    def scale_gradient(self, context, sums):
        return self.inner.scale_gradient(context, sums) / 2


@dataclasses.dataclass(frozen=True)
class OnlyLate:
    """An error rule that looks at the progress."""

    def factor(self, gradient, error, progress):
        return jnp.where(progress > 0.5, 2.0, 1.0) * jnp.ones_like(gradient)


def test_rules_of_ones_own_need_no_change_in_the_library():
    own = lq.QuantSpec(4, method=lq.GradientMethod(Halved(), Triangle(3.0), OnlyLate()))
    lsq = lq.QuantSpec(4, method=lq.methods.LSQ)

    @jax.jit
    def both(x, scale, progress):
        def pulled(spec):
            return jax.grad(lambda x, s: lq.fake_quantize(x, s, spec, progress=progress).sum(), (0, 1))(x, scale)

        return pulled(own), pulled(lsq)

    v = X / 0.25
    for progress, factor in ((0.2, 1.0), (0.9, 2.0)):
        (x_own, scale_own), (x_lsq, scale_lsq) = both(X, 0.25, progress)
        np.testing.assert_allclose(x_own, x_lsq * factor * 3 * (1 - 2 * jnp.abs(v - jnp.round(v))), rtol=1e-5)
        np.testing.assert_allclose(scale_own, scale_lsq / 2, rtol=1e-6)


def test_a_rule_that_cannot_be_hashed_is_refused():
    @dataclasses.dataclass
    class Mutable:
        def slope(self, v):
            return v

    with pytest.raises(
        TypeError, match=r"^`round_rule` must be hashable, such as a frozen dataclass, got .*Mutable\(\)"
    ):
        lq.GradientMethod(round_rule=Mutable())


@pytest.mark.parametrize(
    ("field", "value", "needed"),
    [
        ("scale_rule", lq.LSQScale, "the methods `terms` and `scale_gradient`"),
        ("scale_rule", lq.ASR(), "the methods `terms` and `scale_gradient`"),
        ("round_rule", lq.SSG(), "a method `slope`"),
        ("weight_scale_rule", lq.STE(), "the methods `terms` and `scale_gradient`"),
        ("error_rule", None, "a method `factor`"),
    ],
)
def test_a_rule_in_the_wrong_place_is_refused(field, value, needed):
    with pytest.raises(TypeError, match=f"^`{field}` must be an object with {needed}, got "):
        lq.GradientMethod(**{field: value})


@pytest.mark.parametrize(
    ("field", "value", "error", "message"),
    [
        (
            "weight_start",
            "median",
            ValueError,
            "`weight_start` must be None or one of mse, lsq, max, sigma, got 'median'",
        ),
        ("input_start", 3, ValueError, "`input_start` must be None or one of mse, lsq, max, sigma, got 3"),
        ("weight_transform", 3, TypeError, "`weight_transform` must be None or a function of weights, got 3"),
        ("learn_offset", "yes", TypeError, "`learn_offset` must be True or False, got 'yes'"),
    ],
)
def test_the_other_fields_are_checked_where_they_are_given(field, value, error, message):
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        lq.GradientMethod(**{field: value})


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_dorefa_weights_are_normalised_and_zeros_stay_zeros(dtype):
    normalise = lq.gradients.TanhNormalize()
    weights = X.astype(dtype)
    expected = np.tanh(np.float64(weights)) / np.tanh(np.float64(weights).__abs__().max())
    found = normalise(weights)
    assert found.dtype == dtype
    np.testing.assert_allclose(np.float64(found), expected, atol=float(jnp.finfo(dtype).eps))
    zeros = jnp.zeros(3, dtype)
    np.testing.assert_array_equal(normalise(zeros), zeros)
    assert jnp.isfinite(jax.grad(lambda w: normalise(w).astype(jnp.float32).sum())(zeros)).all()
