"""One optimizer with three groups: kernels, what has no weight decay, and scales."""

from collections.abc import Hashable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from .config import PhaseConfig
from .rates import multiplied
from .skeleton import Arrays


def make_schedule(phase: PhaseConfig, learning_rate: float, steps: int, steps_per_epoch: int) -> optax.Schedule:
    """Returns a linear rise over ``warmup_epochs`` and a cosine to 0 at ``steps``."""
    warmup = min(round(phase.warmup_epochs * steps_per_epoch), steps - 1)
    if warmup <= 0:
        return optax.cosine_decay_schedule(learning_rate, steps)
    return optax.warmup_cosine_decay_schedule(learning_rate / warmup, learning_rate, warmup, steps)


def make_optimizer(
    phase: PhaseConfig, scales: frozenset[str], steps: int, steps_per_epoch: int
) -> optax.GradientTransformation:
    """Returns SGD with Nesterov momentum for ``{path: array}``, in three groups.

    * kernels: with weight decay.
    * biases, batch norm, offsets: without it.
    * scales: plain momentum, no decay, their own learning rate, held above a fraction of their start. SGD and never
      Adam, whose step of a fixed absolute size ignores the unit of a scale.

    ``phase.learning_rates`` multiplies the rates of single parameters, and with them their weight decay.

    Args:
        phase: rates and decay; a ``QuantizedConfig`` where there are scales.
        scales: paths of the scales.
        steps: steps of the phase.
        steps_per_epoch: what ``warmup_epochs`` counts.
    """
    rate = make_schedule(phase, phase.learning_rate, steps, steps_per_epoch)
    own = getattr(phase, "scale_learning_rate", None)
    scale_rate = rate if own is None else make_schedule(phase, own, steps, steps_per_epoch)
    factors = getattr(phase, "learning_rates", ())

    def at_own_rate(*chain: optax.GradientTransformation) -> list[optax.GradientTransformation]:
        return [*chain, multiplied(factors)] if factors else list(chain)

    sgd = optax.sgd(rate, momentum=phase.momentum, nesterov=True)
    groups: dict[Hashable, optax.GradientTransformation] = {
        "kernel": optax.chain(*at_own_rate(optax.add_decayed_weights(phase.weight_decay), sgd)),
        "plain": optax.chain(*at_own_rate(sgd)) if factors else sgd,
        "scale": optax.chain(
            *at_own_rate(optax.sgd(scale_rate, momentum=phase.momentum)), hold_above(getattr(phase, "scale_floor", 0.0))
        ),
    }

    def group(path: str) -> str:
        if path in scales:
            return "scale"
        return "kernel" if path.rsplit("/", 1)[-1] == "kernel" else "plain"

    return optax.partition(groups, lambda parameters: {path: group(path) for path in parameters})


class Floors(NamedTuple):
    """The smallest value that each parameter may take."""

    floors: Arrays


def hold_above(fraction: float) -> optax.GradientTransformation:
    r"""Keeps parameters above a fraction of their start: :math:`\theta \leftarrow \max(\theta + u, f \theta_0)`.

    NaN passes through, so that it is seen. Comes last in a chain.
    """

    def init(parameters) -> Floors:
        return Floors(jax.tree.map(lambda start: fraction * start, parameters))

    def update(updates, state: Floors, parameters=None):
        def held(change: Float[Array, "..."], value: Float[Array, "..."], floor: Float[Array, "..."]):
            kept = jnp.maximum(value + change, floor) - value
            # Where a scale falls far, the difference is rounded: the sum may end below the floor, even below 0.
            ulp = jnp.finfo(value.dtype).eps * jnp.abs(value)
            return jnp.where(value + kept < floor, kept + ulp, kept)

        return jax.tree.map(held, updates, parameters, state.floors), state

    return optax.GradientTransformation(init, update)  # pyright: ignore[reportArgumentType]
