"""quantize, dequantize and fake_quantize: codes, bits, dtypes, NaN, transformations of JAX, errors."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st

import lglsq_jax as lq
from lglsq_jax.quantizers import check_offset, check_progress, quantizer_gradients

from . import reference
from .cases import cases, spec_of

DTYPES = [jnp.float32, jnp.bfloat16, jnp.float16]
NAMES = lq.methods.names()
X = np.random.default_rng(0).normal(size=(3, 8)).astype(np.float32)


@functools.partial(jax.jit, static_argnums=0)
def value_and_gradients(spec, x, scale, progress):
    """What everything below compares: x_hat, g_x, g_s for one fixed upstream gradient."""
    y, pull_back = jax.vjp(lambda x, s: lq.fake_quantize(x, s, spec, progress=progress), x, scale)
    return y, *pull_back(jnp.cos(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape).astype(y.dtype))


@given(cases())
def test_codes_are_the_formula_at_ties_edges_and_neighbours(case):
    spec = case.spec(lq.methods.LSQ)
    codes = lq.quantize(case.x, case.scale, spec)
    assert codes.dtype == (jnp.int8 if case.grid.signed else jnp.uint8)
    np.testing.assert_array_equal(codes, reference.codes(case.grid, case.x, case.scale))


@given(cases(), st.floats(0.6, 1.7))
def test_fake_quantize_is_dequantize_of_quantize_to_the_bit(case, stretch):
    scale = (case.scale * np.float32(stretch)).astype(np.float32)
    for spec in (case.spec(lq.methods.LSQ), case.spec(lq.methods.LG_LSQ)):
        restored = lq.dequantize(lq.quantize(case.x, scale, spec), scale, spec)
        np.testing.assert_array_equal(lq.fake_quantize(case.x, scale, spec, progress=case.progress), restored)


@given(cases(), st.floats(0.6, 1.7))
def test_the_grid_of_codes_comes_back_as_itself(case, stretch):
    spec, scale = case.spec(lq.methods.LSQ), (case.scale * np.float32(stretch)).astype(np.float32)
    codes = lq.quantize(case.x, scale, spec)
    np.testing.assert_array_equal(lq.quantize(lq.dequantize(codes, scale, spec), scale, spec), codes)


@given(cases(offset=True))
def test_an_offset_moves_the_grid(case):
    found = lq.fake_quantize(case.x, case.scale, case.spec(lq.methods.LSQ_PLUS), case.offset)
    codes = reference.codes(case.grid, case.x, case.scale, case.offset)
    shape = [1] * case.x.ndim
    if case.grid.channel_axis is not None:
        shape[case.grid.channel_axis] = -1
    np.testing.assert_array_equal(found, codes * case.scale.reshape(shape) + case.offset.reshape(shape))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["lsq", "lg_lsq"])
def test_narrow_types_are_computed_in_float32_and_cast_back(dtype, name):
    spec, scale = lq.QuantSpec(5, method=lq.methods.get(name)), jnp.asarray(0.11, jnp.float32)
    x = jnp.asarray(X, dtype)
    assert lq.quantize(x, scale, spec).dtype == jnp.int8
    np.testing.assert_array_equal(lq.quantize(x, scale, spec), lq.quantize(x.astype(jnp.float32), scale, spec))
    for scale_dtype in (jnp.float32, dtype):
        y, g_x, g_s = value_and_gradients(spec, x, scale.astype(scale_dtype), 0.5)
        assert (y.dtype, g_x.dtype, g_s.dtype) == (dtype, dtype, scale_dtype)
    g = jnp.cos(jnp.arange(24.0)).reshape(3, 8).astype(dtype).astype(jnp.float32)
    y, g_x, g_s = value_and_gradients(spec, x, scale, 0.5)
    _, pull_back = jax.vjp(lambda x, s: lq.fake_quantize(x, s, spec, progress=0.5), x.astype(jnp.float32), scale)
    wide_x, wide_s = pull_back(g)
    np.testing.assert_allclose(
        np.float32(g_x), wide_x.astype(dtype).astype(np.float32), rtol=float(jnp.finfo(dtype).eps)
    )
    np.testing.assert_allclose(g_s, wide_s, rtol=1e-6)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("channel_axis", [None, 1])
def test_jit_eager_and_checkpoint_agree(name, channel_axis):
    spec = lq.QuantSpec(3, channel_axis=channel_axis, batch_axis=0, method=lq.methods.get(name))
    scale = jnp.full(spec.scale_shape(X.shape), 0.3)
    jitted = value_and_gradients(spec, X, scale, 0.25)
    eager = value_and_gradients.__wrapped__(spec, X, scale, 0.25)
    for found, expected in zip(jitted, eager, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)

    def loss(x, s):
        return jnp.sum(jnp.sin(lq.fake_quantize(x, s, spec, progress=0.25)))

    for found, expected in zip(
        jax.jit(jax.grad(jax.checkpoint(loss), (0, 1)))(X, scale),
        jax.jit(jax.grad(loss, (0, 1)))(X, scale),
        strict=True,
    ):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("name", NAMES)
def test_vmap_over_x_and_over_x_and_scale_are_a_loop(name):
    spec = lq.QuantSpec(3, method=lq.methods.get(name))
    scales = jnp.asarray([0.1, 0.3, 0.7])
    for axes, scale in (((0, None), scales[1]), ((0, 0), scales)):
        mapped = jax.vmap(functools.partial(value_and_gradients, spec), in_axes=(*axes, None))(X, scale, 0.5)
        for row in range(len(X)):
            alone = value_and_gradients(spec, X[row], jnp.broadcast_to(scale, 3)[row], 0.5)
            np.testing.assert_array_equal(mapped[0][row], alone[0])
            for found, expected in zip(mapped[1:], alone[1:], strict=True):
                np.testing.assert_allclose(found[row], expected, rtol=1e-6, atol=1e-7)


def test_the_code_next_to_a_tie_does_not_depend_on_the_shape():
    scale = np.float32(0.3)
    ties = ((np.arange(-20, 20) + 0.5) * scale).astype(np.float32)
    x = np.concatenate([ties, np.nextafter(ties, np.float32(9)), np.nextafter(ties, np.float32(-9))])
    spec, channels = lq.QuantSpec(8), lq.QuantSpec(8, channel_axis=0)
    expected = np.asarray(lq.quantize(x, scale, spec))
    np.testing.assert_array_equal(lq.quantize(x, np.full(x.shape, scale), channels), expected)
    np.testing.assert_array_equal(jax.vmap(lambda x, s: lq.quantize(x, s, spec))(x, np.full(x.shape, scale)), expected)
    np.testing.assert_array_equal(jax.jit(lambda x: lq.quantize(x, 0.3, spec))(x), expected)
    np.testing.assert_array_equal([lq.quantize(value, scale, spec) for value in x], expected)


def test_a_new_progress_or_scale_compiles_nothing_again():
    traces = []

    @jax.jit
    def step(x, scale, progress):
        traces.append(1)
        return jax.grad(lambda x: lq.fake_quantize(x, scale, lq.QuantSpec(4), progress=progress).sum())(x)

    results = [step(X, jnp.float32(0.3), jnp.float32(progress)) for progress in (0.0, 0.5, 1.0)]
    step(X, jnp.float32(0.2), jnp.float32(1.0))
    assert len(traces) == 1
    assert not np.array_equal(results[0], results[2])


def test_progress_has_no_gradient_and_codes_have_none_either():
    spec = lq.QuantSpec(4)
    assert jax.grad(lambda p: lq.fake_quantize(X, 0.3, spec, progress=p).sum())(0.5) == 0
    slope = jax.grad(lambda s: (lq.quantize(X, s, spec) * s).sum())(jnp.float32(0.3))
    assert slope == np.asarray(lq.quantize(X, 0.3, spec), np.int32).sum()


@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_stays_nan_and_infinity_is_clipped(dtype):
    spec = lq.QuantSpec(4, method=lq.methods.LSQ)
    x = jnp.asarray([np.nan, np.inf, -np.inf, 0.5], dtype)
    found = lq.fake_quantize(x, 0.5, spec)
    assert found.dtype == dtype
    np.testing.assert_array_equal(np.float32(found), [np.nan, 3.5, -4.0, 0.5])
    np.testing.assert_array_equal(np.float32(jax.jit(lambda x: lq.fake_quantize(x, 0.5, spec))(x)), np.float32(found))
    np.testing.assert_array_equal(lq.quantize(x[1:], 0.5, spec), [7, -8, 1])
    with pytest.raises(ValueError, match=r"^`x` must not contain NaN, which has no integer code$"):
        lq.quantize(x, 0.5, spec)


@pytest.mark.parametrize("name", NAMES)
def test_a_nan_shows_in_the_scale_gradient_of_learned_scales(name):
    method = lq.methods.get(name)
    poisoned = jnp.asarray(X).at[0, 0].set(jnp.nan)
    _, _, g_s = value_and_gradients(lq.QuantSpec(4, method=method), poisoned, 0.3, 0.5)
    assert np.isnan(g_s) or isinstance(method.scale_rule, lq.FixedScale | lq.PACTScale | lq.LLSQScale)


@pytest.mark.parametrize("scale", [0.0, -1.0, np.nan, np.inf, -np.inf])
def test_a_concrete_scale_that_is_not_finite_and_positive_is_an_error_everywhere(scale):
    spec, codes = lq.QuantSpec(4), jnp.zeros(3, jnp.int8)
    sentence = f"`scale` must be finite and positive, got {float(scale)}"
    for call in (
        lambda: lq.quantize(X, scale, spec),
        lambda: lq.dequantize(codes, scale, spec),
        lambda: lq.fake_quantize(X, scale, spec),
        lambda: lq.fake_quantize(X, np.array([1.0, scale] * 4), lq.QuantSpec(4, channel_axis=1)),
        lambda: jax.jit(lambda x: lq.fake_quantize(x, scale, spec))(X),
    ):
        with pytest.raises(ValueError) as caught:
            call()
        assert str(caught.value) == sentence


def gradients(spec, scale, offset=None, progress=1.0):
    """The backward pass by itself."""
    offset = None if offset is None else jnp.asarray(offset, jnp.float32)
    return quantizer_gradients(
        spec, jnp.asarray(X), jnp.asarray(scale), offset, jnp.float32(progress), jnp.ones((3, 8))
    )


@pytest.mark.parametrize("offset", [np.nan, np.inf, -np.inf, 1e300])
def test_a_concrete_offset_that_is_not_finite_is_an_error_everywhere(offset):
    spec, channels = lq.QuantSpec(4, method=lq.methods.LSQ_PLUS), lq.QuantSpec(4, channel_axis=1)
    many = [0.0, offset] * 4
    for call in (
        lambda: lq.fake_quantize(X, 0.3, spec, offset),
        lambda: lq.fake_quantize(X, np.ones(8), channels, np.asarray(many)),
        lambda: jax.jit(lambda x: lq.fake_quantize(x, 0.3, spec, offset))(X),
        lambda: jax.grad(lambda x: lq.fake_quantize(x, 0.3, spec, offset).sum())(X),
        lambda: gradients(spec, 0.3, min(offset, np.inf)),
        lambda: check_offset(offset, spec, X.shape),
    ):
        with pytest.raises(ValueError) as caught, np.errstate(over="ignore"):
            call()
        assert str(caught.value) == f"`offset` must be finite, got {np.inf if offset == 1e300 else offset}"


@given(st.floats() | st.floats(-0.001, 0.001) | st.floats(0.999, 1.001))
def test_progress_is_from_0_to_1_but_for_rounding_and_nothing_else_everywhere(progress):
    spec = lq.QuantSpec(4)
    with np.errstate(over="ignore"):
        single = float(np.float32(progress))
    layer = lq.QuantLinear(2, 2, weights=spec, rngs=nnx.Rngs(0))
    calls = {
        "progress": lambda: check_progress(progress),
        "fraction": lambda: lq.set_progress(layer, progress),
    }
    for name, call in calls.items():
        if -1e-5 <= single <= 1 + 1e-5:
            call()
            assert name == "progress" or layer.progress[...] == single
            continue
        with pytest.raises(ValueError) as caught:
            call()
        assert str(caught.value) == f"`{name}` must be a finite number from 0 to 1, got {single}"


@pytest.mark.parametrize("progress", [np.nan, np.inf, -0.5, 1.25])
def test_a_concrete_progress_that_is_none_is_an_error_everywhere(progress):
    spec = lq.QuantSpec(4)
    for call in (
        lambda: lq.fake_quantize(X, 0.3, spec, progress=progress),
        lambda: lq.fake_quantize(X, 0.3, spec, progress=jnp.float32(progress)),
        lambda: jax.jit(lambda x: lq.fake_quantize(x, 0.3, spec, progress=progress))(X),
        lambda: gradients(spec, 0.3, progress=progress),
    ):
        with pytest.raises(ValueError) as caught:
            call()
        assert str(caught.value) == f"`progress` must be a finite number from 0 to 1, got {progress}"


def test_what_is_traced_is_not_looked_at():
    """A compiled step goes on where a value went wrong; ``check_scales`` and the loss tell."""
    spec = lq.QuantSpec(4, method=lq.methods.LSQ_PLUS)

    @jax.jit
    def both(x, offset, progress):
        y, pull_back = jax.vjp(lambda x: lq.fake_quantize(x, 0.3, spec, offset, progress), x)
        return y, pull_back(jnp.ones_like(y))[0]

    assert np.isnan(both(X, np.float32(np.nan), np.float32(7))[0]).all()
    fine, far = (both(X, np.float32(0), np.float32(progress))[0] for progress in (1, 7))
    np.testing.assert_array_equal(fine, far)


def test_a_whole_number_is_an_offset_too():
    spec = lq.QuantSpec(4, method=lq.methods.LSQ_PLUS)
    found, expected = (
        jax.value_and_grad(lambda x, offset=offset: lq.fake_quantize(x, 0.3, spec, offset).sum())(X)
        for offset in (1, 1.0)
    )
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize(
    ("call", "error", "sentence"),
    [
        (
            lambda: lq.quantize(X, np.ones(3), lq.QuantSpec(4)),
            ValueError,
            r"`scale` must have shape \(\) for a tensor of shape \(3, 8\), got \(3,\)",
        ),
        (
            lambda: lq.fake_quantize(X, 1.0, lq.QuantSpec(4, channel_axis=1)),
            ValueError,
            r"`scale` must have shape \(8,\) for a tensor of shape \(3, 8\), got \(\)",
        ),
        (
            lambda: lq.dequantize(np.zeros((3, 8), np.int8), np.ones(3), lq.QuantSpec(4, channel_axis=1)),
            ValueError,
            r"`scale` must have shape \(8,\) for a tensor of shape \(3, 8\), got \(3,\)",
        ),
        (
            lambda: lq.fake_quantize(X, np.ones(8), lq.QuantSpec(4, channel_axis=1), offset=0.0),
            ValueError,
            r"`offset` must have shape \(8,\) for a tensor of shape \(3, 8\), got \(\)",
        ),
        (
            lambda: lq.quantize(np.ones(3, int), 1.0, lq.QuantSpec(4)),
            TypeError,
            "`x` must have a float dtype, got int32",
        ),
        (
            lambda: lq.fake_quantize(X, 1.0, lq.QuantSpec(4), offset=np.zeros(8)),
            ValueError,
            r"`offset` must have shape \(\) for a tensor of shape \(3, 8\), got \(8,\)",
        ),
        (
            lambda: lq.fake_quantize(X, 1.0, lq.QuantSpec(4), progress=np.zeros(2)),
            ValueError,
            r"`progress` must be one number from 0 to 1, got shape \(2,\)",
        ),
        (
            lambda: jax.jit(lambda p: lq.fake_quantize(X, 1.0, lq.QuantSpec(4), progress=p))(np.zeros(2)),
            ValueError,
            r"`progress` must be one number from 0 to 1, got shape \(2,\)",
        ),
        (
            lambda: lq.dequantize(np.ones(3, np.float32), 1.0, lq.QuantSpec(4)),
            TypeError,
            "`codes` must have an integer dtype, got float32",
        ),
        (
            lambda: jax.jit(lambda codes: lq.dequantize(codes, 1.0, lq.QuantSpec(4)))(np.ones(3, bool)),
            TypeError,
            "`codes` must have an integer dtype, got bool",
        ),
        (
            lambda: lq.fake_quantize(X, 1.0, lq.QuantSpec(4, channel_axis=2)),
            ValueError,
            "`channel_axis` must be an axis of the tensor, which has 2, got 2",
        ),
    ],
)
def test_a_wrong_argument_is_one_sentence(call, error, sentence):
    with pytest.raises(error) as caught:
        call()
    assert re.fullmatch(sentence, str(caught.value))


@given(cases())
def test_a_method_is_its_three_rules_together(case):
    expected = reference.gradients(
        case.grid,
        case.x,
        case.scale,
        case.g,
        p=case.progress,
        round_rule=("asr", 2.0),
        error_rule=("mde", 0.05),
        scale_rule=("ssg", 0.1, 0.01),
    )
    spec = spec_of(case.grid, lq.methods.LG_LSQ)
    _, pull_back = jax.vjp(lambda x, s: lq.fake_quantize(x, s, spec, progress=case.progress), case.x, case.scale)
    g_x, g_s = pull_back(case.g)
    np.testing.assert_allclose(g_x, expected.x, rtol=1e-6)
    assert (np.abs(g_s - expected.scale) <= 1e-6 * expected.scale_size).all()


def test_an_empty_batch_and_a_single_number_work():
    spec = lq.QuantSpec(4, batch_axis=0)
    for x in (jnp.zeros((0, 3)), jnp.asarray([0.7])):
        y, g_x, g_s = value_and_gradients(spec, x, jnp.float32(0.3), 0.5)
        assert y.shape == g_x.shape == x.shape and np.isfinite(g_s)
    assert lq.quantize(0.7, 0.3, lq.QuantSpec(4)) == 2


def test_it_runs_step_by_step_where_jit_is_switched_off():
    x, spec = np.linspace(-1, 1, 9, dtype=np.float32), lq.QuantSpec(4)
    compiled = lq.fake_quantize(x, jnp.float32(0.1), spec)
    with jax.disable_jit():
        np.testing.assert_array_equal(lq.fake_quantize(x, jnp.float32(0.1), spec), compiled)


@pytest.mark.parametrize("name", ["lsq", "lsq_plus", "llsq", "lg_lsq"])
def test_a_gradient_can_be_differentiated_again(name):
    """By x: the derivative of 2 g(x) with everything that rounds held, as in a gradient penalty."""
    spec = lq.QuantSpec(3, method=lq.methods.get(name))
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 5)), jnp.float32)

    def penalty(x, scale):
        return sum(
            jnp.sum(g**2) for g in jax.grad(lambda *a: jnp.sum(lq.fake_quantize(*a, spec) ** 2), (0, 1))(x, scale)
        )

    for gradient in jax.grad(penalty, (0, 1))(x, jnp.float32(0.2)):
        assert jnp.isfinite(gradient).all()
        assert (gradient != 0).any()
