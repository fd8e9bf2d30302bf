"""Float convolutions: whatever formulation is chosen, the result and both gradients are those of ``lax``."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lglsq_jax.ops import Window
from lglsq_jax.ops.floats import conv_general_dilated, convolve_groups, pull_back
from lglsq_jax.ops.window import convolve

from .test_exact import CONVOLUTIONS
from .test_groups import GROUPED, whole


@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_both_gradients_are_those_of_the_compiler(kind):
    x_shape, kernel_shape, *geometry = CONVOLUTIONS[kind]
    window, rng = Window(*geometry), np.random.default_rng(2)
    x, kernel = whole(rng, x_shape), whole(rng, kernel_shape)
    y, pull = jax.vjp(lambda x, k: convolve(x, k, window), x, kernel)
    gradient = whole(rng, y.shape)
    found = jax.jit(lambda *arrays: pull_back(*arrays, window))(x, kernel, gradient)
    for one, other in zip(found, pull(gradient), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("kind", GROUPED)
def test_nnx_conv_with_it_is_nnx_conv(kind):
    x_shape, (*taps, channels, outputs), strides, padding, inner, dilation, groups = CONVOLUTIONS[kind]
    settings = {
        "kernel_size": tuple(taps),
        "strides": strides,
        "padding": padding,
        "input_dilation": inner,
        "kernel_dilation": dilation,
        "feature_group_count": groups,
    }
    plain = nnx.Conv(channels * groups, outputs, rngs=nnx.Rngs(0), **settings)
    fast = nnx.Conv(channels * groups, outputs, conv_general_dilated=conv_general_dilated, rngs=nnx.Rngs(0), **settings)
    x = jax.random.normal(jax.random.key(1), x_shape)

    def loss(model, x):
        return jnp.sum(model(x) ** 2)

    for one, other in zip(
        jax.tree.leaves(nnx.jit(nnx.value_and_grad(loss, argnums=(0, 1)))(fast, x)),
        jax.tree.leaves(nnx.value_and_grad(loss, argnums=(0, 1))(plain, x)),
        strict=True,
    ):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-4)


def test_half_precision_is_summed_in_float32_and_second_derivatives_work():
    window = Window((1, 1), ((1, 1), (1, 1)), (1, 1), (1, 1), 3)
    rng = np.random.default_rng(3)
    x, kernel = whole(rng, (2, 4, 4, 3)), whole(rng, (3, 3, 1, 3))
    low = convolve_groups(x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16), window)
    assert low.dtype == jnp.bfloat16
    np.testing.assert_array_equal(low, convolve(x, kernel, window).astype(jnp.bfloat16))

    def curved(f):
        return jax.grad(lambda x: jnp.sum(jax.grad(lambda x: jnp.sum(f(x, kernel, window) ** 3))(x) ** 2))(x)

    np.testing.assert_allclose(curved(convolve_groups), curved(convolve), rtol=1e-5)


def test_other_layouts_and_wishes_are_passed_on_to_lax():
    rng = np.random.default_rng(4)
    x, kernel = whole(rng, (1, 4, 5, 5)), whole(rng, (4, 1, 3, 3))
    arguments = (x, kernel, (1, 1), "SAME")
    channels_first = {"dimension_numbers": ("NCHW", "OIHW", "NCHW"), "feature_group_count": 4}
    expected = jax.lax.conv_general_dilated(*arguments, **channels_first)
    np.testing.assert_array_equal(conv_general_dilated(*arguments, **channels_first), expected)
    integers = conv_general_dilated(
        *(array.astype(jnp.int8) for array in arguments[:2]),
        (1, 1),
        "SAME",
        preferred_element_type=jnp.int32,
        **channels_first,
    )
    assert integers.dtype == jnp.int32
    np.testing.assert_array_equal(integers, expected)
