"""Everything that a report tells, measured from a run's folder."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from ..data import Dataset, eval_batches, normalize, open_dataset
from ..data.dataset import gather
from ..errors import UserError
from ..files import read_json
from ..inspection import Plan, plan
from ..integer.program import IntegerProgram
from ..integer.summary import Summary
from ..layer_sensitivity import Sensitivity, sensitivity
from ..training.config import TrainConfig
from ..training.deploy import load_program, test_images
from ..training.folder import RunFolder
from ..training.saved import float_network, newest_snapshot, quantized_network
from .distributions import LayerDistributions, layer_distributions
from .history import History, read_history
from .predictions import Predictions, predict

IMAGES_OF_HISTOGRAMS = 256
"""Test images whose values the histograms of a layer's inputs show."""
MOST_SAMPLES = 2000
"""Test images for the sensitivity of the layers, where a caller does not say."""


@dataclasses.dataclass(frozen=True)
class Findings:
    """A run as far as it has come; what it has not reached is None or empty.

    Attributes:
        folder: of the run.
        config: of the run.
        phase: ``float``, ``quantized`` or a stage before it such as ``quantized-w8a8``: of the newest checkpoint; empty
            where there is none.
        step: steps of the run up to the newest checkpoint.
        history: the curves.
        environment: versions and machine.
        summary: of a finished run, as ``summary.json`` holds it.
        dataset: the images; None where there is no network to show them to.
        plan: bits of every layer; layers are in the order in which they run once the run is finished.
        costs: bytes and multiply-adds of the integer program.
        distributions: of every quantized layer.
        sensitivity: of every quantized layer.
        predictor: which network made ``predictions``: ``float``, ``fake_quantized`` or ``integer``.
        predictions: on the whole test set.
    """

    folder: RunFolder
    config: TrainConfig
    phase: str
    step: int
    history: History
    environment: dict[str, Any]
    summary: dict[str, Any] | None = None
    dataset: Dataset | None = None
    plan: Plan | None = None
    costs: Summary | None = None
    distributions: tuple[LayerDistributions, ...] = ()
    sensitivity: Sensitivity | None = None
    predictor: str = ""
    predictions: Predictions | None = None


def find(folder: RunFolder, config: TrainConfig, samples: int = MOST_SAMPLES) -> Findings:
    """Measures a run.

    Args:
        folder: of the run.
        config: of the run.
        samples: at most so many test images, evenly spread over the test set, for the sensitivity of the layers.

    Raises:
        UserError: the run has nothing to report yet, or its data or its files cannot be read.
    """
    snapshot = newest_snapshot(folder, config)
    history = read_history(folder, config)
    summary = read_json(folder.summary_file) if folder.finished else None
    if snapshot is None and summary is None and not history.lines:
        raise UserError(f"the run {folder.path} must have begun its training, but it has no metrics and no checkpoint")
    environment = read_json(folder.environment_file) if folder.environment_file.exists() else {}
    phase, step = (snapshot.phase, snapshot.step) if snapshot else ("", 0)
    begun = Findings(folder, config, phase, step, history, environment, summary)
    if snapshot is None:
        return begun
    dataset = open_dataset(config.data)
    begun = dataclasses.replace(begun, dataset=dataset)
    if snapshot.phase == "float":
        model = float_network(folder, config, dataset).model()
        return dataclasses.replace(begun, predictor="float", predictions=_predictions(model, dataset, config))
    model = quantized_network(folder, config, dataset).model()
    program = load_program(folder) if folder.finished else None
    network = model if program is None else program
    costs = None if program is None else program.summary()
    places = {row.path: place for place, row in enumerate(costs.rows)} if costs else {}

    def in_order(rows):
        """In the order in which the layers run, where that is known."""
        return tuple(sorted(rows, key=lambda row: places.get(row.path, len(places))))

    measured = sensitivity(model, spread_batches(dataset, samples, config.data.eval_batch_size))
    return dataclasses.replace(
        begun,
        plan=plan(model),
        costs=costs,
        distributions=in_order(layer_distributions(model, _some_images(dataset))),
        sensitivity=dataclasses.replace(measured, layers=in_order(measured.layers)),
        predictor="fake_quantized" if program is None else "integer",
        predictions=_predictions(network, dataset, config),
    )


def spread_batches(dataset: Dataset, samples: int, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields batches of ``samples`` test images, evenly spread over the test set: it may be sorted by class."""
    chosen = np.unique(np.linspace(0, len(dataset.test) - 1, min(samples, len(dataset.test))).round().astype(int))
    for start in range(0, len(chosen), size):
        images, labels = gather(dataset, dataset.test, chosen[start : start + size])
        yield normalize(dataset, images), labels


def _some_images(dataset: Dataset) -> np.ndarray:
    return next(spread_batches(dataset, IMAGES_OF_HISTOGRAMS, IMAGES_OF_HISTOGRAMS))[0]


def _predictions(network: Any, dataset: Dataset, config: TrainConfig) -> Predictions:
    """What a program, or a model in evaluation mode, says of the whole test set."""
    if isinstance(network, IntegerProgram):
        return predict(network, test_images(network, dataset, config), dataset.num_classes)
    batches = ({name: batch[name][batch["mask"]] for name in ("image", "label")}
               for batch in eval_batches(dataset, config.data))  # fmt: skip
    return predict(jax.jit(network), batches, dataset.num_classes)
