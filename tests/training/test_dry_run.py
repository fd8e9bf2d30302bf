"""A dry run goes the whole way of an experiment: float weights, stop, resume, integers, proof."""

import importlib
import json

import jax
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file

import lglsq_jax as lq
from lglsq_jax.data import DataConfig
from lglsq_jax.training import TrainConfig
from lglsq_jax.training.dry_run import shorten
from lglsq_jax.training.folder import RunFolder
from lglsq_jax.training.log import read_metrics
from tests.short_run import ROOT

RECIPES = sorted(file.stem for file in (ROOT / "configs").glob("imagenet_*.py"))


def went_the_whole_way(folder, output: str) -> dict:
    run = RunFolder(folder / "run")
    summary = json.loads(run.summary_file.read_text())
    assert "weights of" in output
    assert "stopped by SIGTERM at step 3, which is saved" in output
    assert "quantized: going on from step 3" in output
    assert summary["samples"] == 16 and summary["promises_kept"]
    assert summary["own_equal_codes"] >= 0.999 and summary["own_difference"] <= 1 and summary["unexplained"] == 0
    assert summary["integer"]["bytes"] < summary["float"]["bytes"] / 6
    assert summary["step"] == 8  # two epochs of four batches, and no training of the float network
    assert all(line["phase"] == "quantized" for line in read_metrics(run))
    given, taken = load_file(folder / "mock" / "weights.safetensors"), load_file(run.weights_file("float"))
    first = next(name for name in taken if name.endswith(".kernel"))
    np.testing.assert_array_equal(
        np.moveaxis(taken[first], (-1, -2), (0, 1)), given[first.removesuffix("kernel") + "weight"]
    )
    return summary


@pytest.mark.long
def test_the_digits_experiment_goes_the_whole_way_on_made_up_images(train, tmp_path):
    outcome = train("digits", "--model.stem-stride", 2, "--dry-run", "--run-dir", tmp_path / "dry")
    assert outcome.status == 0, outcome.error
    went_the_whole_way(tmp_path / "dry", outcome.output)
    assert "integer W3A3" in outcome.output
    again = train("digits", "--dry-run", "--run-dir", tmp_path / "dry")
    assert again.status == 2 and "a dry run needs a new folder" in again.error


@pytest.mark.long
@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_goes_the_whole_way_on_made_up_images(name, train, tmp_path):
    outcome = train(name, "--dry-run", "--run-dir", tmp_path / "dry")
    assert outcome.status == 0, outcome.error
    summary = went_the_whole_way(tmp_path / "dry", outcome.output)
    assert summary["bits"] == {"weights": 4, "inputs": 4}
    jax.clear_caches()  # five networks' compiled programs would fill the memory


def test_there_is_a_recipe_for_each_of_the_papers_networks():
    assert RECIPES == [
        f"imagenet_{name}" for name in ("mobilenet_v2", "resnet18", "resnet34", "resnet50", "shufflenet_v2")
    ]
    for name in RECIPES:
        module = importlib.import_module(f"configs.{name}")
        assert module.config.data.source == "imagenet"
        for text in ("NOT been run", f"python train.py {name} ", "--dry-run", "arXiv 2202.09009", "not measured"):
            assert text in module.__doc__


@pytest.mark.parametrize(
    ("parts", "groups", "then"), [(16, 1, (8, 1)), (3, 1, (1, 1)), (2, 16, (2, 4)), (1, 16, (1, 8))]
)
def test_a_batch_of_few_images_has_parts_that_fit(parts, groups, then, tmp_path):
    config = TrainConfig(data=DataConfig(batch_size=96), accumulate=parts, batch_norm_groups=groups)
    short = shorten(config, tmp_path, tmp_path / "weights.safetensors")
    assert (short.accumulate, short.batch_norm_groups) == then


WRONG_WEIGHTS = {
    "other classes": (lambda tmp: save(tmp / "w.safetensors", 7), "the 10 classes of digits"),
    "no file": (lambda tmp: tmp / "nothing.safetensors", "cannot read `weights`"),
    "another kind": (lambda tmp: tmp / "weights.h5", "must end in .safetensors"),
}


def save(path, classes: int):
    model = lq.models.resnet8(num_classes=classes, in_channels=1, stem_stride=2, rngs=nnx.Rngs(1))
    lq.models.save_torchvision(model, path)
    return path


@pytest.mark.parametrize("case", WRONG_WEIGHTS)
def test_weights_that_do_not_fit_are_one_sentence(case, train, tmp_path):
    make, expected = WRONG_WEIGHTS[case]
    arguments = ["digits", "--model.stem-stride", 2, "--pretraining.weights", make(tmp_path)]
    outcome = train(*arguments, "--run-dir", tmp_path / "run")
    assert outcome.status == 2 and outcome.error.count("\n") == 1
    assert expected in outcome.error
