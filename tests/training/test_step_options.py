"""What a step can be told: bad batches left out, bfloat16, batch norm by device."""

import json

import jax
import numpy as np
import pytest

from lglsq_jax.data import DataConfig, open_dataset, train_batches
from lglsq_jax.data.pipeline import batch_indices
from lglsq_jax.training.bad_steps import BadSteps, Diverged
from lglsq_jax.training.config import TrainConfig
from lglsq_jax.training.mesh import make_mesh, place
from tests.training.small_step import batches, prepared


@pytest.fixture(scope="module")
def mesh():
    return make_mesh(TrainConfig().mesh, {})


@pytest.fixture(scope="module")
def batch(mesh):
    return place(mesh, next(batches()))


def test_a_batch_that_is_not_finite_leaves_everything_but_the_count(mesh, batch):
    step, state = prepared("lg_lsq", mesh, skip_bad=True)
    state, metrics = step(state, batch)
    assert not metrics["skipped"] and np.isfinite(metrics["loss"])
    before = jax.device_get(state)
    bad = dict(batch, image=batch["image"].at[3, 0, 0, 0].set(np.nan))
    state, metrics = step(state, bad)
    assert metrics["skipped"] and not np.isfinite(metrics["loss"])
    after = jax.device_get(state)
    counters = [leaf for leaf in jax.tree.leaves(after.optimizer) if np.issubdtype(leaf.dtype, np.integer)]
    assert counters  # the learning rate goes by them, so they go on as the step does

    def is_kept(now, earlier):
        np.testing.assert_array_equal(now, earlier + 1 if np.issubdtype(now.dtype, np.integer) else earlier)

    jax.tree.map(is_kept, after, before)
    state, metrics = step(state, batch)
    assert not metrics["skipped"]
    assert any((state.parameters[path] != array).any() for path, array in before.parameters.items())


def test_bfloat16_learns_float32_parameters_alike(mesh, batch):
    losses = {}
    for dtype in ("float32", "bfloat16"):
        step, state = prepared("lsq", mesh, dtype=dtype)
        text = step.lower(state, batch).as_text()
        assert ("bf16" in text) == (dtype == "bfloat16")
        found = []
        for _ in range(5):
            state, metrics = step(state, batch)
            found.append(float(metrics["loss"]))
        assert {array.dtype for array in jax.tree.leaves(state.parameters)} == {np.dtype("float32")}
        losses[dtype] = found
    assert losses["float32"] != losses["bfloat16"]
    np.testing.assert_allclose(losses["bfloat16"], losses["float32"], rtol=0.05)
    assert losses["bfloat16"][-1] < losses["bfloat16"][0]


def test_batch_norm_in_groups_is_another_step(mesh, batch):
    found = []
    for groups in (1, 4):
        step, state = prepared("lsq", mesh, batch_norm_groups=groups)
        found.append(float(step(state, batch)[1]["loss"]))
    assert found[0] != found[1] and abs(found[0] - found[1]) < 1


def test_the_images_of_a_step_are_written_down_and_too_many_end_the_run(tmp_path):
    data = DataConfig(batch_size=32)
    config, dataset, warnings = TrainConfig(data=data, skip_bad_steps=1, seed=5), open_dataset(data), []
    bad = BadSteps(tmp_path / "bad.jsonl", dataset, config, warnings.append)
    bad.begin("float", 0)
    bad.skip(4, float("nan"))
    with pytest.raises(Diverged, match="more than 1; the last is step 9"):
        bad.skip(9, float("inf"))
    lines = [json.loads(line) for line in bad.file.read_text().splitlines()]
    assert [line["step"] for line in lines] == [4, 9] and [line["loss"] for line in lines] == ["nan", "inf"]
    assert len(warnings) == 1 and "step 4 was skipped" in warnings[0]
    stream = train_batches(dataset, data, seed=5, first_step=3)
    labels = next(stream)["label"]
    stream.close()
    assert [dataset.train[index]["label"] for index in lines[0]["indices"]] == labels.tolist()
    np.testing.assert_array_equal(batch_indices(dataset, data, 5, 3), lines[0]["indices"])


def test_a_batch_in_parts_gives_the_step_of_the_whole_but_for_batch_norm(mesh, batch):
    """The network has a batch norm: without it the gradients are equal (test_accumulation.py)."""
    losses = {}
    for parts in (1, 2):
        step, state = prepared("lg_lsq", mesh, accumulate=parts)
        found = []
        for _ in range(4):
            state, metrics = step(state, batch)
            found.append(float(metrics["loss"]))
        losses[parts] = found
    assert losses[1] != losses[2]
    np.testing.assert_allclose(losses[2], losses[1], rtol=0.2)
    assert losses[2][-1] < losses[2][0]
