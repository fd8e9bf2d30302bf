"""The geometry of a convolution, channels last."""

import dataclasses

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Shaped

Pairs = tuple[tuple[int, int], ...]


@dataclasses.dataclass(frozen=True)
class Window:
    """Strides, explicit padding, dilations and groups of a convolution; hashable.

    Inputs are ``[n, *spatial, c]``, kernels ``[*spatial, c / groups, o]``, outputs ``[n, *spatial, o]``.

    Attributes:
        strides: one a spatial axis.
        padding: zeros before and after, one pair a spatial axis.
        input_dilation: one a spatial axis.
        kernel_dilation: one a spatial axis.
        groups: number of groups of channels.
    """

    strides: tuple[int, ...]
    padding: Pairs
    input_dilation: tuple[int, ...]
    kernel_dilation: tuple[int, ...]
    groups: int = 1

    @classmethod
    def resolve(cls, x_shape, kernel_shape, strides, padding, input_dilation, kernel_dilation, groups) -> "Window":
        """Returns the window with ``"SAME"`` and ``"VALID"`` replaced by the numbers they mean for these shapes."""
        spatial = len(kernel_shape) - 2
        input_dilation = tuple(input_dilation or (1,) * spatial)
        kernel_dilation = tuple(kernel_dilation or (1,) * spatial)
        strides = tuple(strides)
        if isinstance(padding, str):
            dilated_input = [(size - 1) * d + 1 for size, d in zip(x_shape[1:-1], input_dilation, strict=True)]
            dilated_kernel = [(size - 1) * d + 1 for size, d in zip(kernel_shape[:-2], kernel_dilation, strict=True)]
            padding = lax.padtype_to_pads(dilated_input, dilated_kernel, strides, padding)
        pairs = tuple((int(before), int(after)) for before, after in padding)
        return cls(strides, pairs, input_dilation, kernel_dilation, int(groups))

    def is_depthwise(self, kernel_shape: tuple[int, ...]) -> bool:
        """Whether each channel has one filter of its own and nothing else does."""
        return self.groups > 1 and kernel_shape[-2] == 1 and kernel_shape[-1] == self.groups

    def terms(self, kernel_shape: tuple[int, ...]) -> int:
        """Returns how many products one output sums (padding counted)."""
        count = 1
        for size in kernel_shape[:-1]:
            count *= size
        return count


def convolve(
    x: Shaped[Array, "n *spatial c"], kernel: Shaped[Array, "*taps i o"], window: Window, result=None
) -> Shaped[Array, "n *out o"]:
    """Returns the convolution by the compiler's own kernel; ``result`` is the dtype of the accumulator."""
    spatial = "".join("DHW"[-(x.ndim - 2) :]) if x.ndim <= 5 else None
    if spatial is None:
        raise ValueError(f"a convolution may have 1 to 3 spatial axes, got {x.ndim - 2}")
    return lax.conv_general_dilated(
        x,
        kernel,
        window.strides,
        window.padding,
        lhs_dilation=window.input_dilation,
        rhs_dilation=window.kernel_dilation,
        dimension_numbers=(f"N{spatial}C", f"{spatial}IO", f"N{spatial}C"),
        feature_group_count=window.groups,
        preferred_element_type=result,
    )


def convolve_depthwise(
    x: Shaped[Array, "n *spatial c"], kernel: Shaped[Array, "*taps 1 c"], window: Window, result=None
) -> Shaped[Array, "n *out c"]:
    """Returns a depthwise convolution as a sum of shifted products, which a CPU does far faster than ``convolve``."""
    result = result or x.dtype
    zero = jnp.zeros((), x.dtype)
    interior = [(0, 0, 0)] + [
        (before, after, dilation - 1)
        for (before, after), dilation in zip(window.padding, window.input_dilation, strict=True)
    ]
    padded = lax.pad(x, zero, [*interior, (0, 0, 0)])
    taps = kernel.shape[:-2]
    reach = [(size - 1) * dilation for size, dilation in zip(taps, window.kernel_dilation, strict=True)]
    counts = [
        (size - span - 1) // stride + 1
        for size, span, stride in zip(padded.shape[1:-1], reach, window.strides, strict=True)
    ]
    total = None
    for index in np.ndindex(*taps):
        starts = [position * dilation for position, dilation in zip(index, window.kernel_dilation, strict=True)]
        ends = [
            start + (count - 1) * stride + 1
            for start, count, stride in zip(starts, counts, window.strides, strict=True)
        ]
        shifted = lax.slice(padded, [0, *starts, 0], [x.shape[0], *ends, x.shape[-1]], [1, *window.strides, 1]).astype(
            result
        )
        term = shifted * kernel[(*index, 0)].astype(result)
        total = term if total is None else total + term
    assert total is not None
    return total
