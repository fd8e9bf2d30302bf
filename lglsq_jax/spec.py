"""What a quantizer is: bits, sign, and which elements share a scale."""

import dataclasses
import operator

import jax.numpy as jnp

from . import methods
from .gradients import GradientMethod


@dataclasses.dataclass(frozen=True)
class QuantSpec:
    r"""A linear symmetric quantizer, without its scale. Frozen and hashable, so it can be a static argument of ``jit``.

    Codes are whole numbers in :math:`[Q_n, Q_p]`: :math:`[-2^{b-1}, 2^{b-1}-1]` signed, :math:`[-2^{b-1}+1, 2^{b-1}-1]`
    signed with a narrow range, :math:`[0, 2^b-1]` unsigned.

    Attributes:
        bits: ``b``, from 2 to 8.
        signed: whether codes may be negative.
        channel_axis: the axis that has a scale an index (``[C]``); None for one scale for the whole tensor.
        batch_axis: the axis that ``N`` leaves out: 0 for the inputs of a layer, None for weights.
        narrow_range: leave out the most negative code, so that codes are symmetric about 0 (signed only).
        method: how scale and values learn, see ``lglsq_jax.methods``.

    Raises:
        ValueError: a field is out of range.
        TypeError: a field is of another kind.
    """

    bits: int
    signed: bool = True
    channel_axis: int | None = None
    batch_axis: int | None = None
    narrow_range: bool = False
    method: GradientMethod = methods.LG_LSQ

    def __post_init__(self):
        if isinstance(self.bits, bool):
            raise TypeError("`bits` must be a whole number between 2 and 8, got a bool")
        try:
            object.__setattr__(self, "bits", operator.index(self.bits))
        except TypeError:
            raise TypeError(f"`bits` must be a whole number between 2 and 8, got {self.bits!r}") from None
        if not 2 <= self.bits <= 8:
            raise ValueError(f"`bits` must be between 2 and 8, got {self.bits}")
        for name in ("signed", "narrow_range"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"`{name}` must be True or False, got {getattr(self, name)!r}")
        for name in ("channel_axis", "batch_axis"):
            axis = getattr(self, name)
            if axis is not None and (isinstance(axis, bool) or not isinstance(axis, int)):
                raise TypeError(f"`{name}` must be a whole number or None, got {axis!r}")
        if self.narrow_range and not self.signed:
            raise ValueError("`narrow_range` must be False for an unsigned quantizer, got True")
        if self.channel_axis is not None and self.channel_axis == self.batch_axis:
            raise ValueError(f"`channel_axis` and `batch_axis` must differ, got {self.channel_axis} for both")
        if not isinstance(self.method, GradientMethod):
            raise TypeError(f"`method` must be a GradientMethod such as methods.LG_LSQ, got {self.method!r}")

    @property
    def minimum(self) -> int:
        """Smallest code, ``Qn``."""
        return -(2 ** (self.bits - 1)) + int(self.narrow_range) if self.signed else 0

    @property
    def maximum(self) -> int:
        """Largest code, ``Qp``."""
        return 2 ** (self.bits - 1) - 1 if self.signed else 2**self.bits - 1

    @property
    def code_dtype(self):
        """int8 for signed codes, uint8 for unsigned ones."""
        return jnp.int8 if self.signed else jnp.uint8

    def axes_of_scale(self, ndim: int) -> tuple[int, ...]:
        """Returns the axes of an ``ndim``-dimensional tensor that one scale spans.

        Raises:
            ValueError: the tensor has no axis ``channel_axis``.
        """
        if self.channel_axis is None:
            return tuple(range(ndim))
        channel = self._axis("channel_axis", ndim)
        return tuple(axis for axis in range(ndim) if axis != channel)

    def scale_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Returns the shape of the scale of a tensor: ``()`` or ``(C,)``."""
        return () if self.channel_axis is None else (shape[self._axis("channel_axis", len(shape))],)

    def elements(self, shape: tuple[int, ...]) -> int:
        """Returns ``N``: how many elements of a tensor share one scale, the batch axis left out."""
        left_out = set() if self.batch_axis is None else {self._axis("batch_axis", len(shape))}
        count = 1
        for axis in self.axes_of_scale(len(shape)):
            count *= 1 if axis in left_out else shape[axis]
        return count

    def _axis(self, name: str, ndim: int) -> int:
        axis = getattr(self, name)
        if not -ndim <= axis < ndim:
            raise ValueError(f"`{name}` must be an axis of the tensor, which has {ndim}, got {axis}")
        return axis % ndim
