"""Grouped convolutions as sums of shifted products: the compiler's convolution and gradients on whole numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lglsq_jax.ops import Window
from lglsq_jax.ops import groups as module
from lglsq_jax.ops.groups import convolve_by_shifts, prefers_shifts, pull_back_by_shifts
from lglsq_jax.ops.window import convolve

from .test_exact import CONVOLUTIONS

GROUPED = [name for name, (*_, groups) in CONVOLUTIONS.items() if groups > 1]


def whole(rng, shape):
    return jnp.float32(rng.integers(-8, 8, shape))


def check(x_shape, kernel_shape, window, seed):
    """Whole numbers, so that every order of summing gives the same floats."""
    rng = np.random.default_rng(seed)
    x, kernel = whole(rng, x_shape), whole(rng, kernel_shape)
    expected, pull_expected = jax.vjp(lambda x, k: convolve(x, k, window), x, kernel)
    np.testing.assert_array_equal(convolve_by_shifts(x, kernel, window), expected)
    gradient = whole(rng, expected.shape)
    for one, other in zip(pull_back_by_shifts(x, kernel, gradient, window), pull_expected(gradient), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("vector", [1, 100], ids=["one position after another", "all positions at once"])
@pytest.mark.parametrize("kind", GROUPED)
def test_shifted_products_are_the_convolution_forward_and_backward(kind, vector, monkeypatch):
    monkeypatch.setattr(module, "_VECTOR", vector)
    x_shape, kernel_shape, *geometry = CONVOLUTIONS[kind]
    check(x_shape, kernel_shape, Window(*geometry), 1)


@settings(max_examples=5)
@given(
    st.integers(2, 5), st.integers(1, 3), st.integers(1, 2), st.integers(1, 2), st.integers(1, 3), st.integers(0, 2**31)
)
def test_any_number_of_groups_channels_and_outputs(groups, channels, outputs, stride, taps, seed):
    window = Window((stride,), ((taps - 1, 1),), (1,), (1,), groups)
    check((2, 6, groups * channels), (taps, channels, groups * outputs), window, seed)


def test_integers_are_summed_in_the_wanted_type():
    window = Window((1, 1), ((1, 1), (1, 1)), (1, 1), (1, 1), 4)
    x, kernel = jnp.full((1, 3, 3, 4), 127, jnp.int8), jnp.full((3, 3, 1, 4), -128, jnp.int8)
    y = convolve_by_shifts(x, kernel, window, jnp.int32)
    assert y.dtype == jnp.int32
    assert y[0, 1, 1, 0] == -128 * 127 * 9


def test_few_channels_a_group_prefer_shifts():
    window = Window((1, 1), ((1, 1), (1, 1)), (1, 1), (1, 1), 8)
    assert prefers_shifts((3, 3, 1, 8), window)
    assert prefers_shifts((3, 3, 4, 32), window)
    assert not prefers_shifts((3, 3, 5, 40), window)
    assert not prefers_shifts((3, 3, 1, 8), Window((1, 1), ((1, 1), (1, 1)), (1, 1), (1, 1), 1))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_products_of_matrices_are_summed_in_float32(dtype):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, 6, 6, 64)), dtype)
    kernel = jnp.asarray(rng.normal(size=(3, 3, 32, 16)), dtype)
    window = Window((1, 1), ((1, 1), (1, 1)), (1, 1), (1, 1), 2)
    wanted = convolve(x.astype(jnp.float32), kernel.astype(jnp.float32), window)
    found = module._by_products(x, kernel, window)
    assert found.dtype == dtype
    rounding = float(jnp.finfo(dtype).eps) / 2
    np.testing.assert_allclose(found.astype(jnp.float32), wanted, rtol=1.01 * rounding, atol=1e-4)
