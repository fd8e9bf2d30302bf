"""A data set from arrays: statistics against NumPy, a fingerprint of everything, and every way not to fit together."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import lglsq_jax as lq
from lglsq_jax import data
from lglsq_jax.data.arrays import channel_statistics
from lglsq_jax.errors import UserError

images = st.tuples(st.integers(1, 7), st.integers(1, 4), st.integers(1, 4), st.integers(1, 3)).flatmap(
    lambda shape: arrays(np.uint8, shape)
)


def four(**changed):
    parts = {
        "train_images": np.arange(6 * 4 * 3, dtype=np.uint8).reshape(6, 4, 3),
        "train_labels": np.array([0, 1, 2, 0, 1, 2]),
        "test_images": np.arange(2 * 4 * 3, dtype=np.uint8).reshape(2, 4, 3),
        "test_labels": np.array([2, 0]),
    }
    return {**parts, **changed}


@given(images=images, cut=st.integers(1, 7))
def test_statistics_are_those_of_the_whole_set_however_it_is_cut(images, cut):
    mean, std = channel_statistics(images[start : start + cut] for start in range(0, len(images), cut))
    scaled = images.reshape(-1, images.shape[-1]).astype(np.float64) / 255
    np.testing.assert_allclose(mean, scaled.mean(0), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(std, np.maximum(scaled.std(0), 1 / 255), rtol=1e-6)


@given(images=images, seed=st.integers(0, 1000))
def test_normalize_is_its_formula(images, seed):
    random, channels = np.random.default_rng(seed), images.shape[-1]
    mean, std = tuple(random.uniform(0, 1, channels)), tuple(random.uniform(0.05, 1, channels))
    dataset = data.Dataset("x", [], [], 2, images.shape[1:], mean, std, "")
    normalized = data.normalize(dataset, images)
    assert normalized.dtype == np.float32
    np.testing.assert_allclose(normalized, (images / 255 - mean) / std, rtol=1e-5, atol=1e-5)


@given(images=images, seed=st.integers(0, 1000))
def test_normalize_is_the_layer_of_a_network_to_the_bit(images, seed):
    random, channels = np.random.default_rng(seed), images.shape[-1]
    mean, std = tuple(random.uniform(0, 1, channels)), tuple(random.uniform(0.05, 1, channels))
    dataset = data.Dataset("x", [], [], 2, images.shape[1:], mean, std, "")
    np.testing.assert_array_equal(lq.Normalize(mean, std)(jnp.asarray(images)), data.normalize(dataset, images))


def test_facts_follow_from_the_arrays():
    dataset = data.from_arrays("x", **four())
    assert (dataset.num_classes, dataset.image_shape, len(dataset.train), len(dataset.test)) == (3, (4, 3, 1), 6, 2)
    assert dataset.train[4]["label"] == 1
    np.testing.assert_array_equal(dataset.train[4]["image"][..., 0], four()["train_images"][4])
    colour = four(train_images=np.zeros((6, 4, 3, 2), np.uint8), test_images=np.zeros((2, 4, 3, 2), np.uint8))
    assert data.from_arrays("x", **colour).image_shape == (4, 3, 2)


@pytest.mark.parametrize("name", ["train_images", "train_labels", "test_images", "test_labels"])
def test_the_fingerprint_sees_every_array(name):
    arrays = four()
    before = data.from_arrays("x", **arrays).fingerprint
    assert before == data.from_arrays("x", **four()).fingerprint != data.from_arrays("y", **arrays).fingerprint
    changed = arrays[name][::-1]
    assert data.from_arrays("x", **four(**{name: changed})).fingerprint != before


def test_the_fingerprint_sees_the_shape():
    turned = four(
        train_images=four()["train_images"].reshape(6, 3, 4), test_images=four()["test_images"].reshape(2, 3, 4)
    )
    assert data.from_arrays("x", **turned).fingerprint != data.from_arrays("x", **four()).fingerprint


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"train_images": np.zeros((6, 4, 3), np.float32)}, r"`train_images` must be uint8 .*, got float32; multiply"),
        ({"test_images": np.zeros((2, 4, 3), np.int64)}, r"`test_images` must be uint8 \(0 to 255\), got int64$"),
        ({"train_images": np.zeros((6, 12), np.uint8)}, r"`train_images` must have the shape \[n h w\] or \[n h w c\]"),
        ({"train_images": np.zeros((0, 4, 3), np.uint8)}, "`train_images` must hold at least one image"),
        (
            {"test_images": np.zeros((2, 4, 4), np.uint8)},
            r"shape of those of `train_images`, \(4, 3, 1\).* \(4, 4, 1\)",
        ),
        ({"train_labels": np.arange(5)}, "got 6 images and 5 labels"),
        ({"test_labels": np.array([0.0, 1.0])}, "`test_labels` must be whole numbers, got float64"),
        ({"test_labels": np.array([True, False])}, "`test_labels` must be whole numbers, got bool"),
        ({"train_labels": np.zeros((6, 1), int)}, r"`train_labels` must have the shape \[n\], got \(6, 1\)"),
        ({"train_labels": np.array([0, 1, 2, 0, 1, -1])}, "labels of `train_labels` must be 0 or more, got -1"),
        ({"train_labels": np.array([0, 3, 2, 0, 3, 2])}, "`train_labels` has none of class 1 "),
        ({"train_labels": np.array([1, 1, 2, 1, 1, 2])}, "`train_labels` has none of class 0 "),
        ({"train_labels": np.array([0, 1, 2, 0, 1, 2**31])}, r"below 2\^31, got 2147483648"),
        ({"train_labels": np.array([0, 1, 2, 0, 1, 2**31 - 1])}, "has none of class 3 "),
        ({"train_labels": np.zeros(6, int), "test_labels": np.zeros(2, int)}, "at least two classes, got only class 0"),
        ({"test_labels": np.array([0, 3])}, "labels of `test_labels` must be between 0 and 2, .* got 3"),
        ({"test_labels": np.array([0, -3])}, "labels of `test_labels` must be 0 or more, got -3"),
    ],
)
def test_arrays_that_do_not_fit_are_named(changed, message):
    with pytest.raises(UserError, match=message) as error:
        data.from_arrays("x", **four(**changed))
    assert "\n" not in str(error.value)
