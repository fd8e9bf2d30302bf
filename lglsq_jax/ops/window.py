"""The geometry of a convolution, channels last."""

import dataclasses

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

    def is_product(self, kernel_shape: tuple[int, ...]) -> bool:
        """Whether the convolution is a matrix product of single pixels, strided or not."""
        dilated = any(dilation > 1 for dilation in self.input_dilation)
        padded = any(pad for pair in self.padding for pad in pair)
        return self.groups == 1 and set(kernel_shape[:-2]) == {1} and not (dilated or padded)

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
