"""One layer quantized, one layer in float: switched inside one compiled network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import lglsq_jax as lq
from tests.test_inspection import INPUTS, WEIGHTS, Small

COUNT, SHAPE = 40, (4, 4, 2)


def model_of(method: str = "lg_lsq", quantizer: bool = False):
    class Network(Small):
        def __init__(self, rngs):
            super().__init__(rngs)
            self.fc = nnx.Linear(4, 3, rngs=rngs)  # float32: compiled or not, the same logits
            if quantizer:
                self.middle = lq.Quantizer(INPUTS)

        def __call__(self, x):
            x = nnx.relu(self.norm(self.stem(x)))
            return self.fc((self.middle(x) if quantizer else nnx.relu(self.body(x))).mean(axis=(1, 2)))

    method = lq.methods.get(method)
    rules = [lq.Rule(".*", weights=lq.QuantSpec(3, channel_axis=-1, method=method),
                     inputs=lq.QuantSpec(2, signed=False, batch_axis=0, method=method)),
             lq.Rule("stem", weights=lq.QuantSpec(4, narrow_range=True))]  # fmt: skip
    float_model = Network(nnx.Rngs(0))
    if quantizer:
        del float_model.body
    model = lq.quantize_model(float_model, rules)
    lq.calibrate(model, [samples()[0]])
    model.train()
    return model


def samples():
    random = np.random.default_rng(0)
    return random.normal(size=(COUNT, *SHAPE)).astype(np.float32), random.integers(0, 3, COUNT)


def by_hand(model, quantized: set[str]) -> tuple[float, float]:
    """Top-1 and loss with the quantizers of all other layers taken out: a network of its own for each set."""
    copy = nnx.merge(*nnx.split(model), copy=True)
    for path in ("stem", "body", "fc"):
        layer = getattr(copy, path)
        if path not in quantized:
            layer.kernel[...] = layer.quantizer_kernel
            layer.weights = layer.inputs = layer.weight_scale = layer.input_scale = layer.input_offset = None
    copy.eval()
    images, labels = samples()
    logits = np.asarray(nnx.jit(lambda model, x: model(x))(copy, jnp.asarray(images)), np.float64)
    log_sum = np.log(np.exp(logits).sum(-1))
    return np.mean(logits.argmax(-1) == labels), np.mean(log_sum - logits[np.arange(COUNT), labels])


@pytest.mark.parametrize("method", ["lg_lsq", "lsq_plus", "dorefa"])
def test_each_layer_is_switched_by_itself(method):
    model = model_of(method)
    images, labels = samples()
    found = lq.sensitivity(
        model, [(images[:16], labels[:16]), (images[16:32], labels[16:32]), (images[32:], labels[32:])]
    )
    assert found.samples == COUNT
    every = {"stem", "body", "fc"}
    expected = {"none": by_hand(model, set()), "all": by_hand(model, every)}
    got = {"none": found.unquantized, "all": found.quantized}
    for row in found.layers:
        expected[f"alone {row.path}"], got[f"alone {row.path}"] = by_hand(model, {row.path}), row.alone
        expected[f"without {row.path}"], got[f"without {row.path}"] = by_hand(model, every - {row.path}), row.left_out
    assert [row.path for row in found.layers] == ["body", "fc", "stem"]
    for name, (top1, loss) in expected.items():
        assert got[name].top1 == pytest.approx(top1, abs=1e-9), name
        assert got[name].loss == pytest.approx(loss, rel=1e-5), name
    assert len({round(score.loss, 5) for score in got.values()}) == 8, "some switch does nothing"


def test_the_model_stays_as_it_is_and_quantizers_are_switched_too():
    model = model_of(quantizer=True)
    before = jax.tree.map(np.asarray, nnx.state(model))
    found = lq.sensitivity(model, [samples()])
    assert [row.path for row in found.layers] == ["fc", "middle", "stem"]
    assert found.layers[1].alone.loss != found.unquantized.loss
    jax.tree.map(np.testing.assert_array_equal, before, jax.tree.map(np.asarray, nnx.state(model)))
    assert model.fc.switch is None and not model.norm.use_running_average


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int8])
def test_labels_may_have_any_whole_dtype(dtype):
    model, (images, labels) = model_of(), samples()
    found, wanted = (
        lq.sensitivity(model, [(images[:24], kind[:24]), (images[24:], kind[24:])])
        for kind in (labels.astype(dtype), labels)
    )
    assert found == wanted and found.samples == COUNT


def test_it_prints_as_a_table_and_knows_its_uncertainty():
    found = lq.sensitivity(model_of(), [samples()])
    lines = str(found).splitlines()
    assert lines[0].split("  ")[0].strip() == "layer" and len(lines) == 5
    assert lines[-1].startswith("top-1 of 40 samples; no layer quantized: ")
    assert found.standard_error(0.5) == pytest.approx(np.sqrt(0.25 / 40))


class Hidden(nnx.Module):
    def __init__(self, rngs):
        self.fc = lq.QuantLinear(2, 3, weights=WEIGHTS, inputs=INPUTS, rngs=rngs)
        self.unused = lq.QuantLinear(2, 3, weights=WEIGHTS, inputs=INPUTS, rngs=rngs)

    def __call__(self, x):
        return self.fc(x)


def test_wrong_arguments_get_a_sentence():
    images, labels = samples()
    with pytest.raises(ValueError, match="no quantized layer: call quantize_model"):
        lq.sensitivity(Small(nnx.Rngs(0)), [(images, labels)])
    with pytest.raises(ValueError, match="call calibrate"):
        lq.sensitivity(Hidden(nnx.Rngs(0)), [(images, labels)])
    for wrong in (labels[:-1], labels.astype(np.float32), labels - 5):
        with pytest.raises(ValueError, match="batch 0 must have one label a sample"):
            lq.sensitivity(model_of(), [(images, wrong)])
    with pytest.raises(ValueError, match="at least one sample, got none"):
        lq.sensitivity(model_of(), [])
    model = Hidden(nnx.Rngs(0))
    for layer in (model.fc, model.unused):
        layer.set_scales(weights=np.ones(3), inputs=1.0)
    with pytest.raises(ValueError, match="layer 'unused' cannot be switched"):
        lq.sensitivity(model, [(np.ones((2, 2), np.float32), np.zeros(2, int))])


def test_labels_beyond_the_classes_are_refused():
    images, labels = samples()
    with pytest.raises(ValueError, match=r"^the labels of batch 1 must be below 3, the number of .*, got 3$"):
        lq.sensitivity(model_of(), [(images, labels), (images, labels + 1)])


def test_a_model_that_computes_in_bfloat16_can_be_switched():
    model = nnx.merge(*nnx.split(model_of()))
    lq.compute_in(model.body, jnp.bfloat16)
    images, labels = samples()
    assert 0 <= lq.sensitivity(model, [(images, labels)]).quantized.top1 <= 1
