"""Each integer operation against its definition in exact arithmetic."""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from lglsq_jax.integer.arrange import ARRANGE
from lglsq_jax.integer.fixed import split
from lglsq_jax.integer.kernels import KERNELS

from .checks import float_types

MANY = 12
INT32 = st.one_of(st.integers(-(2**31), 2**31 - 1), st.integers(-300, 300))


def rescale(terms, multipliers, bias, shift, low, high, clamp=None, term_shifts=None):
    attributes = {"shift": shift, "low": low, "high": high, "clamp": clamp, "dtype": "int32"}
    if term_shifts is not None:
        attributes["term_shifts"] = term_shifts
    constants = {f"multiplier{index}": np.array(m, np.int32) for index, m in enumerate(multipliers)}
    constants["bias_high"], constants["bias_low"] = split(np.array(bias, np.int64))
    return np.asarray(KERNELS["rescale"](attributes, constants, *(jnp.asarray(t, jnp.int32) for t in terms)))


@st.composite
def rescales(draw):
    """Two terms, a bias and a shift such that the sum stays below 2**62."""
    shift = draw(st.integers(1, 40))
    numbers = [draw(st.lists(INT32, min_size=MANY, max_size=MANY)) for _ in range(2)]
    multipliers = [draw(st.integers(-(2**29), 2**29)) for _ in range(2)]
    bias = draw(st.integers(-(2**61) + 1, 2**61 - 1))
    low = draw(st.integers(-(2**20), 2**20))
    return numbers, multipliers, bias, shift, low, low + draw(st.integers(0, 2**20))


@given(rescales())
def test_rescale_is_one_rounding_of_the_exact_sum_ties_to_even_then_clipped(case):
    numbers, multipliers, bias, shift, low, high = case
    clamp = [[end << shift >> 32, (end << shift) & 0xFFFFFFFF] for end in (low, high)]
    found = rescale(numbers, multipliers, bias, shift, low, high, clamp)
    exact = [Fraction(a * multipliers[0] + b * multipliers[1] + bias, 2**shift) for a, b in zip(*numbers, strict=True)]
    assert found.tolist() == [min(max(round(value), low), high) for value in exact]  # round() takes ties to even


@given(st.lists(INT32, min_size=MANY, max_size=MANY), st.integers(0, 62), st.integers(1, 2**31 - 1))
def test_a_term_with_a_shift_of_its_own_is_rounded_down_to_the_common_one(numbers, extra, multiplier):
    shift, low, high = 31, -(2**31) + 1, 2**31 - 1
    clamp = [[end << shift >> 32, (end << shift) & 0xFFFFFFFF] for end in (low, high)]
    found = rescale([numbers], [multiplier], 0, shift, low, high, clamp, [extra])
    exact = [round(Fraction(number * multiplier >> extra, 2**shift)) for number in numbers]
    assert found.tolist() == [min(max(value, low), high) for value in exact]


def test_rescale_takes_ties_to_the_even_code():
    halves = np.arange(-7, 8, 2)  # -3.5, -2.5, ..., 3.5
    assert rescale([halves], [1], 0, 1, -8, 7).tolist() == [-4, -2, -2, 0, 0, 2, 2, 4]


def test_rescale_has_one_factor_a_channel():
    found = rescale([[[10, 10, 10]]], [[[1, 2, 4]]], [[0, 8, -8]], 2, -100, 100)
    assert found.tolist() == [[2, 7, 8]]


WINDOWS = {"dimensions": [1, 2, 3, 1], "strides": [1, 1, 2, 1], "padding": [[0, 0], [1, 0], [1, 1], [0, 0]]}
WINDOWS |= {"base_dilation": [1] * 4, "window_dilation": [1] * 4}


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32])
def test_windows_are_those_of_numpy(dtype):
    low, high = (0, 255) if dtype == np.uint8 else (-128, 127)
    x = np.random.default_rng(0).integers(low, high + 1, (2, 4, 5, 3)).astype(dtype)

    def windows(fill):
        padded = np.pad(x.astype(np.int64), [(0, 0), (1, 0), (1, 1), (0, 0)], constant_values=fill)
        return np.lib.stride_tricks.sliding_window_view(padded, (2, 3), axis=(1, 2))[:, :, ::2]

    sums = KERNELS["window_sum"](WINDOWS, {}, jnp.asarray(x))
    assert sums.dtype == np.int32
    np.testing.assert_array_equal(sums, windows(0).sum((-1, -2)))
    largest = KERNELS["window_max"](WINDOWS, {}, jnp.asarray(x))
    np.testing.assert_array_equal(largest, windows(np.iinfo(dtype).min).max((-1, -2)))
    assert largest.dtype == dtype


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
def test_sums_of_codes_do_not_wrap(dtype):
    x = np.full((1, 40, 40), np.iinfo(dtype).max, dtype)
    total = KERNELS["sum"]({"axes": [1, 2]}, {}, jnp.asarray(x))
    assert total.dtype == np.int32 and total.tolist() == [1600 * np.iinfo(dtype).max]
    assert KERNELS["max"]({"axes": [1, 2]}, {}, jnp.asarray(x)).tolist() == [np.iinfo(dtype).max]


