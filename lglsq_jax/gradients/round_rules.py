"""Round rules: the slope that the backward pass gives to the rounding step inside the clip range."""

import dataclasses
import math
from typing import Protocol, runtime_checkable

import jax.numpy as jnp
from jaxtyping import Array, Float


@runtime_checkable
class RoundRule(Protocol):
    """A frozen, hashable object with a ``slope``."""

    def slope(self, v: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """Returns ``r'(v)``, the stand-in for d round(v) / dv at ``v = x / scale``; float32 and dimensionless."""
        ...


@runtime_checkable
class ScheduledRoundRule(RoundRule, Protocol):
    """A round rule whose slope changes during training: besides ``slope`` it has a ``slope_at``, which then counts."""

    def slope_at(self, v: Float[Array, "*shape"], progress: Float[Array, ""]) -> Float[Array, "*shape"]:
        """Returns ``r'(v)`` at a progress of training from 0 to 1, which may be traced."""
        ...


@dataclasses.dataclass(frozen=True)
class STE:
    r"""Straight-through estimator: rounding has slope 1, so :math:`g_x = g \cdot I`.

    References: Bengio, Léonard and Courville, arXiv 1308.3432 (2013); LSQ, Esser et al., ICLR 2020, eq. 5.
    """

    def slope(self, v: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """Returns ones."""
        return jnp.ones_like(v)


def arctangent_gain(sharpness: Float[Array, ""] | float) -> Float[Array, ""]:
    r""":math:`A(k) = (k/2) / \arctan(k/2)`, with :math:`1 + k^2/12 - k^4/180` near zero; differentiable there too."""
    k = jnp.asarray(sharpness, jnp.float32)
    small = k < 1e-2
    half = jnp.where(small, 1.0, k) / 2  # a harmless operand for the branch that is not taken
    return jnp.where(small, 1 + k**2 / 12 - k**4 / 180, half / jnp.arctan(half))


@dataclasses.dataclass(frozen=True)
class ASR:
    r"""Arctangent soft round: a bounded slope that is never zero and largest where a code is about to change.

    .. math:: r'(v) = \frac{A}{1 + k^2 (v - \lfloor v \rfloor - 1/2)^2}, \qquad A = \frac{k/2}{\arctan(k/2)}

    Reconstructed from the abstract: the derivative of
    :math:`r(v) = \lfloor v \rfloor + 1/2 + \arctan(k (v - \lfloor v \rfloor - 1/2)) / (2 \arctan(k/2))`, an arctangent
    step that rises by exactly 1 in each rounding cell. The slope therefore averages 1 and lies in
    :math:`[A / (1 + k^2/4), A]`.

    With a ``start``, k moves in a straight line of the training progress ``p``:
    :math:`k(p) = (1 - p) k_0 + p k_1`. From 0 on, rounding is straight-through first and sharpens; that schedule is
    ours, the abstract names none.

    Attributes:
        sharpness: ``k`` >= 0, at the end of training; 0 is the straight-through estimator, bit for bit.
        start: ``k`` at the beginning; None: the same all the time.

    References: LG-LSQ, arXiv 2202.09009 (2022), abstract.
    """

    sharpness: float = 2.0
    start: float | None = None

    def __post_init__(self):
        for name, value in (("sharpness", self.sharpness), ("start", self.start)):
            if value is not None and not 0 <= value < math.inf:
                raise ValueError(f"`{name}` must be a finite number >= 0, got {value}")

    def slope_at(self, v: Float[Array, "*shape"], progress: Float[Array, ""]) -> Float[Array, "*shape"]:
        """Returns ``r'(v)`` for ``v = x / scale`` at a progress from 0 to 1, which may be traced; float32."""
        if self.start is None or self.start == self.sharpness:
            return self.slope(v)
        k = (1 - progress) * self.start + progress * self.sharpness
        centred = k * (v - jnp.floor(v) - 0.5)
        return arctangent_gain(k) / (1 + centred * centred)

    def slope(self, v: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """Returns ``r'(v)`` for ``v = x / scale`` at the end of training; float32."""
        if self.sharpness == 0:
            return jnp.ones_like(v)
        centred = self.sharpness * (v - jnp.floor(v) - 0.5)
        return arctangent_gain(self.sharpness) / (1 + centred * centred)
