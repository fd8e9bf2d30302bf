"""Crop and flip: every result is a window of the padded image, mirrored or not, and all of them occur."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from lglsq_jax.data.augmentation import crop_and_flip

batches = st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4), st.integers(1, 3)).flatmap(
    lambda shape: arrays(np.uint8, shape)
)


def windows(image: np.ndarray, padding: int, flip: bool) -> list[bytes]:
    """All that may become of an image, in order of the corner; written with ``np.pad`` and ``np.flip``."""
    height, width, _ = image.shape
    padded = np.pad(image, ((padding, padding), (padding, padding), (0, 0)))
    corners = [(top, left) for top in range(2 * padding + 1) for left in range(2 * padding + 1)]
    plain = [padded[top : top + height, left : left + width] for top, left in corners]
    return [window.tobytes() for window in plain] + [np.flip(window, 1).tobytes() for window in plain if flip]


@given(images=batches, padding=st.integers(0, 3), flip=st.booleans(), seed=st.integers(0, 2**32))
def test_every_image_becomes_one_of_its_windows(images, padding, flip, seed):
    before = images.copy()
    augmented = crop_and_flip(images, np.random.default_rng(seed), padding=padding, flip=flip)
    assert augmented.shape == images.shape
    assert augmented.dtype == np.uint8
    for image, result in zip(images, augmented, strict=True):
        assert result.tobytes() in windows(image, padding, flip)
    np.testing.assert_array_equal(images, before)


@pytest.mark.parametrize(("padding", "flip", "outcomes"), [(1, True, 18), (1, False, 9), (0, True, 2), (0, False, 1)])
def test_all_windows_are_equally_likely(padding, flip, outcomes):
    count = 1000 * outcomes
    image = np.arange(1, 13, dtype=np.uint8).reshape(3, 4, 1)
    images = np.broadcast_to(image, (count, *image.shape))
    augmented = crop_and_flip(images, np.random.default_rng(0), padding=padding, flip=flip)
    seen = [result.tobytes() for result in augmented]
    counts = [seen.count(window) for window in windows(image, padding, flip)]
    assert len(counts) == outcomes
    assert sum(counts) == count
    assert all(abs(number - 1000) < 200 for number in counts)
