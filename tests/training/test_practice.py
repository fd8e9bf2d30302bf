"""What helps at low bits, all of it in a real run: stopped and continued, measured anew at its end, frozen."""

import dataclasses
import json

import numpy as np
import pytest

import lglsq_jax as lq
from lglsq_jax.commands.train import read
from lglsq_jax.data import open_dataset, train_batches
from lglsq_jax.errors import UserError
from lglsq_jax.training.config import from_dict
from lglsq_jax.training.evaluation import evaluate, mesh_of
from lglsq_jax.training.experiment import train_alone
from lglsq_jax.training.folder import RunFolder
from lglsq_jax.training.saved import Snapshot, newest_snapshot, quantized_network
from lglsq_jax.training.signals import Stopped, StopRequest
from tests.short_run import ROOT
from tests.training.test_training_alone import CONFIG, changed

OPTIONS = {
    "epochs": 3,
    "weight_bits": 2,
    "input_bits": 2,
    "learning_rate": 0.2,
    "batch_norm_batches": 2,
    "dampening": 1e-3,
    "oscillation_momentum": 0.5,
    "freeze_threshold": 0.2,
    "freeze_threshold_start": 0.4,
    "learning_rates": (("fc/kernel", 0.0), (".*/bn[12]/.*", 0.5)),
}


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """A run with everything, from a float network that is trained already."""
    folder = tmp_path_factory.mktemp("float")
    config = changed(CONFIG, data={"batch_size": 80}, quantized=OPTIONS)
    train_alone(config, folder, last="float")
    return changed(config, pretraining={"start_from": str(folder)})


@pytest.fixture(scope="module")
def whole_run(config, tmp_path_factory):
    """Folder and accuracy of the run without a stop."""
    folder = tmp_path_factory.mktemp("whole")
    return RunFolder(folder), train_alone(config, folder)


def snapshot(folder: RunFolder) -> Snapshot:
    found = newest_snapshot(*RunFolder.existing(folder.path))
    assert found is not None and found.phase == "quantized"
    return found


@pytest.mark.long
def test_a_stopped_run_ends_with_the_same_state_to_the_bit(config, whole_run, tmp_path):
    folder, top1 = whole_run
    for steps in (3, 2):
        with pytest.raises(Stopped):
            train_alone(config, tmp_path, StopRequest(after_steps=steps))
    assert 0 < int(snapshot(RunFolder(tmp_path)).leaves["train.step"]) < 6
    assert train_alone(config, tmp_path) == top1
    wanted, found = snapshot(folder), snapshot(RunFolder(tmp_path))
    assert found.params_sha256 == wanted.params_sha256
    assert any(name.startswith("train.oscillations.") for name in wanted.leaves)
    before = wanted.params_sha256
    assert train_alone(config, folder.path) == top1 and snapshot(folder).params_sha256 == before


@pytest.mark.slow
def test_a_run_ends_with_statistics_of_its_own_weights(config, whole_run):
    folder, top1 = whole_run
    dataset = open_dataset(config.data)
    network = quantized_network(folder, config, dataset)
    assert evaluate(network, dataset, config, mesh_of(config))["accuracy"] == top1
    stream = train_batches(dataset, config.data, seed=config.seed, first_step=2 + 6)
    images = [next(stream)["image"] for _ in range(2)]
    stream.close()
    model = network.model()
    assert lq.reestimate_batch_norm(model, images)
    wanted = network.skeleton.arrays(model)[1]
    for path, array in network.rest.items():
        np.testing.assert_allclose(array, wanted[path], rtol=1e-4, atol=1e-5, err_msg=path)


@pytest.mark.slow
def test_a_run_says_what_oscillates_and_keeps_what_is_frozen(config, whole_run):
    folder, _ = whole_run
    lines = [json.loads(line) for line in folder.metrics_file.read_text().splitlines()]
    layers = [line for line in lines if line["split"] == "layers"]
    assert len(layers) == 3
    tracked = {path for path, values in layers[-1].items() if isinstance(values, dict) and "weights_frozen" in values}
    assert "layer1/0/conv1" in tracked and not {"conv1", "fc"} & tracked  # those have 8 bits
    leaves, total = snapshot(folder).leaves, 0
    codes = lq.weight_codes(quantized_network(folder, config, open_dataset(config.data)).model())
    for path in tracked:
        prefix = f"train.oscillations.{path.replace('/', '.')}."
        frozen = leaves[prefix + "frozen"]
        total += frozen.sum()
        assert layers[-1][path]["weights_frozen"] == frozen.sum()
        assert layers[-1][path]["weights_oscillating"] == np.mean(leaves[prefix + "frequency"] > 0.005)
        np.testing.assert_array_equal(np.asarray(codes[path])[frozen], leaves[prefix + "codes"][frozen])
    assert total > 0
    assert all(line["dampening"] >= 0 for line in lines if line["split"] == "train")
    source = newest_snapshot(*RunFolder.existing(config.pretraining.start_from))
    assert source is not None
    np.testing.assert_array_equal(leaves["train.parameters.fc.kernel"], source.leaves["train.parameters.fc.kernel"])
    assert (leaves["train.parameters.fc.bias"] != source.leaves["train.parameters.fc.bias"]).any()


@pytest.mark.slow
def test_an_older_run_without_a_field_goes_on(config, whole_run):
    folder, top1 = whole_run
    fields = json.loads(folder.config_file.read_text())
    assert from_dict(fields) == config
    del fields["quantized"]["track_oscillations"], fields["skip_bad_steps"]
    folder.config_file.write_text(json.dumps(fields))
    assert train_alone(config, folder.path) == top1
    with pytest.raises(UserError, match=r"differs in quantized.track_oscillations \(False, now True\)"):
        train_alone(changed(config, quantized={"track_oscillations": True}), folder.path)


def test_a_pattern_that_matches_nothing_is_refused_before_the_float_phase(tmp_path):
    config = changed(CONFIG, quantized={"learning_rates": (("layer1/0/conv9/.*", 0.1),)})
    with pytest.raises(UserError, match=r"'layer1/0/conv9/\.\*' matches none; the paths are layer1/0/conv"):
        train_alone(config, tmp_path / "run")
    assert not RunFolder(tmp_path / "run").checkpoints("float").exists()


def test_the_command_line_takes_every_option():
    flags = ("--quantized.learning-rates fc/.* 0.1 layer1/.*/weight_scale 3 --quantized.batch-norm-batches 50 "
             "--quantized.dampening 1e-3 --quantized.freeze-threshold 0.01 --quantized.freeze-threshold-start 0.05 "
             "--quantized.oscillation-momentum 0.02 --quantized.track-oscillations").split()  # fmt: skip
    config, _, _ = read(["digits", *flags], ROOT / "configs")
    plain, _, _ = read(["digits"], ROOT / "configs")
    assert config.quantized == dataclasses.replace(
        plain.quantized,
        learning_rates=(("fc/.*", 0.1), ("layer1/.*/weight_scale", 3.0)),
        batch_norm_batches=50,
        dampening=1e-3,
        freeze_threshold=0.01,
        freeze_threshold_start=0.05,
        oscillation_momentum=0.02,
        track_oscillations=True,
    )
