"""Error rules: a factor on the gradient that depends on how far a value lies from its code."""

import dataclasses
import math
from typing import Protocol, runtime_checkable

import jax.numpy as jnp
from jaxtyping import Array, Float

from ..method_names import SCHEDULES


@runtime_checkable
class ErrorRule(Protocol):
    """A frozen, hashable object with a ``factor``; ``linear = True`` where that does not depend on the gradient."""

    def factor(
        self, gradient: Float[Array, "*shape"], error: Float[Array, "*shape"], progress: Float[Array, ""]
    ) -> Float[Array, "*shape"]:
        """Returns what the gradient is multiplied by, from ``g``, ``e = clip(v - q, -1/2, 1/2)`` and the progress."""
        ...


def _error_factor(strength, gradient, error):
    return 1 + strength * jnp.sign(gradient) * error


def _check_strength(strength: float) -> None:
    if not -math.inf < strength < math.inf:
        raise ValueError(f"`strength` must be a finite number, got {strength}")


@dataclasses.dataclass(frozen=True)
class NoErrorRule:
    """Leaves the gradient as it is: factor 1."""

    linear = True

    def factor(self, gradient, error, progress):
        """Returns ones."""
        return jnp.ones_like(gradient)


@dataclasses.dataclass(frozen=True)
class MDE:
    r"""Minimising the discretization error: the factor :math:`1 + \delta(p) \operatorname{sign}(g) \, e`.

    Where a descent step would also bring the value closer to its code the step is made longer, elsewhere shorter. The
    strength goes with the training progress ``p``. For :math:`\delta < 2` the gradient never changes sign.

    * ``"linear"``: :math:`\delta p`, from nothing to δ;
    * ``"constant"``: :math:`\delta`, which is EWGS;
    * ``"decaying"``: :math:`\delta (1 - p)`, from δ to nothing;
    * ``"cosine"``: :math:`\delta (1 - \cos \pi p) / 2`, from nothing to δ, level at both ends.

    Reconstructed from the abstract: EWGS's factor with a strength that grows from 0. The other schedules are ours.
    So is the power ``n``, with which the factor is :math:`1 + \delta(p) \operatorname{sign}(g e) |2e|^n / 2`: as large
    on the edge of a rounding cell whatever it is, and inside the cell the larger the smaller it is. 1 is the above; a
    large one acts near the edges alone, 0 everywhere alike.

    Attributes:
        strength: ``δ``, the largest strength.
        schedule: one of ``"linear"``, ``"constant"``, ``"decaying"``, ``"cosine"``.
        power: ``n`` >= 0.

    References: LG-LSQ, arXiv 2202.09009 (2022), abstract; Lee, Kim and Ham, CVPR 2021 (EWGS).
    """

    strength: float = 0.05
    schedule: str = "linear"
    power: float = 1.0

    def __post_init__(self):
        _check_strength(self.strength)
        if not 0 <= self.power < math.inf:
            raise ValueError(f"`power` must be a finite number >= 0, got {self.power}")
        if self.schedule not in SCHEDULES:
            raise ValueError(f"`schedule` must be one of {', '.join(SCHEDULES)}, got {self.schedule!r}")

    def factor(self, gradient, error, progress):
        """Returns ``1 + strength(progress) * sign(gradient * error) * |2 error|^power / 2``."""
        if self.power != 1:
            error = 0.5 * jnp.sign(error) * jnp.abs(2 * error) ** self.power
        return _error_factor(self.strength_at(progress), gradient, error)

    def strength_at(self, progress: Float[Array, ""]) -> Float[Array, ""] | float:
        """Returns the strength at a progress from 0 to 1, which may be traced."""
        match self.schedule:
            case "constant":
                return self.strength
            case "decaying":
                return self.strength * (1 - progress)
            case "cosine":
                # The sine keeps its digits where 1 - cos would cancel.
                return self.strength * jnp.square(jnp.sin(0.5 * math.pi * progress))
            case _:
                return self.strength * progress


@dataclasses.dataclass(frozen=True)
class EWGS:
    r"""Element-wise gradient scaling: the factor :math:`1 + \delta \operatorname{sign}(g) \, e`, constant in time.

    Attributes:
        strength: ``δ``.

    References: Lee, Kim and Ham, "Network Quantization with Element-wise Gradient Scaling", CVPR 2021, eq. 4.
    """

    strength: float = 0.2

    def __post_init__(self):
        _check_strength(self.strength)

    def factor(self, gradient, error, progress):
        """Returns ``1 + strength * sign(gradient) * error``."""
        return _error_factor(self.strength, gradient, error)
