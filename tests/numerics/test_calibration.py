"""Where scales start: the least squared error, LSQ's rule, the maximum, three sigma."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lglsq_jax as lq
from lglsq_jax.calibration import STARTS

from . import reference
from .cases import spec_of
from .reference import Grid

SHAPE = (40, 5)
GRIDS = [Grid(2), Grid(4, signed=False, channel_axis=-1), Grid(3, narrow=True, channel_axis=1), Grid(8)]


def samples(seed, scale=1.0, skew=0.0):
    return ((np.random.default_rng(seed).standard_t(5, SHAPE) + skew) * scale).astype(np.float32)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@given(st.integers(0, 1000), st.sampled_from([1e-6, 1.0, 1e6]), st.sampled_from([0.0, 1.5]))
@settings(max_examples=8)
def test_starts_are_their_formulas(grid, seed, size, skew):
    x = samples(seed, size, skew)
    for index, channel in enumerate(grid.groups(x.shape)):
        values = np.float64(x[channel])
        seen = abs(values) if grid.signed else np.maximum(values, 0)
        given = values if grid.signed else seen
        mean, spread = given.mean(), 3 * given.std()
        expected = {
            "lsq": 2 * seen.mean() / np.sqrt(grid.high),
            "max": seen.max() / grid.high,
            "sigma": max(abs(mean - spread), abs(mean + spread)) / (2 ** (grid.bits - 1) if grid.signed else grid.high),
        }
        for how, scale in expected.items():
            np.testing.assert_allclose(np.ravel(lq.init_scale(x, spec_of(grid), how))[index], scale, rtol=1e-5)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@given(st.integers(0, 1000), st.sampled_from([1e-6, 1.0, 1e6]))
@settings(max_examples=8)
def test_mse_finds_the_least_squared_error(grid, seed, size):
    x = samples(seed, size)
    found = np.ravel(lq.init_scale(x, spec_of(grid)))
    whole = Grid(grid.bits, grid.signed, grid.narrow)
    for index, channel in enumerate(grid.groups(x.shape)):
        values = x[channel]

        def error(scale, values=values):
            return ((reference.codes(whole, values, scale) * scale - values) ** 2).sum()

        best = min(map(error, np.abs(values).max() * np.geomspace(0.02, 1.2, 400) / whole.high))
        # At 8 bits the error of 200 elements is rough in the scale, and two grids may hit different dips of it.
        assert error(found[index]) <= best * (1.15 if grid.bits == 8 else 1.05)


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_each_channel_gets_the_least_error_over_its_own_grid(bits):
    """As if it were alone, whatever the others are; the grid of the docstring, once more in float64."""
    channels, size = 5, 10.0 ** np.arange(-2, 3)
    x = np.random.default_rng(bits).standard_t(3, (3, 3, 4, channels)).astype(np.float32) * size.astype(np.float32)
    found = np.asarray(lq.init_scale(jnp.asarray(x), lq.QuantSpec(bits, channel_axis=-1)))
    grid = Grid(bits)
    for channel in range(channels):
        values = np.float64(x[..., channel])
        alone = float(lq.init_scale(jnp.asarray(x[..., channel]), lq.QuantSpec(bits)))
        assert found[channel] == pytest.approx(alone, rel=1e-6)

        def error(scale, values=values):
            return ((np.clip(np.rint(values / scale), grid.low, grid.high) * scale - values) ** 2).mean()

        coarse = np.geomspace(0.012, 1.2, 48) * np.abs(values).max() / grid.high
        step, best = coarse[1] / coarse[0], min(coarse, key=error)
        assert error(found[channel]) <= min(map(error, best * np.linspace(1 / step, step, 25))) * (1 + 1e-4)


@pytest.mark.parametrize("how", STARTS)
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_a_start_is_always_finite_and_positive(how, grid):
    far = np.where(np.arange(200).reshape(SHAPE) % 2, 3e38, -3e38)
    for x in (np.zeros(SHAPE), np.full(SHAPE, -1.0), far, far * 1e-45, far * 1e-76, samples(0)):
        scale = np.asarray(lq.init_scale(jnp.asarray(x, jnp.float32), spec_of(grid), how))
        assert scale.dtype == np.float32 and scale.shape == spec_of(grid).scale_shape(SHAPE)
        assert (np.isfinite(scale) & (scale > 0)).all()
    assert (np.asarray(lq.init_scale(jnp.zeros(SHAPE), spec_of(grid), how)) == 1).all()


@pytest.mark.parametrize("how", STARTS)
def test_a_start_scales_with_its_values_up_to_the_largest_float(how):
    x = np.clip(samples(1), -3, 3)
    one = lq.init_scale(jnp.asarray(x), lq.QuantSpec(2), how)
    for size in (1e-30, 1e30, 1e38):
        large = lq.init_scale(jnp.asarray(x * np.float32(size)), lq.QuantSpec(2), how)
        largest = np.float32(2.0**125)  # of a scale whose inverse float32 holds
        np.testing.assert_allclose(large, np.minimum(one * np.float32(size), largest), rtol=1e-3)
        assert np.asarray(lq.quantize(jnp.asarray(x * np.float32(size)), large, lq.QuantSpec(2))).any()


def test_one_element_is_met_to_one_percent():
    for value in (0.3, -0.3):
        x = jnp.asarray([value])
        spec = lq.QuantSpec(3)
        restored = lq.fake_quantize(x, lq.init_scale(x, spec), spec)
        np.testing.assert_allclose(restored, x, rtol=0.01)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_narrow_float_types_are_computed_in_float32(dtype):
    x = jnp.asarray(samples(2), dtype)
    for how in STARTS:
        start = lq.init_scale(x, lq.QuantSpec(4), how)
        assert start.dtype == jnp.float32
        assert start == lq.init_scale(x.astype(jnp.float32), lq.QuantSpec(4), how)


def test_starts_can_be_traced_and_mapped():
    x, spec = jnp.asarray(samples(3)), lq.QuantSpec(4)
    rows = jax.vmap(lambda row: lq.init_scale(row, spec, "lsq"))(x.T)
    channels = lq.init_scale(x, lq.QuantSpec(4, channel_axis=1), "lsq")
    np.testing.assert_allclose(rows, channels, rtol=1e-6)


@pytest.mark.parametrize(
    ("x", "how", "sentence"),
    [
        (np.ones(3), "median", "`how` must be one of mse, lsq, max, sigma, got 'median'"),
        (np.ones((0, 3)), "mse", r"`x` must have at least one element, got shape \(0, 3\)"),
        (np.array([1.0, np.nan]), "mse", "`x` must be finite, got NaN or infinity"),
        (np.array([1.0, -np.inf]), "max", "`x` must be finite, got NaN or infinity"),
    ],
)
def test_what_cannot_be_calibrated_is_one_sentence(x, how, sentence):
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        lq.init_scale(jnp.asarray(x, jnp.float32), lq.QuantSpec(4), how)
