"""A whole run: float network, calibration, quantized training, integer program, results."""

import dataclasses
from pathlib import Path
from typing import Any

from ..convert import calibrate, quantize_model
from ..data import DamagedImages, Dataset, open_dataset, train_batches
from ..errors import UserError
from ..files import read_json, write_json, writing
from ..models import load_torchvision
from ..paths import quantized_layers
from .bad_steps import BadSteps
from .cache import compiled_once
from .checkpoints import Checkpoints
from .chosen_bits import choose_bits, keep_bits, kept_bits, mean_bits, sentence
from .config import TrainConfig, as_dict, differences, from_dict
from .deploy import (
    broken_promises,
    compare,
    integer_accuracy,
    make_program,
    report_fields,
    save_weights,
)
from .evaluation import evaluate, mesh_of
from .folder import RunFolder
from .hosts import all_say, on_first, told
from .log import RunLog, read_metrics
from .network import Network
from .networks import find_network
from .oscillating import check_tracked
from .phase import Phase
from .quiet import opened
from .rates import check_matches
from .saved import blank_float
from .signals import StopRequest
from .stages import LayerBits, quantization_rules, stages_of

PHASES = ("float", "quantized")


class BrokenPromise(Exception):
    """The integer network is not the one that was trained; the message says in what."""


def run_experiment(
    config: TrainConfig, run_dir: str | Path, stop: StopRequest | None = None, *, tables: bool = False
) -> dict[str, Any]:
    """Runs an experiment to its end, from wherever it was left, and returns what ``summary.json`` holds.

    Args:
        config: the experiment.
        run_dir: the run's folder; a run that was begun there with the same config goes on, a finished one is left as
            it is.
        stop: what asks the run to stop; None: SIGTERM and Ctrl-C alone.
        tables: show the table of all layers at the end of every epoch.

    Raises:
        UserError: something that the user can put right.
        Stopped: SIGTERM or Ctrl-C; the state is saved.
        BrokenPromise: the integers are not those that were trained; everything is saved for a look at it.
    """
    folder = RunFolder(Path(run_dir))
    stop = stop or StopRequest()
    with stop.listening():
        dataset = open_dataset(config.data)
        with opened(folder, config, tables=tables) as log:
            summary = told(lambda: read_json(folder.summary_file) if folder.finished else None)
            if summary:
                return _kept(summary)
            with compiled_once(folder.path / "cache"):
                return _run(config, folder, dataset, log, stop)


def train_alone(
    config: TrainConfig, run_dir: str | Path, stop: StopRequest | None = None, *, last: str = "quantized"
) -> float:
    """Trains as ``run_experiment`` does and makes no integers, which it can still do with the folder later.

    Args:
        config: the experiment.
        run_dir: the run's folder, new or begun with the same config.
        stop: what asks the run to stop; None: SIGTERM and Ctrl-C alone.
        last: the phase to end after, ``float`` or ``quantized``; after the first, other runs can ``start_from`` it.

    Returns:
        Top-1 on the test images of the network of that phase, a fraction.

    Raises:
        UserError: something that the user can put right.
        Stopped: SIGTERM or Ctrl-C; the state is saved.
    """
    if last not in PHASES:
        raise ValueError(f"`last` must be one of {', '.join(PHASES)}, got {last!r}")
    folder, stop = RunFolder(Path(run_dir)), stop or StopRequest()
    with stop.listening():
        dataset = open_dataset(config.data)
        with opened(folder, config) as log:
            trained, _ = _trained(config, folder, dataset, log, stop, last)
            return evaluate(trained[last], dataset, config, mesh_of(config))["accuracy"]


def _run(config: TrainConfig, folder: RunFolder, dataset: Dataset, log: RunLog, stop: StopRequest) -> dict[str, Any]:
    (trained, steps), mesh = _trained(config, folder, dataset, log, stop, "quantized"), mesh_of(config)
    if not all_say(stop.signal is None):
        stop.hear()
    stop.check("before the integers were made; the same command goes on from here")
    top1 = {phase: evaluate(network, dataset, config, mesh)["accuracy"] for phase, network in trained.items()}
    facts = {"step": steps, "float": top1["float"], "fake_quantized": top1["quantized"]}
    networks = trained["float"], trained["quantized"]
    return _kept(told(lambda: _deployed(config, folder, dataset, log, stop, *networks, facts)))


