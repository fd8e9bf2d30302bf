"""Constants of a rescale: as precise as 31 bits allow, and no sum can overflow."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lglsq_jax.integer import LoweringError
from lglsq_jax.integer.fixed import fixed_point_constants, least_sums, split
from lglsq_jax.integer.node import Node

LARGEST = st.integers(1, 2**31 - 1)
FACTORS = st.floats(-40, 9).map(lambda power: 2.0**power)


def term(largest: int) -> Node:
    return Node("clip", (), ("n", 1), np.array([[-largest]]), np.array([[largest]]))


def rescale_node(terms: list[tuple[int, list[float]]], bias: list[float], low=-(2**31) + 1, high=2**31 - 1) -> Node:
    """A rescale of terms ``(largest number, factor a channel)``."""
    constants = {f"scale{index}": np.array([factors], np.float64) for index, (_, factors) in enumerate(terms)}
    constants["bias"] = np.array([bias], np.float64)
    nodes = tuple(term(largest) for largest, _ in terms)
    ends = np.array([[low]]), np.array([[high]])
    return Node("rescale", nodes, ("n", len(bias)), *ends, {"low": low, "high": high}, constants, "block", "block")


@given(st.lists(st.tuples(LARGEST, st.lists(FACTORS, min_size=2, max_size=2)), min_size=1, max_size=3))
def test_no_sum_overflows_and_no_term_is_far_off(terms):
    bias = [1000.25, -3.5]
    try:
        fixed = fixed_point_constants(rescale_node(terms, bias))
    except LoweringError:
        assert sum(largest * max(factors) for largest, factors in terms) >= 2**60
        return
    assert 1 <= fixed.shift <= 62
    most = int(np.abs(fixed.bias).max())
    for (largest, factors), multipliers, extra in zip(terms, fixed.multipliers, fixed.term_shifts, strict=True):
        assert 0 <= extra <= 62 and multipliers.dtype == np.int32
        most += -(-int(np.abs(multipliers.astype(np.int64)).max()) * largest >> extra)
        for factor, multiplier in zip(factors, multipliers.ravel(), strict=True):
            error = abs(Fraction(int(multiplier), 2 ** (fixed.shift + extra)) - Fraction(factor)) * largest
            relative = Fraction(max(factors) * largest) / 2**30  # 31 bits of the tensor's largest multiplier
            common = Fraction(largest, 2 ** (fixed.shift + 1))
            assert error <= max(Fraction(1, 2**24), relative) or error <= common <= Fraction(1, 2**24)
    assert most + 2 ** (fixed.shift - 1) < 2**63


@given(st.integers(-20, 4), st.integers(-20, 4), st.integers(1, 2**20), st.integers(-100, 100))
def test_powers_of_two_are_exact(first, second, largest, bias):
    fixed = fixed_point_constants(rescale_node([(largest, [2.0**first]), (7, [2.0**second])], [bias / 4]))
    for power, multiplier, extra in zip((first, second), fixed.multipliers, fixed.term_shifts, strict=True):
        assert Fraction(int(multiplier.item()), 2 ** (fixed.shift + extra)) == Fraction(2) ** power
        assert extra == 0
    assert Fraction(int(fixed.bias.item()), 2**fixed.shift) == Fraction(bias, 4)


def test_a_residual_stream_keeps_its_precision_beside_an_accumulator():
    stream, factor = 2**30, 2.0**-28 / 0.0937
    fixed = fixed_point_constants(rescale_node([(stream, [factor]), (7, [2.13])], [0.0]))
    found = int(fixed.multipliers[0].item()) / 2 ** (fixed.shift + fixed.term_shifts[0])
    assert abs(found - factor) * stream < 2**-24


def test_the_sum_is_clamped_only_where_it_may_leave_int32():
    small, large = (rescale_node([(largest, [1.5])], [0.0], -8, 7) for largest in (1000, 2**31 - 1))
    assert fixed_point_constants(small).clamp is None
    fixed = fixed_point_constants(large)
    assert fixed.clamp is not None
    ends = [high * 2**32 + low for high, low in fixed.clamp]
    assert ends == [-8 << fixed.shift, 7 << fixed.shift]


def test_a_factor_too_large_is_refused():
    with pytest.raises(LoweringError, match=r"quantizer 'block' multiplies by 2\.2e\+12.*scale is far too small"):
        fixed_point_constants(rescale_node([(2**30, [2.2e12])], [0.0]))


def test_a_term_that_is_always_zero_may_have_any_factor():
    with_zero = fixed_point_constants(rescale_node([(1000, [0.3]), (0, [1e35])], [2.5]))
    alone = fixed_point_constants(rescale_node([(1000, [0.3])], [2.5]))
    assert with_zero.multipliers[1].item() == 0 and with_zero.multipliers[0] == alone.multipliers[0]
    assert with_zero.shift == alone.shift


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=5))
def test_split_halves_are_worth_the_number(numbers):
    high, low = split(np.array(numbers, np.int64))
    assert high.dtype == np.int32 and low.dtype == np.uint32
    assert [int(h) * 2**32 + int(w) for h, w in zip(high, low, strict=True)] == numbers


@given(code=st.integers(-300, 300), shift=st.integers(1, 62))
def test_the_least_sum_of_a_code_is_rounded_to_it_and_one_less_is_not(code, shift):
    least = least_sums(code, shift)
    assert round(Fraction(least, 2**shift)) == code
    assert round(Fraction(least - 1, 2**shift)) == code - 1


def test_a_rescale_without_terms_is_its_bias():
    fixed = fixed_point_constants(rescale_node([], [2.5, -1.25]))
    np.testing.assert_array_equal(fixed.bias / 2.0**fixed.shift, [[2.5, -1.25]])
    assert math.isfinite(fixed.shift)
