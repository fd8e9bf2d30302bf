"""The networks that a run's folder holds, built anew from its config and its checkpoints."""

import dataclasses
import sys
from typing import Any

from ..convert import quantize_model
from ..data import Dataset
from ..errors import UserError
from ..inspection import Plan, plan
from .checkpoints import Checkpoints, whole_hash
from .chosen_bits import kept_bits
from .config import TrainConfig
from .folder import RunFolder
from .network import Network
from .networks import find_network
from .stages import Stage, quantization_rules, stages_of


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """The newest checkpoint of a run.

    Attributes:
        phase: ``float``, ``quantized`` or the name of a stage before it, such as ``quantized-w8a8``.
        step: steps of the run that were done.
        facts: what was saved beside it.
        params_sha256: one hash over every leaf.
        leaves: the arrays by name.
    """

    phase: str
    step: int
    facts: dict[str, Any]
    params_sha256: str
    leaves: dict[str, Any]


def newest_snapshot(folder: RunFolder, config: TrainConfig) -> Snapshot | None:
    """Returns the newest good checkpoint of a run's folder; None where there is none."""
    for phase in (*(stage.name for stage in reversed(stages_of(config))), "float"):
        found = _newest_good(folder, phase)
        if found is not None:
            _, leaves, facts = found
            return Snapshot(phase, facts["step"], facts, whole_hash(leaves), leaves)
    return None


def _newest_good(folder: RunFolder, phase: str) -> tuple[int, dict[str, Any], dict[str, Any]] | None:
    """Returns step, leaves and facts of a phase's newest checkpoint that is not damaged; None where there is none.

    Those that are damaged are named on standard error.
    """
    checkpoints = Checkpoints(folder.checkpoints(phase))
    try:
        for step in checkpoints.steps:
            loaded = checkpoints.read(step)
            if not isinstance(loaded, str):
                return step, *loaded
            at = folder.checkpoints(phase)
            print(f"warning: the checkpoint of step {step} in {at} is damaged ({loaded})", file=sys.stderr)
    finally:
        checkpoints.close()
    return None


def quantization_plan(folder: RunFolder, config: TrainConfig, snapshot: Snapshot | None) -> Plan:
    """Returns the plan of a run's network, from its config and its newest checkpoint alone: no data are read.

    It is that of the last stage until another one has a checkpoint. Bits that are not chosen yet are those of the
    config.
    """
    leaves = snapshot.leaves if snapshot else {}

    def shape(name: str) -> tuple[int, ...] | None:
        return leaves[name].shape if name in leaves else None

    network = find_network(config.model.name)
    stem, head = (shape(f"train.parameters.{path.replace('/', '.')}.kernel") for path in (network.first, network.last))
    channels, classes = stem[-2] if stem else 3, head[-1] if head else 10
    model = network.blank(classes, channels, config.model.options)
    stages = {stage.name: stage for stage in stages_of(config)}
    reached = stages.get(snapshot.phase) if snapshot else None
    rules = quantization_rules((reached or stages["quantized"]).config, model, kept_bits(folder, config))
    quantized = quantize_model(model, rules)
    if snapshot is None or reached is None:
        return plan(quantized)
    return plan(_filled(Network.of(quantized), leaves, snapshot.step).model())


def quantized_network(folder: RunFolder, config: TrainConfig, dataset: Dataset) -> Network:
    """Returns the trained quantized network of a run's newest checkpoint.

    Raises:
        UserError: the run has not reached its quantized phase, or the checkpoint is of another model.
    """
    model, stage = blank_float(config, dataset), _reached(folder, config)
    rules = quantization_rules(stage.config, model, kept_bits(folder, config))
    return _from_checkpoint(folder, Network.of(quantize_model(model, rules)), stage.name)


def _reached(folder: RunFolder, config: TrainConfig) -> Stage:
    """Returns the last stage that has a checkpoint, or the last of all where none has."""
    stages = stages_of(config)
    return next((stage for stage in reversed(stages) if _steps(folder, stage.name)), stages[-1])


def _steps(folder: RunFolder, phase: str) -> list[int]:
    """Returns the steps of a phase that have a checkpoint, good or damaged."""
    checkpoints = Checkpoints(folder.checkpoints(phase))
    try:
        return checkpoints.steps
    finally:
        checkpoints.close()


def float_network(folder: RunFolder, config: TrainConfig, dataset: Dataset) -> Network:
    """Returns the trained float network of a run, or of the run that it started from."""
    source = folder
    if config.pretraining.start_from is not None:
        source, _ = RunFolder.existing(config.pretraining.start_from)
    return _from_checkpoint(source, Network.of(blank_float(config, dataset)), "float")


def blank_float(config: TrainConfig, dataset: Dataset):
    """Returns the float network with zeros for weights: a structure to fill."""
    network = find_network(config.model.name)
    return network.blank(dataset.num_classes, dataset.image_shape[-1], config.model.options)


def _from_checkpoint(folder: RunFolder, template: Network, phase: str) -> Network:
    found = _newest_good(folder, phase)
    if found is None:
        what = "those that there are are damaged" if _steps(folder, phase) else "there is none yet"
        raise UserError(f"the run {folder.path} must have a checkpoint of its {phase} phase, but {what}")
    step, leaves, _ = found
    return _filled(template, leaves, step)


def _filled(template: Network, leaves: dict[str, Any], step: int) -> Network:
    prefix = "train.average." if any(name.startswith("train.average.") for name in leaves) else "train.parameters."

    def filled(arrays, prefix):
        found = {}
        for path, like in arrays.items():
            leaf = leaves.get(prefix + path.replace("/", "."))
            if leaf is None or leaf.shape != like.shape or leaf.dtype != like.dtype:
                raise UserError(f"the checkpoint of step {step} is of another model: its {path} does not fit")
            found[path] = leaf
        return found

    return Network(template.skeleton, filled(template.parameters, prefix), filled(template.rest, "train.rest."))