def _kept(summary: dict[str, Any]) -> dict[str, Any]:
    """Returns the results of a run that has kept its promises.

    Raises:
        BrokenPromise: it has not, and says so however often it is asked.
    """
    if not summary["promises_kept"]:
        broken = summary.get("broken_promises", ["see summary.json"])
        raise BrokenPromise("the integer network is not the one that was trained: " + "; ".join(broken))
    return summary


def _trained(
    config: TrainConfig, folder: RunFolder, dataset: Dataset, log: RunLog, stop: StopRequest, last: str
) -> tuple[dict[str, Network], int]:
    """Returns the trained network of each phase up to the last one, and the steps of all."""
    log.say(f"{dataset.name}: {len(dataset.train):,} training and {len(dataset.test):,} test images of "
            f"{'x'.join(map(str, dataset.image_shape))}, {dataset.num_classes} classes")  # fmt: skip
    check_tracked(config.quantized)  # this and the next before hours of the float phase
    if config.quantized.learning_rates or config.quantized.stream_bits:
        model = blank_float(config, dataset)
        try:
            rules = quantization_rules(config, model)
        except ValueError as error:
            raise UserError(str(error).replace("`stream`", "`stream_bits`")) from None
        check_matches(config.quantized.learning_rates, Network.of(quantize_model(model, rules)).parameters)
    bad_steps = BadSteps(folder.bad_steps_file, dataset, config, log.warn)
    damaged = DamagedImages(dataset.train, config.data.max_damaged, log.warn)
    float_network, float_steps = _float_phase(config, folder, dataset, log, stop, damaged, bad_steps)
    if last == "float":
        return {"float": float_network}, float_steps
    bits = told(lambda: _bits(config, folder, dataset, log, damaged, float_network))
    network, steps = float_network, float_steps
    for stage in stages_of(config):
        model = network.as_before(float_network).model()
        template = quantize_model(model, quantization_rules(stage.config, model, bits))

        def calibrated(template=template) -> Network:
            log.say(f"calibrating {config.quantized.calibration_batches} batches")
            calibrate(template, _calibration_batches(config, dataset, damaged))
            _multiply_scales(template, config.quantized.scale_start_factor)
            return Network.of(template)

        checkpoints = Checkpoints(folder.checkpoints(stage.name), log.warn, config.keep_checkpoints)
        phase = Phase(
            stage.name, config, stage.config.quantized, dataset, steps, checkpoints, log, stop, damaged, bad_steps
        )
        try:
            network = phase.run(Network.of(template), calibrated, float_network)
        finally:
            checkpoints.close()
        steps += phase.steps
    return {"float": float_network, "quantized": network}, steps


def _bits(
    config: TrainConfig, folder: RunFolder, dataset: Dataset, log: RunLog, damaged: DamagedImages, network: Network
) -> LayerBits | None:
    """Returns the bits of each layer, where the run is to choose them; it does so once and keeps them in its folder."""
    if not config.quantized.bit_choices:
        return None
    bits = kept_bits(folder, config)
    if bits is None:
        log.say(f"choosing the bits of each layer from {' '.join(map(str, config.quantized.bit_choices))}")
        model = network.model()
        bits = choose_bits(config, model, _calibration_batches(config, dataset, damaged))
        keep_bits(folder, bits)
        log.say(sentence(model, bits))
    return bits


def _deployed(
    config: TrainConfig,
    folder: RunFolder,
    dataset: Dataset,
    log: RunLog,
    stop: StopRequest,
    float_network: Network,
    network: Network,
    facts: dict[str, Any],
) -> dict[str, Any]:
    """Makes the integers and writes the summary; returns it, with the promises that were broken."""
    log.say("making the integer program and verifying it on the whole test set")
    quantized = network.model()
    program = make_program(folder, quantized, dataset)
    report = compare(quantized, program, dataset, config, stop)
    bits = kept_bits(folder, config)
    means = mean_bits(quantized, bits) if bits else (config.quantized.weight_bits, config.quantized.input_bits)
    summary = {
        "float": {"top1": facts["float"], "bytes": save_weights(folder, "float", float_network)},
        "fake_quantized": {
            "top1": facts["fake_quantized"],
            "bytes": save_weights(folder, "fake_quantized", network),
        },
        "integer": {
            "top1": integer_accuracy(program, dataset, config),
            "bytes": folder.program_file.stat().st_size,
        },
        **report_fields(report),
        **({"broken_promises": broken} if (broken := broken_promises(report)) else {}),
        "dataset": dataset.name,
        "bits": {"weights": means[0], "inputs": means[1]},
        **({"layer_bits": bits} if bits else {}),
        "method": config.quantized.method,
        "model": config.model.name,
        "step": facts["step"],
        "training_seconds": round(sum(line["seconds"] for line in read_metrics(folder) if line["split"] == "test"), 1),
    }
    with writing(folder.summary_file):
        write_json(folder.summary_file, summary)
    return summary


