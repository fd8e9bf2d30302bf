"""A whole experiment on made-up images in minutes: everything that its command will do, before the data are there."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from ..batch_norm import reestimate_batch_norm
from ..data import open_dataset
from ..data.dataset import gather, normalize
from ..data.mock import mock_imagenet
from ..errors import UserError
from ..models import save_torchvision
from .cache import compiled_once
from .config import TrainConfig
from .experiment import build_float, run_experiment
from .signals import Stopped, StopRequest

IMAGE_SIZE = 64
_CLASSES, _TRAIN, _TEST = 4, 8, 4  # and images a class
_BATCH = 8
_STOP_AFTER = 3  # steps


def dry_run(config: TrainConfig, run_dir: str | Path, *, tables: bool = False) -> dict[str, Any]:
    """Runs an experiment on mock images at reduced resolution and returns its summary.

    In ``run_dir``: class folders of generated JPEGs, a file of TorchVision's weights for the float start (random ones),
    and the run. It is stopped after a few steps of quantized training and goes on from its checkpoint; then evaluation,
    lowering and verification follow as in the real run. Network, bits, method and rates are those of ``config``;
    accuracies mean nothing. ``tables`` is that of ``run_experiment``.

    Raises:
        UserError: the folder is in use already, or anything that the experiment itself would raise.
    """
    folder = Path(run_dir)
    mock = folder / "mock"
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"a dry run needs a new folder, but {folder} has something in it; name another with --run-dir")
    print(f"dry run: {_CLASSES * _TRAIN} made-up images of {IMAGE_SIZE}x{IMAGE_SIZE} instead of the data", flush=True)
    mock_imagenet(mock / "images", classes=_CLASSES, train=_TRAIN, val=_TEST)
    shortened = shorten(config, mock / "images", mock / "weights.safetensors")
    with compiled_once(folder / "cache"):
        return _stopped_and_continued(shortened, mock / "weights.safetensors", folder / "run", tables)


def _stopped_and_continued(config: TrainConfig, weights: Path, run: Path, tables: bool) -> dict[str, Any]:
    _make_up_weights(config, weights)
    try:
        run_experiment(config, run, StopRequest(after_steps=_STOP_AFTER), tables=tables)
    except Stopped as stopped:
        print(f"dry run: {stopped}", flush=True)
    else:
        raise AssertionError("a run that was asked to stop went on to its end")
    return run_experiment(config, run, tables=tables)


def _make_up_weights(config: TrainConfig, file: Path) -> None:
    """Writes random weights with the statistics of batch norm that they have on the images, as a trained network has.

    With those of a new network, mean 0 and variance 1, values shrink from layer to layer until the scales are measured
    on next to nothing; trained from there, some networks explode.
    """
    dataset = open_dataset(config.data)
    model = build_float(config, dataset)
    images, _ = gather(dataset, dataset.test, np.arange(len(dataset.test)))
    reestimate_batch_norm(model, [jnp.asarray(normalize(dataset, images))])
    save_torchvision(model, file)


def shorten(config: TrainConfig, images: Path, weights: Path) -> TrainConfig:
    """Returns the experiment on a folder of few images, from a file of weights, for two short epochs."""
    data = dataclasses.replace(
        config.data,
        source="folder",
        path=str(images),
        name=None,
        image_size=IMAGE_SIZE,
        batch_size=_BATCH,
        eval_batch_size=_BATCH,
        crop_padding=0,
        workers=min(config.data.workers, 1),
        train_images=None,
        held_out=0,
        train_part=None,
    )
    pretraining = dataclasses.replace(config.pretraining, start_from=None, weights=str(weights))
    quantized = dataclasses.replace(
        config.quantized,
        epochs=max(2, len(config.quantized.progressive_bits)),
        warmup_epochs=1,
        calibration_batches=1,
        batch_norm_batches=min(config.quantized.batch_norm_batches, 2),
    )
    parts = math.gcd(config.accumulate, _BATCH)
    return dataclasses.replace(
        config,
        data=data,
        pretraining=pretraining,
        quantized=quantized,
        accumulate=parts,
        batch_norm_groups=math.gcd(config.batch_norm_groups, _BATCH // parts),
    )
