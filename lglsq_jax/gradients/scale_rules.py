"""Scale rules: the gradient that the backward pass gives to a quantizer's scale."""

import dataclasses
import math
from typing import Literal, Protocol, runtime_checkable

import jax.numpy as jnp
from jaxtyping import Array, Float

from .context import QuantizerContext, Sums


@runtime_checkable
class ScaleRule(Protocol):
    """A frozen, hashable object: elementwise ``terms``, and the gradient of the scale from their sums.

    Told apart in this way, the sums of a rule cost one pass over memory and need nothing but sums across devices.
    A rule that is linear in ``context.gradient`` may say so by ``linear = True``, see ``GradientMethod.linear``.
    """

    def terms(self, context: QuantizerContext) -> Sums:
        """Returns the float32 tensors, shaped like ``context.values``, whose sums the gradient needs; may be none."""
        ...

    def scale_gradient(self, context: QuantizerContext, sums: Sums) -> Float[Array, "..."]:
        """Returns ``g_s`` in float32 from the sums over all elements of a scale; shaped like ``context.scale``."""
        ...


@dataclasses.dataclass(frozen=True)
class FixedScale:
    """The scale stays where calibration put it: gradient 0."""

    linear = True

    def terms(self, context: QuantizerContext) -> Sums:
        """Returns nothing."""
        return ()

    def scale_gradient(self, context: QuantizerContext, sums: Sums) -> Float[Array, "..."]:
        """Returns zeros."""
        return jnp.zeros_like(context.scale)


@dataclasses.dataclass(frozen=True)
class LSQScale:
    r"""Learned step size: :math:`g_s = \sum g \, (q - v I) / \sqrt{N Q_p}`.

    References: Esser et al., "Learned Step Size Quantization", ICLR 2020, eq. 3 and section 2.2.
    """

    linear = True

    def terms(self, context: QuantizerContext) -> Sums:
        """Returns ``g (q - v I)``."""
        return (context.gradient * (context.codes - jnp.where(context.inside, context.normalised, 0.0)),)

    def scale_gradient(self, context: QuantizerContext, sums: Sums) -> Float[Array, "..."]:
        """Returns the gradient of the loss with rounding taken as the identity, times ``1 / sqrt(N Qp)``."""
        return sums[0] * (1 / math.sqrt(max(context.elements, 1) * context.maximum))


@dataclasses.dataclass(frozen=True)
class LLSQScale:
    r"""Learned linear symmetric: compares the squared error at ``s/2``, ``s`` and ``2s`` and goes to the smallest.

    The gradient is :math:`+s^2` where ``s/2`` is best, :math:`-s^2` where ``2s`` is best and 0 otherwise (and on ties).

    References: Zhao et al., "Linear Symmetric Quantization of Neural Networks for Low-precision Integer Hardware",
    ICLR 2020, section 3.
    """

    def terms(self, context: QuantizerContext) -> Sums:
        """Returns the squared errors, in codes, at half the scale, the scale and twice the scale."""
        v = context.bounded

        def squared_error(factor: float):
            codes = jnp.clip(jnp.round(v / factor), context.minimum, context.maximum)
            return jnp.square(factor * codes - v)

        return squared_error(0.5), squared_error(1.0), squared_error(2.0)

    def scale_gradient(self, context: QuantizerContext, sums: Sums) -> Float[Array, "..."]:
        """Returns ``s**2``, ``-s**2`` or 0."""
        half, same, double = sums
        shrink = (half < same) & (half < double)
        grow = (double < same) & (double < half)
        step = jnp.minimum(jnp.square(context.scale), jnp.finfo(jnp.float32).max)  # infinity times 0 is NaN
        return (shrink.astype(jnp.float32) - grow.astype(jnp.float32)) * step


