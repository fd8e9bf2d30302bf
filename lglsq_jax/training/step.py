"""One training step and one evaluation step: pure functions of state and batch, jitted over a mesh of devices."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
import optax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int

from ..convert import set_progress
from ..errors import UserError
from .config import PhaseConfig
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
    """

    step: Int[Array, ""]
    parameters: Arrays
    rest: Arrays
    optimizer: Any
    average: Arrays

    @property
    def evaluated(self) -> Arrays:
        """The parameters that are evaluated and deployed: the average, where there is one."""
        return self.average or self.parameters


def initial_state(
    parameters: Arrays, rest: Arrays, optimizer: optax.GradientTransformation, *, averaged: bool
) -> TrainState:
    """Returns the state before the first step of a phase; its buffers are its own, since a step takes them over."""
    own, rest = (jax.tree.map(jnp.copy, tree) for tree in (parameters, rest))
    average = jax.tree.map(jnp.copy, parameters) if averaged else {}
    return TrainState(jnp.zeros((), jnp.int32), own, rest, optimizer.init(own), average)


def data_mesh(batch_sizes: dict[str, int]) -> Mesh:
    """Returns a mesh of all devices with one axis, ``data``, that batches are split over.

    Raises:
        UserError: a batch size (by the name of its field) is not a multiple of the number of devices.
    """
    count = jax.device_count()
    for field, size in batch_sizes.items():
        if size % count:
            raise UserError(f"`{field}` must be a multiple of the number of devices, {count}, got {size}")
    return jax.make_mesh((count,), ("data",), axis_types=(AxisType.Auto,))


def place(mesh: Mesh, batch: dict[str, Any]) -> dict[str, Array]:
    """Returns a batch on the devices, its first axis split over them."""
    return jax.device_put(batch, NamedSharding(mesh, PartitionSpec("data")))


def make_train_step(
    mesh: Mesh,
    skeleton: Skeleton,
    optimizer: optax.GradientTransformation,
    phase: PhaseConfig,
    schedule: optax.Schedule,
    steps: int,
    teacher: tuple[Skeleton, Arrays, Arrays] | None = None,
) -> Callable[[TrainState, dict[str, Array]], tuple[TrainState, dict[str, Float[Array, ""]]]]:
    r"""Returns the jitted ``step(state, batch) -> (state, metrics)``; it takes over the buffers of ``state``.

    The loss is :math:`(1 - a)\,\mathrm{CE}(y, p) + a\,T^2\,\mathrm{KL}(p_\mathrm{teacher}^T \| p^T)`, with label
    smoothing in the cross entropy (Hinton et al., "Distilling the Knowledge in a Neural Network", 2015).

    Args:
        mesh: from ``data_mesh``; the state is the same on every device, a batch is split.
        skeleton: of the model.
        optimizer: of its parameters.
        phase: the loss's constants.
        schedule: learning rate by step, for the metrics.
        steps: steps of the whole phase, which progress counts.
        teacher: a float network whose predictions are compared; None without distillation.
    """
    share = getattr(phase, "distillation", 0.0) if teacher is not None else 0.0
    temperature = getattr(phase, "temperature", 1.0)
    decay = getattr(phase, "ema_decay", 0.0)

    def loss_of(parameters, rest, progress, batch, teacher_arrays):
        model = skeleton.model(parameters, rest)
        model.train()
        set_progress(model, progress)
        logits = model(batch["image"])
        classes = logits.shape[-1]
        labels = optax.smooth_labels(jax.nn.one_hot(batch["label"], classes), phase.label_smoothing)
        loss = optax.softmax_cross_entropy(logits, labels).mean()
        if share and teacher is not None:
            network = teacher[0].model(*teacher_arrays)
            network.eval()
            loss = (1 - share) * loss + share * distillation(logits, network(batch["image"]), temperature)
        return loss, (logits, skeleton.arrays(model)[1])

    def step(state: TrainState, batch, teacher_arrays):
        progress = state.step / jnp.float32(steps)
        (loss, (logits, rest)), gradients = jax.value_and_grad(loss_of, has_aux=True)(
            state.parameters, state.rest, progress, batch, teacher_arrays
        )
        updates, moments = optimizer.update(gradients, state.optimizer, state.parameters)
        parameters = cast(Arrays, optax.apply_updates(state.parameters, updates))
        average = jax.tree.map(
            lambda old, new: decay * old + (1 - decay) * new, state.average, parameters if decay else {}
        )
        metrics = {
            "loss": loss,
            "accuracy": jnp.mean(logits.argmax(-1) == batch["label"]),
            "learning_rate": jnp.asarray(schedule(state.step), jnp.float32),
        }
        if skeleton.scales:
            smallest = [jnp.min(parameters[path]) for path in sorted(skeleton.scales)]
            metrics["smallest_scale"] = functools.reduce(jnp.minimum, smallest)
        return TrainState(state.step + 1, parameters, rest, moments, average), metrics

    same, split = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("data"))
    compiled = jax.jit(step, donate_argnums=0, in_shardings=(same, split, same), out_shardings=(same, same))
    arrays = () if teacher is None or not share else jax.device_put(teacher[1:], same)
    return lambda state, batch: compiled(state, batch, arrays)


def distillation(
    logits: Float[Array, "n classes"], teacher_logits: Float[Array, "n classes"], temperature: float
) -> Float[Array, ""]:
    """Returns ``T**2 KL(softmax(teacher / T) || softmax(logits / T))``, mean over the batch."""
    target = jax.nn.softmax(jax.lax.stop_gradient(teacher_logits) / temperature)
    predicted = jax.nn.log_softmax(logits / temperature)
    return temperature**2 * optax.losses.kl_divergence(predicted, target).mean()


def make_eval_step(
    mesh: Mesh, skeleton: Skeleton
) -> Callable[[Arrays, Arrays, dict[str, Array]], dict[str, Float[Array, ""]]]:
    """Returns the jitted ``evaluate(parameters, rest, batch) -> {"correct", "loss", "samples"}``, sums."""

    def evaluate(parameters, rest, batch):
        model = skeleton.model(parameters, rest)
        model.eval()
        logits = model(batch["image"])
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
        correct = (logits.argmax(-1) == batch["label"]) & batch["mask"]
        return {
            "correct": correct.sum(),
            "loss": jnp.where(batch["mask"], losses, 0).sum(),
            "samples": batch["mask"].sum(),
        }

    same, split = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("data"))
    return jax.jit(evaluate, in_shardings=(same, same, split), out_shardings=same)
