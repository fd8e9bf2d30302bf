"""Products of codes, exact to the bit, in whatever arithmetic is fastest on the machine.

A sum of products of codes is a whole number. Below 2**24 float32 holds it exactly whatever the order of the sum, and
bfloat16 holds every code of up to 8 bits, so the choice of arithmetic changes the time and nothing else.
"""

import functools

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from ..mesh_axes import vary_together
from ..primitives import define
from .groups import convolve_by_shifts, convolve_in_place, prefers_shifts
from .integer import convolve_int32, multiply_int32
from .window import Window

Range = tuple[int, int]

ARITHMETICS = ("float32", "bfloat16", "split", "int8")
"""What ``choose_arithmetic`` chooses from: ways to compute the same exact sums."""
_EXACT_IN_FLOAT32 = 2**24
_INT32_MAX = 2**31 - 1
_INT8_PAYS_FROM = 32  # channels a group; measured on x86 CPUs: 1.1 to 1.8 times as fast from here on, slower below


def largest_sum(x_range: Range, kernel_range: Range, terms: int) -> int:
    """Returns the bound ``max|q_x| * max|q_w| * K`` on any partial sum of ``K`` products."""
    return max(map(abs, x_range)) * max(map(abs, kernel_range)) * terms


def choose_arithmetic(platform: str, x_range: Range, kernel_range: Range, terms: int, channels: int) -> str:
    """Returns the arithmetic for a product of codes.

    Args:
        platform: ``"cpu"`` or an accelerator's name.
        x_range: smallest and largest input code.
        kernel_range: smallest and largest weight code.
        terms: how many products a sum has, ``K``.
        channels: input channels a group; 1 for a matrix product, which a CPU does 1.1 to 3 times as fast in float32.

    Returns:
        ``"float32"``; ``"bfloat16"`` (inputs, accumulated in float32); ``"split"`` (weights as ``16 high + low``, two
        float products whose sums stay exact, added in int32); or ``"int8"`` (accumulated in int32). Where even int32
        could overflow, the first on a CPU and the second elsewhere: rounded as the sums of floats are.
    """
    bound = largest_sum(x_range, kernel_range, terms)
    fits = bound < _EXACT_IN_FLOAT32
    if bound > _INT32_MAX:
        return "float32" if platform == "cpu" else "bfloat16"
    if platform == "cpu":
        return "float32" if fits and channels < _INT8_PAYS_FROM else "int8"
    if fits:
        return "bfloat16"
    # No integer convolution on a GPU (jax issue 7637); halves of the weights are exact there.
    return "split" if largest_sum(x_range, (0, 15), terms) < _EXACT_IN_FLOAT32 else "int8"


def _in_arithmetic(arithmetic, x, kernel, x_range, float_product, integer_product):
    if arithmetic == "float32":
        return float_product(x, kernel, None)
    if arithmetic == "bfloat16":
        return float_product(x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16), jnp.float32)
    # A NaN has no integer: where the codes hold one, the whole result is NaN.
    poison = jnp.isnan(x).any() | jnp.isnan(kernel).any()
    if arithmetic == "split":
        high = jnp.floor(kernel / 16)
        parts = [float_product(x, part, None) for part in (high, kernel - 16 * high)]
        total = 16 * parts[0].astype(jnp.int32) + parts[1].astype(jnp.int32)
    else:
        dtype = jnp.int8 if x_range[1] <= 127 else jnp.int32
        total = integer_product(x.astype(dtype), kernel.astype(jnp.int8))
    return jnp.where(poison, jnp.nan, total.astype(jnp.float32))


def convolve_in(
    arithmetic: str,
    x: Float[Array, "n *spatial c"],
    kernel: Float[Array, "*taps i o"],
    window: Window,
    x_range: Range,
    *,
    shifts: bool = False,
) -> Float[Array, "n *out o"]:
    """Returns the convolution of codes in one given arithmetic, as float32; all agree to the bit below 2**24.

    ``shifts``: float products as a sum of shifted inputs times weights instead of the compiler's convolution.
    """
    run = convolve_by_shifts if shifts else convolve_in_place
    return _in_arithmetic(
        arithmetic,
        x,
        kernel,
        x_range,
        lambda x, kernel, result: run(x, kernel, window, result),
        lambda x, kernel: convolve_int32(x, kernel, window, x_range[1]),
    )


def multiply_in(
    arithmetic: str, x: Float[Array, "*batch k"], kernel: Float[Array, "k o"], x_range: Range
) -> Float[Array, "*batch o"]:
    """Returns the matrix product of codes in one given arithmetic, as float32; all agree to the bit below 2**24."""
    return _in_arithmetic(
        arithmetic,
        x,
        kernel,
        x_range,
        lambda x, kernel, result: lax.dot_general(
            x, kernel, (((x.ndim - 1,), (0,)), ((), ())), preferred_element_type=result
        ),
        lambda x, kernel: multiply_int32(x, kernel, x_range[1]),
    )


def _convolve_on(platform, x, kernel, *, window, x_range, kernel_range):
    terms = window.terms(kernel.shape)
    channels = 1 if window.is_product(kernel.shape) else kernel.shape[-2]
    arithmetic = choose_arithmetic(platform, x_range, kernel_range, terms, channels)
    shifts = platform == "cpu" and prefers_shifts(kernel.shape, window)
    return convolve_in(arithmetic, x, kernel, window, x_range, shifts=shifts)


def _multiply_on(platform, x, kernel, *, x_range, kernel_range):
    arithmetic = choose_arithmetic(platform, x_range, kernel_range, kernel.shape[0], 1)
    return multiply_in(arithmetic, x, kernel, x_range)


_convolve_p = define(
    "lglsq_convolve",
    functools.partial(_convolve_on, "accelerator"),
    {"cpu": functools.partial(_convolve_on, "cpu")},
)
_multiply_p = define(
    "lglsq_multiply",
    functools.partial(_multiply_on, "accelerator"),
    {"cpu": functools.partial(_multiply_on, "cpu")},
)


def convolve_codes(
    x: Float[Array, "n *spatial c"],
    kernel: Float[Array, "*taps i o"],
    window: Window,
    x_range: Range,
    kernel_range: Range,
) -> Float[Array, "n *out o"]:
    """Returns the exact convolution of whole numbers held in float32, as float32.

    Exact while ``largest_sum`` stays below 2**24; beyond that the int32 accumulator is rounded once, at the end, and
    from 2**31 on, more than int32 holds, the sums are those of floats.

    Args:
        x: input codes within ``x_range``; NaN is passed on.
        kernel: weight codes within ``kernel_range``, which must fit int8.
        window: the geometry.
        x_range: smallest and largest input code, within [-128, 255].
        kernel_range: smallest and largest weight code.
    """
    return _convolve_p.bind(*vary_together(x, kernel), window=window, x_range=x_range, kernel_range=kernel_range)


def multiply_codes(
    x: Float[Array, "*batch k"], kernel: Float[Array, "k o"], x_range: Range, kernel_range: Range
) -> Float[Array, "*batch o"]:
    """Returns the exact matrix product of whole numbers over the last axis of ``x``; see ``convolve_codes``."""
    return _multiply_p.bind(*vary_together(x, kernel), x_range=x_range, kernel_range=kernel_range)
