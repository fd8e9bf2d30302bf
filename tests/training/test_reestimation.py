"""Batch norm's statistics after the last step are those of the batches that training would go on with."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lglsq_jax as lq
from lglsq_jax.errors import UserError
from lglsq_jax.training.config import TrainConfig
from lglsq_jax.training.mesh import make_mesh, place, split
from lglsq_jax.training.reestimation import with_new_statistics
from lglsq_jax.training.skeleton import Skeleton
from tests.training.small_step import batches, prepared, quantized


def test_the_state_gets_what_the_library_sets():
    mesh = make_mesh(TrainConfig().mesh, {})
    _, state = prepared("lsq", mesh)
    images = [batch["image"] for batch in itertools.islice(batches(), 3)]
    model = quantized("lsq")
    lq.reestimate_batch_norm(model, images)
    skeleton, parameters, wanted = Skeleton.of(model)
    before = jax.device_get(state)
    placed = [place(mesh, {"image": image}) for image in images]
    found = jax.device_get(with_new_statistics(skeleton, state, placed, mesh, split(mesh, state)))
    for path in ("norm/mean", "norm/var"):
        np.testing.assert_allclose(found.rest[path], wanted[path], rtol=1e-5, atol=1e-6)
        assert (found.rest[path] != before.rest[path]).any()
    kept = {path: array for path, array in found.rest.items() if not path.startswith("norm/")}
    for path, array in (kept | found.parameters).items():
        np.testing.assert_array_equal(array, (before.rest | before.parameters)[path])

    # of the average, where there is one: a network whose convolution gives twice as much has twice the mean
    doubled = {path: array * 2 if path == "stem/kernel" else array for path, array in state.parameters.items()}
    averaged = dataclasses.replace(state, average=doubled)
    other = with_new_statistics(skeleton, averaged, placed, mesh, split(mesh, averaged))
    model = skeleton.model(doubled, jax.tree.map(jnp.asarray, before.rest))
    lq.reestimate_batch_norm(model, images)
    np.testing.assert_allclose(other.rest["norm/mean"], skeleton.arrays(model)[1]["norm/mean"], rtol=1e-5, atol=1e-6)
    assert parameters.keys() == doubled.keys()

    bad = [place(mesh, {"image": images[0] * jnp.nan})]
    with pytest.raises(UserError, match="the statistics of batch norm 'norm' must be finite on the batches"):
        with_new_statistics(skeleton, state, bad, mesh, split(mesh, state))
