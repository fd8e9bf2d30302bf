"""Statistics against values that are computed a second way."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import integrate, special, stats

from lglsq_jax.study.statistics import (
    bootstrap_interval,
    holm,
    paired_p_value,
    standard_error,
    t_interval,
)

samples = st.lists(st.floats(-5, 5).map(lambda value: round(value, 3)), min_size=3, max_size=12).map(np.array)


def by_the_density(t: float, freedom: int) -> float:
    """The probability beyond ±t, integrated from Student's density."""
    constant = special.gamma((freedom + 1) / 2) / (math.sqrt(freedom * math.pi) * special.gamma(freedom / 2))
    beyond, _ = integrate.quad(lambda x: constant * (1 + x * x / freedom) ** (-(freedom + 1) / 2), abs(t), np.inf)
    return 2 * beyond


@given(samples)
def test_the_p_value_is_that_of_scipy_and_of_the_density(differences):
    assume(np.std(differences) > 1e-2)
    found = paired_p_value(differences)
    a = np.linspace(0, 1, len(differences))
    assert found == pytest.approx(stats.ttest_rel(a + differences, a).pvalue, rel=1e-6, abs=1e-12)
    t = np.mean(differences) / standard_error(differences)
    assert found == pytest.approx(by_the_density(float(t), len(differences) - 1), abs=1e-6)


@given(samples, st.floats(0.5, 0.99))
def test_the_interval_holds_zero_exactly_where_the_test_does_not_reject(differences, confidence):
    assume(np.std(differences) > 1e-2)
    p, interval = paired_p_value(differences), t_interval(differences, confidence)
    assume(abs(p - (1 - confidence)) > 1e-6)
    assert (interval.low <= 0 <= interval.high) == (p > 1 - confidence)


def test_textbook_values():
    """Student's own data: hours of sleep gained by two drugs (Biometrika 1908)."""
    first = np.array([0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0])
    second = np.array([1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4])
    differences = second - first
    assert paired_p_value(differences) == pytest.approx(0.002833, abs=1e-6)
    interval = t_interval(differences)
    assert (interval.low, interval.high) == (pytest.approx(0.7001, abs=1e-4), pytest.approx(2.4599, abs=1e-4))
    assert standard_error(differences) == pytest.approx(0.388959, abs=1e-6)


@pytest.mark.parametrize(("differences", "p"), [([0, 0, 0], 1.0), ([0.5] * 5, 1 / 16), ([-0.5] * 10, 1 / 512)])
def test_differences_without_spread(differences, p):
    assert paired_p_value(np.array(differences, float)) == p


def test_one_seed_says_nothing():
    one = np.array([0.3])
    assert math.isnan(standard_error(one)) and math.isnan(paired_p_value(one))
    assert math.isnan(t_interval(one).low) and math.isnan(bootstrap_interval(one).high)


@given(st.lists(st.integers(-4, 4), min_size=2, max_size=4))
@settings(max_examples=20)
def test_the_bootstrap_comes_near_to_all_samples_that_there_are(differences):
    """Of three differences there are 27 samples with replacement: all of them, instead of drawn ones."""
    values = np.array(differences, float)
    means = np.array([np.mean(sample) for sample in itertools.product(values, repeat=len(values))])
    found = bootstrap_interval(values, confidence=0.8, resamples=20_000)
    for end, share in ((found.low, 0.1), (found.high, 0.9)):
        assert np.mean(means < end - 1e-9) <= share + 0.02
        assert np.mean(means <= end + 1e-9) >= share - 0.02


@given(samples)
def test_the_bootstrap_is_the_same_every_time_and_inside_the_data(differences):
    found = bootstrap_interval(differences, resamples=500)
    assert found == bootstrap_interval(differences, resamples=500)
    assert differences.min() - 1e-9 <= found.low <= found.high <= differences.max() + 1e-9


def step_by_step(p_values: list[float], level: float) -> list[bool]:
    """Holm's procedure as it is described: from the smallest p on, stop at the first that is not rejected."""
    rejected, order = [False] * len(p_values), sorted(range(len(p_values)), key=lambda i: p_values[i])
    for done, index in enumerate(order):
        if p_values[index] > level / (len(p_values) - done):
            break
        rejected[index] = True
    return rejected


@given(st.lists(st.floats(0, 1), max_size=8), st.floats(0.001, 0.5))
def test_corrected_values_reject_what_the_procedure_rejects(p_values, level):
    corrected = holm(np.array(p_values))
    assume(all(abs(value - level) > 1e-9 for value in corrected))
    assert (corrected <= level).tolist() == step_by_step(p_values, level)
    assert np.all(corrected >= p_values) and np.all(corrected <= 1)


def test_holm_by_hand_and_nothing_to_test():
    found = holm(np.array([0.01, 0.04, math.nan, 0.03, 0.005]))
    np.testing.assert_allclose(found, [0.03, 0.06, math.nan, 0.06, 0.02])
    assert holm(np.array([])).shape == (0,)
