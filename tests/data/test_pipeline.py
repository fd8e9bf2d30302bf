"""Batches: what a step sees follows from data, config, seed and step; evaluation sees every sample once."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lglsq_jax import data
from lglsq_jax.data import batches
from lglsq_jax.errors import UserError


def numbered(train: int = 23, test: int = 11, shape: tuple[int, int, int] = (5, 4, 2)) -> data.Dataset:
    """A data set whose every image can be told from its first pixel: its number."""

    def images(count: int) -> np.ndarray:
        pixels = np.random.default_rng(count).integers(0, 256, (count, *shape), dtype=np.uint8)
        pixels[:, 0, 0, 0] = np.arange(count)
        return pixels

    return data.from_arrays("numbered", images(train), np.arange(train) % 3, images(test), np.arange(test) % 3)


def take(batches, count: int) -> list[dict[str, np.ndarray]]:
    taken = list(itertools.islice(batches, count))
    batches.close()
    return taken


def numbers(dataset: data.Dataset, batch: dict[str, np.ndarray]) -> list[int]:
    """The first pixel of every image of a batch, normalization undone."""
    first = batch["image"][:, 0, 0, 0].astype(np.float64)
    return np.round((first * dataset.std[0] + dataset.mean[0]) * 255).astype(int).tolist()


def assert_equal(left: list[dict[str, np.ndarray]], right: list[dict[str, np.ndarray]]) -> None:
    assert len(left) == len(right)
    for one, other in zip(left, right, strict=True):
        assert one.keys() == other.keys()
        for key in one:
            np.testing.assert_array_equal(one[key], other[key])


@settings(max_examples=15)
@given(
    first_step=st.integers(0, 40),
    batch_size=st.integers(1, 23),
    crop_padding=st.integers(0, 2),
    flip=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_starting_at_a_step_continues_the_stream(first_step, batch_size, crop_padding, flip, seed):
    dataset, config = numbered(), data.DataConfig(batch_size=batch_size, crop_padding=crop_padding, flip=flip)
    whole = take(data.train_batches(dataset, config, seed=seed), first_step + 3)
    assert_equal(take(data.train_batches(dataset, config, seed=seed, first_step=first_step), 3), whole[first_step:])


@settings(max_examples=15)
@given(batch_size=st.integers(1, 23), seed=st.integers(0, 2**32 - 1))
def test_an_epoch_is_the_whole_training_set_in_a_new_order(batch_size, seed):
    dataset, config, epochs = numbered(), data.DataConfig(batch_size=batch_size), 3
    steps = -(-epochs * len(dataset.train) // batch_size)
    batches = take(data.train_batches(dataset, config, seed=seed), steps)
    seen = [number for batch in batches for number in numbers(dataset, batch)]
    labels = [label for batch in batches for label in batch["label"].tolist()]
    orders = [seen[epoch * 23 : (epoch + 1) * 23] for epoch in range(epochs)]
    assert all(sorted(order) == list(range(23)) for order in orders)
    assert orders[0] != orders[1] != orders[2] != orders[0]
    assert labels == [number % 3 for number in seen]


@settings(max_examples=10)
@given(seeds=st.lists(st.integers(0, 2**32 - 1), min_size=2, max_size=2, unique=True))
def test_seeds_tell_streams_apart(seeds):
    dataset, config = numbered(), data.DataConfig(batch_size=23, crop_padding=1)
    streams = [take(data.train_batches(dataset, config, seed=seed), 2) for seed in (*seeds, seeds[0])]
    assert_equal(streams[0], streams[2])
    assert any((one["image"] != other["image"]).any() for one, other in zip(*streams[:2], strict=True))


def test_neighbouring_seeds_do_not_share_orders():
    dataset, config = numbered(), data.DataConfig(batch_size=23)
    orders = [
        tuple(numbers(dataset, batch))
        for seed in range(6)
        for batch in take(data.train_batches(dataset, config, seed=seed), 6)
    ]
    assert len(set(orders)) == 36


def test_augmentation_changes_from_epoch_to_epoch():
    dataset, config = numbered(train=3, shape=(9, 9, 1)), data.DataConfig(batch_size=3, crop_padding=4)
    batches = take(data.train_batches(dataset, config, seed=0), 8)
    assert len({np.sort(batch["image"], axis=0).tobytes() for batch in batches}) == 8


def test_training_batches_are_normalized():
    dataset, config = numbered(), data.DataConfig(batch_size=23)
    (batch,) = take(data.train_batches(dataset, config, seed=0), 1)
    images = dataset.train.images[numbers(dataset, batch)].astype(np.float64)
    np.testing.assert_allclose(batch["image"], (images / 255 - dataset.mean) / dataset.std, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(batch["image"].mean((0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(batch["image"].std((0, 1, 2)), 1, atol=1e-5)
    assert batch["image"].dtype == np.float32
    assert batch["label"].dtype == np.int32


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_worker_processes_give_the_same_batches(workers):
    dataset = numbered()
    config = data.DataConfig(batch_size=7, crop_padding=1, flip=True)
    parallel = data.DataConfig(batch_size=7, crop_padding=1, flip=True, workers=workers)
    expected = take(data.train_batches(dataset, config, seed=5), 9)
    assert_equal(take(data.train_batches(dataset, parallel, seed=5, first_step=4), 5), expected[4:])


@given(batch_size=st.integers(1, 23), count=st.integers(1, 30))
def test_steps_per_epoch_see_every_image(batch_size, count):
    dataset, config = numbered(train=max(count, batch_size, 3)), data.DataConfig(batch_size=batch_size)
    steps = data.steps_per_epoch(dataset, config)
    assert (steps - 1) * batch_size < len(dataset.train) <= steps * batch_size


@given(eval_batch_size=st.integers(1, 30), count=st.integers(1, 25))
def test_evaluation_sees_every_sample_once(eval_batch_size, count):
    dataset = numbered(test=count)
    batches = list(data.eval_batches(dataset, data.DataConfig(eval_batch_size=eval_batch_size)))
    seen = [
        number
        for batch in batches
        for number, real in zip(numbers(dataset, batch), batch["mask"].tolist(), strict=True)
        if real
    ]
    assert seen == list(range(count))
    for batch in batches:
        assert {key: (value.shape, value.dtype) for key, value in batch.items()} == {
            "image": ((eval_batch_size, 5, 4, 2), np.float32),
            "label": ((eval_batch_size,), np.int32),
            "mask": ((eval_batch_size,), bool),
        }
        assert not batch["image"][~batch["mask"]].any()
        assert not batch["label"][~batch["mask"]].any()


@given(eval_batch_size=st.integers(1, 12), hosts=st.integers(1, 3))
def test_raw_evaluation_is_the_same_before_normalization(eval_batch_size, hosts):
    dataset, config = numbered(), data.DataConfig(eval_batch_size=eval_batch_size * hosts)
    raw, finished = (
        list(data.eval_batches(dataset, config, host=hosts - 1, hosts=hosts, raw=raw)) for raw in (True, False)
    )
    assert_equal([{**batch, "image": 0} for batch in raw], [{**batch, "image": 0} for batch in finished])
    for batch, normalized in zip(raw, finished, strict=True):
        image, mask = batch["image"], batch["mask"]
        assert image.dtype == np.uint8 and not image[~mask].any()
        np.testing.assert_array_equal(data.normalize(dataset, image)[mask], normalized["image"][mask])


@settings(max_examples=15)
@given(hosts=st.integers(1, 5), part=st.integers(1, 4), crop_padding=st.integers(0, 2), flip=st.booleans())
def test_hosts_share_every_training_batch(hosts, part, crop_padding, flip):
    dataset = numbered()
    config = data.DataConfig(batch_size=hosts * part, crop_padding=crop_padding, flip=flip)
    whole = take(data.train_batches(dataset, config, seed=1, first_step=2), 3)
    shares = [
        take(data.train_batches(dataset, config, seed=1, first_step=2, host=host, hosts=hosts), 3)
        for host in range(hosts)
    ]
    assert_equal([joined(parts) for parts in zip(*shares, strict=True)], whole)


@given(hosts=st.integers(1, 5), part=st.integers(1, 4), count=st.integers(1, 25))
def test_hosts_share_evaluation_and_take_equally_many_batches(hosts, part, count):
    dataset, config = numbered(test=count), data.DataConfig(eval_batch_size=hosts * part)
    shares = [list(data.eval_batches(dataset, config, host=host, hosts=hosts)) for host in range(hosts)]
    assert_equal([joined(parts) for parts in zip(*shares, strict=True)], list(data.eval_batches(dataset, config)))


def joined(parts: tuple[dict[str, np.ndarray], ...]) -> dict[str, np.ndarray]:
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def test_evaluation_that_loses_a_sample_is_an_error(monkeypatch):
    def forgetful(dataset, samples, indices):
        return samples.rows(indices[indices != 6])

    monkeypatch.setattr(batches, "gather", forgetful)
    with pytest.raises(UserError, match="numbered must give all of its 11 samples once, got 10"):
        list(data.eval_batches(numbered(), data.DataConfig(eval_batch_size=4)))


def test_any_random_access_sequence_is_a_source():
    dataset = numbered()
    listed = data.Dataset(
        **{
            **vars(dataset),
            "train": [dataset.train[i] for i in range(23)],
            "test": [dataset.test[i] for i in range(11)],
        }
    )
    config = data.DataConfig(batch_size=5, eval_batch_size=4, crop_padding=1, flip=True)
    assert_equal(
        take(data.train_batches(listed, config, seed=1), 9), take(data.train_batches(dataset, config, seed=1), 9)
    )
    assert_equal(list(data.eval_batches(listed, config)), list(data.eval_batches(dataset, config)))


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        (
            {"image": np.zeros((5, 4, 3), np.uint8), "label": 0},
            r"must be uint8 of shape \(5, 4, 2\), got uint8 of shape",
        ),
        ({"image": np.zeros((5, 4, 2)), "label": 0}, "got float64"),
        ({"image": np.zeros((5, 4, 2), np.uint8), "label": 3}, "label 0 of numbered must be between 0 and 2, got 3"),
        ({"image": np.zeros((5, 4, 2), np.uint8), "label": -1}, "must be between 0 and 2, got -1"),
    ],
)
def test_a_sample_that_is_not_as_promised_is_named(sample, message):
    dataset = data.Dataset(**{**vars(numbered()), "train": [sample], "test": [sample]})
    with pytest.raises(UserError, match=message):
        next(data.train_batches(dataset, data.DataConfig(batch_size=1), seed=0))
    with pytest.raises(UserError, match=message):
        next(data.eval_batches(dataset, data.DataConfig(batch_size=1)))


@pytest.mark.parametrize(
    ("config", "arguments", "message"),
    [
        ({"batch_size": 24}, {"seed": 0}, "`batch_size` must be between 1 and 23, .* got 24"),
        ({}, {"seed": -1}, "`seed` must be a whole number of at least 0, got -1"),
        ({}, {"seed": 2**32}, "`seed` must be at most 4294967295, got 4294967296"),
        ({}, {"seed": 0.5}, "`seed` must be a whole number"),
        ({}, {"seed": 0, "first_step": -1}, "`first_step` must be a whole number of at least 0, got -1"),
        ({}, {"seed": 0, "hosts": 3}, "`batch_size` must be a multiple of the number of hosts, 3, got 4"),
        ({}, {"seed": 0, "hosts": 0}, "`hosts` must be a whole number of at least 1, got 0"),
        ({}, {"seed": 0, "host": 2, "hosts": 2}, "`host` must be below the number of hosts, 2, got 2"),
    ],
)
def test_arguments_out_of_range(config, arguments, message):
    with pytest.raises(UserError, match=message):
        data.train_batches(numbered(), data.DataConfig(**{"batch_size": 4, **config}), **arguments)


@settings(max_examples=5)
@given(steps=st.integers(0, 3))
def test_a_stream_can_be_closed_at_any_time(steps):
    batches = data.train_batches(numbered(), data.DataConfig(batch_size=4), seed=0)
    take(batches, steps)
    assert next(batches, None) is None
