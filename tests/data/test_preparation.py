"""Crops lie inside the picture and are spread as they should be; evaluation is what two steps of Pillow give."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lglsq_jax.data.preparation import Preparation, jittered, random_box

seeds = st.integers(0, 2**32)


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


@given(width=st.integers(1, 400), height=st.integers(1, 400), min_area=st.floats(0.01, 1), seed=seeds)
def test_a_crop_lies_within_the_picture(width, height, min_area, seed):
    left, top, right, bottom = random_box(width, height, np.random.default_rng(seed), min_area=min_area)
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height


def test_crops_have_areas_and_aspects_of_the_whole_range():
    random = np.random.default_rng(0)
    boxes = np.asarray([random_box(500, 400, random, min_area=0.25) for _ in range(4000)])
    widths, heights = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    areas, aspects = widths * heights / (500 * 400), np.log(widths / heights)
    assert 0.24 < areas.min() < 0.27 and areas.max() > 0.9
    assert abs(np.log(4 / 3) - aspects.max()) < 0.02 and abs(np.log(3 / 4) - aspects.min()) < 0.02
    small = areas < 0.6  # where nearly every try fits, areas are uniform and places are centred
    assert abs(areas[small].mean() - 0.425) < 0.01 and abs(aspects[small].mean()) < 0.02
    assert abs((boxes[:, 0] + boxes[:, 2]).mean() / 2 - 250) < 5


@pytest.mark.parametrize(("size", "box"), [((400, 10), (193, 0, 206, 10)), ((10, 400), (0, 193, 10, 206))])
def test_a_picture_that_no_crop_fits_gives_its_middle(size, box):
    assert random_box(*size, np.random.default_rng(0), min_area=1) == box


@settings(max_examples=30)
@given(width=st.integers(5, 90), height=st.integers(5, 90), size=st.integers(4, 40), more=st.integers(0, 10))
def test_evaluation_is_a_resize_and_a_centre_crop(width, height, size, more):
    """Written a second way: NumPy cuts the middle out of what Pillow resizes, as TorchVision rounds."""
    image, shorter = picture(width, height), size + more
    if width < height:
        resized = image.resize((shorter, int(shorter * height / width)), Image.Resampling.BILINEAR)
    else:
        resized = image.resize((int(shorter * width / height), shorter), Image.Resampling.BILINEAR)
    pixels = np.asarray(resized)
    top, left = (round((side - size) / 2.0) for side in pixels.shape[:2])
    expected = pixels[top : top + size, left : left + size]
    np.testing.assert_array_equal(Preparation(size=size, resize=shorter).evaluated(image), expected)


def test_augmentation_is_a_crop_perhaps_mirrored():
    image, plain = picture(50, 40), Preparation(size=16)
    for seed in range(20):
        random = np.random.default_rng(seed)
        box = random_box(50, 40, random, min_area=0.08)
        expected = np.asarray(image.resize((16, 16), Image.Resampling.BILINEAR, box=box))
        np.testing.assert_array_equal(plain.augmented(image, np.random.default_rng(seed)), expected)
        mirrored = Preparation(size=16, flip=True).augmented(image, np.random.default_rng(seed))
        np.testing.assert_array_equal(mirrored, expected[:, ::-1] if random.random() < 0.5 else expected)


def test_jitter_moves_brightness_contrast_and_saturation_and_zero_moves_nothing():
    image = picture(20, 20)
    np.testing.assert_array_equal(jittered(image, np.random.default_rng(0), amount=0.0), image)
    results = [np.asarray(jittered(image, np.random.default_rng(seed), amount=0.4), float) for seed in range(200)]
    means, spreads = [pixels.mean() for pixels in results], [pixels.std() for pixels in results]
    saturations = [np.ptp(pixels, axis=2).mean() for pixels in results]
    for values, before in (
        (means, np.mean(image)),
        (spreads, np.std(image)),
        (saturations, np.ptp(np.asarray(image), axis=2).mean()),
    ):
        assert 0.6**3 * before < min(values) < 0.85 * before  # all three may take away
        assert max(values) > 1.03 * before
