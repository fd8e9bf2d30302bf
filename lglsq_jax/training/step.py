"""One training step and one evaluation step: pure functions of state and batch, jitted over a mesh of devices."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from ..accumulation import accumulated_value_and_grad
from ..batch_norm import set_batch_norm_groups
from ..convert import set_progress
from ..precision import compute_in
from .config import PhaseConfig
from .mesh import by_samples, spread, whole
from .oscillating import Known, Tracking, make_dampening
from .skeleton import Arrays, Skeleton


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Everything that one step hands to the next.

    Attributes:
        step: steps done in this phase.
        parameters: learned arrays by path.
        rest: batch statistics, progress and random state by path.
        optimizer: optax's state.
        average: moving average of the parameters; empty where there is none.
        oscillations: how the codes of weights go back and forth, by layer; empty where it is not tracked.
    """

    step: Int[Array, ""]
    parameters: Arrays
    rest: Arrays
    optimizer: Any
    average: Arrays
    oscillations: Known = dataclasses.field(default_factory=dict)

    @property
    def evaluated(self) -> Arrays:
        """The parameters that are evaluated and deployed: the average, where there is one."""
        return self.average or self.parameters


def initial_state(
    parameters: Arrays,
    rest: Arrays,
    optimizer: optax.GradientTransformation,
    *,
    averaged: bool,
    tracking: Tracking | None = None,
) -> TrainState:
    """Returns the state before the first step of a phase; its buffers are its own, since a step takes them over."""
    own, rest = (jax.tree.map(jnp.copy, tree) for tree in (parameters, rest))
    average = jax.tree.map(jnp.copy, parameters) if averaged else {}
    oscillations = {} if tracking is None else tracking.start(parameters, rest)
    return TrainState(jnp.zeros((), jnp.int32), own, rest, optimizer.init(own), average, oscillations)


@dataclasses.dataclass(frozen=True)
class StepOptions:
    """How a step is taken, whatever it learns.

    Attributes:
        layout: where on the mesh each array of the state lies; None: all on every device.
        accumulate: parts that a batch is taken in one after another, as ``lq.accumulate_gradients`` says.
        batch_norm_groups: parts of a batch that batch norm normalises each by itself.
        dtype: what the layers give; the loss, the gradients of parameters and the update are float32.
        skip_bad: a step whose loss or gradient is not finite leaves the state as it was, but for its number.
    """

    layout: TrainState | None = None
    accumulate: int = 1
    batch_norm_groups: int = 1
    dtype: str = "float32"
    skip_bad: bool = False


def make_train_step(
    mesh: Mesh,
    skeleton: Skeleton,
    optimizer: optax.GradientTransformation,
    phase: PhaseConfig,
    schedule: optax.Schedule,
    steps: int,
    teacher: tuple[Skeleton, Arrays, Arrays] | None = None,
    options: StepOptions = StepOptions(),
) -> "TrainStep":
    r"""Returns a training step.

    The loss is :math:`(1 - a)\,\mathrm{CE}(y, p) + a\,T^2\,\mathrm{KL}(p_\mathrm{teacher}^T \| p^T)`, with label
    smoothing in the cross entropy (Hinton et al., "Distilling the Knowledge in a Neural Network", 2015). Where the
    phase asks for dampening, its gradient is added; the metrics have it beside the loss.

    Parameters that are split over devices are gathered when the step begins, and their gradients are split again
    before the optimizer sees them. A batch may hold ``stop``, a flag a row: the metrics then say whether one is set.

    Args:
        mesh: from ``make_mesh``; a batch is split over all of it.
        skeleton: of the model.
        optimizer: of its parameters.
        phase: the loss's constants.
        schedule: learning rate by step, for the metrics.
        steps: steps of the whole phase, which progress counts.
        teacher: a float network whose predictions are compared; None without distillation.
        options: how the step is taken.
    """
    share = getattr(phase, "distillation", 0.0) if teacher is not None else 0.0
    temperature = getattr(phase, "temperature", 1.0)
    decay = getattr(phase, "ema_decay", 0.0)
    same = whole(mesh)
    layout = same if options.layout is None else options.layout
    place_of = same if options.layout is None else options.layout.parameters
    dampen, tracking = make_dampening(skeleton, phase), Tracking.of(skeleton, phase)

    def build(progress, parameters, rest):
        model = skeleton.model(parameters, rest)
        model.train()
        set_progress(model, progress)
        if options.batch_norm_groups > 1:
            set_batch_norm_groups(model, options.batch_norm_groups)
        if options.dtype != "float32":
            compute_in(model, options.dtype)
        return model

    def loss_of(teacher_arrays, model, batch):
        logits = model(batch["image"]).astype(jnp.float32)
        classes = logits.shape[-1]
        labels = optax.smooth_labels(jax.nn.one_hot(batch["label"], classes), phase.label_smoothing)
        loss = optax.softmax_cross_entropy(logits, labels).mean()
        if share and teacher is not None:
            network = teacher[0].model(*teacher_arrays)
            network.eval()
            loss = (1 - share) * loss + share * distillation(logits, network(batch["image"]), temperature)
        return loss, jnp.mean(logits.argmax(-1) == batch["label"])

    def gradients_of(parameters, rest, progress, batch, teacher_arrays):
        builds, losses = functools.partial(build, progress), functools.partial(loss_of, teacher_arrays)
        if options.accumulate > 1:
            run = accumulated_value_and_grad(builds, losses, rest_of, options.accumulate)
            (loss, (accuracies, rest)), gradients = run(parameters, rest, batch)
            return loss, accuracies.mean(), rest, gradients

        def whole_batch(parameters):
            model = builds(parameters, rest)
            loss, accuracy = losses(model, batch)
            return loss, (accuracy, rest_of(model))

        (loss, (accuracy, rest)), gradients = jax.value_and_grad(whole_batch, has_aux=True)(parameters)
        return loss, accuracy, rest, gradients

    def rest_of(model):
        return skeleton.arrays(model)[1]

    def step(state: TrainState, batch, teacher_arrays):
        progress = state.step / jnp.float32(steps)
        gathered = jax.lax.with_sharding_constraint(state.parameters, same)
        samples = {name: batch[name] for name in ("image", "label")}
        loss, accuracy, rest, gradients = gradients_of(gathered, state.rest, progress, samples, teacher_arrays)
        gradients = jax.lax.with_sharding_constraint(gradients, place_of)
        metrics: dict[str, Array] = {}
        if dampen is not None:
            metrics["dampening"], extra = dampen(progress, state.parameters, rest)
            gradients = jax.tree.map(jnp.add, gradients, extra)
        updates, moments = optimizer.update(gradients, state.optimizer, state.parameters)
        parameters = cast(Arrays, optax.apply_updates(state.parameters, updates))
        average = jax.tree.map(
            lambda old, new: decay * old + (1 - decay) * new, state.average, parameters if decay else {}
        )
        known = state.oscillations
        if tracking is not None:
            parameters, average, known = tracking.after(progress, parameters, average, rest, known)
        rate = jnp.asarray(schedule(state.step), jnp.float32)
        metrics |= {"loss": loss, "accuracy": accuracy, "learning_rate": rate}
        new = TrainState(state.step + 1, parameters, rest, moments, average, known)
        if options.skip_bad:
            good = jnp.isfinite(loss) & jnp.isfinite(optax.tree.norm(gradients))
            kept = dataclasses.replace(
                state, step=new.step, optimizer=jax.tree.map(_counts_of, moments, state.optimizer)
            )
            new = jax.tree.map(functools.partial(jnp.where, good), new, kept)
            metrics["skipped"] = 1 - good.astype(jnp.int32)
        if skeleton.scales:
            smallest = [jnp.min(new.parameters[path]) for path in sorted(skeleton.scales)]
            metrics["smallest_scale"] = functools.reduce(jnp.minimum, smallest)
        if "stop" in batch:
            metrics["stop"] = batch["stop"].max()
        return new, metrics

    compiled = jax.jit(
        step, donate_argnums=0, in_shardings=(layout, by_samples(mesh), same), out_shardings=(layout, same)
    )
    arrays = () if teacher is None or not share else spread(teacher[1:], same)

    return TrainStep(mesh, compiled, arrays)


