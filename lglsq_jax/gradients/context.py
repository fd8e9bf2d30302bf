"""What a gradient rule may look at: one quantizer's tensors in the backward pass, and how sums over them are taken."""

import dataclasses
import functools
import math
import operator
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from ..mesh_axes import sum_over
from ..primitives import clip_codes, normalise

# Beyond this, v = x / scale is only "far outside the clip range"; sums of its square must stay finite in float32.
_FAR = 1e15
_SLICE = 2**14  # elements of a slice; its sums then stay in a core's cache

Sums = tuple[Float[Array, "..."], ...]


def _add(a, b):  # one function for all calls: with a new one each time eager gradients would compile every time
    return tuple(map(operator.add, a, b))


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _sums_over(tensors: Sums, axes: tuple[int, ...]) -> Sums:
    """The sum of each tensor, all in one pass; differentiable, which a reduction of several operands is not."""
    return tuple(lax.reduce(tensors, (jnp.float32(0),) * len(tensors), _add, axes))


@_sums_over.defjvp
def _(axes, primals, tangents):
    return _sums_over(*primals, axes), tuple(jnp.sum(tangent, axes) for tangent in tangents[0])


@dataclasses.dataclass(frozen=True, eq=False)
class QuantizerContext:
    """The tensors of one quantizer, all float32, as METHOD notation names them.

    Attributes:
        gradient: ``g``, the loss gradient with respect to the fake-quantized tensor.
        values: ``x`` (less the offset, where there is one); same shape as ``gradient``.
        scale: ``s``, broadcastable to ``values``.
        minimum: smallest code, ``Qn``.
        maximum: largest code, ``Qp``.
        elements: ``N``, how many elements share one scale (a batch axis left out).
        axes: the axes that one scale spans.
        progress: training progress ``p`` in [0, 1]; traced.
        mesh_axes: the axes of devices, in ``jax.shard_map``, that one scale spans; ``sums`` are taken over them too.
    """

    gradient: Float[Array, "*shape"]
    values: Float[Array, "*shape"]
    scale: Float[Array, "..."]
    minimum: int
    maximum: int
    elements: int
    axes: tuple[int, ...]
    progress: Float[Array, ""]
    mesh_axes: frozenset[str] = frozenset()

    @functools.cached_property
    def normalised(self) -> Float[Array, "*shape"]:
        """``v = x / scale``, dimensionless."""
        return normalise(self.values, self.scale)

    @functools.cached_property
    def clipped(self) -> Float[Array, "*shape"]:
        """``clip(v, minimum, maximum)``."""
        return clip_codes(self.normalised, self.minimum, self.maximum)

    @functools.cached_property
    def codes(self) -> Float[Array, "*shape"]:
        """``q = clip(round(v), minimum, maximum)``, whole numbers."""
        return jnp.round(self.clipped)

    @functools.cached_property
    def inside(self) -> Bool[Array, "*shape"]:
        """``minimum <= v <= maximum``, both edges included."""
        return self.clipped == self.normalised

    @property
    def bounded(self) -> Float[Array, "*shape"]:
        """``v`` held within a range whose squares can be summed in float32; equal to ``v`` for any trainable scale."""
        return jnp.clip(self.normalised, -_FAR, _FAR)

    @property
    def rounding_error(self) -> Float[Array, "*shape"]:
        """``e = clip(v - q, -1/2, 1/2)``, in codes."""
        return jnp.clip(self.normalised - self.codes, -0.5, 0.5)

    def sums(self, terms: Callable[["QuantizerContext"], Sums]) -> Sums:
        """Returns the sums of elementwise ``terms(context)`` over everything that shares one scale, in one pass.

        Each result broadcasts against ``values``. ``terms`` is called with a context of the whole tensors or of slices
        of them. On a CPU a large tensor is taken slice by slice into sums that stay in the cache, three times as fast
        as a reduction; elsewhere it is one reduction. The first axis, the batch, is summed last, so that a sharded
        batch stays where it is until there is one number a sample. In ``jax.shard_map`` the devices' sums are added up.
        """
        if not jax.eval_shape(terms, self):
            return ()
        slices = self._slices()
        if slices is None:
            return sum_over(self._reduced(terms), self.mesh_axes)
        own = lax.platform_dependent(
            self,
            cpu=lambda context: context._accumulated(terms, slices),
            default=lambda context: context._reduced(terms),
        )
        return sum_over(own, self.mesh_axes)

    def _reduced(self, terms: Callable[["QuantizerContext"], Sums]) -> Sums:
        inner = tuple(axis for axis in self.axes if axis != 0) if len(self.axes) > 1 else self.axes
        tensors = terms(self)
        partial = _sums_over(tensors, inner)
        rest = (0,) if inner != self.axes else ()
        shape = tuple(1 if axis in self.axes else size for axis, size in enumerate(self.values.shape))
        return tuple(jnp.sum(tensor, axis=rest).reshape(shape) for tensor in partial)

    def _slices(self) -> int | None:
        """Returns into how many slices, across the batch, a large tensor with one scale is cut; None: not at all."""
        shape = self.values.shape
        if len(self.axes) != len(shape) or len(shape) < 2 or self.values.size < 4 * _SLICE:
            return None
        rest = math.prod(shape[1:])
        fewest = -(-self.values.size // _SLICE)
        return next((count for count in range(fewest, 4 * fewest) if rest % count == 0), None)

    def _accumulated(self, terms: Callable[["QuantizerContext"], Sums], slices: int) -> Sums:
        # Long contiguous rows: over the image axes as they are, the compiler's inner loop would be as short as the
        # number of channels.
        rows = (self.values.shape[0], slices, -1)
        gradient, values = self.gradient.reshape(rows), self.values.reshape(rows)
        scale = self.scale.reshape(())

        def part(index):
            def cut(tensor):
                return lax.dynamic_index_in_dim(tensor, index, 1, keepdims=False)

            return terms(
                QuantizerContext(
                    cut(gradient), cut(values), scale, self.minimum, self.maximum, self.elements, (0, 1), self.progress
                )
            )

        totals = lax.fori_loop(1, slices, lambda i, sums: tuple(map(operator.add, sums, part(i))), part(0))
        shape = (1,) * self.values.ndim
        return tuple(jnp.sum(total).reshape(shape) for total in totals)


jax.tree_util.register_dataclass(
    QuantizerContext,
    data_fields=["gradient", "values", "scale", "progress"],
    meta_fields=["minimum", "maximum", "elements", "axes", "mesh_axes"],
)
