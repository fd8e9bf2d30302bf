"""One phase of training, from its last checkpoint to its end."""

import collections
import dataclasses
import functools
import math
import time
from collections.abc import Callable
from typing import NoReturn

import jax
import numpy as np

from ..data import DamagedImages, Dataset, eval_batches, steps_per_epoch, train_batches
from ..data.stream import Stream
from ..errors import UserError
from ..inspection import check_scales, statistics_and_histograms
from . import hosts
from .bad_steps import BadSteps, Diverged
from .checkpoints import Checkpoints
from .config import PhaseConfig, TrainConfig
from .evaluation import evaluate, mesh_of
from .feed import AHEAD, Feed
from .layer_table import most_clipped
from .log import RunLog
from .mesh import gathered, local, split, spread, whole
from .network import Network, codes_like, codes_of, from_first, low_bit_layers
from .optimizer import make_optimizer, make_schedule
from .oscillating import Tracking, describe
from .pace import Pace
from .reestimation import with_new_statistics
from .signals import StopRequest
from .skeleton import Skeleton
from .step import StepOptions, TrainState, TrainStep, initial_state, make_eval_step, make_train_step
from .watch import Watch

_FLUSH_EVERY = 20  # steps between two looks at the loss, which waits for the device
_FLUSH_AFTER = 10.0  # seconds, where steps take long


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
        bad_steps: writes down which images were in a step that went wrong.
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
    bad_steps: BadSteps

    def __post_init__(self):
        self.mesh = mesh_of(self.config)
        self.steps_per_epoch = steps_per_epoch(self.dataset, self.config.data)
        given = getattr(self.settings, "weights", None) is not None
        self.steps = 0 if given else self.settings.epochs * self.steps_per_epoch
        self.pace, self.most_clipped = Pace(self.steps, self.config.data.batch_size), ""

    def run(self, template: Network, start: Callable[[], Network], teacher: Network | None = None) -> Network:
        """Returns the trained network.

        Args:
            template: has the structure of the network; its values do not count.
            start: makes the network before its first step; called only where there is no checkpoint.
            teacher: float network for distillation.

        Raises:
            Diverged: the loss or a scale is not finite and positive (named).
            UserError: a checkpoint cannot be used or saved.
            Stopped: the process was asked to stop; the state is saved.
        """
        skeleton = template.skeleton
        optimizer = make_optimizer(self.settings, skeleton.scales, max(self.steps, 1), self.steps_per_epoch)
        first_state = functools.partial(
            initial_state,
            optimizer=optimizer,
            averaged=getattr(self.settings, "ema_decay", 0.0) > 0,
            tracking=Tracking.of(skeleton, self.settings),
        )
        abstract = jax.eval_shape(first_state, template.parameters, template.rest)
        layout = dataclasses.replace(
            split(self.mesh, abstract), rest=jax.tree.map(lambda _: whole(self.mesh), abstract.rest)
        )
        restored = self._restored(template, abstract)
        if restored is None:
            network = from_first(template, start)
            state = first_state(network.parameters, network.rest)
            codes = codes_of(network)
            if not self.steps:
                self._save(state, codes, 0)
        else:
            at, state, codes, facts = restored
            if facts.get("data") != self.dataset.fingerprint:
                raise UserError(
                    f"the data of {self.dataset.name} must be those the run began with, but they have changed since "
                    f"step {at}; use another --run-dir"
                )
            self.damaged.add(facts.get("damaged", ()))
            self.bad_steps.begin(self.name, facts.get("skipped", 0))
            if int(state.step) < self.steps:
                self.log.say(f"{self.name}: going on from step {at}")
        done = int(state.step)
        if restored is None:
            self.bad_steps.begin(self.name, 0)
        if done < self.steps:
            state = spread(state, layout)
            self.log.begin_phase(self.name, self.first_step, done, self.steps, resumed=restored is not None)
            try:
                state = self._train(skeleton, optimizer, layout, state, codes, teacher)
            finally:
                self.log.flush()
                self.log.end_phase()
            state = gathered(self.mesh, state)
        hosts.on_first(self.checkpoints.wait)
        return Network(skeleton, local(state.evaluated), local(state.rest))

    def _restored(self, template: Network, abstract: TrainState):
        """Returns the newest checkpoint's step, state, weight codes and facts, or None; codes on the first host."""
        found = None

        def read():
            nonlocal found
            found = self.checkpoints.restore({"train": abstract, "codes": codes_like(template)})
            return None if found is None else [found[0], found[2]]

        answer = hosts.told(read)
        if answer is None:
            return None
        at, facts = answer
        blank = jax.tree.map(lambda like: np.zeros(like.shape, like.dtype), abstract)
        state, codes = (blank, {}) if found is None else (found[1]["train"], found[1]["codes"])
        return at, hosts.sent(state), codes, facts

    def _steps(self, skeleton: Skeleton, optimizer, layout: TrainState, teacher: Network | None) -> TrainStep:
        schedule = make_schedule(self.settings, self.settings.learning_rate, self.steps, self.steps_per_epoch)
        teaching = None if teacher is None else (teacher.skeleton, teacher.parameters, teacher.rest)
        options = StepOptions(
            layout,
            accumulate=self.config.accumulate,
            batch_norm_groups=self.config.batch_norm_groups,
            dtype=self.config.dtype,
            skip_bad=self.config.skip_bad_steps > 0,
        )
        return make_train_step(self.mesh, skeleton, optimizer, self.settings, schedule, self.steps, teaching, options)

    def _train(
        self, skeleton: Skeleton, optimizer, layout: TrainState, state: TrainState, codes, teacher: Network | None
    ) -> TrainState:
        train_step = self._steps(skeleton, optimizer, layout, teacher)
        eval_step = make_eval_step(self.mesh, skeleton, layout)
        done, pending, began = int(state.step), [], time.monotonic()
        flags: collections.deque = collections.deque(maxlen=AHEAD + 1)
        saved, flushed, every = done, began, self.config.checkpoint_every
        watch = Watch(self.config.mesh.timeout)
        feed = Feed(self._batches(done), self.mesh, self.steps - done, self.stop if hosts.several() else None)
        try:
            with watch.watching():
                while done < self.steps:
                    state, metrics = train_step(state, next(feed))
                    self.pace.start(done)
                    feed.fill()
                    done += 1
                    self.stop.count_step()
                    pending.append((self.first_step + done, metrics))
                    flags.append(metrics.get("stop"))
                    stopping = self._asked_to_stop(flags)
                    epoch_ends = done % self.steps_per_epoch == 0
                    due = epoch_ends or (every and done % every == 0) or stopping
                    if due or len(pending) >= _FLUSH_EVERY or time.monotonic() - flushed > _FLUSH_AFTER:
                        last = self._flush(pending, skeleton, state)
                        flushed = time.monotonic()
                        self.pace.count(done)
                        watch.progress(f"step {self.first_step + done}")
                        self.log.advance(done, *self._statuses(last))
                    if not due:
                        continue
                    if done == self.steps:
                        state = self._with_new_statistics(skeleton, layout, state, watch)
                    now, accuracy = gathered(self.mesh, state), None
                    if not all(np.isfinite(array).all() for array in local(now.parameters).values()):
                        self._diverged(self.first_step + done, last["loss"], skeleton, state)
                    if epoch_ends:
                        result = evaluate(
                            Network(skeleton, state.evaluated, state.rest),
                            self.dataset,
                            self.config,
                            self.mesh,
                            eval_step,
                            lambda number: watch.progress(f"batch {number} of an evaluation"),
                        )
                        result |= {"seconds": time.monotonic() - began, "data_wait": feed.take_waiting()}
                        network = Network(skeleton, local(now.evaluated), local(now.rest))
                        codes = (
                            hosts.on_first(functools.partial(self._epoch, network, result, codes, done, last, now))
                            or {}
                        )
                        began, accuracy = time.monotonic(), result["accuracy"]
                        watch.progress(f"the evaluation at step {self.first_step + done}")
                    self._save(now, codes, done, accuracy)
                    saved = done
                    self.pace.rest()
                    if stopping:
                        hosts.on_first(self.checkpoints.wait)
                        self.stop.check(
                            f"at step {self.first_step + saved}, which is saved; the same command goes on from here"
                        )
        finally:
            feed.close()
        return state

    def _with_new_statistics(self, skeleton: Skeleton, layout: TrainState, state: TrainState, watch) -> TrainState:
        """Returns the last state with batch norm's statistics measured on the batches after the last one."""
        count = getattr(self.settings, "batch_norm_batches", 0)
        if not count:
            return state
        self.log.say(f"{self.name}: measuring batch norm's statistics on {count} batches")
        feed = Feed(self._batches(self.steps), self.mesh, count)

        def batches():
            for number, batch in enumerate(feed):
                watch.progress(f"batch {number + 1} of {count} for batch norm's statistics")
                yield batch
                feed.fill()

        try:
            return with_new_statistics(skeleton, state, batches(), self.mesh, layout)
        finally:
            feed.close()

    def _batches(self, done: int) -> Stream:
        """This host's rows of the training batches after ``done`` steps of this phase."""
        return train_batches(
            self.dataset,
            self.config.data,
            seed=self.config.seed,
            first_step=self.first_step + done,
            host=jax.process_index(),
            hosts=jax.process_count(),
            damaged=self.damaged,
        )

    def _asked_to_stop(self, flags: collections.deque) -> bool:
        """Whether to stop after this step; several hosts agree by the flag of an earlier one, so that all stop here.

        Args:
            flags: of the last steps, ``AHEAD`` and one more once there were so many.
        """
        if not hosts.several():
            return self.stop.signal is not None
        if len(flags) > AHEAD and int(flags[0]):
            self.stop.hear()
            return True
        return False

    def _flush(self, pending: list, skeleton: Skeleton, state: TrainState) -> dict[str, float]:
        """Writes the metrics of the steps since the last time, and stops the run where they went wrong."""
        fetched = jax.device_get(pending)
        pending.clear()
        values: dict[str, float] = {}
        for step, metrics in fetched:
            values = {name: float(value) for name, value in metrics.items()}
            values.pop("stop", None)
            smallest, skipped = values.pop("smallest_scale", 1.0), values.pop("skipped", 0.0)
            self.log.metrics(step, self.name, "train", values)
            if skipped:
                self.bad_steps.skip(step, values["loss"])
            elif not math.isfinite(values["loss"]) or not (math.isfinite(smallest) and smallest > 0):
                self._diverged(step, values["loss"], skeleton, state)
        self.log.flush()
        return values

    def _diverged(self, step: int, loss: float, skeleton: Skeleton, state: TrainState) -> NoReturn:
        self.log.flush()
        self.bad_steps.note(step, loss)
        raise Diverged(self._went_wrong(step, loss, skeleton, state))

    def _statuses(self, last: dict[str, float]) -> list[str]:
        """Returns what the progress line says: everything first, then what narrower and narrower terminals hold."""
        loss, top1 = f"loss {last['loss']:.3f}", f"top-1 {100 * last['accuracy']:.1f} %"
        left, share = self.pace.left, self.most_clipped.partition(" (")[0]
        rows = (
            (str(self.pace), loss, top1, self.most_clipped),
            (str(self.pace), loss, top1, share),
            ("" if left is None else f"{left} left", loss, top1, share),
            ("" if left is None else f"{left} left", top1, share),
            (top1, share),
        )
        return [", ".join(text for text in row if text) for row in rows]

    def _went_wrong(self, step: int, loss: float, skeleton: Skeleton, state: TrainState) -> str:
        what = f"the loss must be finite, got {loss} at step {step}"
        if math.isfinite(loss):
            what = f"the parameters must be finite, but the update of step {step} has made some that are not"
        now = gathered(self.mesh, state)
        try:
            check_scales(skeleton.model(local(now.parameters), local(now.rest)))
        except ValueError as error:
            what = f"{error}, at step {step} (loss {loss:.4g})"
        else:
            bad = [path for path, array in now.parameters.items() if not np.isfinite(array).all()]
            if bad:
                what += f"; the first parameter that is not finite is {bad[0]}"
        steps = self.checkpoints.steps if hosts.first() else []
        kept = f"step {self.first_step + steps[0]}" if steps else "none" if hosts.first() else "see the first host"
        return (
            f"{what}; last checkpoint: {kept}; a smaller learning rate may help; the images of the step are in "
            f"{self.bad_steps.file.name}"
        )

    def _epoch(
        self, network: Network, result: dict[str, float], codes: dict, done: int, last: dict, state: TrainState
    ) -> dict:
        """Writes what is measured once an epoch; returns the weight codes that it was measured with."""
        step, epoch = self.first_step + done, done // self.steps_per_epoch
        counts = {"damaged_images": len(self.damaged.indices), "skipped_steps": self.bad_steps.skipped}
        counted: dict[str, float] = {name: count for name, count in counts.items() if count}
        text = (
            f"{self.name} epoch {epoch}/{self.settings.epochs}: loss {last['loss']:.3f}, "
            f"test top-1 {100 * result['accuracy']:.2f} %"
        )
        new_codes = codes_of(network)
        if new_codes:
            layers, histograms = self._layers(network)
            for path, array in new_codes.items():
                layers[path]["weight_codes_flipped"] = float(np.mean(array != codes[path]))
            oscillating = describe(state.oscillations)
            for path, values in oscillating.items():
                layers[path] |= values
            self.log.layers(step, self.name, layers, histograms)
            flipped = float(np.mean([layers[path]["weight_codes_flipped"] for path in low_bit_layers(network)]))
            counted["weight_codes_flipped"] = flipped
            text += f", weight codes flipped {100 * flipped:.1f} %"
            self.most_clipped = most_clipped(layers)
            text += f", {self.most_clipped}" if self.most_clipped else ""
            if oscillating:
                share = np.mean([values["weights_oscillating"] for values in oscillating.values()])
                frozen = sum(values["weights_frozen"] for values in oscillating.values())
                text += f", weights oscillating {100 * share:.1f} %, frozen {frozen:.0f}"
        self.log.metrics(step, self.name, "test", {"epoch": epoch, **result, **counted})
        if self.damaged.indices:
            text += f", {len(self.damaged.indices)} damaged images replaced"
        if self.bad_steps.skipped:
            text += f", {self.bad_steps.skipped} bad steps skipped"
        if result["data_wait"] > 0.05:
            text += f", waited for data {100 * result['data_wait']:.0f} %"
        self.log.say(f"{text}, {result['seconds']:.1f} s, {self.pace}")
        self.log.flush()
        return new_codes

    def _layers(self, network: Network):
        one_batch = dataclasses.replace(self.config.data, workers=0)  # not worth starting processes
        first = next(eval_batches(self.dataset, one_batch))
        return statistics_and_histograms(network.model(), jax.numpy.asarray(first["image"][first["mask"]][:256]))

    def _save(self, state: TrainState, codes: dict[str, np.ndarray] | None, done: int, accuracy=None) -> None:
        facts = {"step": self.first_step + done, "phase": self.name, "data": self.dataset.fingerprint}
        if self.damaged.indices:
            facts["damaged"] = self.damaged.indices
        if self.bad_steps.skipped:
            facts["skipped"] = self.bad_steps.skipped

        def save():
            if done not in self.checkpoints.steps:
                self.checkpoints.save(done, {"train": state, "codes": codes}, facts, best_by=accuracy)

        hosts.on_first(save)
