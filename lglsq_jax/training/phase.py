"""One phase of training, from its last checkpoint to its end."""

import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array

from ..data import DamagedImages, Dataset, eval_batches, steps_per_epoch, train_batches
from ..errors import UserError
from ..inspection import check_scales, layer_statistics, weight_codes
from ..paths import quantized_layers
from .checkpoints import Checkpoints
from .config import PhaseConfig, TrainConfig
from .log import RunLog
from .optimizer import make_optimizer, make_schedule
from .signals import StopRequest
from .skeleton import Arrays, Skeleton
from .step import TrainState, data_mesh, initial_state, make_eval_step, make_train_step, place

_FLUSH_EVERY = 20  # steps between two looks at the loss, which waits for the device


@dataclasses.dataclass(frozen=True)
class Network:
    """A model as the loop needs it: its skeleton and arrays."""

    skeleton: Skeleton
    parameters: Arrays
    rest: Arrays

    @classmethod
    def of(cls, model: nnx.Module) -> "Network":
        """Takes a model apart."""
        return cls(*Skeleton.of(model))

    def model(self) -> nnx.Module:
        """Returns the model, in evaluation mode."""
        model = self.skeleton.model(self.parameters, self.rest)
        model.eval()
        return model


@dataclasses.dataclass
class Phase:
    """Trains a network for ``settings.epochs`` and keeps checkpoints.

    Attributes:
        name: ``float`` or ``quantized``.
        config: of the run.
        settings: of this phase.
        dataset: images and labels.
        first_step: steps of the run before this phase; the data go on from there.
        checkpoints: of this phase.
        log: where metrics and sentences go.
        stop: whether the process was asked to stop.
        damaged: counts the training images of the run that cannot be decoded.
    """

    name: str
    config: TrainConfig
    settings: PhaseConfig
    dataset: Dataset
    first_step: int
    checkpoints: Checkpoints
    log: RunLog
    stop: StopRequest
    damaged: DamagedImages

    def __post_init__(self):
        data = self.config.data
        self.mesh = data_mesh({"batch_size": data.batch_size, "eval_batch_size": data.eval_batch_size})
        self.steps_per_epoch = steps_per_epoch(self.dataset, data)
        given = getattr(self.settings, "weights", None) is not None
        self.steps = 0 if given else self.settings.epochs * self.steps_per_epoch

    def run(self, template: Network, start: Callable[[], Network], teacher: Network | None = None) -> Network:
        """Returns the trained network.

        Args:
            template: has the structure of the network; its values do not count.
            start: makes the network before its first step; called only where there is no checkpoint.
            teacher: float network for distillation.

        Raises:
            UserError: the loss or a scale is not finite and positive (named), or a checkpoint cannot be used or saved.
            Stopped: the process was asked to stop; the state is saved.
        """
        skeleton = template.skeleton
        optimizer = make_optimizer(self.settings, skeleton.scales, max(self.steps, 1), self.steps_per_epoch)
        averaged = getattr(self.settings, "ema_decay", 0.0) > 0
        abstract = jax.eval_shape(
            lambda parameters, rest: initial_state(parameters, rest, optimizer, averaged=averaged),
            template.parameters,
            template.rest,
        )
        restored = self.checkpoints.restore({"train": abstract, "codes": _codes_like(template)})
        if restored is None:
            network = start()
            state = initial_state(network.parameters, network.rest, optimizer, averaged=averaged)
            codes = _codes(network)
            if not self.steps:
                self._save(state, codes, 0)
        else:
            at, saved, facts = restored
            if facts.get("data") != self.dataset.fingerprint:
                raise UserError(
                    f"the data of {self.dataset.name} must be those the run began with, but they have changed since "
                    f"step {at}; use another --run-dir"
                )
            state, codes = saved["train"], saved["codes"]
            self.damaged.add(facts.get("damaged", ()))
            if int(state.step) < self.steps:
                self.log.say(f"{self.name}: going on from step {at}")
        done = int(state.step)
        if done < self.steps:
            state = jax.device_put(state, jax.sharding.NamedSharding(self.mesh, jax.sharding.PartitionSpec()))
            self.log.begin_phase(self.name, self.first_step, done, self.steps, resumed=restored is not None)
            try:
                state = self._train(skeleton, optimizer, state, codes, teacher)
            finally:
                self.log.flush()
                self.log.end_phase()
        return Network(skeleton, *map(_on_one_device, (state.evaluated, state.rest)))

    def _train(self, skeleton: Skeleton, optimizer, state: TrainState, codes, teacher: Network | None) -> TrainState:
        schedule = make_schedule(self.settings, self.settings.learning_rate, self.steps, self.steps_per_epoch)
        teaching = None if teacher is None else (teacher.skeleton, teacher.parameters, teacher.rest)
        train_step = make_train_step(self.mesh, skeleton, optimizer, self.settings, schedule, self.steps, teaching)
        eval_step = make_eval_step(self.mesh, skeleton)
        done, pending, began = int(state.step), [], time.monotonic()
        saved = done if self.checkpoints.steps else -1
        stream = train_batches(
            self.dataset,
            self.config.data,
            seed=self.config.seed,
            first_step=self.first_step + done,
            host=jax.process_index(),
            hosts=jax.process_count(),
            damaged=self.damaged,
        )
        try:
            while done < self.steps:
                batch = next(stream)
                state, metrics = train_step(state, place(self.mesh, batch))
                done += 1
                self.stop.count_step()
                pending.append((self.first_step + done, metrics))
                epoch_ends = done % self.steps_per_epoch == 0
                every = self.config.checkpoint_every
                due = epoch_ends or (every and done % every == 0) or self.stop.signal is not None
                if due or len(pending) >= _FLUSH_EVERY:
                    last = self._flush(pending, skeleton, state)
                    self.log.advance(done, f"loss {last['loss']:.3f}")
                if epoch_ends:
                    network = Network(skeleton, state.evaluated, state.rest)
                    codes = self._epoch(network, eval_step, codes, done, last, time.monotonic() - began)
                    began = time.monotonic()
                if due:
                    self._save(state, codes, done)
                    saved = done
                if self.stop.signal is not None:
                    self.stop.check(
                        f"at step {self.first_step + saved}, which is saved; the same command goes on from here"
                    )
        finally:
            stream.close()
        return state

    def _flush(self, pending: list, skeleton: Skeleton, state: TrainState) -> dict[str, float]:
        """Writes the metrics of the steps since the last time, and stops the run where they went wrong."""
        fetched = jax.device_get(pending)
        pending.clear()
        values: dict[str, float] = {}
        for step, metrics in fetched:
            values = {name: float(value) for name, value in metrics.items()}
            smallest = values.pop("smallest_scale", 1.0)
            self.log.metrics(step, self.name, "train", values)
            if not math.isfinite(values["loss"]) or not (math.isfinite(smallest) and smallest > 0):
                self.log.flush()
                raise UserError(self._went_wrong(step, values["loss"], skeleton, state))
        self.log.flush()
        return values

    def _went_wrong(self, step: int, loss: float, skeleton: Skeleton, state: TrainState) -> str:
        what = f"the loss must be finite, got {loss} at step {step}"
        try:
            check_scales(skeleton.model(state.parameters, state.rest))
        except ValueError as error:
            what = f"{error}, at step {step} (loss {loss:.4g})"
        else:
            bad = [path for path, array in state.parameters.items() if not np.isfinite(np.asarray(array)).all()]
            if bad:
                what += f"; the first parameter that is not finite is {bad[0]}"
        kept = f"step {self.first_step + self.checkpoints.steps[0]}" if self.checkpoints.steps else "none"
        return f"{what}; last checkpoint: {kept}; a smaller learning rate may help"

    def _epoch(self, network: Network, eval_step, codes: dict, done: int, last: dict, seconds: float) -> dict:
        """Writes what is measured once an epoch; returns the weight codes that it was measured with."""
        step, epoch = self.first_step + done, done // self.steps_per_epoch
        result = evaluate(network, self.dataset, self.config, self.mesh, eval_step)
        damaged = len(self.damaged.indices)
        counted = {"damaged_images": damaged} if damaged else {}
        self.log.metrics(step, self.name, "test", {"epoch": epoch, **result, "seconds": seconds, **counted})
        text = (
            f"{self.name} epoch {epoch}/{self.settings.epochs}: loss {last['loss']:.3f}, "
            f"test top-1 {100 * result['accuracy']:.2f} %"
        )
        new_codes = _codes(network)
        if new_codes:
            layers = self._layers(network)
            for path, array in new_codes.items():
                layers[path]["weight_codes_flipped"] = float(np.mean(array != codes[path]))
            self.log.metrics(step, self.name, "layers", layers)
            flipped = np.mean([layers[path]["weight_codes_flipped"] for path in new_codes])
            text += f", weight codes flipped {100 * flipped:.1f} %"
        if damaged:
            text += f", {damaged} damaged images replaced"
        self.log.say(f"{text}, {seconds:.1f} s")
        self.log.flush()
        return new_codes

    def _layers(self, network: Network) -> dict[str, dict[str, float]]:
        one_batch = dataclasses.replace(self.config.data, workers=0)  # not worth starting processes
        first = next(eval_batches(self.dataset, one_batch))
        whole = Network(network.skeleton, *map(_on_one_device, (network.parameters, network.rest)))
        return layer_statistics(whole.model(), jax.numpy.asarray(first["image"][first["mask"]][:256]))

    def _save(self, state: TrainState, codes: dict[str, np.ndarray], done: int) -> None:
        if done in self.checkpoints.steps:
            return
        facts = {"step": self.first_step + done, "phase": self.name, "data": self.dataset.fingerprint}
        if self.damaged.indices:
            facts["damaged"] = self.damaged.indices
        self.checkpoints.save(done, {"train": state, "codes": codes}, facts)


