"""Models of several arguments, and what is said of batches that no model takes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

import lglsq_jax as lq
from lglsq_jax.batches import arguments, calls

WEIGHTS = lq.QuantSpec(4, channel_axis=-1)
INPUTS = lq.QuantSpec(4, batch_axis=0)
RULES = [lq.Rule(".*", weights=WEIGHTS, inputs=INPUTS)]


class Two(nnx.Module):
    """An image and its depth; ``hidden`` calls a layer inside ``jax.jit``."""

    def __init__(self, hidden=False):
        rngs = nnx.Rngs(0)
        self.image, self.depth = nnx.Conv(2, 5, (2, 2), rngs=rngs), nnx.Linear(3, 5, rngs=rngs)
        self.norm, self.head = nnx.BatchNorm(5, rngs=rngs), nnx.Linear(5, 4, rngs=rngs)
        self.hidden = hidden

    def __call__(self, image, depth):
        head = jax.jit(lambda x: self.head(x)) if self.hidden else self.head
        return head(nnx.relu(self.norm(self.image(image).mean((1, 2)) + self.depth(depth))))


class Packed(Two):
    """The same network as a model of one argument."""

    def __call__(self, packed):
        return super().__call__(packed[:, :8].reshape(-1, 2, 2, 2), packed[:, 8:])


def batch(seed, samples=6):
    random = np.random.default_rng(seed)
    return tuple(random.normal(size=(samples, *shape)).astype(np.float32) for shape in ((2, 2, 2), (3,)))


def packed(pair):
    return np.concatenate([pair[0].reshape(len(pair[0]), -1), pair[1]], axis=1)


def quantized(kind, *calibrate_from, **options):
    model = lq.quantize_model(kind(**options), RULES)
    if calibrate_from:
        lq.calibrate(model, calibrate_from)
    return model


def same(found, expected):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), found, expected)


@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=3), st.booleans())
@settings(max_examples=6)
def test_a_model_of_two_arguments_is_treated_as_the_same_model_of_one(seeds, hidden):
    pairs = [batch(seed) for seed in seeds]
    ones = [packed(pair) for pair in pairs]
    two, one = quantized(Two, *pairs, hidden=hidden), quantized(Packed, *ones, hidden=hidden)
    for model, batches in ((two, iter(pairs)), (one, iter(ones))):
        assert lq.reestimate_batch_norm(model, batches) == 1
    same(*(nnx.to_pure_dict(nnx.state(model)) for model in (two, one)))
    same(lq.layer_statistics(two, pairs[0]), lq.layer_statistics(one, ones[0]))
    assert lq.multiply_adds(two, pairs[0]) == lq.multiply_adds(one, ones[0])


@given(st.integers(0, 2**32 - 1), st.integers(1, 6))
@settings(max_examples=4)
def test_its_layers_are_judged_as_those_of_the_same_model_of_one(seed, last):
    pairs = [batch(seed), batch(seed + 1, last)]  # the last batch may be smaller, and is filled up
    labels = [np.random.default_rng(seed).integers(0, 4, len(pair[0])) for pair in pairs]
    ones = [packed(pair) for pair in pairs]
    two, one = quantized(Two, pairs[0]), quantized(Packed, ones[0])
    same(lq.layer_divergence(two, pairs), lq.layer_divergence(one, ones))
    found, expected = (
        lq.sensitivity(model, list(zip(batches, labels, strict=True))) for model, batches in ((two, pairs), (one, ones))
    )
    assert [row.path for row in found.layers] == ["depth", "head", "image"] and found.samples == 6 + last
    for a, b in zip((found.quantized, *(row.alone for row in found.layers)),
                    (expected.quantized, *(row.alone for row in expected.layers)), strict=True):  # fmt: skip
        assert (a.top1, a.loss) == pytest.approx((b.top1, b.loss), rel=1e-5)


def test_a_tuple_of_one_is_the_array_itself_and_a_list_is_an_array():
    x = packed(batch(0))
    tuples, arrays, lists = (quantized(Packed, each) for each in ((x,), x, x.tolist()))
    for other in (tuples, lists):
        jax.tree.map(np.testing.assert_array_equal, *(nnx.to_pure_dict(nnx.state(m)) for m in (other, arrays)))


IMAGES = packed(batch(0))
LABELS = np.arange(6)
USES = {
    "calibrate": lambda model, given: lq.calibrate(model, given),
    "reestimate_batch_norm": lambda model, given: lq.reestimate_batch_norm(model, given),
    "layer_divergence": lambda model, given: lq.layer_divergence(model, given),
    "sensitivity": lambda model, given: lq.sensitivity(model, given),
}


@pytest.fixture(scope="module")
def models():
    return quantized(Packed, IMAGES), quantized(Two, batch(0))


def refused(use, error, sentence):
    with pytest.raises(error) as caught:
        use()
    assert str(caught.value) == sentence


@pytest.mark.parametrize("name", USES)
@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (
            IMAGES,
            "`batches` must be an iterable of batches, got one array of shape (6, 11); give [array] for one batch, "
            "list(array) for a batch a row",
        ),
        (
            jnp.asarray(IMAGES),
            "`batches` must be an iterable of batches, got one array of shape (6, 11); give [array] for one batch, "
            "list(array) for a batch a row",
        ),
        (
            {"image": IMAGES, "label": LABELS},
            "`batches` must be an iterable of batches, such as a list, got a dict with the keys 'image', 'label'",
        ),
        (None, "`batches` must be an iterable of batches, such as a list, got None"),
        (3, "`batches` must be an iterable of batches, such as a list, got 3"),
    ],
)
def test_what_is_not_batches_is_one_sentence_everywhere(models, name, given, sentence):
    refused(lambda: USES[name](models[0], given), TypeError, sentence)


@pytest.mark.parametrize(
    ("name", "missing"),
    [
        ("calibrate", "batch to calibrate from"),
        ("reestimate_batch_norm", "batch to measure batch norm's statistics on"),
        ("layer_divergence", "sample"),
        ("sensitivity", "sample"),
    ],
)
def test_no_batch_is_one_sentence_everywhere(models, name, missing):
    sentence = f"`batches` must hold at least one {missing}, got none"
    for empty in ((), iter([])):
        refused(lambda empty=empty: USES[name](models[0], empty), ValueError, sentence)


AN_ARRAY = "must be an array, or a tuple of arrays where the model takes several, got"
WRONG = [
    (
        0,
        {"image": IMAGES, "label": LABELS},
        TypeError,
        f"{AN_ARRAY} a dict with the keys 'image', 'label'; give what the model takes of it, such as batch['image']",
    ),
    (0, {}, TypeError, f"{AN_ARRAY} a dict with the keys (none)"),
    (0, "x", TypeError, f"{AN_ARRAY} 'x'"),
    (0, None, TypeError, f"{AN_ARRAY} None"),
    (0, [IMAGES, LABELS], TypeError, f"{AN_ARRAY} a list"),
    (0, (IMAGES, None), TypeError, f"{AN_ARRAY} a tuple of 2 with None in it"),
    (
        0,
        (IMAGES, LABELS),
        ValueError,
        "must be what the model takes, one array (`packed`), got a tuple of 2; give the images alone, without their "
        "labels",
    ),
    (0, (), ValueError, "must be what the model takes, one array (`packed`), got a tuple of 0"),
    (1, IMAGES, ValueError, "must be what the model takes, a tuple of 2 arrays (`image`, `depth`), got one array"),
    (
        1,
        (*batch(0), LABELS),
        ValueError,
        "must be what the model takes, a tuple of 2 arrays (`image`, `depth`), got a tuple of 3; give the images "
        "alone, without their labels",
    ),
]


@pytest.mark.parametrize(("which", "given", "error", "sentence"), WRONG)
def test_a_batch_that_the_model_does_not_take_is_one_sentence_everywhere(models, which, given, error, sentence):
    model, good = models[which], (IMAGES, batch(0))[which]
    refused(lambda: lq.calibrate(model, [good, given]), error, f"batch 1 {sentence}")
    refused(lambda: lq.reestimate_batch_norm(model, [good, given]), error, f"batch 1 {sentence}")
    refused(lambda: lq.layer_divergence(model, [given]), error, f"batch 0 {sentence}")
    refused(lambda: lq.sensitivity(model, [(given, LABELS)]), error, f"the first of batch 0 {sentence}")
    refused(lambda: lq.layer_statistics(model, given), error, f"`inputs` {sentence}")
    refused(lambda: lq.multiply_adds(model, given), error, f"`example` {sentence}")


@pytest.mark.parametrize(
    ("given", "seen"),
    [
        (IMAGES, "one array"),
        ((IMAGES,), "a tuple of 1"),
        ((IMAGES, IMAGES, LABELS), "a tuple of 3"),
        ({"image": IMAGES, "label": LABELS}, "a dict with the keys 'image', 'label'"),
    ],
)
def test_sensitivity_takes_pairs_with_labels(models, given, seen):
    refused(
        lambda: lq.sensitivity(models[0], [given]),
        TypeError,
        f"batch 0 must be a pair of what the model takes and the labels, such as (images, labels), got {seen}",
    )


def test_every_argument_has_a_sample_a_label(models):
    image, depth = batch(0)
    refused(
        lambda: lq.sensitivity(models[1], [((image, depth[:5]), LABELS)]),
        ValueError,
        "batch 0 must have one label a sample, whole numbers from 0 on, got int64 of shape (6,) for samples of shape "
        "(5, 3)",
    )


def test_no_argument_holds_nan(models):
    image, depth = batch(0)
    sentence = "batch 1 for calibration must be finite, got NaN or infinity in it"
    refused(lambda: lq.calibrate(models[1], [(image, depth), (image, depth * np.inf)]), ValueError, sentence)


def test_a_sequential_with_a_call_of_its_own_is_taken_at_its_word():
    class Both(nnx.Sequential):
        def __call__(self, a, b):
            return super().__call__(a + b)

    model = Both(lq.QuantLinear(3, 2, weights=lq.QuantSpec(4), inputs=lq.QuantSpec(4), rngs=nnx.Rngs(0)))
    x = np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3)
    lq.calibrate(model, [(x, x)])
    assert all(layer.calibrated for layer in model.layers)
    with pytest.raises(ValueError, match="a tuple of 2 arrays"):
        lq.calibrate(model, [x])


def test_how_many_arrays_a_call_takes_is_read_from_its_signature():
    x = np.ones((2, 3), np.float32)
    layer = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    for model, most in (
        (layer, 1),  # its `out_sharding` is no array
        (nnx.Sequential(layer, nnx.relu), 1),
        (nnx.Sequential(), 9),
        (nnx.BatchNorm(3, rngs=nnx.Rngs(0)), 1),
        (lambda x, train=False: x, 1),
        (lambda x, mask=None, train=False: x, 2),
        (lambda *x: x, 9),
        (nnx.MultiHeadAttention(num_heads=1, in_features=3, rngs=nnx.Rngs(0)), 3),
        (min, 9),  # says nothing of its arguments
    ):
        assert len(arguments(model, (x,) * most, "it")) == most
        if most < 9:
            with pytest.raises(ValueError, match=f"^it must be what the model takes, .*, got a tuple of {most + 1}; "):
                arguments(model, (x,) * (most + 1), "it")
    refused(
        lambda: arguments(lambda image, mask=None: 0, (), "it"),
        ValueError,
        "it must be what the model takes, a tuple of 1 to 2 arrays (`image`, `mask`), got a tuple of 0",
    )
    refused(
        lambda: arguments(lambda image, mask, *more: 0, x, "it"),
        ValueError,
        "it must be what the model takes, a tuple of 2 or more arrays (`image`, `mask`), got one array",
    )
    refused(
        lambda: arguments(lambda *more: 0, (), "it"),
        ValueError,
        "it must be what the model takes, a tuple of 1 or more arrays, got a tuple of 0",
    )


def test_batches_are_read_one_at_a_time():
    read = []

    def stream():
        for seed in range(3):
            read.append(seed)
            yield batch(seed)

    found = calls(Two(), stream())
    next(found)
    assert read == [0]


def test_a_program_is_verified_with_the_same_sentences(models):
    model = quantized(Two, batch(0))
    model.eval()
    program = lq.integer.lower(model, *batch(0))
    assert lq.integer.verify(model, program, [batch(0), batch(1, 3)]).samples == 9
    sentence = "batch 0 must be what the model takes, a tuple of 2 arrays (`image`, `depth`), got one array"
    refused(lambda: lq.integer.verify(model, program, [IMAGES]), ValueError, sentence)
    sentence = (
        f"batch 0 {AN_ARRAY} a dict with the keys 'image'; give what the model takes of it, such as batch['image']"
    )
    refused(lambda: lq.integer.verify(model, program, [{"image": IMAGES}]), TypeError, sentence)
