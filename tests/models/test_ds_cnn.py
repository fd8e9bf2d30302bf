"""DS-CNN: the published size and shapes, what it refuses, its weights in a file, and its integers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import lglsq_jax as lq
from lglsq_jax import models

from .test_mobile import filled, multiply_adds, outline
from .test_resnet import parameters, paths

SOUND = (49, 10, 1)
"""Of a second of sound: ten coefficients of its spectrum, 49 times."""
CHANNELS, BLOCKS, CLASSES = 64, 4, 12
CONVOLUTIONS = ("depthwise", "pointwise")


def test_parameters_are_those_of_the_published_layers():
    stem, norm = 10 * 4 * 1 * CHANNELS, 2 * CHANNELS
    depthwise, pointwise = 3 * 3 * CHANNELS, CHANNELS * CHANNELS
    classifier = CHANNELS * CLASSES + CLASSES
    expected = stem + norm + BLOCKS * (depthwise + norm + pointwise + norm) + classifier
    assert parameters(outline(models.ds_cnn)) == expected == 23_180
    assert expected + (1 + 2 * BLOCKS) * CHANNELS == 23_756  # MLPerf Tiny's, with a bias for each convolution


def test_multiply_adds_are_those_of_the_published_layers():
    positions = 25 * 5
    layers = 10 * 4 * CHANNELS + BLOCKS * (3 * 3 * CHANNELS + CHANNELS * CHANNELS)
    assert multiply_adds(outline(models.ds_cnn), SOUND) == positions * layers + CHANNELS * CLASSES == 2_656_768


@pytest.mark.parametrize(
    ("image", "stride", "left"),
    [(SOUND, 2, (25, 5)), (SOUND, 4, (13, 3)), ((28, 28, 1), 2, (14, 14)), ((28, 28, 1), 4, (7, 7))],
)
def test_the_stride_of_the_stem_divides_the_image_rounded_up(image, stride, left):
    model = outline(models.ds_cnn, stem_stride=stride)
    images = jax.ShapeDtypeStruct((2, *image), jnp.float32)
    assert nnx.eval_shape(lambda model, x: model.conv1(x), model, images).shape == (2, *left, CHANNELS)
    assert nnx.eval_shape(lambda model, x: model(x), model, images).shape == (2, CLASSES)


def test_the_stem_pads_sound_as_the_published_network_does():
    kernel = np.random.default_rng(0).normal(size=(10, 4, 1, CHANNELS)).astype(np.float32)
    model = filled(models.ds_cnn)
    model.conv1.kernel[...] = jnp.asarray(kernel)
    x = np.random.default_rng(1).normal(size=(1, *SOUND)).astype(np.float32)
    published = jax.lax.conv_general_dilated(x, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    np.testing.assert_allclose(model.conv1(x), published, atol=1e-4)


def test_layers_are_as_many_and_as_wide_as_asked_for():
    model = outline(models.ds_cnn, in_channels=3, channels=8, blocks=2, stem_kernel=(3, 3))
    assert paths(model, nnx.Conv) == {"conv1"} | {f"blocks/{i}/{name}" for i in (0, 1) for name in CONVOLUTIONS}
    assert paths(model, nnx.Linear) == {"fc"}
    assert model.conv1.kernel.shape == (3, 3, 3, 8)
    assert [model.blocks[1].depthwise.kernel.shape, model.blocks[1].pointwise.kernel.shape] == [
        (3, 3, 1, 8),
        (1, 1, 8, 8),
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": 0}, "`num_classes` must be a whole number >= 1, got 0"),
        ({"in_channels": 1.0}, "`in_channels` must be a whole number >= 1, got 1.0"),
        ({"channels": -8}, "`channels` must be a whole number >= 1, got -8"),
        ({"blocks": 0}, "`blocks` must be a whole number >= 1, got 0"),
        ({"stem_stride": True}, "`stem_stride` must be a whole number >= 1, got True"),
        ({"stem_kernel": 3}, "`stem_kernel` must be a pair, height and width, got 3"),
        ({"stem_kernel": (10, 4, 1)}, r"`stem_kernel` must be a pair, height and width, got \(10, 4, 1\)"),
        ({"stem_kernel": (10, 0)}, "`stem_kernel` must be a whole number >= 1, got 0"),
    ],
)
def test_a_wrong_argument_is_refused(arguments, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        models.ds_cnn(**arguments, rngs=nnx.Rngs(0))


def test_images_of_other_channels_are_refused():
    with pytest.raises(ValueError, match=r"^`images` must have shape \[n, h, w, 1\], got \[2, 28, 28, 3\]$"):
        outline(models.ds_cnn)(jnp.zeros((2, 28, 28, 3)))


def test_weights_come_back_from_a_file(tmp_path):
    model, other = filled(models.ds_cnn), outline_with_zeros()
    models.save_torchvision(model, tmp_path / "ds_cnn.safetensors")
    models.load_torchvision(other, tmp_path / "ds_cnn.safetensors")
    for before, after in zip(jax.tree.leaves(nnx.state(model)), jax.tree.leaves(nnx.state(other)), strict=True):
        np.testing.assert_array_equal(before, after)


def outline_with_zeros() -> nnx.Module:
    graph, state = nnx.split(outline(models.ds_cnn))
    return nnx.merge(graph, jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), state))


@pytest.mark.parametrize(("image", "stride"), [(SOUND, 2), ((28, 28, 1), 4)])
def test_integers_are_those_of_the_model_and_of_the_file(tmp_path, image, stride):
    images = np.random.default_rng(0).normal(size=(4, *image)).astype(np.float32)
    network = filled(models.ds_cnn, stem_stride=stride)
    weights, inputs = lq.QuantSpec(3), lq.QuantSpec(3, signed=False, batch_axis=0)
    model = lq.quantize_model(network, models.recommended_rules(network, weights=weights, inputs=inputs))
    lq.calibrate(model, [images], how="max")
    model.eval()
    program = lq.integer.lower(model, images)

    report = lq.integer.verify(model, program, [images])
    assert report.unexplained == 0
    assert len(report.layers) == 2 + 2 * BLOCKS
    for layer in report.layers:
        assert layer.own_difference <= 1 and layer.own_unexplained == 0, layer

    program.save(tmp_path / "program")
    codes = program.encode(images)
    np.testing.assert_array_equal(
        lq.integer.load(tmp_path / "program").integer_body(codes), program.integer_body(codes)
    )
