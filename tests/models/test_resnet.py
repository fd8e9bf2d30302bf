"""ResNets: the published sizes, TorchVision's names, and what batch norm does in training and in evaluation."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lglsq_jax import models


def parameters(model: nnx.Module) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))


def paths(model: nnx.Module, kind: type) -> set[str]:
    return {"/".join(map(str, path)) for path, module in nnx.iter_modules(model) if isinstance(module, kind)}


def outline(build: Callable[..., models.ResNet], **arguments) -> models.ResNet:
    """The network without its numbers: nothing is computed."""
    return nnx.eval_shape(lambda: build(**arguments, rngs=nnx.Rngs(0)))


def random_images(*shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(0).normal(3.0, 2.0, shape), jnp.float32)


@pytest.mark.parametrize(
    ("build", "published"),
    [(models.resnet18, 11_689_512), (models.resnet34, 21_797_672), (models.resnet50, 25_557_032)],
)
def test_imagenet_networks_have_the_published_number_of_parameters(build, published):
    assert parameters(outline(build)) == published


@pytest.mark.parametrize(("build", "blocks"), [(models.resnet20, 3), (models.resnet8, 1)])
@pytest.mark.parametrize("in_channels", [1, 3])
@pytest.mark.parametrize("num_classes", [1, 10])
def test_small_networks_have_the_number_of_parameters_of_their_formula(build, blocks, in_channels, num_classes):
    def conv_and_norm(kernel, before, after):
        return kernel * kernel * before * after + 2 * after

    expected = conv_and_norm(3, in_channels, 16)
    for before, after in [(16, 16), (16, 32), (32, 64)]:
        expected += conv_and_norm(3, before, after) + (2 * blocks - 1) * conv_and_norm(3, after, after)
        expected += 0 if before == after else conv_and_norm(1, before, after)
    expected += 64 * num_classes + num_classes
    assert parameters(outline(build, in_channels=in_channels, num_classes=num_classes)) == expected


def test_paths_are_torchvisions():
    model = outline(models.resnet18)
    convs = {"conv1"} | {f"layer{s}/{b}/conv{c}" for s in range(1, 5) for b in range(2) for c in (1, 2)}
    convs |= {f"layer{s}/0/downsample/0" for s in (2, 3, 4)}
    norms = {path.replace("conv", "bn").replace("downsample/0", "downsample/1") for path in convs}
    assert paths(model, nnx.Conv) == convs
    assert paths(model, nnx.BatchNorm) == norms
    assert paths(model, nnx.Linear) == {"fc"}


def test_a_bottleneck_network_downsamples_in_its_first_stage_too():
    convs = paths(outline(models.resnet50), nnx.Conv)
    assert len(convs) == 53
    assert {f"layer{stage}/0/downsample/0" for stage in (1, 2, 3, 4)} <= convs


@pytest.mark.parametrize("build", [models.resnet18, models.resnet34, models.resnet50])
@pytest.mark.parametrize(("size", "positions"), [(224, 7), (225, 8)])
def test_imagenet_stem_and_stages_divide_the_image_by_32(build, size, positions):
    model = outline(build, num_classes=5)
    width = model.fc.in_features
    logits, features = nnx.eval_shape(
        _logits_and_features, model, jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
    )
    assert logits.shape == (2, 5)
    assert features.shape == (2, positions, positions, width)


def _logits_and_features(model: models.ResNet, images: jax.Array) -> tuple[jax.Array, jax.Array]:
    seen = []

    class Watch(nnx.Module):
        def __init__(self, inner):
            self.inner = inner

        def __call__(self, x):
            seen.append(self.inner(x))
            return seen[-1]

    last = getattr(model, f"layer{model.stages}")
    last[len(last) - 1] = Watch(last[len(last) - 1])
    return model(images), seen[0]


@pytest.mark.parametrize("in_channels", [1, 3])
@pytest.mark.parametrize(("stem_stride", "size"), [(1, 8), (2, 8), (2, 7)])
def test_small_networks_take_any_image(in_channels, stem_stride, size):
    model = outline(models.resnet8, num_classes=4, in_channels=in_channels, stem_stride=stem_stride)
    images = jax.ShapeDtypeStruct((3, size, size, in_channels), jnp.float32)
    assert nnx.eval_shape(lambda model, x: model(x), model, images).shape == (3, 4)


@pytest.fixture(scope="module")
def resnet8() -> models.ResNet:
    return models.resnet8(num_classes=4, in_channels=1, rngs=nnx.Rngs(0))


@nnx.jit
def forward(model, images):
    return model(images)


def test_training_moves_the_running_statistics_and_evaluation_only_uses_them(resnet8):
    images = random_images(4, 8, 8, 1)
    resnet8.train()
    before = resnet8.bn1.mean[...]
    stem = resnet8.conv1(images)
    forward(resnet8, images)
    after = resnet8.bn1.mean[...]
    np.testing.assert_allclose(after, 0.9 * before + 0.1 * stem.mean(axis=(0, 1, 2)), rtol=1e-4, atol=1e-5)

    resnet8.eval()
    whole = forward(resnet8, images)
    np.testing.assert_array_equal(resnet8.bn1.mean[...], after)
    np.testing.assert_allclose(
        whole, jnp.concatenate([forward(resnet8, images[:2]), forward(resnet8, images[2:])]), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize(("path", "border"), [("conv1", 1), ("conv2", 1), ("downsample", 0)])
def test_padding_is_the_same_on_every_side(resnet8, path, border):
    """Unlike ``"SAME"``, which pads an even image only below and to the right at stride 2."""
    block = resnet8.layer2[0]
    conv = block.downsample[0] if path == "downsample" else getattr(block, path)
    images = random_images(1, 8, 8, conv.in_features)
    bordered = jnp.pad(images, ((0, 0), (border, border), (border, border), (0, 0)))
    expected = jax.lax.conv_general_dilated(
        bordered, conv.kernel[...], conv.strides, "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    np.testing.assert_allclose(conv(images), expected, rtol=1e-5, atol=1e-5)


def test_start_values_are_he_normal_and_the_last_layer_is_uniform():
    model = models.resnet8(num_classes=100, rngs=nnx.Rngs(0))
    kernel = model.layer3[0].conv2.kernel[...]
    assert float(kernel.std()) == pytest.approx(math.sqrt(2 / (9 * 64)), rel=0.02)
    for values in (model.fc.kernel[...], model.fc.bias[...]):
        assert float(abs(values).max()) == pytest.approx(1 / 8, rel=0.03)
        assert float(abs(values).max()) <= 1 / 8
    assert float(model.layer3[0].bn2.scale[...].min()) == 1.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": 0}, r"`num_classes` must be a whole number >= 1, got 0"),
        ({"num_classes": 2.5}, r"`num_classes` must be a whole number >= 1, got 2.5"),
        ({"in_channels": -1}, r"`in_channels` must be a whole number >= 1, got -1"),
        ({"stem_stride": True}, r"`stem_stride` must be a whole number >= 1, got True"),
    ],
)
def test_a_wrong_count_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        models.resnet8(**arguments, rngs=nnx.Rngs(0))


@pytest.mark.parametrize("shape", [(8, 8, 1), (2, 8, 8, 3)])
def test_images_of_another_shape_are_refused(resnet8, shape):
    with pytest.raises(ValueError, match=r"`images` must have shape \[n, h, w, 1\], got \["):
        resnet8(jnp.zeros(shape))