@dataclasses.dataclass(frozen=True)
class ScaleDirection:
    r"""Which way the quantization error wants the scale to go, in [-1, 1]; positive means smaller. Also a rule itself.

    .. math:: d = \operatorname{clip}\left(\frac{\langle \hat x - x, \hat x \rangle}{\|\hat x - x\|^2}, -1, 1\right)
        = \tfrac12 \, \partial \log \|\hat x - x\|^2 / \partial \log s \text{ with the codes held fixed.}

    0 for an all-zero tensor and where the error is 0; +1 where every code is 0 but ``x`` is not.
    Reconstructed: the small-step limit of LLSQ's comparison.
    """

    def terms(self, context: QuantizerContext) -> Sums:
        """Returns ``e**2``, ``e q``, ``q**2`` and whether ``x`` is not 0, with ``e = q - v``."""
        codes, error = context.codes, context.codes - context.bounded  # (x_hat - x) / s, so that nothing overflows
        return error * error, error * codes, codes * codes, (context.values != 0).astype(jnp.float32)

    def scale_gradient(self, context: QuantizerContext, sums: Sums) -> Float[Array, "..."]:
        """Returns ``d``."""
        energy, product, occupied, present = sums
        quotient = product / jnp.maximum(energy, jnp.finfo(jnp.float32).tiny)
        return jnp.where(occupied == 0, (present > 0).astype(jnp.float32), jnp.clip(quotient, -1, 1))


@dataclasses.dataclass(frozen=True)
class SSG:
    r"""Simulated scale gradient: a bounded relative step, pulled towards the scale with the least squared error.

    .. math:: g_s = s \left(\tau \tanh\frac{g_\mathrm{lsq}}{\tau s} + \eta (1 - p) \, d\right)

    with :math:`g_\mathrm{lsq}` as in :class:`LSQScale`, ``d`` as in :class:`ScaleDirection` and the training progress
    ``p``. :math:`|g_s| \le (\tau + \eta) s`: a step is relative to the scale whatever the loss does.

    Reconstructed from the abstract and LLSQ's comparison of three scales.

    Attributes:
        tau: largest relative task gradient, > 0.
        eta: strength of the direction term at the start of training, >= 0.

    References: LG-LSQ, arXiv 2202.09009 (2022), abstract; Zhao et al., ICLR 2020.
    """

    tau: float = 0.1
    eta: float = 0.01

    def __post_init__(self):
        if not 0 < self.tau < math.inf:
            raise ValueError(f"`tau` must be a finite number > 0, got {self.tau}")
        if not 0 <= self.eta < math.inf:
            raise ValueError(f"`eta` must be a finite number >= 0, got {self.eta}")

    def terms(self, context: QuantizerContext) -> Sums:
        """Returns the terms of ``LSQScale`` and, where ``eta`` is not 0, those of ``ScaleDirection``."""
        return LSQScale().terms(context) + (ScaleDirection().terms(context) if self.eta else ())

    def scale_gradient(self, context: QuantizerContext, sums: Sums) -> Float[Array, "..."]:
        """Returns ``s (tau tanh(g_lsq / (tau s)) + eta (1 - p) d)``."""
        relative = LSQScale().scale_gradient(context, sums[:1]) / context.scale
        step = self.tau * jnp.tanh(relative / self.tau)
        if self.eta:
            step = step + self.eta * (1 - context.progress) * ScaleDirection().scale_gradient(context, sums[1:])
        return context.scale * step


@dataclasses.dataclass(frozen=True)
class PACTScale:
    r"""PACT's clip level :math:`\alpha = s Q_p`, whose gradient is :math:`g_\alpha = \sum g \, 1[v > Q_p]`.

    The parameter here is the scale, so the chain rule gives :math:`g_s = Q_p \, g_\alpha`, and a descent step of rate
    :math:`\lambda` moves the clip level by :math:`-\lambda Q_p^2 g_\alpha`. PACT descends in :math:`\alpha`, by
    :math:`-\lambda g_\alpha`; that step is :math:`g_s = g_\alpha / Q_p`. The lower edge takes no part.

    Attributes:
        step: ``"scale"`` for the chain rule; ``"clip"`` for PACT's step, which :data:`lglsq_jax.methods.PACT` takes:
            at 8 bits the other is 65,025 times as long.

    References: Choi et al., "PACT: Parameterized Clipping Activation for Quantized Neural Networks", 2018, eq. 3.
    """

    linear = True

    step: Literal["scale", "clip"] = "scale"

    def __post_init__(self):
        if self.step not in ("scale", "clip"):
            raise ValueError(f'`step` must be "scale" or "clip", got {self.step!r}')

    def terms(self, context: QuantizerContext) -> Sums:
        """Returns the gradients above the upper clip edge."""
        return (jnp.where(context.normalised > context.maximum, context.gradient, 0.0),)

    def scale_gradient(self, context: QuantizerContext, sums: Sums) -> Float[Array, "..."]:
        """Returns the sum of the gradients above the upper clip edge, times ``Qp`` or over it."""
        return context.maximum * sums[0] if self.step == "scale" else sums[0] / context.maximum