def evaluate(network: Network, dataset: Dataset, config: TrainConfig, mesh, eval_step=None) -> dict[str, float]:
    """Returns ``accuracy`` (top-1, a fraction), mean ``loss`` and ``samples`` over the whole test set."""
    eval_step = eval_step or make_eval_step(mesh, network.skeleton)
    sums: dict[str, Any] = {}
    for batch in eval_batches(dataset, config.data, host=jax.process_index(), hosts=jax.process_count()):
        part = jax.device_get(eval_step(network.parameters, network.rest, place(mesh, batch)))
        sums = {name: sums.get(name, 0) + value for name, value in part.items()}
    samples = int(sums["samples"])
    assert samples == len(dataset.test), f"evaluated {samples} of {len(dataset.test)} samples"
    return {"accuracy": float(sums["correct"]) / samples, "loss": float(sums["loss"]) / samples, "samples": samples}


def _codes(network: Network) -> dict[str, np.ndarray]:
    if not network.skeleton.scales:
        return {}
    return {path: np.asarray(codes) for path, codes in weight_codes(network.model()).items()}


def _codes_like(template: Network) -> dict[str, Any]:
    """Structure of ``_codes`` for a network whose scales are not set."""
    if not template.skeleton.scales:
        return {}
    return {
        path: jax.ShapeDtypeStruct(layer.kernel.shape, layer.weights.code_dtype)
        for path, layer in quantized_layers(template.model())
        if layer.weights is not None
    }


def _on_one_device(arrays: dict[str, Array]) -> dict[str, Array]:
    return jax.device_put(jax.device_get(arrays), jax.devices()[0])
