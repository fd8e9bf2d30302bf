"""The registry of sources and the digits, the source that needs nothing."""

import importlib

import numpy as np
import pytest

from lglsq_jax import data
from lglsq_jax.data.sources import Source, find_source
from lglsq_jax.errors import UserError


@pytest.mark.parametrize("name", list(data.SOURCES))
def test_a_source_is_a_module_with_read_and_needs_fields_that_exist(name):
    source = find_source(name)
    assert callable(importlib.import_module(f"lglsq_jax.data.{source.module}").read)
    assert set(source.needs) <= set(data.DataConfig.__dataclass_fields__)


def test_a_new_source_is_one_line(monkeypatch):
    monkeypatch.setitem(data.SOURCES, "numbers", Source("digits", needs=("path",)))
    with pytest.raises(UserError, match="`path` must be given for the source 'numbers'"):
        data.DataConfig(source="numbers")
    assert data.open_dataset(data.DataConfig(source="numbers", path="x")).name == "digits"


def test_digits():
    dataset = data.open_dataset(data.DataConfig())
    again = data.open_dataset(data.DataConfig())
    assert (len(dataset.train), len(dataset.test), dataset.num_classes) == (1437, 360, 10)
    assert dataset.image_shape == (8, 8, 1)
    assert dataset.fingerprint == again.fingerprint
    images = np.concatenate([dataset.train.images, dataset.test.images])
    assert (images.min(), images.max(), len(np.unique(images))) == (0, 255, 17)
    fractions = np.bincount(dataset.test.labels) / np.bincount(dataset.train.labels)
    np.testing.assert_allclose(fractions, 0.25, atol=0.01)


def test_digits_are_all_there_and_none_is_in_both_parts():
    from sklearn.datasets import load_digits

    dataset = data.open_dataset(data.DataConfig())
    ours = [
        (image.tobytes(), label)
        for part in (dataset.train, dataset.test)
        for image, label in zip(part.images, part.labels.tolist(), strict=True)
    ]
    digits = load_digits()
    theirs = [
        (np.round(image * 255 / 16).astype(np.uint8).tobytes(), label)
        for image, label in zip(digits.images, digits.target.tolist(), strict=True)
    ]
    assert sorted(ours) == sorted(theirs)


def test_a_batch_larger_than_the_training_set_is_refused_at_once():
    with pytest.raises(UserError, match=r"`batch_size` must be between 1 and 1437, .* of digits, got 1438"):
        data.open_dataset(data.DataConfig(batch_size=1438))
