"""What a gradient rule may look at: one quantizer's tensors in the backward pass."""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

# Beyond this, v = x / scale is only "far outside the clip range"; sums of its square must stay finite in float32.
_FAR = 1e15


@dataclasses.dataclass(frozen=True)
class QuantizerContext:
    """The tensors of one quantizer, all float32, as METHOD notation names them.

    Attributes:
        gradient: ``g``, the loss gradient with respect to the fake-quantized tensor.
        values: ``x`` (less the offset, where there is one); same shape as ``gradient``.
        normalised: ``v = x / scale``, dimensionless.
        codes: ``q = clip(round(v), minimum, maximum)``, whole numbers.
        inside: ``minimum <= v <= maximum``, both edges included.
        scale: ``s``, broadcastable to ``values``.
        minimum: smallest code, ``Qn``.
        maximum: largest code, ``Qp``.
        elements: ``N``, how many elements share one scale (a batch axis left out).
        axes: the axes that one scale spans.
        progress: training progress ``p`` in [0, 1]; traced.
    """

    gradient: Float[Array, "*shape"]
    values: Float[Array, "*shape"]
    normalised: Float[Array, "*shape"]
    codes: Float[Array, "*shape"]
    inside: Bool[Array, "*shape"]
    scale: Float[Array, "..."]
    minimum: int
    maximum: int
    elements: int
    axes: tuple[int, ...]
    progress: Float[Array, ""]

    def sum(self, tensor: Float[Array, "*shape"]) -> Float[Array, "..."]:
        """Sums over everything that shares one scale; the shape broadcasts against ``values``."""
        return jnp.sum(tensor, axis=self.axes, keepdims=True)

    def any(self, mask: Bool[Array, "*shape"]) -> Bool[Array, "..."]:
        """Whether ``mask`` holds anywhere among the elements that share one scale."""
        return jnp.any(mask, axis=self.axes, keepdims=True)

    @property
    def bounded(self) -> Float[Array, "*shape"]:
        """``v`` held within a range whose squares can be summed in float32; equal to ``v`` for any trainable scale."""
        return jnp.clip(self.normalised, -_FAR, _FAR)

    @property
    def rounding_error(self) -> Float[Array, "*shape"]:
        """``e = clip(v - q, -1/2, 1/2)``, in codes."""
        return jnp.clip(self.normalised - self.codes, -0.5, 0.5)
