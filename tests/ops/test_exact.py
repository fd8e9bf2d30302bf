"""Products of codes: every arithmetic gives the same whole numbers, and the choice between them."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lglsq_jax.ops import ARITHMETICS, Window, choose_arithmetic, convolve_codes, largest_sum, multiply_codes
from lglsq_jax.ops.exact import convolve_in, multiply_in

# (x shape, kernel shape, strides, padding, input dilation, kernel dilation, groups), one of each kind.
CONVOLUTIONS = {
    "plain": ((2, 6, 5, 3), (3, 3, 3, 4), (1, 1), ((1, 1), (1, 1)), (1, 1), (1, 1), 1),
    "strides and uneven padding": ((2, 6, 7, 3), (3, 2, 3, 4), (2, 3), ((0, 1), (2, 0)), (1, 1), (1, 1), 1),
    "dilated kernel": ((1, 7, 7, 2), (3, 3, 2, 3), (1, 1), ((2, 2), (1, 1)), (1, 1), (2, 1), 1),
    "dilated input": ((1, 4, 4, 2), (3, 3, 2, 3), (1, 1), ((1, 1), (2, 1)), (2, 3), (1, 1), 1),
    "groups": ((2, 5, 5, 4), (3, 3, 2, 6), (1, 1), ((1, 1), (1, 1)), (1, 1), (1, 1), 2),
    "depthwise": ((2, 6, 6, 5), (3, 3, 1, 5), (2, 1), ((1, 1), (0, 1)), (1, 1), (1, 2), 5),
    "depthwise, dilated input": ((1, 4, 4, 3), (2, 3, 1, 3), (1, 2), ((1, 0), (2, 2)), (2, 1), (1, 1), 3),
    "depthwise with a multiplier": ((1, 5, 5, 3), (3, 3, 1, 6), (1, 1), ((1, 1), (1, 1)), (1, 1), (1, 1), 3),
    "one by one": ((2, 4, 4, 6), (1, 1, 6, 3), (1, 1), ((0, 0), (0, 0)), (1, 1), (1, 1), 1),
    "one axis": ((2, 9, 3), (4, 3, 2), (2,), ((3, 0),), (1,), (1,), 1),
    "three axes": ((1, 3, 4, 3, 2), (2, 2, 2, 2, 3), (1, 1, 1), ((1, 0),) * 3, (1, 1, 1), (1, 1, 1), 1),
    "negative padding": ((1, 6, 6, 2), (2, 2, 2, 2), (1, 1), ((-1, 0), (0, -1)), (1, 1), (1, 1), 1),
}
RANGES = {"signed": (-128, 127), "unsigned": (0, 255), "three bits": (-4, 3), "a bit": (0, 1)}
WEIGHTS = (-128, 127)

run_conv = jax.jit(convolve_in, static_argnums=(0, 3, 4), static_argnames="shifts")
run_matmul = jax.jit(multiply_in, static_argnums=(0, 3))


def codes(rng, shape, limits):
    """Codes with many at the ends of their range."""
    inner = rng.integers(limits[0], limits[1] + 1, shape)
    return np.where(rng.random(shape) < 0.3, rng.choice(limits, shape), inner).astype(np.float32)


def convolve_by_hand(x, kernel, window):
    """One output at a time in int64: the definition."""
    spatial = kernel.ndim - 2
    dilated = [(size - 1) * d + 1 for size, d in zip(x.shape[1:-1], window.input_dilation, strict=True)]
    wide = np.zeros((x.shape[0], *dilated, x.shape[-1]), np.int64)
    wide[(slice(None), *(slice(None, None, d) for d in window.input_dilation))] = x
    for axis, pair in enumerate(window.padding):
        wide = np.pad(wide, [tuple(max(p, 0) for p in pair) if a == axis + 1 else (0, 0) for a in range(wide.ndim)])
        crop = slice(-min(pair[0], 0), wide.shape[axis + 1] + min(pair[1], 0))
        wide = wide[(slice(None),) * (axis + 1) + (crop,)]
    reach = [(size - 1) * d + 1 for size, d in zip(kernel.shape[:-2], window.kernel_dilation, strict=True)]
    sizes = [(n - r) // s + 1 for n, r, s in zip(wide.shape[1:-1], reach, window.strides, strict=True)]
    channels, outputs = kernel.shape[-2], kernel.shape[-1] // window.groups
    y = np.zeros((x.shape[0], *sizes, kernel.shape[-1]), np.int64)
    for place in np.ndindex(*sizes):
        for tap in np.ndindex(*kernel.shape[:spatial]):
            at = tuple(
                p * s + t * d for p, s, t, d in zip(place, window.strides, tap, window.kernel_dilation, strict=True)
            )
            seen = wide[(slice(None), *at)]
            for group in range(window.groups):
                part = kernel[tap][:, group * outputs : (group + 1) * outputs].astype(np.int64)
                y[(slice(None), *place, slice(group * outputs, (group + 1) * outputs))] += (
                    seen[:, group * channels : (group + 1) * channels] @ part
                )
    return y


@pytest.mark.parametrize("limits", ["signed", "unsigned"])
@pytest.mark.parametrize("kind", CONVOLUTIONS)
@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=3)
def test_every_arithmetic_convolves_exactly(kind, limits, seed):
    x_shape, kernel_shape, *geometry = CONVOLUTIONS[kind]
    window, rng = Window(*geometry), np.random.default_rng(seed)
    x, kernel = codes(rng, x_shape, RANGES[limits]), codes(rng, kernel_shape, WEIGHTS)
    expected = convolve_by_hand(x, kernel, window)
    for arithmetic, shifts in itertools.product(ARITHMETICS, (False, True) if window.groups > 1 else (False,)):
        found = run_conv(arithmetic, x, kernel, window, RANGES[limits], shifts=shifts)
        assert found.dtype == jnp.float32
        np.testing.assert_array_equal(found, expected, err_msg=f"{arithmetic}, by shifts: {shifts}")


@pytest.mark.parametrize("limits", RANGES)
@pytest.mark.parametrize("x_shape", [(7, 11), (2, 3, 11), (11,)], ids=str)
def test_every_arithmetic_multiplies_exactly(limits, x_shape):
    for seed in range(3):
        rng = np.random.default_rng(seed)
        x, kernel = codes(rng, x_shape, RANGES[limits]), codes(rng, (11, 4), WEIGHTS)
        for arithmetic in ARITHMETICS:
            found = run_matmul(arithmetic, x, kernel, RANGES[limits])
            np.testing.assert_array_equal(found, x.astype(np.int64) @ kernel.astype(np.int64), err_msg=arithmetic)


@pytest.mark.parametrize("limits", ["signed", "unsigned"])
def test_integer_arithmetics_stay_exact_where_float32_does_not(limits):
    terms = 4096
    x, kernel = np.full((1, terms), RANGES[limits][1], np.float32), np.full((terms, 1), -128, np.float32)
    x[0, 0], kernel[0, 0] = 1, 1
    exact = x.astype(np.int64) @ kernel.astype(np.int64)
    assert abs(exact) > 2**24
    for arithmetic in ("split", "int8"):
        np.testing.assert_array_equal(run_matmul(arithmetic, x, kernel, RANGES[limits]), exact.astype(np.float32))
    np.testing.assert_array_equal(multiply_codes(x, kernel, RANGES[limits], WEIGHTS), exact.astype(np.float32))


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
def test_a_nan_is_passed_on_by_every_arithmetic(arithmetic):
    window = Window((1, 1), ((1, 1), (1, 1)), (1, 1), (1, 1))
    x, kernel = np.ones((1, 4, 4, 2), np.float32), np.ones((3, 3, 2, 2), np.float32)
    x[0, 1, 1, 0] = np.nan
    assert np.isnan(run_conv(arithmetic, x, kernel, window, (-8, 7))[0, :3, :3]).all()
    assert np.isnan(run_matmul(arithmetic, x[0, 1], kernel[0, 0], (-8, 7))[1]).all()
    kernel[0, 0, 0, 1] = np.nan
    assert np.isnan(run_conv(arithmetic, np.ones_like(x), kernel, window, (-8, 7))[0, 2:, 2:, 1]).all()
    assert np.isnan(run_matmul(arithmetic, np.ones((3, 2), np.float32), kernel[0, 0], (0, 255))[:, 1]).all()


@pytest.mark.parametrize(
    ("platform", "x_range", "kernel_range", "terms", "channels", "expected"),
    [
        ("cpu", (0, 7), (-4, 3), 144, 16, "float32"),
        ("cpu", (0, 7), (-4, 3), 288, 32, "int8"),
        ("cpu", (0, 255), (-128, 127), 515, 1, "int8"),
        ("cpu", (0, 255), (-128, 127), 514, 1, "float32"),
        ("accelerator", (0, 7), (-4, 3), 4608, 512, "bfloat16"),
        ("accelerator", (0, 255), (-128, 127), 512, 64, "bfloat16"),
        ("accelerator", (0, 255), (-128, 127), 4386, 512, "split"),
        ("accelerator", (0, 255), (-128, 127), 4387, 512, "int8"),
    ],
)
def test_the_choice_of_arithmetic(platform, x_range, kernel_range, terms, channels, expected):
    assert choose_arithmetic(platform, x_range, kernel_range, terms, channels) == expected


def test_a_float_arithmetic_is_chosen_only_where_it_is_exact():
    widths = [(-(2**b) // 2, 2**b // 2 - 1) for b in range(2, 9)] + [(0, 2**b - 1) for b in range(2, 9)]
    for platform, x, terms, channels in itertools.product(
        ("cpu", "accelerator"), widths, (1, 9, 511, 512, 513, 2048, 2**15, 2**20), (1, 16, 32, 512)
    ):
        for kernel in widths[:7]:
            if choose_arithmetic(platform, x, kernel, terms, channels) in ("float32", "bfloat16"):
                assert not 2**24 <= largest_sum(x, kernel, terms) < 2**31
            else:
                assert largest_sum(x, kernel, terms) < 2**31


def test_products_of_codes_keep_their_names_in_a_jaxpr_and_vmap():
    window = Window((1, 1), ((1, 1), (1, 1)), (1, 1), (1, 1))
    rng = np.random.default_rng(0)
    x, kernel = codes(rng, (3, 1, 4, 4, 2), (0, 255)), codes(rng, (3, 3, 2, 2), WEIGHTS)

    def run(x):
        return convolve_codes(x, kernel, window, (0, 255), WEIGHTS)

    assert "lglsq_convolve" in str(jax.make_jaxpr(run)(x[0]))
    assert "lglsq_multiply" in str(jax.make_jaxpr(lambda x: multiply_codes(x, kernel[0, 0], (0, 255), WEIGHTS))(x[0]))
    np.testing.assert_array_equal(jax.vmap(run)(x), np.stack([run(one) for one in x]))


def test_a_sum_beyond_int32_is_one_of_floats():
    """A row so long that int32 could overflow: rounded as a float product, not wrapped."""
    terms = 70_000
    assert largest_sum((0, 255), (-127, 127), terms) > 2**31
    x, kernel = jnp.full((1, terms), 255.0), jnp.full((terms, 1), 127.0)
    found = multiply_codes(x, kernel, (0, 255), (-127, 127))
    np.testing.assert_allclose(found, 255.0 * 127 * terms, rtol=1e-5)
