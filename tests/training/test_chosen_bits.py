"""Bits chosen by layer: within the budget, the same every time, and the same wherever the run's network is built."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

import lglsq_jax as lq
from lglsq_jax.data import open_dataset, train_batches
from lglsq_jax.errors import UserError
from lglsq_jax.paths import products
from lglsq_jax.training.chosen_bits import choose_bits, kept_bits, mean_bits
from lglsq_jax.training.experiment import train_alone
from lglsq_jax.training.folder import RunFolder
from lglsq_jax.training.networks import find_network
from lglsq_jax.training.saved import float_network
from tests.short_run import ROOT, SHORT

ENDS = {"conv1", "fc"}
BUDGET = 3.0


@pytest.fixture(scope="module")
def chosen(finished_run, tmp_path_factory) -> Path:
    """The folder of a run that chose its bits and came to its end; not to be changed."""
    from lglsq_jax.commands.train import main

    folder = tmp_path_factory.mktemp("runs") / "chosen"
    arguments = [*SHORT, "--quantized.bit-choices", "2", "3", "5", "--quantized.size-budget", str(BUDGET),
                 "--quantized.input-bits", "4", "--pretraining.start-from", str(finished_run),
                 "--run-dir", str(folder)]  # fmt: skip
    assert main(arguments, ROOT / "configs") == 0
    return folder


@pytest.mark.slow
def test_the_run_keeps_to_its_budget_and_every_command_sees_the_same_bits(chosen, command):
    summary = json.loads((chosen / "summary.json").read_text())
    bits = {path: tuple(pair) for path, pair in summary["layer_bits"].items()}
    assert len(bits) == 8 and not ENDS & bits.keys()
    assert {weights for weights, _ in bits.values()} <= {2, 3, 5} and {inputs for _, inputs in bits.values()} == {4}
    assert len({weights for weights, _ in bits.values()}) > 1
    assert 0.95 * BUDGET < summary["bits"]["weights"] <= BUDGET and summary["bits"]["inputs"] == 4
    assert summary["promises_kept"]
    found = json.loads(command("inspect", chosen, "--json").output)
    plan = {layer["path"]: (layer["weight_bits"], layer["input_bits"]) for layer in found["layers"]}
    assert plan.pop("conv1") == plan.pop("fc") == (8, 8) and plan == bits
    top1 = json.loads(command("evaluate", chosen, "--json").output)["top1"]
    assert top1 == {name: summary[name]["top1"] for name in top1}
    before = (chosen / "integer" / "program.safetensors").read_bytes()
    assert command("lower", chosen).status == 0
    assert (chosen / "integer" / "program.safetensors").read_bytes() == before


@pytest.mark.long
def test_a_run_that_was_killed_chooses_the_same_bits_again(chosen, tmp_path, command):
    folder = RunFolder(shutil.copytree(chosen, tmp_path / "killed"))
    kept = folder.bits_file.read_bytes()
    for gone in (folder.summary_file, folder.bits_file):
        gone.unlink()
    newest = max(int(path.name) for path in folder.checkpoints("quantized").iterdir())
    shutil.rmtree(folder.checkpoints("quantized") / str(newest))
    assert "not chosen yet" in command("inspect", folder.path).output
    train_alone(RunFolder.existing(folder.path)[1], folder.path)
    assert folder.bits_file.read_bytes() == kept
    ends = [json.loads(command("inspect", path, "--json").output) for path in (chosen, folder.path)]
    assert ends[0]["params_sha256"] == ends[1]["params_sha256"]


@pytest.mark.slow
@pytest.mark.parametrize("text", ["{}", "[]", '{"layer1/0/conv1": 3}', "WRONG"])
def test_a_damaged_file_of_bits_is_a_sentence(text, chosen, tmp_path):
    folder, (_, config) = RunFolder(tmp_path), RunFolder.existing(chosen)
    assert kept_bits(folder, config) is None
    if text == "WRONG":  # a number of bits that was no choice
        fields = json.loads((chosen / "bits.json").read_text())
        fields["layer1/0/conv1"]["weights"] = 4
        text = json.dumps(fields)
    folder.bits_file.write_text(text)
    with pytest.raises(UserError, match="must hold bits of `bit_choices` for each inner layer of resnet8"):
        kept_bits(folder, config)


@pytest.mark.slow
def test_a_compute_budget_chooses_inputs_too_and_counts_multiply_adds(finished_run):
    folder, config = RunFolder.existing(finished_run)
    settings = dataclasses.replace(config.quantized, bit_choices=(2, 4), compute_budget=9.0)
    config, dataset = dataclasses.replace(config, quantized=settings), open_dataset(config.data)
    model, stream = float_network(folder, config, dataset).model(), train_batches(dataset, config.data, seed=0)
    images = next(stream)["image"][:32]
    stream.close()
    bits = choose_bits(config, model, [images])
    assert set(bits.values()) == {(2, 2), (4, 4)}
    spec = lq.QuantSpec(2)
    counts = lq.multiply_adds(lq.quantize_model(model, [lq.Rule(".*", weights=spec, inputs=spec)]), images)
    spent = sum(weights * inputs * counts[path] for path, (weights, inputs) in bits.items())
    assert spent <= 9.0 * sum(counts[path] for path in bits)


def test_means_count_weights():
    model = find_network("resnet8").blank(3, 1, {})
    sizes = {path: layer.kernel.size for path, layer in products(model)}
    found = mean_bits(model, {"layer1/0/conv1": (2, 4), "layer3/0/conv2": (4, 4)})
    small, large = sizes["layer1/0/conv1"], sizes["layer3/0/conv2"]
    assert found == (round((2 * small + 4 * large) / (small + large), 2), 4.0)
