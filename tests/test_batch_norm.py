"""Batch norm over parts of a batch, and its statistics measured anew."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st

import lglsq_jax as lq


class Network(nnx.Module):
    def __init__(self, rngs):
        self.first, self.norm = nnx.Linear(5, 4, rngs=rngs), nnx.BatchNorm(4, rngs=rngs)
        self.drop, self.last = nnx.Dropout(0.5, rngs=rngs), nnx.BatchNorm(4, rngs=rngs)

    def __call__(self, x):
        return self.last(self.drop(nnx.relu(self.norm(self.first(x)))))


def test_statistics_are_those_of_all_batches_together():
    model = Network(nnx.Rngs(0))
    batches = np.asarray(jax.random.normal(jax.random.key(1), (6, 32, 5))) * 3 + 1
    kernel, weights = np.asarray(model.first.kernel[...]), jax.tree.map(np.asarray, nnx.state(model, nnx.Param))
    assert lq.reestimate_batch_norm(model, list(batches)) == 2
    hidden = batches.astype(np.float64) @ kernel
    np.testing.assert_allclose(model.norm.mean[...], hidden.mean((0, 1)), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(model.norm.var[...], hidden.var((0, 1)), rtol=1e-4)
    # the second sees what the first gives when it normalises by the batch; dropout is off
    normal = (hidden - hidden.mean(1, keepdims=True)) / np.sqrt(hidden.var(1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(model.last.mean[...], np.maximum(normal, 0).mean((0, 1)), rtol=1e-4, atol=1e-4)
    jax.tree.map(np.testing.assert_array_equal, weights, jax.tree.map(np.asarray, nnx.state(model, nnx.Param)))
    model.train()
    assert not model.norm.use_running_average and model.norm.momentum == 0.99


def test_a_network_without_batch_norm_stays_as_it_is():
    assert lq.reestimate_batch_norm(nnx.Linear(3, 2, rngs=nnx.Rngs(0)), [np.ones((2, 3), np.float32)]) == 0


def test_bad_batches_are_refused():
    model = Network(nnx.Rngs(0))
    with pytest.raises(ValueError, match="`batches` must hold at least one batch"):
        lq.reestimate_batch_norm(model, [])
    before = np.asarray(model.norm.mean[...])
    with pytest.raises(ValueError, match="the statistics of batch norm 'last' must be finite"):
        lq.reestimate_batch_norm(model, [np.full((4, 5), np.nan, np.float32)])
    np.testing.assert_array_equal(model.norm.mean[...], before)


@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 2, 3, 4]))
def test_groups_normalise_each_by_itself(seed, groups):
    rng = np.random.default_rng(seed)
    x = rng.normal(1, 3, (12, 3, 2, 5)).astype(np.float32)
    norm = lq.BatchNorm(5, momentum=0.9, rngs=nnx.Rngs(0))
    norm.scale[...], norm.bias[...] = (jnp.asarray(rng.normal(size=5), jnp.float32) for _ in range(2))
    lq.set_batch_norm_groups(norm, groups)
    found = norm(jnp.asarray(x))
    parts = x.astype(np.float64).reshape(groups, -1, 3, 2, 5)
    mean, variance = parts.mean((1, 2, 3), keepdims=True), parts.var((1, 2, 3), keepdims=True)
    wanted = (parts - mean) / np.sqrt(variance + norm.epsilon) * np.asarray(norm.scale[...]) + np.asarray(
        norm.bias[...]
    )
    np.testing.assert_allclose(found, wanted.reshape(x.shape), rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(norm.mean[...], 0.1 * mean.mean(0).ravel(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(norm.var[...], 0.9 + 0.1 * variance.mean(0).ravel(), rtol=1e-4, atol=1e-5)
    norm.eval()
    plain = nnx.BatchNorm(5, use_running_average=True, rngs=nnx.Rngs(0))
    nnx.update(plain, nnx.state(norm))
    np.testing.assert_array_equal(norm(jnp.asarray(x)), plain(jnp.asarray(x)))


def test_groups_that_cannot_be_are_refused():
    norm = lq.BatchNorm(3, rngs=nnx.Rngs(0))
    lq.set_batch_norm_groups(norm, 3)
    with pytest.raises(ValueError, match="multiple of `groups`, 3, got 4"):
        norm(jnp.ones((4, 3)))
    with pytest.raises(ValueError, match="at least 1, got 0"):
        lq.set_batch_norm_groups(norm, 0)
    with pytest.raises(ValueError, match=r"'layers/0' must be lq.BatchNorm"):
        lq.set_batch_norm_groups(nnx.Sequential(nnx.BatchNorm(3, rngs=nnx.Rngs(0))), 2)


def test_a_traced_step_sets_statistics_and_progress_without_asking_for_a_sharding(monkeypatch):
    """JAX would walk the whole trace for the error message, once for each of them."""

    def refuse(tracer):
        raise AssertionError("the sharding of a traced value was asked for")

    layer = lq.QuantLinear(3, 4, weights=lq.QuantSpec(4), inputs=lq.QuantSpec(4), rngs=nnx.Rngs(0))
    model = nnx.Sequential(layer, lq.BatchNorm(4, rngs=nnx.Rngs(0)))
    x = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    lq.calibrate(model, [x])
    graph, state = nnx.split(model)

    @jax.jit
    def step(state, x, progress):
        model = nnx.merge(graph, state, copy=True)
        lq.set_progress(model, progress)
        return model(x), nnx.state(model)

    with monkeypatch.context() as patch:
        patch.setattr(jax.core.Tracer, "sharding", property(refuse))
        found, after = step(state, x, 0.25)
    lq.set_progress(model, 0.25)
    np.testing.assert_allclose(found, model(x), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(after["layers"][1]["mean"][...], model.layers[1].mean[...], rtol=1e-5)
    assert float(after["layers"][0]["progress"][...]) == 0.25 and np.abs(model.layers[1].mean[...]).max() > 0


@pytest.mark.parametrize("groups", [2, 3])
def test_statistics_are_measured_on_whole_batches_whatever_the_groups(groups):
    model = lq.BatchNorm(1, rngs=nnx.Rngs(0))
    lq.set_batch_norm_groups(model, groups)
    assert lq.reestimate_batch_norm(model, [np.repeat([[0.0], [10.0]], 4, axis=0).astype(np.float32)]) == 1
    np.testing.assert_allclose((model.mean[...], model.var[...]), ([5], [25]), rtol=1e-6)
    assert model.groups == groups


def test_statistics_that_were_not_finite_are_measured_anew():
    model = nnx.BatchNorm(1, rngs=nnx.Rngs(0))
    model.mean[...] = jnp.full(1, jnp.nan)
    lq.reestimate_batch_norm(model, [np.asarray([[1.0], [3.0]], np.float32)])
    np.testing.assert_allclose((model.mean[...], model.var[...]), ([2], [1]), rtol=1e-6)


def test_a_norm_that_is_told_in_the_call_is_named():
    class Told(nnx.Module):
        def __init__(self):
            self.norm = nnx.BatchNorm(1, rngs=nnx.Rngs(0))

        def __call__(self, x, train=False):
            return self.norm(x, use_running_average=not train)

    with pytest.raises(ValueError, match=r"^batch norm 'norm' must normalise by its batch to be measured, but "):
        lq.reestimate_batch_norm(Told(), [np.ones((2, 1), np.float32)])


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.int32])
@pytest.mark.parametrize("fast", [True, False])
def test_groups_take_the_options_of_the_whole_batch(dtype, fast):
    """Two equal halves, whose statistics are those of the whole: the same result in the same dtype."""
    half = 100 + np.random.default_rng(0).normal(size=(16, 3)) * 4
    x = jnp.asarray(np.concatenate([half, half]), dtype)
    found = []
    for groups in (1, 2):
        norm = lq.BatchNorm(3, use_fast_variance=fast, momentum=0.0, rngs=nnx.Rngs(0))
        lq.set_batch_norm_groups(norm, groups)
        found.append((norm(x), norm.var[...]))
    assert found[0][0].dtype == found[1][0].dtype
    for whole, parts in zip(*found, strict=True):
        np.testing.assert_allclose(parts, whole, rtol=1e-2, atol=1e-2)


def test_without_the_fast_variance_digits_far_from_zero_are_kept():
    x = jnp.asarray(1e4 + np.random.default_rng(0).normal(size=(64, 1)), jnp.float32)
    norm = lq.BatchNorm(1, use_fast_variance=False, momentum=0.0, rngs=nnx.Rngs(0))
    lq.set_batch_norm_groups(norm, 2)
    norm(x)
    expected = np.asarray(x, np.float64).reshape(2, 32).var(1).mean()
    np.testing.assert_allclose(norm.var[...], [expected], rtol=1e-3)


def test_groups_are_set_everywhere_or_nowhere():
    model = nnx.List([lq.BatchNorm(2, rngs=nnx.Rngs(0)), nnx.BatchNorm(2, rngs=nnx.Rngs(0))])
    with pytest.raises(ValueError, match=r"^batch norm '1' must be lq.BatchNorm to be taken in 2 groups$"):
        lq.set_batch_norm_groups(model, 2)
    assert model[0].groups == 1
    for groups in (0, 2.5, True):
        with pytest.raises(ValueError, match=r"^`groups` must be a whole number of at least 1, got "):
            lq.set_batch_norm_groups(model, groups)
