"""Round rules: STE and ASR against their formulas, and the invariants of the arctangent slope."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import lglsq_jax as lq
from lglsq_jax.gradients.round_rules import arctangent_gain

from . import reference
from .cases import Case, cases

SHARPNESS = st.one_of(st.sampled_from([0.0, 1e-4, 9.9e-3, 1.01e-2, 1.0, 2.0, 3.0]), st.floats(0, 30))


def input_gradient(case: Case, round_rule, progress=None) -> np.ndarray:
    spec = case.spec(lq.GradientMethod(round_rule=round_rule))
    p = case.progress if progress is None else progress
    _, pull_back = jax.vjp(lambda x: lq.fake_quantize(x, case.scale, spec, progress=p), case.x)
    return np.asarray(pull_back(case.g)[0])


@given(cases(), SHARPNESS)
def test_asr_is_its_formula_element_by_element(case, k):
    expected = reference.gradients(case.grid, case.x, case.scale, case.g, round_rule=("asr", k), scale_rule=("fixed",))
    np.testing.assert_allclose(input_gradient(case, lq.ASR(k)), expected.x, rtol=1e-6, atol=0)


@given(cases())
def test_ste_is_its_formula_to_the_bit(case):
    expected = reference.gradients(case.grid, case.x, case.scale, case.g, scale_rule=("fixed",))
    np.testing.assert_array_equal(input_gradient(case, lq.STE()), expected.x.astype(np.float32))


@given(cases())
def test_sharpness_zero_is_the_straight_through_estimator_to_the_bit(case):
    np.testing.assert_array_equal(input_gradient(case, lq.ASR(0.0)), input_gradient(case, lq.STE()))


@given(cases(), SHARPNESS, SHARPNESS)
def test_a_sharpness_that_moves_is_its_formula(case, first, last):
    expected = reference.gradients(
        case.grid, case.x, case.scale, case.g, p=case.progress, round_rule=("asr", last, first), scale_rule=("fixed",)
    )
    # k itself is a float32 here, and its error counts twice in the slope.
    np.testing.assert_allclose(input_gradient(case, lq.ASR(last, start=first)), expected.x, rtol=2e-6, atol=0)


@given(cases(), SHARPNESS, SHARPNESS)
def test_a_sharpness_that_moves_begins_at_its_start_and_ends_where_it_is_to(case, first, last):
    rule = lq.ASR(last, start=first)
    for progress, constant in ((0.0, first), (1.0, last)):
        plain = input_gradient(case, lq.ASR(constant))
        np.testing.assert_allclose(input_gradient(case, rule, progress), plain, rtol=5e-7, atol=0)
    np.testing.assert_array_equal(input_gradient(case, lq.ASR(last, start=last)), input_gradient(case, lq.ASR(last)))


def test_a_sharpness_that_moves_is_compiled_once():
    rule, compiled = lq.ASR(3.0, start=0.0), []

    @jax.jit
    def slope(v, progress):
        compiled.append(None)
        return rule.slope_at(v, progress)

    v = jnp.asarray([0.5])
    found = [float(slope(v, jnp.float32(p))[0]) for p in (0.0, 0.5, 1.0)]
    assert len(compiled) == 1
    assert found[0] == 1 and found[0] < found[1] < found[2]


@given(SHARPNESS, st.integers(-128, 255))
def test_slope_averages_one_over_a_cell_and_keeps_its_range(k, cell):
    middle_points = (np.arange(4096) + 0.5) / 4096
    slope = np.asarray(lq.ASR(k).slope(jnp.asarray(cell + middle_points, jnp.float32)), np.float64)
    assert abs(slope.mean() - 1) < 1e-4
    half = k / 2  # 0 also where k is the smallest subnormal number
    gain = half / math.atan(half) if half else 1.0
    assert slope.max() <= gain * (1 + 1e-6)
    assert slope.min() >= gain / (1 + k**2 / 4) * (1 - 1e-6)


def test_gain_and_its_derivative_are_smooth_through_zero():
    k = jnp.asarray([0.0, 1e-30, 1e-3, 0.0099999, 0.0100001, 0.5, 4.0])
    exact = np.array([1.0 if value == 0 else (value / 2) / np.arctan(value / 2) for value in np.float64(k)])
    np.testing.assert_allclose(arctangent_gain(k), exact, rtol=3e-7)
    slopes = np.asarray(jax.vmap(jax.grad(arctangent_gain))(k))
    assert np.isfinite(slopes).all()
    np.testing.assert_allclose(slopes[:3], np.asarray(k[:3]) / 6, atol=1e-6)


@pytest.mark.parametrize("sharpness", [-1.0, math.inf, math.nan])
def test_a_sharpness_that_is_no_sharpness_is_refused(sharpness):
    with pytest.raises(ValueError, match=rf"^`sharpness` must be a finite number >= 0, got {sharpness}$"):
        lq.ASR(sharpness)
    with pytest.raises(ValueError, match=rf"^`start` must be a finite number >= 0, got {sharpness}$"):
        lq.ASR(2.0, start=sharpness)
