"""The optimizer's groups: who decays, who has a floor, and how the learning rate goes."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lglsq_jax.errors import UserError
from lglsq_jax.training import PhaseConfig, QuantizedConfig, hold_above, make_optimizer, make_schedule
from lglsq_jax.training.rates import check_matches

PARAMETERS = {
    "conv1/kernel": jnp.full((2,), 4.0),
    "bn1/scale": jnp.full((2,), 3.0),
    "conv1/bias": jnp.full((2,), 3.0),
    "conv1/weight_scale": jnp.float32(2.0),
}
SCALES = frozenset({"conv1/weight_scale"})


def one_step(phase, gradients):
    optimizer = make_optimizer(phase, SCALES, steps=10, steps_per_epoch=10)
    updates, _ = optimizer.update(gradients, optimizer.init(PARAMETERS), PARAMETERS)
    return optax.apply_updates(PARAMETERS, updates)


def zeros():
    return {path: jnp.zeros_like(value) for path, value in PARAMETERS.items()}


def test_only_kernels_decay():
    phase = QuantizedConfig(epochs=1, warmup_epochs=0, weight_decay=0.5, momentum=0.0, learning_rate=0.1)
    after = one_step(phase, zeros())
    np.testing.assert_allclose(after["conv1/kernel"], 4 - 0.1 * 0.5 * 4, rtol=1e-6)
    for path in PARAMETERS.keys() - {"conv1/kernel"}:
        np.testing.assert_array_equal(after[path], PARAMETERS[path])


def test_scales_have_their_own_rate_and_plain_momentum():
    phase = QuantizedConfig(epochs=1, warmup_epochs=0, learning_rate=0.1, scale_learning_rate=0.01, momentum=0.9)
    after = one_step(phase, {**zeros(), "conv1/weight_scale": jnp.float32(1.0), "conv1/bias": jnp.ones(2)})
    np.testing.assert_allclose(after["conv1/weight_scale"], 2 - 0.01, rtol=1e-6)
    np.testing.assert_allclose(after["conv1/bias"], 3 - 0.1 * 1.9, rtol=1e-6)  # Nesterov's first step


@given(st.floats(0.01, 100), st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=5))
def test_a_scale_stays_above_its_floor(start, changes):
    floor, value = hold_above(0.02), {"scale": jnp.float32(start)}
    state = floor.init(value)
    for change in changes:
        updates, state = floor.update({"scale": jnp.float32(change)}, state, value)
        value = optax.apply_updates(value, updates)
        assert value["scale"] >= state.floors["scale"] > 0


def test_a_scale_that_is_not_a_number_is_not_hidden_by_its_floor():
    floor, value = hold_above(0.02), {"scale": jnp.float32(1)}
    updates, _ = floor.update({"scale": jnp.float32(jnp.nan)}, floor.init(value), value)
    assert jnp.isnan(updates["scale"])


def test_the_rate_rises_and_then_follows_a_cosine_to_zero():
    schedule = make_schedule(PhaseConfig(epochs=4, warmup_epochs=1.0), 0.1, steps=40, steps_per_epoch=10)
    rates = np.array([schedule(step) for step in range(41)])
    np.testing.assert_allclose(rates[0], 0.01, rtol=1e-6)
    assert (np.diff(rates[:11]) > 0).all()
    np.testing.assert_allclose(rates[10], 0.1, rtol=1e-6)
    assert (np.diff(rates[10:]) < 0).all() and rates[40] < 1e-8


def test_a_pattern_multiplies_the_learning_rate_of_whole_paths():
    plain = QuantizedConfig(epochs=1, warmup_epochs=0, learning_rate=0.1, weight_decay=0.5)
    rates = (("conv1/.*", 0.5), (".*scale", 3.0), ("bn1", 7.0))
    ones = {path: jnp.ones_like(value) for path, value in PARAMETERS.items()}
    without, found = (one_step(dataclasses.replace(plain, learning_rates=given), ones) for given in ((), rates))
    for path, factor in (("conv1/kernel", 0.5), ("conv1/bias", 0.5), ("bn1/scale", 3), ("conv1/weight_scale", 3)):
        change = np.asarray(without[path] - PARAMETERS[path])
        assert change.all()
        np.testing.assert_allclose(found[path] - PARAMETERS[path], factor * change, rtol=1e-5)


def test_a_multiplied_scale_stays_above_its_floor():
    phase = QuantizedConfig(epochs=1, warmup_epochs=0, learning_rate=0.1, learning_rates=((".*", 1e6),))
    after = one_step(phase, {**zeros(), "conv1/weight_scale": jnp.float32(1.0)})
    np.testing.assert_allclose(after["conv1/weight_scale"], 0.02 * 2, rtol=1e-5)


def test_a_pattern_that_matches_nothing_is_refused_with_the_paths():
    check_matches((("conv1/.*", 0.1), (".*/bias", 2.0)), PARAMETERS)
    with pytest.raises(UserError, match=r"but 'conv1' matches none; the paths are conv1/bias, .*bn1/scale"):
        check_matches((("conv1/.*", 0.1), ("conv1", 0.1)), PARAMETERS)
    with pytest.raises(UserError, match=r"layer9/3/kernel, .* and 88 more$"):
        check_matches(((r"layer9/3/kernels", 0.1),), [f"layer{i}/{j}/kernel" for i in range(10) for j in range(10)])
