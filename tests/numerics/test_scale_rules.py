"""Scale rules: LSQ, LLSQ, SSG, PACT, fixed, and LSQ+'s offset against their formulas; SSG's promises."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import lglsq_jax as lq

from . import reference
from .cases import SHAPE, Case, cases, spec_of
from .reference import Grid

RULES = {
    "fixed": (lq.FixedScale(), ("fixed",)),
    "lsq": (lq.LSQScale(), ("lsq",)),
    "llsq": (lq.LLSQScale(), ("llsq",)),
    "pact": (lq.PACTScale(), ("pact",)),
    "pact, clip": (lq.PACTScale(step="clip"), ("pact_clip",)),
    "ssg": (lq.SSG(0.1, 0.01), ("ssg", 0.1, 0.01)),
    "ssg, strong": (lq.SSG(3.0, 0.5), ("ssg", 3.0, 0.5)),
    "ssg, task only": (lq.SSG(0.1, 0.0), ("ssg", 0.1, 0.0)),
}
EXTREMES = {
    "zeros": np.zeros(SHAPE),
    "+-3e38": np.where(np.arange(60).reshape(SHAPE) % 3 == 0, -3e38, 3e38),
    "one far value": np.where(np.arange(60).reshape(SHAPE) == 7, 3e38, 0.1),
    "tiny": np.full(SHAPE, 1e-38),
    "ordinary": np.random.default_rng(0).normal(size=SHAPE),
}
# Every scale that training can meet and beyond: subnormal, the smallest normal, ordinary, the largest calibrated one.
SCALES = [1e-45, 1e-39, 1.2e-38, 1e-20, 0.3, 1e20, 3e38]


def gradients(case: Case, method) -> tuple[np.ndarray, ...]:
    """Gradients of x, scale and, where the case has one, offset."""
    spec = case.spec(method)
    operands = (case.x, case.scale) if case.offset is None else (case.x, case.scale, case.offset)
    _, pull_back = jax.vjp(
        lambda x, *rest: lq.fake_quantize(x, rest[0], spec, *rest[1:], progress=case.progress), *operands
    )
    return tuple(map(np.asarray, pull_back(case.g)))


def scale_gradient(x, scale, rule, g, progress=1.0, spec=None) -> np.ndarray:
    spec = spec or lq.QuantSpec(4, method=lq.GradientMethod(scale_rule=rule))
    x, scale = jnp.asarray(x, jnp.float32), jnp.asarray(scale, jnp.float32)
    _, pull_back = jax.vjp(lambda s: lq.fake_quantize(x, s, spec, progress=progress), scale)
    return np.asarray(pull_back(jnp.asarray(g, jnp.float32))[0])


@pytest.mark.parametrize("name", RULES)
@given(case=cases())
def test_scale_rules_are_their_formulas(name, case):
    rule, formula = RULES[name]
    expected = reference.gradients(case.grid, case.x, case.scale, case.g, p=case.progress, scale_rule=formula)
    found = gradients(case, lq.GradientMethod(scale_rule=rule))[1]
    assert found.dtype == np.float32 and found.shape == case.scale.shape
    # 1e-6 of the sum of the absolute terms: what a float32 sum can hold where the terms cancel.
    close = np.abs(found - expected.scale) <= 1e-6 * expected.scale_size
    assert (close | ~expected.decided).all()


@given(cases())
def test_the_round_and_error_rules_do_not_enter_the_scale_gradient(case):
    plain = gradients(case, lq.GradientMethod())[1]
    shaped = gradients(case, lq.GradientMethod(round_rule=lq.ASR(5.0), error_rule=lq.EWGS(0.9)))[1]
    np.testing.assert_array_equal(plain, shaped)


@given(cases(offset=True))
def test_lsq_plus_is_its_formulas(case):
    formula = {"offset": case.offset, "scale_rule": ("lsq",)}
    expected = reference.gradients(case.grid, case.x, case.scale, case.g, **formula)
    g_x, g_s, g_offset = gradients(case, lq.methods.LSQ_PLUS)
    np.testing.assert_array_equal(g_x, expected.x.astype(np.float32))
    assert (np.abs(g_s - expected.scale) <= 1e-6 * expected.scale_size).all()
    assert (np.abs(g_offset - expected.offset) <= 1e-6 * expected.offset_size).all()


@given(cases(offset=True))
def test_every_part_of_lg_lsq_sees_the_offset(case):
    expected = reference.gradients(
        case.grid,
        case.x,
        case.scale,
        case.g,
        offset=case.offset,
        p=case.progress,
        round_rule=("asr", 2.0),
        error_rule=("mde", 0.05),
        scale_rule=("ssg", 0.1, 0.01),
    )
    g_x, g_s, g_offset = gradients(case, lq.methods.LG_LSQ)
    np.testing.assert_allclose(g_x, expected.x, rtol=1e-6)
    assert (np.abs(g_s - expected.scale) <= 1e-6 * expected.scale_size).all()
    assert (np.abs(g_offset - expected.offset) <= 1e-6 * expected.offset_size).all()


@given(st.integers(0, 2**32 - 1), st.integers(2, 8), st.booleans(), st.floats(1e-3, 1e3))
def test_scales_that_are_no_powers_of_two_agree_up_to_the_rounding_of_v(seed, bits, signed, scale):
    rng = np.random.default_rng(seed)
    grid, scale = Grid(bits, signed), np.float32(scale)
    code = rng.integers(grid.low - 2, grid.high + 3, SHAPE)
    x = ((code + rng.uniform(-0.49, 0.49, SHAPE)) * scale).astype(np.float32)  # off the ties, which v may cross
    x = np.where((abs(x / scale - grid.low) < 1e-3) | (abs(x / scale - grid.high) < 1e-3), 0, x).astype(np.float32)
    g = rng.normal(size=SHAPE).astype(np.float32)
    expected = reference.gradients(grid, x, scale, g, scale_rule=("lsq",))
    found = scale_gradient(x, scale, None, g, spec=spec_of(grid))
    assert abs(found - expected.scale) <= 1e-6 * (expected.scale_size + np.abs(g).sum())


@given(case=cases(), rate=st.floats(1e-4, 1.0))
def test_a_step_of_pact_moves_its_clip_level_as_descent_in_it_does(case, rate):
    """alpha = s Qp after a step of s is alpha minus the rate times the gradient of alpha, at any number of bits."""
    by_scale, step = (
        gradients(case, lq.GradientMethod(scale_rule=rule))[1].astype(np.float64)
        for rule in (lq.PACTScale(), lq.methods.PACT.scale_rule)
    )
    moved, of_clip = case.grid.high * rate * step, rate * by_scale / case.grid.high
    np.testing.assert_allclose(moved, of_clip, rtol=1e-5, atol=1e-30)


def test_pact_names_its_steps():
    with pytest.raises(ValueError, match='`step` must be "scale" or "clip", got \'alpha\''):
        lq.PACTScale(step="alpha")


@pytest.mark.parametrize("name", ["lsq", "llsq", "ssg, strong", "pact"])
@pytest.mark.parametrize("grid", [Grid(3, batch_axis=0), Grid(4, signed=False, channel_axis=-1)], ids=str)
def test_large_tensors_sum_to_the_same(name, grid):
    """Large enough for every way in which a sum may be taken; sums over many elements are held to 1e-5."""
    rng, shape = np.random.default_rng(4), (6, 37, 600)
    channels = 1 if grid.channel_axis is None else shape[grid.channel_axis]
    scale = (2.0 ** rng.integers(-3, 2, channels)).astype(np.float32).reshape(spec_of(grid).scale_shape(shape))
    x = (rng.integers(-2048, 4096, shape) / 256 * scale).astype(np.float32)
    rule, formula = RULES[name]
    for shift in (None, scale / 4):
        case = Case(grid, x, scale, shift, rng.normal(size=shape).astype(np.float32) + 0.1, 0.25)
        found = gradients(case, lq.GradientMethod(scale_rule=rule))
        expected = reference.gradients(grid, x, scale, case.g, offset=shift, p=0.25, scale_rule=formula)
        np.testing.assert_array_equal(found[0], expected.x.astype(np.float32))
        assert (np.abs(found[1] - expected.scale) <= 1e-5 * expected.scale_size).all()
        if shift is not None:
            assert (np.abs(found[2] - expected.offset) <= 1e-5 * expected.offset_size).all()


@pytest.mark.parametrize("name", RULES)
def test_one_channel_is_one_tensor(name):
    rng = np.random.default_rng(3)
    x, g = rng.normal(size=(1, 50)), rng.normal(size=(1, 50))
    for progress in (0.0, 1.0):
        method = lq.GradientMethod(scale_rule=RULES[name][0])
        whole = scale_gradient(x, 0.3, None, g, progress, lq.QuantSpec(3, method=method))
        channel = scale_gradient(x, [0.3], None, g, progress, lq.QuantSpec(3, channel_axis=0, method=method))
        np.testing.assert_allclose(channel[0], whole, rtol=1e-6)


@given(cases())
def test_ssg_with_a_loose_bound_and_no_direction_is_lsq(case):
    gentle = Case(case.grid, case.x, case.scale, None, _gentle(case), case.progress)
    lsq = gradients(gentle, lq.methods.LSQ)[1]
    ssg = gradients(gentle, lq.GradientMethod(scale_rule=lq.SSG(tau=1e3, eta=0.0)))[1]
    np.testing.assert_allclose(ssg, lsq, rtol=1e-5)


@given(cases(), st.floats(1e-3, 10), st.floats(0, 10), st.floats(-30, 30))
def test_ssg_never_steps_further_than_its_bound(case, tau, eta, size):
    louder = Case(case.grid, case.x, case.scale, None, (case.g * 10.0**size).astype(np.float32), case.progress)
    step = np.abs(gradients(louder, lq.GradientMethod(scale_rule=lq.SSG(tau, eta)))[1])
    assert (step <= (tau + eta) * case.scale * (1 + 1e-6)).all()


@functools.partial(jax.jit, static_argnums=0)
def followed(spec, x, start):
    """Where ``s <- s (1 - lr d)`` ends: the scale gradient of a silent loss is the direction term alone."""

    def step(_, s):
        _, pull_back = jax.vjp(lambda s: lq.fake_quantize(x, s, spec, progress=0.0), s)
        return s - 0.05 * pull_back(jnp.zeros_like(x))[0]

    return jax.lax.fori_loop(0, 250, step, start)


@pytest.mark.parametrize("bits", range(2, 8))
def test_direction_leads_to_the_least_squared_error_on_gaussian_data(bits):
    x = np.random.default_rng(bits).normal(size=4000).astype(np.float32)
    grid = Grid(bits)
    candidates = np.geomspace(3.0 / 2**bits, 16.0 / 2**bits, 200)
    best = candidates[np.argmin([((reference.codes(grid, x, s) * s - x) ** 2).sum() for s in candidates])]
    spec = lq.QuantSpec(bits, method=lq.GradientMethod(scale_rule=lq.SSG(tau=1e-3, eta=1.0)))
    for factor in (4.0, 0.25):
        end = float(followed(spec, x, jnp.float32(best * factor)))
        assert abs(end / best - 1) < 0.06, (factor, best, end)


def test_direction_knows_far_too_small_far_too_large_and_nothing_to_say():
    x = np.random.default_rng(0).normal(size=SHAPE)
    rule = lq.SSG(tau=0.1, eta=1.0)
    for scale, expected in [(1e-3, -1), (1e-20, -1), (1e3, 1), (1e20, 1)]:
        found = scale_gradient(x, scale, rule, np.zeros(SHAPE), progress=0.0) / np.float32(scale)
        assert found == expected if abs(scale) > 1 else -1 <= found < 0
    assert scale_gradient(np.zeros(SHAPE), 0.5, rule, np.zeros(SHAPE), progress=0.0) == 0
    on_the_grid = np.resize([0.5, -1.0, 1.5], SHAPE)
    assert scale_gradient(on_the_grid, 0.5, rule, np.zeros(SHAPE), progress=0.0) == 0
    assert scale_gradient(x, 0.5, rule, np.zeros(SHAPE), progress=1.0) == 0


@pytest.mark.parametrize("x", EXTREMES.values(), ids=EXTREMES)
@pytest.mark.parametrize("name", [*RULES, "lg_lsq"])
def test_nothing_becomes_nan_or_infinite(name, x):
    method = lq.methods.LG_LSQ if name == "lg_lsq" else lq.GradientMethod(scale_rule=RULES[name][0])
    for scale in SCALES:
        for channel_axis in (None, 1):
            spec = lq.QuantSpec(4, channel_axis=channel_axis, method=method)
            s = np.full(spec.scale_shape(SHAPE), scale, np.float32)
            case_x = jnp.asarray(x, jnp.float32)
            run = functools.partial(_unchecked, spec)
            _, pull_back = jax.vjp(run, case_x, s)
            for gradient in pull_back(jnp.ones(SHAPE)):
                assert np.isfinite(gradient).all(), (scale, channel_axis)


@pytest.mark.parametrize("name", ["lsq", "llsq", "ssg", "pact"])
def test_one_element_has_a_gradient(name):
    for value in (0.0, 0.7, -9.0):
        assert np.isfinite(scale_gradient([value], 0.3, RULES[name][0], [1.0], progress=0.0))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"tau": 0.0}, "`tau` must be a finite number > 0, got 0.0"),
        ({"tau": math.inf}, "`tau` must be a finite number > 0, got inf"),
        ({"tau": math.nan}, "`tau` must be a finite number > 0, got nan"),
        ({"eta": -0.1}, "`eta` must be a finite number >= 0, got -0.1"),
        ({"eta": math.nan}, "`eta` must be a finite number >= 0, got nan"),
    ],
)
def test_constants_of_ssg_are_checked(arguments, sentence):
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        lq.SSG(**arguments)


def _gentle(case: Case) -> np.ndarray:
    """The gradient made so small that the task gradient is at most 1 a unit of the scale."""
    spread = 4 * (2**case.grid.bits) * case.x.size
    return (case.g / spread * case.scale.min()).astype(np.float32)


@functools.partial(jax.jit, static_argnums=0)
def _unchecked(spec, x, scale):
    return lq.fake_quantize(x, scale, spec, progress=0.5)
