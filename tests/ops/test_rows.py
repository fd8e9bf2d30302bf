"""Convolutions of few channels with their rows gathered into channels equal the compiler's."""

import jax
import numpy as np
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from lglsq_jax.ops import Window
from lglsq_jax.ops.rows import convolve_by_rows, prefers_rows
from lglsq_jax.ops.window import convolve

PAIRS = st.tuples(st.integers(0, 2), st.integers(0, 2))


@settings(max_examples=15, deadline=None, phases=[Phase.explicit, Phase.generate])
@given(
    st.tuples(st.integers(1, 3), st.integers(2, 4)),
    st.tuples(st.integers(1, 2), st.integers(1, 3)),
    st.tuples(PAIRS, PAIRS),
    st.tuples(st.integers(1, 2), st.integers(1, 2)),
    st.integers(1, 4),
)
def test_gathered_rows_give_the_same_sums(taps, strides, padding, dilation, channels):
    rng = np.random.default_rng(channels)
    x = rng.integers(-128, 128, (2, 9, 11, channels), dtype=np.int8)
    kernel = rng.integers(-128, 128, (*taps, channels, 5), dtype=np.int8)
    window = Window(strides, padding, (1, 1), dilation)
    assert prefers_rows(kernel.shape, window)
    found = jax.jit(lambda x, k: convolve_by_rows(x, k, window, np.int32))(x, kernel)
    np.testing.assert_array_equal(found, convolve(x, kernel, window, np.int32))


def test_what_does_not_pay_is_left_alone():
    ones = Window((1, 1), ((1, 1), (1, 1)), (1, 1), (1, 1))
    assert prefers_rows((3, 3, 3, 32), ones)
    assert not prefers_rows((3, 3, 64, 64), ones)
    assert not prefers_rows((1, 1, 3, 8), ones)
    assert not prefers_rows((3, 3, 1, 4), Window((1, 1), ((1, 1), (1, 1)), (1, 1), (1, 1), 4))
    assert not prefers_rows((3, 3, 3, 8), Window((1, 1), ((1, 1), (1, 1)), (1, 2), (1, 1)))
