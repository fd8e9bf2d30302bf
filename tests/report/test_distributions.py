"""How values lie on their codes, against NumPy; what predictions say about mistakes."""

import numpy as np
import pytest

import lglsq_jax as lq
from lglsq_jax.report.distributions import layer_distributions
from lglsq_jax.report.predictions import predict
from tests.test_inspection import images, small


def test_the_distribution_of_weights_and_inputs_is_that_of_the_values():
    model = small()
    found = {layer.path: layer for layer in layer_distributions(model, images())}
    assert set(found) == {"body", "fc", "stem"}
    assert found["stem"].inputs is None and found["stem"].weights.spec.bits == 8
    kernel, scale = np.asarray(model.body.quantizer_kernel, np.float64), np.asarray(model.body.weight_scale[...])
    weights = found["body"].weights
    values = kernel / scale
    codes = np.clip(np.round(values), -4, 3)
    assert weights.codes == 8 and weights.codes_used == len(np.unique(codes))
    assert weights.scale == (pytest.approx(scale.min()), pytest.approx(scale.max()))
    assert weights.clipped == pytest.approx(np.mean((values < -4) | (values > 3)))
    ratio = 10 * np.log10((kernel**2).sum() / ((kernel - codes * scale) ** 2).sum())
    assert weights.signal_to_noise == pytest.approx(ratio, rel=1e-4)
    expected = np.histogram(np.clip(values, weights.edges[0], weights.edges[-1]), weights.edges)[0]
    assert weights.counts.sum() == kernel.size
    assert np.abs(weights.counts - expected).sum() <= 2  # a value on a border may fall on either side
    for border in (-4.5, 3.5):
        assert np.abs(weights.edges - border).min() < 1e-6


def test_the_figures_are_those_of_the_metrics():
    model = small()
    measured = lq.layer_statistics(model, images())
    for layer in layer_distributions(model, images()):
        for name, part in (("weight", layer.weights), ("input", layer.inputs)):
            if part is not None:
                assert part.clipped == pytest.approx(measured[layer.path][f"{name}_clipped"], abs=1e-6)
                used = part.codes_used / part.codes
                assert used == pytest.approx(measured[layer.path][f"{name}_codes_used"], abs=1e-6)


def test_values_on_codes_have_no_error_and_zeros_no_signal():
    model = small()
    model.fc.kernel[...] = np.zeros(model.fc.kernel.shape, np.float32)
    model.body.kernel[...] = np.ones(model.body.kernel.shape, np.float32)
    model.body.set_scales(weights=np.ones(4))
    found = {layer.path: layer for layer in layer_distributions(model, images())}
    assert np.isposinf(found["body"].weights.signal_to_noise)
    assert np.isnan(found["fc"].weights.signal_to_noise)


def test_mistakes_come_in_the_order_of_certainty():
    logits = np.array([[4.0, 0, 0], [0, 1, 0], [0, 0, 9], [2, 0, 0], [0, 3, 0]])
    labels = np.array([0, 0, 1, 1, 1])
    found = predict(
        lambda x: x, [{"image": logits[:3], "label": labels[:3]}, {"image": logits[3:], "label": labels[3:]}], 3
    )
    assert found.top1 == pytest.approx(0.4)
    np.testing.assert_array_equal(found.confusion, [[1, 1, 0], [1, 1, 1], [0, 0, 0]])
    assert found.mistakes.tolist() == [2, 3, 1]
    assert found.certainty[1] == pytest.approx(np.e / (np.e + 2))
    assert found.confused_pairs(2) == [(0, 1, 1), (1, 0, 1)]
    assert len(found.confused_pairs(9)) == 3
