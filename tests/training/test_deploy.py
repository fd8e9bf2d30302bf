"""What a run deploys: a program from the pixels of its data to int32 logits, and programs of earlier runs."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

import lglsq_jax as lq
from lglsq_jax.training.deploy import load_program
from lglsq_jax.training.folder import RunFolder
from lglsq_jax.training.saved import quantized_network


@pytest.fixture
def copied(finished_run, tmp_path) -> Path:
    """A finished run that a test may change."""
    return Path(shutil.copytree(finished_run, tmp_path / "copied"))


def test_the_program_of_a_run_goes_from_pixels_to_logits_without_a_float(finished_run):
    folder, config = RunFolder.existing(finished_run)
    program, digits = load_program(folder), lq.data.open_dataset(config.data)
    pixels = np.stack([digits.test[index]["image"] for index in range(64)])
    assert program.encode(pixels).dtype == np.uint8
    np.testing.assert_array_equal(program.encode(pixels), pixels)
    assert "f32[" not in str(jax.make_jaxpr(program.integer_body)(pixels))
    model = quantized_network(folder, config, digits).model()
    logits = program.decode(program.integer_body(pixels))
    np.testing.assert_allclose(logits, model(lq.data.normalize(digits, pixels)), atol=1e-4)
    assert [layer.path for layer in program.layers][:2] == ["conv1", "layer1/0/conv1"]


def test_a_program_of_an_earlier_run_takes_normalized_images(command, copied):
    folder, config = RunFolder.existing(copied)
    digits = lq.data.open_dataset(config.data)
    example = np.zeros((1, *digits.image_shape), np.float32)
    lq.integer.lower(quantized_network(folder, config, digits).model(), example).save(folder.program_file)
    summary = json.loads(folder.summary_file.read_text())
    verified = json.loads(command("verify", copied, "--json").output)
    assert verified["promises_kept"] and verified["samples"] == summary["samples"]
    assert [layer["path"] for layer in verified["layers"]] == [layer["path"] for layer in summary["layers"]]
    assert json.loads(command("evaluate", copied, "--json").output)["top1"]["integer"] == summary["integer"]["top1"]
    assert "float32 [n, 8, 8, 1]" in command("inspect", folder.program_file).output
    command("lower", copied)
    assert load_program(folder).input_dtype == "uint8"