def _float_phase(config, folder: RunFolder, dataset: Dataset, log: RunLog, stop: StopRequest, damaged, bad_steps):
    """Returns the float network and the number of steps of its phase."""
    source, wanted = folder, config
    if config.pretraining.start_from is not None:
        source = RunFolder(Path(config.pretraining.start_from))
        wanted = from_dict(told(lambda: as_dict(RunFolder.existing(source.path)[1])))
        changed = differences(as_dict(wanted)["model"], as_dict(config)["model"], "model.")
        if changed:
            raise UserError(f"`start_from` must be a run of the same network, but it differs in {', '.join(changed)}")
        wanted = dataclasses.replace(wanted, mesh=config.mesh)  # it may have been trained on other devices
    checkpoints = Checkpoints(source.checkpoints("float"), log.warn, config.keep_checkpoints)
    whose = "this run" if source is folder else "the run of `start_from`"
    on_first(lambda: _check_classes(checkpoints, config, dataset, whose))
    settings = dataclasses.replace(wanted.pretraining)
    phase = Phase("float", wanted, settings, dataset, 0, checkpoints, log, stop, damaged, bad_steps)
    if source is not folder and told(lambda: phase.steps not in checkpoints.steps):
        raise UserError(f"`start_from` must be a run whose float phase is finished, got {str(source.path)!r}")
    try:
        blank = Network.of(blank_float(config, dataset))
        return phase.run(blank, lambda: Network.of(_starting_float(config, dataset, log))), phase.steps
    finally:
        checkpoints.close()


def _starting_float(config: TrainConfig, dataset: Dataset, log: RunLog):
    """Returns the float network before its first step: drawn from the seed, or read from a file of weights."""
    model, file = build_float(config, dataset), config.pretraining.weights
    if file is not None:
        try:
            load_torchvision(model, file)
        except OSError as error:
            raise UserError(f"cannot read `weights` {file}: {error.strerror}") from None
        except (ValueError, ModuleNotFoundError) as error:
            fits = f"{config.model.name} and the {dataset.num_classes} classes of {dataset.name}"
            raise UserError(f"`weights` must be a file for {fits}: {error}") from None
        log.say(f"float: weights of {file}")
    return model


def _check_classes(checkpoints: Checkpoints, config: TrainConfig, dataset: Dataset, whose: str) -> None:
    """Raises ``UserError`` where the head of a float network that was saved has not one output a class of the data."""
    head = f"train.parameters.{find_network(config.model.name).last.replace('/', '.')}.kernel"
    for step in checkpoints.steps:
        loaded = checkpoints.read(step)
        if isinstance(loaded, str):
            continue
        outputs = loaded[0][head].shape[-1] if head in loaded[0] else dataset.num_classes
        if outputs != dataset.num_classes:
            raise UserError(
                f"the data must have as many classes as the head of the float network that {whose} has saved, "
                f"{outputs}, but {dataset.name} has {dataset.num_classes}"
            )
        return


def build_float(config: TrainConfig, dataset: Dataset):
    """Returns the float network with its starting weights."""
    network = find_network(config.model.name)
    return network.build(dataset.num_classes, dataset.image_shape[-1], config.model.options, config.seed)


def _multiply_scales(model, factor: float) -> None:
    for _, layer in quantized_layers(model) if factor != 1 else ():
        scales = {"weights": layer.weight_scale, "inputs": layer.input_scale}
        layer.set_scales(**{name: factor * scale[...] for name, scale in scales.items() if scale is not None})


def _calibration_batches(config: TrainConfig, dataset: Dataset, damaged: DamagedImages):
    stream = train_batches(dataset, config.data, seed=config.seed, damaged=damaged)
    try:
        for _ in range(config.quantized.calibration_batches):
            yield next(stream)["image"]
    finally:
        stream.close()
