"""Values in bins, against NumPy in float64: on the borders, beside them and beyond."""

import jax.numpy as jnp
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lglsq_jax.counting import histogram


@given(bins_per_unit=st.integers(1, 64), low=st.integers(-200, 0), units=st.integers(1, 256))
def test_borders_belong_to_the_bin_above(bins_per_unit, low, units):
    """As NumPy counts them, but for the last border of all and what lies beyond, which it leaves out."""
    bins = bins_per_unit * units
    low = low - 0.5
    borders = (low + np.arange(-2, bins + 3) / bins_per_unit).astype(np.float32)
    values = borders[borders == low + np.arange(-2, bins + 3) / bins_per_unit]  # that float32 holds exactly
    expected = np.clip(np.floor((values.astype(np.float64) - low) * bins_per_unit), 0, bins - 1).astype(int)
    counts = histogram(jnp.asarray(values), low, low + units, bins)
    np.testing.assert_array_equal(counts, np.bincount(expected, minlength=bins))


@given(values=st.lists(st.floats(-8, 8, width=32), min_size=1, max_size=50))
def test_every_value_is_counted_once(values):
    counts = np.asarray(histogram(jnp.asarray(values, jnp.float32), -2.5, 2.5, 5))
    expected, _ = np.histogram(np.clip(np.asarray(values), -2.5, 2.499), bins=np.arange(-2.5, 3))
    assert counts.sum() == len(values)
    near = [abs(value - 0.5 - round(value - 0.5)) < 1e-5 for value in values]  # float32 may round onto the border
    if not any(near):
        np.testing.assert_array_equal(counts, expected)
