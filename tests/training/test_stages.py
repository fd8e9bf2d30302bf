"""Stages of falling bits: each goes on from the one before, and a killed run ends with bitwise the same parameters."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from lglsq_jax.data import open_dataset
from lglsq_jax.report.history import read_history
from lglsq_jax.training import Stopped
from lglsq_jax.training.checkpoints import Checkpoints
from lglsq_jax.training.experiment import train_alone
from lglsq_jax.training.folder import RunFolder
from lglsq_jax.training.saved import newest_snapshot, quantized_network
from lglsq_jax.training.signals import StopRequest
from tests.training.test_resuming import metrics

FLOAT, PER_STAGE = 12, 6  # steps; a stage has one epoch


@pytest.fixture(scope="module")
def staged(finished_run, tmp_path_factory) -> Path:
    """The folder of a run in two stages, W4A4 and W2A3, that was trained to its end; not to be changed."""
    _, config = RunFolder.existing(finished_run)
    folder = tmp_path_factory.mktemp("runs") / "staged"
    stages = dataclasses.replace(config.quantized, progressive_bits=(4, 2), weight_bits=2, input_bits=3)
    start = dataclasses.replace(config.pretraining, start_from=str(finished_run))
    train_alone(dataclasses.replace(config, quantized=stages, pretraining=start), folder)
    return folder


def cut(staged: Path, folder: Path, *gone: str) -> RunFolder:
    """A copy of the run as a kill would have left it: some of its checkpoints are not there."""
    shutil.copytree(staged, folder)
    for name in gone:
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return RunFolder(folder)


@pytest.mark.slow
def test_each_stage_has_its_bits_its_checkpoints_and_its_part_of_the_epochs(staged, command):
    lines = metrics(staged)
    steps = {phase: [line["step"] for line in lines if line["phase"] == phase and line["split"] == "train"]
             for phase in ("quantized-w4a4", "quantized")}  # fmt: skip
    first = FLOAT + PER_STAGE
    assert steps == {"quantized-w4a4": [*range(FLOAT + 1, first + 1)], "quantized": [*range(first + 1, first + 7)]}
    assert {path.name for path in (staged / "checkpoints").iterdir()} == {"quantized-w4a4", "quantized"}
    found = json.loads(command("inspect", staged, "--json").output)
    assert found["phase"] == "quantized" and found["step"] == first + PER_STAGE
    bits = {layer["path"]: (layer["weight_bits"], layer["input_bits"]) for layer in found["layers"]}
    assert bits.pop("conv1") == bits.pop("fc") == (8, 8) and set(bits.values()) == {(2, 3)}


@pytest.mark.slow
def test_a_stage_begins_with_the_weights_of_the_one_before_and_scales_of_its_own(staged):
    """Its first checkpoint is four steps in, in the warm-up: near the earlier weights, far from the earlier scales."""

    def leaves(phase, step):
        checkpoints = Checkpoints(RunFolder(staged).checkpoints(phase))
        try:
            return checkpoints.read(step)[0]
        finally:
            checkpoints.close()

    before, after = leaves("quantized-w4a4", PER_STAGE), leaves("quantized", 4)
    kernel, scale = (f"train.parameters.layer2.0.conv1.{name}" for name in ("kernel", "weight_scale"))
    assert np.linalg.norm(after[kernel] - before[kernel]) < 0.2 * np.linalg.norm(before[kernel])
    assert after[scale] > 1.5 * before[scale]  # 2 bits against 4


@pytest.mark.long
@pytest.mark.parametrize(
    "gone",
    [
        ("checkpoints/quantized", "checkpoints/quantized-w4a4/6"),  # in the middle of the first stage
        ("checkpoints/quantized",),  # in the second, before its first checkpoint
        ("checkpoints/quantized/6",),  # in the middle of the second
    ],
    ids=["first", "between", "second"],
)
def test_a_run_killed_in_any_stage_ends_with_the_same_parameters(gone, staged, tmp_path, command):
    folder = cut(staged, tmp_path / "killed", *gone)
    _, config = RunFolder.existing(folder.path)
    if gone == ("checkpoints/quantized",):
        snapshot = newest_snapshot(folder, config)
        assert snapshot is not None and snapshot.phase == "quantized-w4a4" and snapshot.step == FLOAT + PER_STAGE
        layers = json.loads(command("inspect", folder.path, "--json").output)["layers"]
        assert {layer["weight_bits"] for layer in layers} == {4, 8}
    train_alone(config, folder.path)
    ends = [json.loads(command("inspect", path, "--json").output) for path in (staged, folder.path)]
    assert ends[0]["params_sha256"] == ends[1]["params_sha256"] and ends[0]["step"] == ends[1]["step"]
    assert metrics(folder.path) == metrics(staged)


@pytest.mark.long
def test_a_polite_stop_in_the_first_stage_leaves_a_network_of_that_stage(staged, tmp_path, command):
    folder = cut(staged, tmp_path / "stopped", "checkpoints", "metrics.jsonl")
    _, config = RunFolder.existing(folder.path)
    with pytest.raises(Stopped, match=f"at step {FLOAT + 2}, which is saved"):
        train_alone(config, folder.path, StopRequest(after_steps=2))
    dataset = open_dataset(config.data)
    layer = quantized_network(folder, config, dataset).model().layer1[0].conv1
    assert (layer.weights.bits, layer.inputs.bits) == (4, 4) and layer.calibrated
    train_alone(config, folder.path)
    ends = [json.loads(command("inspect", path, "--json").output) for path in (staged, folder.path)]
    assert ends[0]["params_sha256"] == ends[1]["params_sha256"]


@pytest.mark.slow
def test_curves_go_through_all_stages(staged):
    folder, config = RunFolder.existing(staged)
    history = read_history(folder, config)
    assert history.first_step("quantized") == FLOAT + 1
    assert history.series("quantized", "test", "accuracy")[0] == [FLOAT + PER_STAGE, FLOAT + 2 * PER_STAGE]
    assert history.layer_series("layer1/0/conv1", "weight_scale")[0] == [1, 2]
    tests = [line["accuracy"] for line in metrics(staged) if line["split"] == "test"]
    assert history.last("quantized", "accuracy") == tests[-1]