def _counts_of(now: Array, before: Array) -> Array:
    """Counters of steps, which the learning rate goes by, go on where a step is skipped; all else is as before it."""
    return now if jnp.issubdtype(now.dtype, jnp.integer) else before


@dataclasses.dataclass(frozen=True)
class TrainStep:
    """A jitted step, ``step(state, batch) -> (state, metrics)``; it takes over the buffers of ``state``."""

    mesh: Mesh
    compiled: Any
    teacher_arrays: Any

    def __call__(self, state: TrainState, batch: dict[str, Array]) -> tuple[TrainState, dict[str, Array]]:
        """Takes a step."""
        with jax.set_mesh(self.mesh):  # operations that would be slow on a split batch look for it
            return self.compiled(state, batch, self.teacher_arrays)

    def lower(self, state: Any, batch: Any) -> jax.stages.Lowered:
        """Returns the program for a state and a batch of these shapes, to be looked at before it is compiled."""
        with jax.set_mesh(self.mesh):
            return self.compiled.lower(state, batch, self.teacher_arrays)


def distillation(
    logits: Float[Array, "n classes"], teacher_logits: Float[Array, "n classes"], temperature: float
) -> Float[Array, ""]:
    """Returns ``T**2 KL(softmax(teacher / T) || softmax(logits / T))``, mean over the batch."""
    target = jax.nn.softmax(jax.lax.stop_gradient(teacher_logits) / temperature)
    predicted = jax.nn.log_softmax(logits / temperature)
    return temperature**2 * optax.losses.kl_divergence(predicted, target).mean()


def make_eval_step(
    mesh: Mesh, skeleton: Skeleton, layout: TrainState | None = None
) -> Callable[[Arrays, Arrays, dict[str, Array]], dict[str, Float[Array, ""]]]:
    """Returns the jitted ``evaluate(parameters, rest, batch) -> {"correct", "loss", "samples"}``, sums.

    Args:
        mesh: from ``make_mesh``.
        skeleton: of the model.
        layout: where on the mesh the parameters lie, as in ``StepOptions``.
    """
    same = whole(mesh)

    def evaluate(parameters, rest, batch):
        model = skeleton.model(jax.lax.with_sharding_constraint(parameters, same), rest)
        model.eval()
        logits = model(batch["image"])
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
        correct = (logits.argmax(-1) == batch["label"]) & batch["mask"]
        return {
            "correct": correct.sum(),
            "loss": jnp.where(batch["mask"], losses, 0).sum(),
            "samples": batch["mask"].sum(),
        }

    shardings = (same if layout is None else layout.parameters, same, by_samples(mesh))
    return jax.jit(evaluate, in_shardings=shardings, out_shardings=same)
