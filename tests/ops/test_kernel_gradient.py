"""The gradient for a kernel: the formula of its docstring, in float64 and as loops, for random geometries."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lglsq_jax.ops import Window
from lglsq_jax.ops import kernel_gradient as module
from lglsq_jax.ops.kernel_gradient import kernel_gradient
from lglsq_jax.ops.window import convolve


@st.composite
def geometries(draw):
    """Draws ``(x_shape, kernel_shape, window)`` with one or two spatial axes and at least one output."""
    axes = draw(st.integers(1, 2))
    sizes, taps, strides, padding, inner, dilation = [], [], [], [], [], []
    for _ in range(axes):
        taps.append(draw(st.integers(1, 3)))
        dilation.append(draw(st.integers(1, 2)))
        strides.append(draw(st.integers(1, 3)))
        inner.append(draw(st.integers(1, 2)))
        pair = draw(st.tuples(st.integers(-1, 2), st.integers(0, 2)))
        reach = (taps[-1] - 1) * dilation[-1] + 1
        fewest = max(1, 1 + -(-(reach - 1 - sum(pair)) // inner[-1]))
        sizes.append(draw(st.integers(fewest + 1, fewest + 6)))
        padding.append(pair)
    batch, channels, outputs = draw(st.integers(1, 3)), draw(st.integers(1, 4)), draw(st.integers(1, 3))
    window = Window(tuple(strides), tuple(padding), tuple(inner), tuple(dilation))
    return (batch, *sizes, channels), (*taps, channels, outputs), window


def reference(x, gradient, kernel_shape, window):
    """The sum over samples and positions, one tap after another, in float64."""
    taps, axes = kernel_shape[:-2], len(kernel_shape) - 2
    for axis in range(axes):  # zeros between, then padding or cropping
        spread = np.insert(x, np.repeat(np.arange(1, x.shape[axis + 1]), window.input_dilation[axis] - 1), 0, axis + 1)
        before, after = window.padding[axis]
        widths = [(0, 0)] * x.ndim
        widths[axis + 1] = (max(before, 0), max(after, 0))
        x = np.take(
            np.pad(spread, widths), range(max(-before, 0), sum(widths[axis + 1]) + spread.shape[axis + 1]), axis + 1
        )
    total = np.zeros(kernel_shape)
    for tap in itertools.product(*map(range, taps)):
        for place in itertools.product(*map(range, gradient.shape[1:-1])):
            at = tuple(
                p * s + t * d for p, s, t, d in zip(place, window.strides, tap, window.kernel_dilation, strict=True)
            )
            total[tap] += np.einsum("nc,no->co", x[(slice(None), *at)], gradient[(slice(None), *place)])
    return total


@settings(max_examples=25)
@given(geometries(), st.integers(0, 2**31), st.sampled_from([1, 200, 2**20]))
def test_it_is_the_sum_over_samples_and_positions(geometry, seed, block):
    x_shape, kernel_shape, window = geometry
    rng = np.random.default_rng(seed)
    x = np.float32(rng.normal(size=x_shape))
    shape = jax.eval_shape(lambda x, k: convolve(x, k, window), x, jnp.zeros(kernel_shape)).shape
    gradient = np.float32(rng.normal(size=shape))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_BLOCK", block)  # one row, some rows or all rows at a time
        found = module._by_blocks(jnp.asarray(x), jnp.asarray(gradient), kernel_shape, window)
    expected = reference(np.float64(x), np.float64(gradient), kernel_shape, window)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * max(1, np.abs(expected).max()))


def test_it_is_what_autodiff_of_the_convolution_gives_jitted_and_mapped():
    rng = np.random.default_rng(0)
    window = Window((2, 1), ((1, 1), (0, 2)), (1, 1), (1, 2))
    kernel = jnp.float32(rng.integers(-4, 4, (3, 3, 4, 6)))
    x = jnp.float32(rng.integers(-8, 8, (5, 2, 9, 8, 4)))
    gradient = jnp.float32(rng.integers(-8, 8, (5, *jax.eval_shape(lambda x: convolve(x, kernel, window), x[0]).shape)))

    def by_autodiff(x, gradient):
        return jax.vjp(lambda kernel: convolve(x, kernel, window), kernel)[1](gradient)[0]

    found = jax.jit(jax.vmap(lambda x, gradient: kernel_gradient(x, gradient, kernel.shape, window)))(x, gradient)
    np.testing.assert_array_equal(found, jax.vmap(by_autodiff)(x, gradient))
