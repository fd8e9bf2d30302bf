"""64-bit arithmetic in 32-bit halves is Python's arithmetic on whole numbers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lglsq_jax.integer import wide

from .checks import float_types

INT32 = st.one_of(st.integers(-(2**31), 2**31 - 1), st.sampled_from([-(2**31), -(2**16), -1, 0, 1, 2**16, 2**31 - 1]))
MANY = 16  # one compilation for any number of examples


def lists(numbers):
    return st.lists(numbers, min_size=MANY, max_size=MANY)


def halves(numbers):
    """Numbers as a pair of int32 and uint32 arrays."""
    low = [number & 0xFFFFFFFF for number in numbers]
    return jnp.asarray([number >> 32 for number in numbers], jnp.int32), jnp.asarray(np.array(low, np.uint32))


def whole(pair) -> list[int]:
    return [int(high) * 2**32 + int(low) for high, low in zip(*map(np.asarray, pair), strict=True)]


def round_half_even(number: int, shift: int) -> int:
    """``number / 2**shift`` rounded, in whole numbers alone."""
    down, rest = divmod(number, 1 << shift)
    half = 1 << (shift - 1)
    return down + (rest > half or (rest == half and down % 2 == 1))


product = jax.jit(wide.product)
add = jax.jit(wide.add)
round_shift = functools.lru_cache(lambda shift: jax.jit(functools.partial(wide.round_shift, shift=shift)))
shift_right = functools.lru_cache(lambda shift: jax.jit(functools.partial(wide.shift_right, shift=shift)))


@given(lists(INT32), lists(INT32))
def test_product_is_exact(a, b):
    found = product(jnp.asarray(a, jnp.int32), jnp.asarray(b, jnp.int32))
    assert whole(found) == [x * y for x, y in zip(a, b, strict=True)]


@given(lists(st.integers(-(2**62), 2**62 - 1)), lists(st.integers(-(2**62), 2**62 - 1)))
def test_sum_carries_between_the_halves(a, b):
    assert whole(add(halves(a), halves(b))) == [x + y for x, y in zip(a, b, strict=True)]


@pytest.mark.parametrize("shift", [1, 2, 16, 31, 32, 33, 47, 62])
@given(data=st.data())
def test_round_shift_rounds_to_nearest_and_ties_to_even(shift, data):
    results = data.draw(lists(st.integers(-(2**31) + 1, 2**31 - 2)))
    rests = data.draw(lists(st.sampled_from([0, 1, (1 << shift - 1) - 1, 1 << shift - 1, (1 << shift) - 1])))
    largest = 2**62 - 1
    numbers = [max(-largest, min(largest, (r << shift) + rest)) for r, rest in zip(results, rests, strict=True)]
    found = round_shift(shift)(halves(numbers))
    assert np.asarray(found).tolist() == [round_half_even(number, shift) for number in numbers]


@pytest.mark.parametrize("shift", [0, 1, 31, 32, 33, 63])
@given(numbers=lists(st.integers(-(2**63), 2**63 - 1)))
def test_shift_right_rounds_down(shift, numbers):
    assert whole(shift_right(shift)(halves(numbers))) == [number >> shift for number in numbers]


@given(lists(st.integers(-(2**63), 2**63 - 1)), st.tuples(st.integers(-(2**62), 2**62), st.integers(0, 2**62)))
@example([-(2**32), -1, 0, 2**32 - 1, 2**32, 2**63 - 1, -(2**63), 5] * 2, (-1, 2**32 + 1))
def test_clamp_holds_between_two_numbers(numbers, ends):
    smallest, width = ends
    largest = smallest + width
    pairs = [(end >> 32, end & 0xFFFFFFFF) for end in (smallest, largest)]
    found = wide.clamp(halves(numbers), *pairs)
    assert whole(found) == [min(max(number, smallest), largest) for number in numbers]


def test_nothing_is_computed_in_floating_point():
    def everything(a, b):
        total = wide.add(wide.product(a, b), wide.shift_right(wide.product(b, a), 3))
        return wide.round_shift(wide.clamp(total, (-1, 0), (1, 0)), 40)

    numbers = jnp.arange(4, dtype=jnp.int32)
    assert float_types(jax.make_jaxpr(everything)(numbers, numbers)) == set()
    assert float_types(jax.make_jaxpr(jax.jit(lambda x: (x * 0.5).astype(jnp.int32)))(numbers)) == {"float32"}
