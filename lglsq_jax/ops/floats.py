"""Float convolutions and their gradients, each in the formulation that is fastest on the machine.

The one place that chooses: sums of shifted products for groups of few channels on a CPU, matrix products of blocks for
the gradient of a kernel there, the compiler's own convolution for everything else and on an accelerator.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from ..mesh_axes import layout_of_product, left_to_compiler, vary_together
from .groups import convolve_by_shifts, convolve_in_place, prefers_shifts, pull_back_by_shifts
from .kernel_gradient import kernel_gradient
from .window import Window, convolve


def pull_back(
    x: Float[Array, "n *spatial c"],
    kernel: Float[Array, "*taps i o"],
    gradient: Float[Array, "n *out o"],
    window: Window,
) -> tuple[Float[Array, "n *spatial c"], Float[Array, "*taps i o"]]:
    """Returns the gradients of ``convolve(x, kernel, window)`` with respect to both, from that of its result."""

    def by_compiler(x, kernel, gradient):
        return jax.vjp(lambda x, kernel: convolve_in_place(x, kernel, window), x, kernel)[1](gradient)

    if window.groups > 1:
        by_shifts = functools.partial(pull_back_by_shifts, window=window)
        return lax.platform_dependent(x, kernel, gradient, cpu=by_shifts, default=by_compiler)
    (of_x,) = jax.vjp(lambda x: convolve(x, kernel, window), x)[1](gradient)
    return of_x, kernel_gradient(x, gradient, kernel.shape, window)


def convolve_groups(
    x: Float[Array, "n *spatial c"], kernel: Float[Array, "*taps i o"], window: Window
) -> Float[Array, "n *out o"]:
    """Returns the convolution of floats in several groups of channels; the dtype of ``x``, summed in float32 at least.

    Differentiable in reverse, any number of times; not forward.
    """
    run = functools.partial(_convolve_groups, window=window)
    return left_to_compiler(run, layout_of_product(x, kernel), *vary_together(x, kernel))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _convolve_groups(x, kernel, window):
    def by_shifts(x, kernel):
        return convolve_by_shifts(x, kernel, window, jnp.promote_types(x.dtype, jnp.float32)).astype(x.dtype)

    def by_compiler(x, kernel):
        return convolve_in_place(x, kernel, window)

    chosen = by_shifts if prefers_shifts(kernel.shape, window) else by_compiler
    return lax.platform_dependent(x, kernel, cpu=chosen, default=by_compiler)


def _forward(x, kernel, window):
    return _convolve_groups(x, kernel, window), (x, kernel)


def _backward(window, saved, gradient):
    x, kernel = saved
    wide = jnp.promote_types(x.dtype, jnp.float32)
    of_x, of_kernel = pull_back(x.astype(wide), kernel.astype(wide), gradient.astype(wide), window)
    return of_x.astype(x.dtype), of_kernel.astype(kernel.dtype)


_convolve_groups.defvjp(_forward, _backward)


def conv_general_dilated(
    lhs,
    rhs,
    window_strides,
    padding,
    lhs_dilation=None,
    rhs_dilation=None,
    dimension_numbers=None,
    feature_group_count=1,
    batch_group_count=1,
    precision=None,
    preferred_element_type=None,
    out_sharding=None,
) -> Array:
    """``jax.lax.conv_general_dilated`` with a fast way for grouped convolutions; an argument of ``nnx.Conv``.

    Channels last, several groups, and no wish about precision, dtype or sharding: ``convolve_groups``. Everything else
    is passed on to ``lax``.
    """
    wishes = (precision, preferred_element_type, out_sharding)
    if feature_group_count > 1 and batch_group_count == 1 and wishes == (None, None, None):
        last = lhs.ndim - 1
        numbers = lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)
        spatial = tuple(range(1, last))
        channels_last = (0, last, *spatial)
        if (numbers.lhs_spec, numbers.rhs_spec, numbers.out_spec) == (
            channels_last,
            (last, last - 1, *(axis - 1 for axis in spatial)),
            channels_last,
        ):
            window = Window.resolve(
                lhs.shape, rhs.shape, window_strides, padding, lhs_dilation, rhs_dilation, feature_group_count
            )
            return convolve_groups(lhs, rhs, window)
    return lax.conv_general_dilated(
        lhs,
        rhs,
        window_strides,
        padding,
        lhs_dilation,
        rhs_dilation,
        dimension_numbers,
        feature_group_count,
        batch_group_count,
        precision,
        preferred_element_type,
        out_sharding=out_sharding,
    )
