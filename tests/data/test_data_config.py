"""What the user may say about data, and what the answer is otherwise."""

import dataclasses
import subprocess
import sys

import pytest
import tyro

from lglsq_jax.data import SOURCES, DataConfig
from lglsq_jax.errors import UserError


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"source": "digit"},
            r"`source` must be one of digits, idx, npz, tfds.*, got 'digit'; did you mean 'digits'\?",
        ),
        ({"source": "NPZ"}, r"got 'NPZ'; did you mean 'npz'\?"),
        ({"source": "parquet"}, r"`source` must be one of digits, .*, got 'parquet'$"),
        ({"source": None}, "`source` must be text, got None"),
        ({"source": "idx"}, "`path` must be given for the source 'idx', got None"),
        ({"source": "npz", "path": ""}, "`path` must be given for the source 'npz', got ''"),
        ({"source": "tfds", "path": "/data"}, "`name` must be given for the source 'tfds', got None"),
        ({"path": "/data"}, "`path` must be None for the source 'digits', which reads none, got '/data'"),
        ({"name": "cifar10"}, "`name` must be None for the source 'digits', which reads none, got 'cifar10'"),
        ({"source": "npz", "path": "a.npz", "name": "a"}, "`name` must be None for the source 'npz', which reads none"),
        ({"path": 3}, "`path` must be text, got 3"),
        ({"batch_size": 0}, "`batch_size` must be a whole number of at least 1, got 0"),
        ({"batch_size": 1.5}, "`batch_size` must be a whole number of at least 1, got 1.5"),
        ({"batch_size": True}, "`batch_size` must be a whole number of at least 1, got True"),
        ({"eval_batch_size": 0}, "`eval_batch_size` must be a whole number of at least 1, got 0"),
        ({"crop_padding": -1}, "`crop_padding` must be a whole number of at least 0, got -1"),
        ({"workers": -1}, "`workers` must be a whole number of at least 0, got -1"),
        ({"flip": 1}, "`flip` must be True or False, got 1"),
        ({"source": "folder"}, "`path` must be given for the source 'folder', got None"),
        ({"image_size": 0}, "`image_size` must be a whole number of at least 1, got 0"),
        ({"max_damaged": -1}, "`max_damaged` must be a whole number of at least 0, got -1"),
        ({"source": "imagenet", "eval_resize": 223}, "`eval_resize` must be a whole number of at least 224, got 223"),
        ({"source": "imagenet", "color_jitter": 1.1}, "`color_jitter` must be a number from 0 to 1, got 1.1"),
        ({"source": "imagenet", "min_crop_area": 0}, "`min_crop_area` must be a number from 0 to 1, above 0, got 0"),
        ({"source": "imagenet", "min_crop_area": "x"}, "`min_crop_area` must be a number"),
        ({"color_jitter": 0.4}, "`color_jitter` must be 0.0 for the source 'digits', which has images of one size"),
        ({"source": "imagenet", "crop_padding": 4}, "`crop_padding` must be 0 for the source 'imagenet', which makes"),
    ],
)
def test_a_wrong_field_is_one_sentence(fields, message):
    with pytest.raises(UserError, match=message) as error:
        DataConfig(**fields)
    assert "\n" not in str(error.value)


def test_the_command_line_reads_every_field():
    arguments = (
        "--source tfds --name mnist --path /d --batch-size 7 --eval-batch-size 9 --crop-padding 2 --flip --workers 1"
    )
    config = tyro.cli(DataConfig, args=arguments.split())
    expected = DataConfig("tfds", "/d", "mnist", batch_size=7, eval_batch_size=9, crop_padding=2, flip=True, workers=1)
    assert config == expected
    assert DataConfig(**dataclasses.asdict(config)) == config


def test_help_explains_every_field_and_names_every_source(capsys):
    with pytest.raises(SystemExit, match="0"):
        tyro.cli(DataConfig, args=["--help"])
    helped = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for field in dataclasses.fields(DataConfig):
        assert f"--{field.name.replace('_', '-')}" in helped
    assert "Images in a training batch; at most as many as there are training images." in helped
    explanation = helped.split("--source")[1].split("--path")[0]
    assert all(source in explanation for source in SOURCES)


def test_importing_the_package_brings_in_nothing_heavy():
    program = "import sys, lglsq_jax.data; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    heavy = {"jax", "flax", "grain", "orbax", "sklearn", "scipy", "tensorflow", "tensorflow_datasets", "absl", "PIL"}
    assert "numpy" in loaded
    assert heavy.isdisjoint(loaded)
