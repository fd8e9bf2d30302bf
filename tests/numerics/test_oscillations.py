"""Oscillations, frozen codes and dampening against a reference in plain Python, weight by weight."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lglsq_jax import QuantSpec, oscillations, quantize

SIZE, STEPS = 5, 12
CODES = st.lists(st.lists(st.integers(-2, 1), min_size=SIZE, max_size=SIZE), min_size=STEPS, max_size=STEPS)


class Weight:
    """One weight: its history as a list, everything else from it."""

    def __init__(self, code, momentum):
        self.history, self.momentum, self.kept = [code], momentum, None
        self.frequency, self.average = 0.0, float(code)

    def step(self, code, threshold):
        if self.kept is not None:
            return
        changes = [b - a for a, b in zip(self.history, self.history[1:], strict=False) if a != b]
        change = code - self.history[-1]
        back = bool(changes) and change * changes[-1] < 0
        self.history.append(code)
        self.frequency += self.momentum * (back - self.frequency)
        self.average += self.momentum * (code - self.average)
        if threshold is not None and self.frequency > threshold:
            self.kept, self.frequency = round(self.average), 0.0

    @property
    def code(self):
        return self.history[-1] if self.kept is None else self.kept


@jax.jit
def after(known, codes, momentum, threshold):
    return oscillations.freeze(oscillations.track(known, codes, momentum), threshold)


distance = jax.jit(jax.value_and_grad(oscillations.dampening, (0, 1)), static_argnums=2)


@given(CODES, st.sampled_from([0.03, 0.21, 0.5, 1.0]), st.sampled_from([0.013, 0.17, 0.43, 2.0]))
def test_every_weight_is_followed_and_frozen_as_if_alone(codes, momentum, threshold):
    first, *later = np.asarray(codes, np.int8)
    known, weights = oscillations.start(jnp.asarray(first)), [Weight(int(code), momentum) for code in first]
    for now in later:
        known = after(known, jnp.asarray(now), momentum, threshold)
        for weight, code in zip(weights, now, strict=True):
            weight.step(int(code), threshold)
        assert known.codes.dtype == jnp.int8
        np.testing.assert_array_equal(known.frozen, [weight.kept is not None for weight in weights])
        np.testing.assert_allclose(known.frequency, [weight.frequency for weight in weights], atol=1e-6)
        free = ~np.asarray(known.frozen)  # an average at a tie may be rounded either way
        ties = np.array([abs(abs(weight.average) % 1 - 0.5) < 1e-5 for weight in weights])
        same = np.asarray(known.codes) == [weight.code for weight in weights]
        assert (same | (ties & ~free)).all()
        np.testing.assert_allclose(known.average, [weight.average for weight in weights], atol=1e-5)


def test_what_an_oscillation_is():
    known = oscillations.start(jnp.zeros(1, jnp.int8))
    for code, frequency in ((1, 0), (1, 0), (0, 0.5), (1, 0.75), (1, 0.375), (2, 0.1875), (0, 0.59375)):
        known = oscillations.track(known, jnp.full(1, code, jnp.int8), 0.5)
        assert float(known.frequency[0]) == frequency


@given(st.integers(0, 2**32 - 1), st.sampled_from([2, 3, 4, 8]), st.booleans(), st.floats(1e-20, 1e20))
def test_a_frozen_code_is_kept_whatever_the_scale(seed, bits, per_channel, size):
    rng, spec = np.random.default_rng(seed), QuantSpec(bits, channel_axis=-1 if per_channel else None)
    scale = jnp.asarray(size * rng.uniform(0.1, 10, 3 if per_channel else ()), jnp.float32)
    x = jnp.asarray(size * rng.normal(size=(4, 3)), jnp.float32)
    codes = rng.integers(spec.minimum, spec.maximum + 1, x.shape).astype(np.int8)
    frozen = rng.random(x.shape) < 0.5
    zeros = np.zeros(x.shape, np.float32)
    known = oscillations.Oscillations(*map(jnp.asarray, (codes, zeros.astype(np.int8), zeros, zeros, frozen)))
    held = oscillations.hold(x, scale, spec, known)
    np.testing.assert_array_equal(held[~frozen], x[~frozen])
    np.testing.assert_array_equal(quantize(held, scale, spec)[frozen], codes[frozen])


@given(st.integers(0, 2**32 - 1), st.sampled_from([2, 4]), st.booleans(), st.booleans())
def test_dampening_is_the_squared_distance_inside_the_clip_range(seed, bits, per_channel, signed):
    rng = np.random.default_rng(seed)
    spec = QuantSpec(bits, signed, channel_axis=1 if per_channel else None)
    x = rng.normal(0, 2, (6, 3)).astype(np.float32)
    scale = rng.uniform(0.3, 1.5, 3 if per_channel else ()).astype(np.float32)
    s = np.broadcast_to(scale.astype(np.float64), x.shape)
    low, high = s * spec.minimum, s * spec.maximum
    nearest = s * np.clip(np.rint(x / s), spec.minimum, spec.maximum)
    wanted = np.sum((np.minimum(np.maximum(x, low), high) - nearest) ** 2)
    found, (for_x, for_scale) = distance(jnp.asarray(x), jnp.asarray(scale), spec)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(for_x, np.where((x >= low) & (x <= high), 2 * (x - nearest), 0), rtol=1e-4, atol=1e-5)
    assert not np.asarray(for_scale).any()


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_a_cosine_goes_from_the_first_value_to_the_last(first, last, progress):
    found = [float(oscillations.on_cosine(first, last, p)) for p in (0.0, progress, 0.5, 1.0)]
    share = np.cos(np.pi * progress / 2) ** 2
    np.testing.assert_allclose(found, [first, first * share + last * (1 - share), (first + last) / 2, last], atol=1e-6)


def test_values_and_scales_may_be_what_quantize_takes_and_nothing_else():
    spec, weights = QuantSpec(2, channel_axis=-1), np.ones((2, 3), np.float32)
    known = oscillations.start(quantize(jnp.asarray(weights), jnp.ones(3), spec))
    np.testing.assert_array_equal(oscillations.hold(weights, [0.5, 0.5, 0.5], spec, known), weights)
    assert oscillations.dampening([0.1, 0.6], 0.5, QuantSpec(2)) > 0
    with pytest.raises(ValueError, match=r"^`scale` must have shape \(\) for a tensor of shape \(2, 3\), got \(3,\)"):
        oscillations.dampening(weights, jnp.ones(3), QuantSpec(2))
    with pytest.raises(ValueError, match=r"^`momentum` must be above 0 and at most 1, got 5.0"):
        oscillations.track(known, known.codes, 5.0)
