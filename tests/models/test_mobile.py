"""MobileNetV2 and ShuffleNetV2: the published sizes, TorchVision's names, options, and what they refuse."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.extend.core import jaxprs_in_params

from lglsq_jax import models
from lglsq_jax.models.parts import apply
from lglsq_jax.models.shufflenet import shuffle_channels

from .test_resnet import parameters, paths


def outline(build, **arguments) -> nnx.Module:
    return nnx.eval_shape(lambda: build(**arguments, rngs=nnx.Rngs(0)))


def filled(build, **arguments) -> nnx.Module:
    """The network with kernels drawn by NumPy, which compiles nothing."""
    model, rng = outline(build, **arguments), np.random.default_rng(0)
    graph, state = nnx.split(model)

    def values(path, leaf):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) or leaf.ndim == 0:
            return jnp.zeros(leaf.shape, leaf.dtype)
        if leaf.ndim > 1:
            return jnp.asarray(rng.normal(size=leaf.shape) * math.prod(leaf.shape[:-1]) ** -0.5, jnp.float32)
        one = "var" in str(path) or "scale" in str(path)
        return jnp.asarray(np.full(leaf.shape, one, np.float32))

    return nnx.merge(graph, jax.tree_util.tree_map_with_path(values, state))


# Parameters and multiply-adds at 224x224 as TorchVision's documentation gives them for its weights.
PUBLISHED = [
    (models.resnet18, {}, 11_689_512, 1.814e9),
    (models.resnet34, {}, 21_797_672, 3.664e9),
    (models.resnet50, {}, 25_557_032, 4.089e9),
    (models.mobilenet_v2, {}, 3_504_872, 0.301e9),
    (models.shufflenet_v2, {"width": 0.5}, 1_366_792, 0.040e9),
    (models.shufflenet_v2, {"width": 1.0}, 2_278_604, 0.145e9),
    (models.shufflenet_v2, {"width": 1.5}, 3_503_624, 0.296e9),
    (models.shufflenet_v2, {"width": 2.0}, 7_393_996, 0.583e9),
]


def multiply_adds(model: nnx.Module, image: tuple[int, int, int]) -> int:
    """Counted in the traced evaluation of one image."""
    graph, state = nnx.split(model)
    images = jax.ShapeDtypeStruct((1, *image), jnp.float32)

    def evaluate(state, images):
        model = nnx.merge(graph, state)
        model.eval()
        return model(images)

    def count(jaxpr) -> int:
        total = 0
        for equation in jaxpr.eqns:
            if equation.primitive.name == "conv_general_dilated":
                kernel = equation.invars[1].aval.shape
                total += math.prod(equation.outvars[0].aval.shape) * math.prod(kernel[:-1])
            elif equation.primitive.name == "dot_general":
                total += math.prod(equation.invars[1].aval.shape)
            total += sum(count(inner) for inner in jaxprs_in_params(equation.params))
        return total

    return count(jax.make_jaxpr(evaluate)(state, images).jaxpr)


@pytest.mark.parametrize(("build", "options", "published", "operations"), PUBLISHED)
def test_parameters_and_multiply_adds_are_the_published_ones(build, options, published, operations):
    model = outline(build, **options)
    assert parameters(model) == published
    assert abs(multiply_adds(model, (224, 224, 3)) - operations) <= 0.5e6


@pytest.mark.parametrize(("width", "stem", "last"), [(0.25, 8, 1280), (0.35, 16, 1280), (1.4, 48, 1792)])
def test_widths_are_rounded_to_multiples_of_8_and_the_last_layer_never_shrinks(width, stem, last):
    model = outline(models.mobilenet_v2, width=width)
    convs = [module for _, module in nnx.iter_modules(model) if isinstance(module, nnx.Conv)]
    assert all(conv.out_features % 8 == 0 for conv in convs)
    assert (model.features[0][0].out_features, model.classifier[1].in_features) == (stem, last)


def test_paths_are_torchvisions():
    mobile, shuffle = outline(models.mobilenet_v2), outline(models.shufflenet_v2)
    convs = {"features/0/0", "features/1/conv/0/0", "features/1/conv/1", "features/18/0"}
    convs |= {f"features/{i}/conv/{layer}" for i in range(2, 18) for layer in ("0/0", "1/0", "2")}
    assert paths(mobile, nnx.Conv) == convs
    assert paths(mobile, nnx.Linear) == {"classifier/1"}
    units = [(stage, unit) for stage, count in ((2, 4), (3, 8), (4, 4)) for unit in range(count)]
    convs = {"conv1/0", "conv5/0"} | {f"stage{s}/{u}/branch2/{i}" for s, u in units for i in (0, 3, 5)}
    convs |= {f"stage{s}/0/branch1/{i}" for s in (2, 3, 4) for i in (0, 2)}
    assert paths(shuffle, nnx.Conv) == convs


@pytest.mark.parametrize(
    ("build", "options", "positions"),
    [
        (models.mobilenet_v2, {}, 7),
        (models.shufflenet_v2, {}, 7),
        (models.mobilenet_v2, {"stem_stride": 1}, 14),
        (models.shufflenet_v2, {"stem_stride": 1, "stem_pool": False}, 28),
    ],
)
def test_the_stem_decides_how_much_of_an_image_is_left(build, options, positions):
    model = outline(build, num_classes=5, **options)
    last = model.features[18] if build is models.mobilenet_v2 else model.conv5
    seen = []

    class Watch(nnx.Module):
        def __init__(self, inner):
            self.inner = inner

        def __call__(self, x):
            seen.append(x.shape)
            return self.inner(x)

    last[0] = Watch(last[0])
    shape = nnx.eval_shape(lambda model, x: model(x), model, jax.ShapeDtypeStruct((2, 224, 224, 3), jnp.float32)).shape
    assert shape == (2, 5)
    assert seen[0][1:3] == (positions, positions)


def test_a_shuffle_interleaves_the_groups_and_another_undoes_it():
    x = jnp.arange(2 * 3 * 12.0).reshape(2, 1, 3, 12)
    mixed = shuffle_channels(x, 3)
    np.testing.assert_array_equal(mixed[0, 0, 0], [0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11])
    np.testing.assert_array_equal(shuffle_channels(mixed, 4), x)


def test_dropout_only_acts_in_training():
    model = filled(models.mobilenet_v2, num_classes=4, width=0.25, dropout=0.5)
    features = jnp.ones((2, 1280))
    model.eval()
    np.testing.assert_array_equal(apply(model.classifier, features), model.classifier[1](features))
    model.train()
    assert not np.array_equal(apply(model.classifier, features), apply(model.classifier, features))


@pytest.mark.parametrize(
    ("build", "arguments", "message"),
    [
        (models.mobilenet_v2, {"num_classes": 0}, "`num_classes` must be a whole number >= 1, got 0"),
        (models.mobilenet_v2, {"width": 0}, "`width` must be a finite number > 0, got 0"),
        (models.mobilenet_v2, {"width": math.inf}, "`width` must be a finite number > 0, got inf"),
        (models.mobilenet_v2, {"dropout": 1.0}, r"`dropout` must be in \[0, 1\), got 1.0"),
        (models.shufflenet_v2, {"width": 0.7}, "`width` must be one of 0.5, 1.0, 1.5, 2.0, got 0.7"),
        (models.shufflenet_v2, {"stem_stride": True}, "`stem_stride` must be a whole number >= 1, got True"),
    ],
)
def test_a_wrong_argument_is_refused(build, arguments, message):
    with pytest.raises(ValueError, match=message):
        outline(build, **arguments)