@pytest.mark.parametrize("code_maximum", [127, 255])
def test_products_of_the_largest_codes_are_exact(code_maximum):
    rng = np.random.default_rng(0)
    low, dtype = (0, np.uint8) if code_maximum == 255 else (-128, np.int8)
    x = rng.choice([low, code_maximum], (2, 5, 4)).astype(dtype)
    kernel = rng.choice([-128, 127], (3, 4, 2)).astype(np.int8)
    attributes = {"strides": [1], "padding": [[1, 1]], "input_dilation": [1], "kernel_dilation": [1], "groups": 1}
    found = KERNELS["convolve"](attributes | {"code_maximum": code_maximum}, {}, jnp.asarray(x), jnp.asarray(kernel))
    padded = np.pad(x.astype(np.int64), [(0, 0), (1, 1), (0, 0)])
    view = np.lib.stride_tricks.sliding_window_view(padded, 3, axis=1)
    np.testing.assert_array_equal(found, np.einsum("ntck,kco->nto", view, kernel.astype(np.int64)))
    product = KERNELS["multiply"]({"code_maximum": code_maximum}, {}, jnp.asarray(x), jnp.asarray(kernel[0]))
    np.testing.assert_array_equal(product, x.astype(np.int64) @ kernel[0].astype(np.int64))
    assert found.dtype == product.dtype == np.int32


PADDINGS = st.lists(st.tuples(st.integers(-2, 3), st.integers(-2, 3), st.integers(0, 2)), min_size=2, max_size=2)


@settings(max_examples=10)
@given(PADDINGS)
def test_pad_is_that_of_lax(padding):
    x = np.arange(1, 21, dtype=np.int32).reshape(4, 5)
    expected = lax.pad(x, np.int32(-7), padding)
    for xp in (np, jnp):  # lowering's constants and the program's arrays
        found = ARRANGE["pad"](xp, {"padding": padding, "value": -7}, 1, xp.asarray(x))
        np.testing.assert_array_equal(found, expected)


def test_rearranging_keeps_the_type_and_joining_widens_it():
    x = np.arange(12, dtype=np.int8).reshape(2, 6)
    cases = {
        "reshape": ({"sizes": ["b*1", 2, 3]}, x.reshape(2, 2, 3)),
        "transpose": ({"permutation": [1, 0]}, x.T),
        "broadcast": ({"sizes": ["b*1", 3, 6], "axes": [0, 2]}, np.broadcast_to(x[:, None], (2, 3, 6))),
        "slice": ({"starts": [0, 1], "stops": ["b*1", 6], "strides": [1, 2]}, x[:, 1:6:2]),
        "reverse": ({"axes": [1]}, x[:, ::-1]),
    }
    for op, (attributes, expected) in cases.items():
        found = KERNELS[op](attributes | {"batch": 2}, {}, jnp.asarray(x))
        assert found.dtype == np.int8
        np.testing.assert_array_equal(found, expected)
    joined = KERNELS["concatenate"]({"axis": 1, "batch": 2}, {}, jnp.asarray(x), jnp.asarray(x, jnp.int32) * 1000)
    assert joined.dtype == np.int32
    np.testing.assert_array_equal(joined, np.concatenate([x, x * np.int32(1000)], 1))


def test_streams_are_compared_and_clipped_as_integers():
    x, y = jnp.array([-5, 0, 9], jnp.int8), jnp.array([-4, 1, 2], jnp.int8)
    assert KERNELS["maximum"]({}, {}, x, y).tolist() == [-4, 1, 9]
    assert KERNELS["minimum"]({}, {}, x, y).tolist() == [-5, 0, 2]
    assert KERNELS["clip"]({"low": 0, "high": 6}, {}, x).tolist() == [0, 0, 6]


def test_no_kernel_computes_in_floating_point():
    attributes = {"shift": 40, "low": -8, "high": 7, "clamp": [[-1, 0], [0, 9]], "dtype": "int8", "term_shifts": [3]}
    constants = {"multiplier0": np.int32(77), "bias_high": np.int32(-1), "bias_low": np.uint32(5)}
    body = jax.make_jaxpr(lambda x: KERNELS["rescale"](attributes, constants, x))(jnp.zeros(3, jnp.int32))
    assert float_types(body) == set()
    for op in ("window_sum", "window_max"):
        body = jax.make_jaxpr(lambda x, op=op: KERNELS[op](WINDOWS, {}, x))(jnp.zeros((1, 4, 5, 1), jnp.int8))
        assert float_types(body) == set()
