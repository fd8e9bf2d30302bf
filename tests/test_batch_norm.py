"""Batch norm's statistics measured anew."""

import jax
import numpy as np
import pytest
from flax import nnx

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
    assert lq.reestimate_batch_norm(model, batches) == 2
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
