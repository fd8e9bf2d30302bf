"""The five networks of the paper, and DS-CNN, at full width with random weights and statistics: integers in a file."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import lglsq_jax as lq

from .checks import assert_integers_only, normal

pytestmark = pytest.mark.long

BITS, END_BITS = 4, 8
CLASSES = 1000
IMAGES = normal(4, 64, 64, 3, seed=7)
ENDS = {
    "resnet18": ("conv1", "fc"),
    "resnet34": ("conv1", "fc"),
    "resnet50": ("conv1", "fc"),
    "mobilenet_v2": ("features/0/0", "classifier/1"),
    "shufflenet_v2": ("conv1/0", "fc"),
    "ds_cnn": ("conv1", "fc"),
}
"""Every network, and its two layers at 8 bits."""


@pytest.fixture(scope="module", autouse=True)
def _compile_quickly():
    """Compiling takes nearly all of the time here, and running none: leave out what makes code fast."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


networks = pytest.mark.parametrize("name", ENDS)


@functools.cache  # and not a fixture: those of a parametrised module are made again whenever the parameter changes
def quantized(name: str) -> nnx.Module:
    network = randomised(name)
    weights, inputs = lq.QuantSpec(BITS), lq.QuantSpec(BITS, signed=False, batch_axis=0)
    model = lq.quantize_model(network, lq.models.recommended_rules(network, weights=weights, inputs=inputs))
    lq.calibrate(model, [IMAGES], how="max")
    model.eval()
    return model


@functools.cache
def lowered(name: str) -> lq.integer.IntegerProgram:
    return lq.integer.lower(quantized(name), IMAGES)


def randomised(name: str) -> nnx.Module:
    """The float network with every array drawn by NumPy, which compiles nothing."""
    build = getattr(lq.models, name)
    graph, state = nnx.split(nnx.eval_shape(lambda: build(num_classes=CLASSES, in_channels=3, rngs=nnx.Rngs(0))))
    rng = np.random.default_rng(1)

    def draw(path, leaf):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) or leaf.ndim == 0:
            return jnp.zeros(leaf.shape, leaf.dtype)
        kind = jax.tree_util.keystr(path)
        if leaf.ndim > 1:
            values = rng.normal(size=leaf.shape) * np.sqrt(2 / np.prod(leaf.shape[:-1]))
        elif "var" in kind:
            values = rng.uniform(0.3, 2.0, leaf.shape)
        elif "scale" in kind:
            values = rng.uniform(0.5, 1.5, leaf.shape) * rng.choice([-1, 1], leaf.shape)
        else:
            values = rng.normal(size=leaf.shape) * 0.3
        return jnp.asarray(values.astype(leaf.dtype))

    return nnx.merge(graph, jax.tree_util.tree_map_with_path(draw, state))


@networks
def test_the_body_holds_no_float_at_any_depth(name):
    assert_integers_only(lowered(name), IMAGES)


@networks
def test_every_layer_has_the_codes_of_the_model(name):
    """From the image on, a tie decides hundreds of later codes of a random network: a sample may differ from it on."""
    report = lq.integer.verify(quantized(name), lowered(name), [IMAGES])
    untied = 1 - report.tied_samples / report.samples
    assert report.unexplained == 0 and untied > 0
    for layer in report.layers:
        assert layer.own_difference <= 1 and layer.own_equal_fraction >= 0.999, layer
        assert layer.equal_fraction >= 0.999 * untied, layer
    assert sorted(layer.path for layer in report.layers) == sorted(row.path for row in lq.plan(quantized(name)).rows)


@networks
def test_the_file_gives_the_same_logits_and_is_as_small_as_its_bits(name, tmp_path):
    program, path = lowered(name), tmp_path / name
    program.save(path)
    codes = program.encode(IMAGES)
    logits = np.asarray(program.integer_body(codes))
    assert logits.dtype == np.int32 and len(np.unique(logits)) > CLASSES
    np.testing.assert_array_equal(lq.integer.load(path).integer_body(codes), logits)

    weights, constants = expected_bytes(quantized(name), ENDS[name])
    summary = program.summary()
    assert summary.weight_bytes == pytest.approx(weights, rel=1e-3)
    assert summary.weight_bytes + summary.constant_bytes == pytest.approx(weights + constants, rel=0.02)
    assert path.stat().st_size == pytest.approx(weights + constants, rel=0.02)


def expected_bytes(model: nnx.Module, ends: tuple[str, str]) -> tuple[float, int]:
    """Bytes of the kernels at their bit widths, and of a 32-bit scale and a 32-bit bias a channel of each layer."""
    weights, channels = 0.0, 0
    for path, module in nnx.iter_modules(model):
        if isinstance(module, nnx.Conv | nnx.Linear):
            bits = END_BITS if "/".join(map(str, path)) in ends else BITS
            weights += module.kernel[...].size * bits / 8
            channels += module.kernel.shape[-1]
    return weights, 8 * channels
