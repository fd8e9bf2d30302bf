"""Error rules: MDE and EWGS against their formulas, and what their factor may never do."""

import math

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import lglsq_jax as lq
from lglsq_jax.method_names import SCHEDULES

from . import reference
from .cases import Case, cases

STRENGTH = st.floats(-1.9, 1.9)


def input_gradient(case: Case, error_rule, round_rule=None, progress=None) -> np.ndarray:
    spec = case.spec(lq.GradientMethod(round_rule=round_rule or lq.STE(), error_rule=error_rule))
    p = case.progress if progress is None else progress
    _, pull_back = jax.vjp(lambda x: lq.fake_quantize(x, case.scale, spec, progress=p), case.x)
    return np.asarray(pull_back(case.g)[0])


@given(cases(), st.sampled_from(["mde", "ewgs"]), STRENGTH, st.sampled_from([0.0, 2.0]))
def test_factors_are_their_formulas_element_by_element(case, name, strength, k):
    rule = {"mde": lq.MDE, "ewgs": lq.EWGS}[name](strength)
    expected = reference.gradients(
        case.grid,
        case.x,
        case.scale,
        case.g,
        p=case.progress,
        round_rule=("asr", k),
        error_rule=(name, strength),
        scale_rule=("fixed",),
    )
    # 1 + strength * e may all but vanish, so each element is held to 1e-6 of its gradient without the factor.
    tolerance = 1e-6 * (np.abs(case.g) + np.abs(expected.x))
    assert (np.abs(input_gradient(case, rule, lq.ASR(k)) - expected.x) <= tolerance).all()


@given(cases(), STRENGTH, st.sampled_from(SCHEDULES), st.floats(0, 1))
def test_a_schedule_of_mde_is_its_formula(case, strength, schedule, progress):
    progress = float(np.float32(progress))
    expected = reference.gradients(
        case.grid, case.x, case.scale, case.g, p=progress, error_rule=("mde", strength, schedule), scale_rule=("fixed",)
    )
    found = input_gradient(case, lq.MDE(strength, schedule), progress=progress)
    assert (np.abs(found - expected.x) <= 1e-6 * (np.abs(case.g) + np.abs(expected.x))).all()


@given(cases(), STRENGTH, st.sampled_from([0.0, 0.5, 2.0, 3.0, 8.0]), st.floats(0, 1))
def test_a_power_of_mde_is_its_formula(case, strength, power, progress):
    progress = float(np.float32(progress))
    constants = ("mde", strength, "linear", power)
    expected = reference.gradients(
        case.grid, case.x, case.scale, case.g, p=progress, error_rule=constants, scale_rule=("fixed",)
    )
    found = input_gradient(case, lq.MDE(strength, power=power), progress=progress)
    # e holds up to 1e-7 of rounding, and that to the power, at e = 0 not at all small.
    error = case.x / _wide(case) - np.rint(case.x / _wide(case))
    sure = (np.abs(error) > 1e-3) | (power >= 1)
    assert (np.abs(found - expected.x) <= 1e-5 * (np.abs(case.g) + np.abs(expected.x)))[sure].all()


@pytest.mark.parametrize("power", [-1.0, math.inf, math.nan])
def test_a_power_that_is_none_is_refused(power):
    with pytest.raises(ValueError, match=rf"^`power` must be a finite number >= 0, got {power}$"):
        lq.MDE(0.05, power=power)


@given(cases(), STRENGTH)
def test_schedules_of_mde_meet_at_their_ends(case, strength):
    def at(progress, schedule):
        return input_gradient(case, lq.MDE(strength, schedule), progress=progress)

    plain, full = input_gradient(case, lq.NoErrorRule()), input_gradient(case, lq.EWGS(strength))
    for schedule, first, last in (
        ("linear", plain, full), ("cosine", plain, full), ("decaying", full, plain), ("constant", full, full)
    ):  # fmt: skip
        np.testing.assert_array_equal(at(0.0, schedule), first)
        np.testing.assert_array_equal(at(1.0, schedule), last)


def test_a_schedule_that_there_is_not_is_refused():
    with pytest.raises(ValueError, match=r"^`schedule` must be one of linear, constant, decaying, cosine, got 'step'$"):
        lq.MDE(0.05, "step")


@given(cases(), st.floats(0, 1.999), st.sampled_from(SCHEDULES), st.sampled_from([0.0, 1.0, 3.0]))
def test_mde_keeps_the_sign_and_pulls_towards_the_code(case, strength, schedule, power):
    plain, scaled = input_gradient(case, lq.MDE(0.0)), input_gradient(case, lq.MDE(strength, schedule, power))
    assert (np.sign(plain) == np.sign(scaled)).all()
    v = case.x / _wide(case)
    error = v - np.clip(np.rint(v), case.grid.low, case.grid.high)
    assert ((scaled - plain) * error >= 0).all()


@given(cases())
def test_strength_zero_and_progress_zero_leave_the_gradient_as_it_is_to_the_bit(case):
    plain = input_gradient(case, lq.NoErrorRule())
    np.testing.assert_array_equal(input_gradient(case, lq.MDE(0.0)), plain)
    np.testing.assert_array_equal(input_gradient(case, lq.MDE(0.7), progress=0.0), plain)
    np.testing.assert_array_equal(input_gradient(case, lq.EWGS(0.0)), plain)


@given(cases(), STRENGTH)
def test_mde_at_the_end_of_training_is_ewgs(case, strength):
    np.testing.assert_array_equal(
        input_gradient(case, lq.MDE(strength), progress=1.0), input_gradient(case, lq.EWGS(strength))
    )


@pytest.mark.parametrize("rule", [lq.MDE, lq.EWGS])
@pytest.mark.parametrize("strength", [math.inf, -math.inf, math.nan])
def test_a_strength_that_is_not_finite_is_refused(rule, strength):
    with pytest.raises(ValueError, match=rf"^`strength` must be a finite number, got {strength}$"):
        rule(strength)


def _wide(case: Case):
    if case.grid.channel_axis is None:
        return np.float64(case.scale)
    shape = [1] * case.x.ndim
    shape[case.grid.channel_axis] = -1
    return np.float64(case.scale).reshape(shape)
