"""From a trained quantized network to its integers, and what was measured on the way."""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from safetensors.numpy import save as save_tensors

from ..data import Dataset, eval_batches
from ..errors import UserError
from ..files import write_whole
from ..integer import IntegerProgram, VerifyReport, as_function, load, lower, verify
from ..normalize import Normalize
from .checkpoints import named_leaves
from .config import TrainConfig
from .folder import RunFolder
from .network import Network
from .signals import StopRequest

EQUAL_CODES = 0.999
"""The fraction of codes in which every layer of both networks must agree, given the same inputs."""


def save_weights(folder: RunFolder, kind: str, network: Network) -> int:
    """Writes the network's arrays as safetensors and returns the bytes on disk; scales and batch norm included."""
    path = folder.weights_file(kind)
    arrays = named_leaves({**network.parameters, **network.rest})
    _write(path, save_tensors({name: np.ascontiguousarray(array) for name, array in arrays.items()}))
    return path.stat().st_size


def make_program(folder: RunFolder, model: nnx.Module, dataset: Dataset) -> IntegerProgram:
    """Lowers a model in evaluation mode, saves the program, and returns it as it was read back from the file.

    The program takes the pixels of the data as they are, uint8: normalizing them is its first step.
    """
    program = lower(on_pixels(model, dataset), jax.numpy.zeros((1, *dataset.image_shape), np.uint8))
    path = folder.program_file
    try:
        path.parent.mkdir(exist_ok=True)
        program.save(path)
    except OSError as error:
        raise UserError(f"cannot save the integer program to {path}: {error.strerror}") from None
    return load(path)


def on_pixels(model: nnx.Module, dataset: Dataset) -> Callable:
    """Returns the function of uint8 images that normalizes them as the data are for training, and applies the model."""
    network, normalize = as_function(model), Normalize(dataset.mean, dataset.std)
    return lambda images: network(normalize(images))


def takes_pixels(program: IntegerProgram) -> bool:
    """Whether a program takes uint8 images; those of earlier runs take normalized ones."""
    return program.input_dtype == "uint8"


def load_program(folder: RunFolder) -> IntegerProgram:
    """Reads a run's integer program.

    Raises:
        UserError: there is none yet, or the file is damaged.
    """
    if not folder.program_file.exists():
        raise UserError(
            f"the run {folder.path} must have an integer program, but there is none yet; finish it with train.py, or "
            f"make one with: python -m lglsq_jax lower {folder.path}"
        )
    return load(folder.program_file)


def test_images(
    program: IntegerProgram, dataset: Dataset, config: TrainConfig, stop: StopRequest | None = None
) -> Iterator[dict[str, Any]]:
    """Yields the test set as ``image``, as the program takes it, and ``label``; the last batch at its true size."""
    for batch in eval_batches(dataset, config.data, raw=takes_pixels(program)):
        if stop is not None:
            stop.check("while the integers were made; the same command makes them again")
        mask = batch["mask"]
        yield {"image": batch["image"][mask], "label": batch["label"][mask]}


def integer_accuracy(program: IntegerProgram, dataset: Dataset, config: TrainConfig) -> float:
    """Returns the program's top-1 on the test set, a fraction."""
    correct = samples = 0
    for batch in test_images(program, dataset, config):
        chosen = jax.device_get(program(batch["image"])).argmax(-1)
        correct += int((chosen == batch["label"]).sum())
        samples += len(chosen)
    assert samples == len(dataset.test), f"evaluated {samples} of {len(dataset.test)} samples"
    return correct / samples


def compare(
    model: nnx.Module, program: IntegerProgram, dataset: Dataset, config: TrainConfig, stop: StopRequest | None = None
) -> VerifyReport:
    """Verifies a program on the whole test set; a model of normalized images also where the program takes raw ones."""
    whole = on_pixels(model, dataset) if takes_pixels(program) else model
    report = verify(whole, program, (batch["image"] for batch in test_images(program, dataset, config, stop)))
    assert report.samples == len(dataset.test), f"verified {report.samples} of {len(dataset.test)} samples"
    return report


def report_fields(report: VerifyReport) -> dict[str, Any]:
    """Returns a report as plain values, with ``promises_kept``."""
    return {
        "agreement": report.top1_agreement,
        "samples": report.samples,
        "tied_samples": report.tied_samples,
        "unexplained": report.unexplained,
        "own_equal_codes": report.own_equal_fraction,
        "equal_codes": report.equal_fraction,
        "max_difference": report.max_difference,
        "own_difference": report.own_difference,
        "max_logit_difference": report.max_logit_difference,
        "promises_kept": not broken_promises(report),
        "layers": [dataclasses.asdict(layer) for layer in report.layers],
    }


def broken_promises(report: VerifyReport) -> list[str]:
    """Returns in what the integer network is not the one that was trained, one sentence each; empty: it is."""
    broken = []
    if report.unexplained:
        broken.append(
            f"{report.unexplained} of {report.samples} samples get another class from the integers, and no rounding "
            "tie explains it"
        )
    broken += [
        f"{100 * layer.own_equal_fraction:.4f} % of the codes that {layer.path} makes of the same inputs are equal, "
        f"fewer than {100 * EQUAL_CODES:g} %"
        for layer in report.layers
        if layer.own_equal_fraction < EQUAL_CODES
    ]
    broken += [
        f"a code of {layer.path} is {layer.own_difference} away from the one that the same inputs have in training"
        for layer in report.layers
        if layer.own_difference > 1
    ]
    return broken


def _write(path: Path, data: bytes) -> None:
    try:
        path.parent.mkdir(exist_ok=True)
        write_whole(path, data)
    except OSError as error:
        raise UserError(f"cannot save {path}: {error.strerror}") from None
