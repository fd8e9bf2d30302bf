"""The geometry of a convolution: named padding, what is depthwise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lglsq_jax.ops import Window
from lglsq_jax.ops.window import convolve

from .test_exact import CONVOLUTIONS


@pytest.mark.parametrize("padding", ["SAME", "VALID", "SAME_LOWER"])
@pytest.mark.parametrize("strides", [(1, 1), (2, 3)])
@pytest.mark.parametrize("dilation", [(1, 1), (2, 1)])
def test_named_padding_is_that_of_lax(padding, strides, dilation):
    x, kernel = (1, 7, 8, 2), (3, 2, 2, 3)
    window = Window.resolve(x, kernel, strides, padding, (1, 1), dilation, 1)

    def by_name(x, kernel):
        numbers = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            x, kernel, strides, padding, rhs_dilation=dilation, dimension_numbers=numbers
        )

    rng = np.random.default_rng(0)
    x, kernel = jnp.float32(rng.integers(-8, 8, x)), jnp.float32(rng.integers(-8, 8, kernel))
    np.testing.assert_array_equal(convolve(x, kernel, window), by_name(x, kernel))


def test_what_is_depthwise_and_how_many_terms_a_sum_has():
    for kind, (_, kernel, *geometry) in CONVOLUTIONS.items():
        window = Window(*geometry)
        assert window.is_depthwise(kernel) == (kind in ("depthwise", "depthwise, dilated input"))
        assert window.terms(kernel) == np.prod(kernel[:-1])
    assert not Window((1,), ((0, 0),), (1,), (1,)).is_depthwise((3, 1, 1))


def test_four_spatial_axes_are_refused():
    window = Window((1,) * 4, ((0, 0),) * 4, (1,) * 4, (1,) * 4)
    with pytest.raises(ValueError, match=r"^a convolution may have 1 to 3 spatial axes, got 4$"):
        convolve(jnp.zeros((1, 2, 2, 2, 2, 1)), jnp.zeros((1, 1, 1, 1, 1, 1)), window)
