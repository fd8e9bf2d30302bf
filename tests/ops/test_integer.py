"""Products of integer codes are those of NumPy, whichever form the compiler is given."""

import jax
import numpy as np
import pytest

from lglsq_jax.ops import Window, integer
from lglsq_jax.ops.integer import convolve_int32, multiply_int32

RANGES = [(-8, 7), (-128, 127), (0, 255)]


@pytest.mark.parametrize("limits", RANGES)
@pytest.mark.parametrize("rows", [(1,), (1, 1), (5,), (2, 1, 3)])
def test_a_product_is_the_same_for_one_row_and_for_many(rows, limits):
    rng = np.random.default_rng(sum(rows))
    low, high = limits
    codes = rng.integers(low, high, (*rows, 37), endpoint=True).astype(np.uint8 if limits[1] > 127 else np.int8)
    kernel = rng.integers(-128, 127, (37, 6), endpoint=True).astype(np.int8)
    found = jax.jit(lambda x: multiply_int32(x, kernel, limits[1]))(codes)
    np.testing.assert_array_equal(found, codes.astype(np.int64) @ kernel.astype(np.int64))


@pytest.mark.parametrize("limits", RANGES)
@pytest.mark.parametrize("strides", [(1, 1), (2, 3)])
def test_a_pointwise_convolution_is_a_product_at_each_place(strides, limits):
    rng = np.random.default_rng(strides[0])
    low, high = limits
    codes = rng.integers(low, high, (2, 5, 7, 9), endpoint=True).astype(np.uint8 if limits[1] > 127 else np.int8)
    kernel = rng.integers(-128, 127, (1, 1, 9, 4), endpoint=True).astype(np.int8)
    window = Window(strides, ((0, 0), (0, 0)), (1, 1), (1, 1))
    run = jax.jit(lambda x: convolve_int32(x, kernel, window, limits[1]))
    picked = codes[:, :: strides[0], :: strides[1]].astype(np.int64)
    np.testing.assert_array_equal(run(codes), picked @ kernel[0, 0].astype(np.int64))
    assert "dot_general" in str(jax.make_jaxpr(run)(codes))


def test_a_padded_pointwise_convolution_of_unsigned_codes_sees_zeros_around():
    """Codes above 127 travel shifted; the padding must be shifted with them."""
    codes = np.full((1, 2, 2, 3), 200, np.uint8)
    kernel = np.ones((1, 1, 3, 2), np.int8)
    found = np.asarray(convolve_int32(codes, kernel, Window((1, 1), ((1, 0), (0, 1)), (1, 1), (1, 1)), 255))
    expected = np.zeros((1, 3, 3, 2), np.int64)
    expected[:, 1:, :2] = 600
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("total", [3, 255, 256, 9 * 127])
@pytest.mark.parametrize("limits", RANGES)
@pytest.mark.parametrize("batch, branch", [(0, True), (3, True), (3, False)])
def test_sums_of_a_depthwise_kernel_are_exact_up_to_their_largest_size(batch, branch, limits, total, monkeypatch):
    """The absolute weights of each channel add up to ``total``: to 255, int16 holds every sum of int8 codes."""
    monkeypatch.setattr(integer, "_WORTH_A_BRANCH", 1 if branch else 10**6)
    rng = np.random.default_rng(total)
    sizes = np.stack([rng.permutation(total // 9 + (np.arange(9) < total % 9)) for _ in range(6)])
    assert (sizes.sum(1) == total).all() and sizes.max() <= 127
    signs = rng.choice((-1, 1), (6, 9))
    signs[0], signs[1] = 1, -1
    kernel = (sizes * signs).T.reshape(3, 3, 1, 6).astype(np.int8)
    codes = rng.choice(limits, (batch, 6, 5, 6)).astype(np.uint8 if limits[1] > 127 else np.int8)
    codes[:, :3, :3] = limits[1]  # every tap at the end: the largest sums there are
    codes[:, 3:, :3] = limits[0]
    window = Window((1, 1), ((0, 0), (0, 0)), (1, 1), (1, 1), 6)
    patches = np.lib.stride_tricks.sliding_window_view(codes.astype(np.int64), (3, 3), (1, 2))
    expected = np.einsum("nhwcij,ijc->nhwc", patches, kernel[:, :, 0].astype(np.int64))
    known = jax.jit(lambda x: convolve_int32(x, kernel, window, limits[1]))(codes)
    given = jax.jit(lambda x, kernel: convolve_int32(x, kernel, window, limits[1]))(codes, kernel)
    assert ("cond" in str(jax.make_jaxpr(lambda x: convolve_int32(x, kernel, window, limits[1]))(codes))) == (
        branch and batch > 0 and total <= 255
    )
    for found in (known, given):
        assert found.dtype == np.int32
        np.testing.assert_array_equal(found, expected)
