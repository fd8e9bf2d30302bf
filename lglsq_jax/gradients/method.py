"""A gradient method: one rule for the scale, one for the rounding, one for the rounding error."""

import dataclasses
import math

import jax.numpy as jnp
from jaxtyping import Array, Float

from ..method_names import STARTS
from .context import QuantizerContext, Sums
from .error_rules import ErrorRule, NoErrorRule
from .round_rules import STE, RoundRule, ScheduledRoundRule
from .scale_rules import LSQScale, ScaleRule


@dataclasses.dataclass(frozen=True)
class TanhNormalize:
    r"""DoReFa's map of weights into [-1, 1]: :math:`w \mapsto \tanh(w) / \max|\tanh(w)|`; zeros stay zeros.

    References: Zhou et al., "DoReFa-Net", arXiv 1606.06160 (2016), eq. 9.
    """

    def __call__(self, weights: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """Returns the normalised weights, differentiable by JAX."""
        squashed = jnp.tanh(weights.astype(jnp.float32))
        largest = jnp.max(jnp.abs(squashed))
        return (squashed / jnp.where(largest > 0, largest, 1.0)).astype(weights.dtype)


@dataclasses.dataclass(frozen=True)
class GradientMethod:
    """How one quantizer learns: ``g_x = g * inside * slope * factor`` and ``g_s`` by the scale rule.

    Any frozen, hashable object with the method of the protocol may serve as a rule; nothing needs registering.

    Attributes:
        scale_rule: gradient of the scale, see :class:`ScaleRule`.
        round_rule: slope of the rounding step, see :class:`RoundRule`.
        error_rule: factor by the rounding error, see :class:`ErrorRule`.
        learn_offset: whether layers give their inputs a learned offset (LSQ+).
        weight_transform: float map that layers apply to weights before quantizing them (DoReFa), or None.
        weight_start: how calibration starts weight scales, as in ``init_scale``; None leaves it to the caller.
        input_start: the same for input scales.
        weight_scale_rule: the scale rule of weights where it is not ``scale_rule`` (PACT learns the clip level of
            inputs only), or None. Layers take it for their weights, by ``for_weights``.

    Raises:
        TypeError: a rule lacks a method or is not hashable, or another field is not of its type.
        ValueError: a start is not one of ``init_scale``'s.
    """

    scale_rule: ScaleRule = dataclasses.field(default_factory=LSQScale)
    round_rule: RoundRule = dataclasses.field(default_factory=STE)
    error_rule: ErrorRule = dataclasses.field(default_factory=NoErrorRule)
    learn_offset: bool = False
    weight_transform: TanhNormalize | None = None
    weight_start: str | None = None
    input_start: str | None = None
    weight_scale_rule: ScaleRule | None = None

    def __post_init__(self):
        for name, members, needed in (
            ("scale_rule", ("terms", "scale_gradient"), "the methods `terms` and `scale_gradient`"),
            ("round_rule", ("slope",), "a method `slope`"),
            ("error_rule", ("factor",), "a method `factor`"),
            ("weight_scale_rule", ("terms", "scale_gradient"), "the methods `terms` and `scale_gradient`"),
        ):
            rule = getattr(self, name)
            if rule is None and name == "weight_scale_rule":
                continue
            if isinstance(rule, type) or not all(callable(getattr(rule, member, None)) for member in members):
                raise TypeError(f"`{name}` must be an object with {needed}, got {rule!r}")
            try:
                hash(rule)
            except TypeError:
                raise TypeError(f"`{name}` must be hashable, such as a frozen dataclass, got {rule!r}") from None
        for name in ("weight_start", "input_start"):
            start = getattr(self, name)
            if start is not None and start not in STARTS:
                raise ValueError(f"`{name}` must be None or one of {', '.join(STARTS)}, got {start!r}")
        if self.weight_transform is not None and not callable(self.weight_transform):
            raise TypeError(f"`weight_transform` must be None or a function of weights, got {self.weight_transform!r}")
        if not isinstance(self.learn_offset, bool):
            raise TypeError(f"`learn_offset` must be True or False, got {self.learn_offset!r}")

    @property
    def linear(self) -> bool:
        """Whether all gradients are linear in that of the loss, as the rules say: those of parts of a batch add up.

        A rule says so by an attribute ``linear`` of its own class; one without it, or that only inherits it, is not.
        """
        rules = self.scale_rule, self.error_rule
        return all(vars(type(rule)).get("linear", False) for rule in rules)

    def for_weights(self) -> "GradientMethod":
        """Returns the method as weights learn by it: with ``weight_scale_rule`` as its one scale rule."""
        if self.weight_scale_rule is None:
            return self
        return dataclasses.replace(self, scale_rule=self.weight_scale_rule, weight_scale_rule=None)

    def input_gradient(self, context: QuantizerContext) -> Float[Array, "*shape"]:
        r"""Returns :math:`g_x = g \cdot I \cdot r'(v) \cdot f(g, e, p)` in float32."""
        inner, rule = jnp.where(context.inside, context.normalised, 0.0), self.round_rule  # a far v: an unused NaN
        slope = rule.slope_at(inner, context.progress) if isinstance(rule, ScheduledRoundRule) else rule.slope(inner)
        gradient = jnp.where(context.inside, context.gradient, 0.0) * slope
        return gradient * self.error_rule.factor(context.gradient, context.rounding_error, context.progress)

    def scale_gradients(
        self, context: QuantizerContext, *, offset: bool
    ) -> tuple[Float[Array, "..."], Float[Array, "..."] | None]:
        r"""Returns ``g_s`` and, if asked for, LSQ+'s :math:`g_\beta = \sum g (1 - I) / \sqrt{N Q_p}`, in float32.

        Both are shaped like ``context.scale``; their sums are taken in one pass.

        References: Bhalgat et al., "LSQ+", CVPR Workshops 2020, eq. 6.
        """

        return self.gradients_of_sums(context, self.scale_sums(context, offset=offset), offset=offset)

    def scale_sums(self, context: QuantizerContext, *, offset: bool) -> Sums:
        """Returns the sums that ``scale_gradients`` needs: those of the scale rule, then, if asked for, the offset's.

        They add up over the parts of a batch whose context differs in nothing but the rows that its tensors hold.
        """

        def terms(context: QuantizerContext) -> Sums:
            outside = (jnp.where(context.inside, 0.0, context.gradient),) if offset else ()
            return self.scale_rule.terms(context) + outside

        return context.sums(terms)

    def gradients_of_sums(
        self, context: QuantizerContext, sums: Sums, *, offset: bool
    ) -> tuple[Float[Array, "..."], Float[Array, "..."] | None]:
        """Returns ``g_s`` and, if asked for, the gradient of the offset, from the result of ``scale_sums``."""
        of_rule = sums[:-1] if offset else sums
        scale_gradient = self.scale_rule.scale_gradient(context, of_rule)
        if not offset:
            return scale_gradient, None
        return scale_gradient, sums[-1] * (1 / math.sqrt(max(context.elements, 1) * context.maximum))
