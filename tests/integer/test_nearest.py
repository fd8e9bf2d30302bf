"""Every code is the nearest one, for every accumulator that can occur; halves go to the even code."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lglsq_jax.integer.fixed import fixed_point_constants
from lglsq_jax.integer.nearest import made_nearest, nearest_steps
from lglsq_jax.integer.node import Node


def rescale_node(largest: int, scales, biases, low: int, high: int) -> Node:
    """A rescale to codes of one tensor of numbers within ``±largest``, one channel for each factor."""
    term = Node("clip", (), ("n", 1), np.array([[-largest]]), np.array([[largest]]))
    constants = {"scale0": np.array([scales], np.float64), "bias": np.array([biases], np.float64)}
    ends = np.array([[low]]), np.array([[high]])
    return Node("rescale", (term,), ("n", len(biases)), *ends, {"low": low, "high": high}, constants)


def nearest(scale: float, bias: float, n: int, low: int, high: int) -> int:
    """The definition, in fractions; Python's ``round`` takes halves to even."""
    return min(max(round(Fraction(scale) * n + Fraction(bias)), low), high)


def computed(fixed, n: int, channel: int, low: int, high: int) -> int:
    """What a program computes, in Python's integers."""
    multiplier = int(np.broadcast_to(fixed.multipliers[0], fixed.bias.shape)[0, channel])
    total = ((n * multiplier) >> fixed.term_shifts[0]) + int(fixed.bias[0, channel])
    return min(max(round(Fraction(total, 1 << fixed.shift)), low), high)


def worth_trying(scale: float, bias: float, low: int, high: int, largest: int) -> list[int]:
    """Every number of a small range; of a large one those within 2 of each boundary between codes, and the ends."""
    if largest <= 300:
        return list(range(-largest, largest + 1))
    found = {-largest, largest, 0}
    for code in range(low + 1, high + 1):
        if scale:
            boundary = round((Fraction(2 * code - 1, 2) - Fraction(bias)) / Fraction(scale))
            found |= {boundary + step for step in range(-2, 3)}
    return [n for n in found if -largest <= n <= largest]


def assert_all_nearest(node: Node) -> bool:
    low, high = node.attributes["low"], node.attributes["high"]
    largest = node.inputs[0].largest
    fixed = made_nearest(node, fixed_point_constants(node))
    thresholds, results = nearest_steps(node)
    for channel, (scale, bias) in enumerate(zip(node.constants["scale0"][0], node.constants["bias"][0], strict=True)):
        for n in worth_trying(scale, bias, low, high, largest):
            wanted = nearest(scale, bias, n, low, high)
            assert results[0, channel, np.searchsorted(thresholds[0, channel], n, "right")] == wanted
            assert fixed is None or computed(fixed, n, channel, low, high) == wanted
    return fixed is not None


@settings(max_examples=60)
@given(st.integers(2, 8), st.booleans(), st.floats(1, 24), st.booleans(), st.integers(0, 2**32 - 1))
def test_codes_are_the_nearest_for_every_number_that_can_occur(bits, signed, size, dyadic, seed):
    rng = np.random.default_rng(seed)
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    largest = int(2**size)
    scales = rng.choice([-1, 1, 1], 3) * 2.0 ** rng.uniform(-3, 3, 3) * high / largest
    biases = rng.normal(size=3) * high / 3
    if dyadic:  # with ties at many numbers
        scales, biases = np.sign(scales) * 2.0 ** np.rint(np.log2(np.abs(scales))), np.rint(biases * 2) / 2
    assert_all_nearest(rescale_node(largest, scales, biases, low, high))


def test_a_code_that_31_bits_would_miss_is_put_right():
    # The factors and their roundings: found by trying at random, so that constants rounded one by one miss a boundary.
    moved = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        largest = 2**23
        node = rescale_node(largest, rng.uniform(0.5, 2, 4) * 255 / largest, rng.normal(size=4), 0, 255)
        fixed = fixed_point_constants(node)
        better = made_nearest(node, fixed)
        if better is not fixed:
            moved += 1
            assert_all_nearest(node)
            rounded = any(
                computed(fixed, n, c, 0, 255)
                != nearest(node.constants["scale0"][0, c], node.constants["bias"][0, c], n, 0, 255)
                for c in range(4)
                for n in worth_trying(node.constants["scale0"][0, c], node.constants["bias"][0, c], 0, 255, largest)
            )
            assert rounded
    assert moved


@pytest.mark.parametrize("factor", [0.0, 2.0**-40])
def test_a_channel_that_is_constant_keeps_its_code(factor):
    assert assert_all_nearest(rescale_node(100, [factor, 0.3], [2.5, 1.5], 0, 15))
