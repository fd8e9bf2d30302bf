"""The parts of a program fit together, and a wrong input is told what is right."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import lglsq_jax as lq
from lglsq_jax.integer.program import Instruction, _encode

from .checks import SIGNED, UNSIGNED, assert_integers_only, fake, float_types, normal

X = normal(5, 6)
KERNEL = normal(6, 3, seed=1)


def model(x):
    return fake(fake(x, 0.25, SIGNED) @ fake(KERNEL, 0.3, SIGNED), 0.19, UNSIGNED) @ fake(KERNEL[:3], 0.3, SIGNED)


def two_quantizers(x):
    return fake(x, 0.25, SIGNED) + fake(x, 0.01, lq.QuantSpec(bits=8, signed=False))


@pytest.fixture(scope="module")
def program():
    return lq.integer.lower(model, X)


@pytest.fixture(scope="module")
def two():
    return lq.integer.lower(two_quantizers, X)


@pytest.mark.parametrize("which", ["program", "two"])
def test_a_call_is_encode_body_decode(which, request):
    program = request.getfixturevalue(which)
    codes = program.encode(X)
    sums = program.integer_body(codes)
    assert sums.dtype == jnp.int32
    logits = program.decode(sums)
    assert logits.dtype == jnp.float32
    np.testing.assert_array_equal(program(X), logits)
    np.testing.assert_array_equal(logits, np.asarray(sums, np.float32) * np.float32(program.output_step))
    np.testing.assert_array_equal(jax.jit(program)(X), logits)
    assert_integers_only(program, X)


SCALES = st.floats(-20, 20).map(lambda power: np.float32(2.0**power))


def encoding(spec, scale) -> Instruction:
    ends = {"low": spec.minimum, "high": spec.maximum, "dtype": jnp.dtype(spec.code_dtype).name}
    zero, one = np.zeros(1, np.float32), np.ones(1, np.float32)
    constants = {"gain": one, "bias": zero, "scale": np.float32(scale), "offset": np.float32(0)}
    return Instruction("encode", (0,), ("b*1",), spec.minimum, spec.maximum, ends, constants)


@given(SCALES, st.lists(st.tuples(st.integers(-20, 20), st.sampled_from([-1, 0, 1])), min_size=24, max_size=24))
def test_codes_are_the_quantizer_s_to_the_bit_at_ties_and_their_neighbours(scale, ties):
    x = np.array([(code + 0.5) * scale for code, _ in ties], np.float32)
    x = np.nextafter(x, x * (1 + np.array([side for _, side in ties], np.float32)))
    for spec in (SIGNED, UNSIGNED):
        step = encoding(spec, scale)
        expected = lq.quantize(x, scale, spec)
        for run in (_encode, jax.jit(lambda step, x: _encode(step, x), static_argnums=0)):
            found = run(step, jnp.asarray(x))
            assert found.dtype == expected.dtype
            np.testing.assert_array_equal(found, expected)


def test_a_single_value_at_a_tie_has_the_code_that_it_has_among_others():
    """XLA divides by a scale that is not broadcast in another way, which the code must not depend on."""
    rng = np.random.default_rng(0)
    scales = np.exp(rng.normal(size=300)).astype(np.float32)
    ties = ((rng.integers(-8, 7, 300) + np.float32(0.5)) * scales).astype(np.float32)
    found = [_encode(encoding(SIGNED, scale), x[None]).item() for scale, x in zip(scales, ties, strict=True)]
    expected = lq.quantize(ties, scales, dataclasses.replace(SIGNED, channel_axis=0))
    np.testing.assert_array_equal(found, expected)


def test_an_offset_and_a_scale_of_the_model_are_used_as_they_are():
    scale, offset = np.float32(0.1), np.float32(-0.733)
    x = np.linspace(-1, 1, 4001, dtype=np.float32)[:, None]
    program = lq.integer.lower(lambda x: fake(x, scale, UNSIGNED, offset), x)
    expected = np.rint((np.asarray(fake(x, scale, UNSIGNED, offset), np.float64) - offset) / scale)
    np.testing.assert_array_equal(program.encode(x), expected)


def test_codes_are_int8_or_uint8(program, two):
    assert program.encode(X).dtype == jnp.int8
    codes = two.encode(X)
    assert isinstance(codes, tuple) and [c.dtype for c in codes] == [jnp.int8, jnp.uint8]
    np.testing.assert_allclose(two(X), two_quantizers(X), atol=1e-6)


def test_infinities_are_clipped_as_the_model_does(program):
    x = np.array([[np.inf, -np.inf, 0, 1e38, -1e38, 0.3]], np.float32)
    assert program.encode(x).tolist() == [[7, -8, 0, 7, -8, 1]]


@pytest.mark.parametrize(
    ("x", "said"),
    [
        (np.zeros((5, 7), np.float32), r"`x` must have shape \[n, 6\], got \[5, 7\]"),
        (np.zeros(6, np.float32), r"`x` must have shape \[n, 6\], got \[6\]"),
        (np.zeros((5, 6), np.int32), "`x` must be a float array, as the model took, got int32"),
        (np.full((5, 6), np.nan, np.float32), "`x` must not contain NaN, which has no integer code"),
    ],
)
def test_a_wrong_input_is_told_what_is_right(program, x, said):
    for call in (program, program.encode):
        with pytest.raises(ValueError, match=said):
            call(x)


@pytest.mark.parametrize(
    ("codes", "said"),
    [
        (np.zeros((5, 6), np.uint8), "`codes` must be int8 as `encode` returns them, got uint8"),
        (np.zeros((5, 6), np.float32), "`codes` must be int8 as `encode` returns them, got float32"),
        (np.zeros((5, 4), np.int8), r"`codes` must have shape \[n, 6\] as `encode` returns them, got \[5, 4\]"),
        (np.zeros(6, np.int8), r"`codes` must have shape \[n, 6\] as `encode` returns them, got \[6\]"),
        ((np.zeros((5, 6), np.int8),) * 2, "`codes` must hold 1 arrays as `encode` returns them, got 2"),
    ],
)
def test_wrong_codes_are_told_what_is_right(program, codes, said):
    with pytest.raises(ValueError, match=said):
        program.integer_body(codes)


def test_other_float_types_are_taken(program):
    x = jnp.asarray(X, jnp.bfloat16)
    np.testing.assert_array_equal(program(x), program(x.astype(jnp.float32)))


def test_weights_are_the_integers_of_each_product(program):
    first, second = program.weights.values()
    np.testing.assert_array_equal(first, lq.quantize(KERNEL, np.float32(0.3), SIGNED))
    np.testing.assert_array_equal(second, lq.quantize(KERNEL[:3], np.float32(0.3), SIGNED))
    assert list(program.weights) == ["constant", "constant#2"]


def test_layer_codes_are_those_of_every_quantizer(program):
    codes = program.layer_codes(program.encode(X))
    assert list(codes) == ["quantizer", "quantizer#2"]
    inner = fake(X, 0.25, SIGNED) @ fake(KERNEL, 0.3, SIGNED)
    np.testing.assert_array_equal(codes["quantizer#2"], lq.quantize(inner, np.float32(0.19), UNSIGNED))


def test_a_float_in_a_body_would_be_seen():
    body = jax.jit(lambda x: jax.lax.cond(x[0, 0] > 0, lambda x: (x * 0.5).astype(jnp.int32), lambda x: x, x))
    assert float_types(jax.make_jaxpr(body)(jnp.zeros((2, 2), jnp.int32))) == {"float32"}
