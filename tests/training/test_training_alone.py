"""Training without making integers: what a study is made of."""

import dataclasses
import re

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import lglsq_jax as lq
from lglsq_jax.data import DataConfig
from lglsq_jax.errors import UserError
from lglsq_jax.training import ModelConfig, PretrainingConfig, QuantizedConfig, TrainConfig, train_alone
from lglsq_jax.training.checkpoints import Checkpoints
from lglsq_jax.training.experiment import _multiply_scales
from lglsq_jax.training.folder import RunFolder
from lglsq_jax.training.saved import newest_snapshot

CONFIG = TrainConfig(
    data=DataConfig(batch_size=160, eval_batch_size=360, train_images=160),
    model=ModelConfig("resnet8", stem_stride=2),
    pretraining=PretrainingConfig(epochs=1),
    quantized=QuantizedConfig(epochs=1, calibration_batches=1, method="lsq+asr+mde"),
)


def changed(config: TrainConfig, **fields) -> TrainConfig:
    return dataclasses.replace(config, **{k: dataclasses.replace(getattr(config, k), **v) for k, v in fields.items()})


@pytest.mark.slow
def test_variants_share_a_float_network_and_nothing_but_what_was_asked_for_is_made(tmp_path):
    top1 = train_alone(CONFIG, tmp_path / "float", last="float")
    assert 0 <= top1 <= 1
    snapshot = newest_snapshot(RunFolder(tmp_path / "float"), CONFIG)
    assert snapshot is not None and snapshot.phase == "float"

    variant = changed(CONFIG, pretraining={"start_from": str(tmp_path / "float")})
    found = train_alone(variant, tmp_path / "variant")
    assert not RunFolder(tmp_path / "variant").finished
    assert not RunFolder(tmp_path / "variant").program_file.exists()
    assert train_alone(variant, tmp_path / "variant") == found  # goes on from its end

    def scales(name: str, factor: float) -> dict[str, np.ndarray]:
        config = changed(variant, quantized={"scale_learning_rate": 0.0, "scale_start_factor": factor})
        train_alone(config, tmp_path / name)
        checkpoints = Checkpoints(RunFolder(tmp_path / name).checkpoints("quantized"))
        try:
            leaves = checkpoints.read(checkpoints.steps[-1])[0]
        finally:
            checkpoints.close()
        return {leaf: value for leaf, value in leaves.items() if re.fullmatch(r"train\.parameters\..*_scale", leaf)}

    calibrated, larger = scales("calibrated", 1.0), scales("larger", 4.0)  # neither learns its scales
    assert len(calibrated) == 20 and calibrated.keys() == larger.keys()
    for leaf, value in calibrated.items():
        np.testing.assert_allclose(larger[leaf], 4 * value, rtol=1e-6)

    noisy = changed(variant, data={"label_noise": 0.5})
    with pytest.raises(UserError, match="the data of digits must be those the run began with"):
        train_alone(noisy, tmp_path / "noisy")


def test_a_phase_that_there_is_not_is_refused(tmp_path):
    with pytest.raises(ValueError, match="`last` must be one of float, quantized, got 'integer'"):
        train_alone(CONFIG, tmp_path / "run", last="integer")


@pytest.mark.parametrize("factor", [0.25, 1.0, 4.0])
def test_every_starting_scale_is_multiplied(factor):
    spec = lq.QuantSpec(3, channel_axis=-1)
    layer = lq.QuantLinear(3, 2, weights=spec, inputs=lq.QuantSpec(3, batch_axis=0), rngs=nnx.Rngs(0))
    model = nnx.Sequential(layer)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(8, 3)), jnp.float32)
    lq.calibrate(model, [x])
    before = np.asarray(layer.weight_scale[...]), np.asarray(layer.input_scale[...])
    _multiply_scales(model, factor)
    np.testing.assert_allclose(layer.weight_scale[...], factor * before[0], rtol=1e-6)
    np.testing.assert_allclose(layer.input_scale[...], factor * before[1], rtol=1e-6)
