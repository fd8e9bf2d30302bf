"""Convolution and matrix product on integer codes with int32 accumulators; no float anywhere."""

import functools
import math

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Int32, Integer

from .groups import convolve_by_shifts, convolve_in_place, prefers_shifts
from .rows import convolve_by_rows, prefers_rows
from .window import Window

_SHIFT = 128  # moves unsigned 8-bit codes into int8
_LARGEST_CODE = 128  # in size, of an int8
_WORTH_A_BRANCH = 2**18  # sums; with fewer the branch costs what it gains, as measured


def convolve_int32(
    codes: Integer[Array, "n *spatial c"],
    kernel: Integer[Array, "*taps i o"],
    window: Window,
    code_maximum: int,
) -> Int32[Array, "n *out o"]:
    """Returns the convolution of integer codes, exactly.

    Codes above 127 (unsigned, 8 bits) travel as ``code - 128``: the padding becomes -128, and ``128 * sum(kernel)``
    is added back.

    Args:
        codes: within [-128, ``code_maximum``], any integer dtype.
        kernel: within int8.
        window: the geometry.
        code_maximum: the largest code that can occur.
    """
    if window.is_product(kernel.shape):  # which the compiler does a little faster on a CPU
        steps = (1, *window.strides, 1)
        picked = lax.slice(codes, (0,) * codes.ndim, codes.shape, steps) if max(steps) > 1 else codes
        return multiply_int32(picked, kernel.reshape(kernel.shape[-2:]), code_maximum)
    kernel = kernel.astype(jnp.int8)
    # On every platform: a GPU has no integer convolution, but it has integer products.
    run = convolve_in_place
    if prefers_shifts(kernel.shape, window):
        run = _convolve_by_shifts
    elif prefers_rows(kernel.shape, window):
        run = convolve_by_rows
    if code_maximum <= 127:
        return run(codes.astype(jnp.int8), kernel, window, jnp.int32)
    shifted = (codes.astype(jnp.int32) - _SHIFT).astype(jnp.int8)
    interior = [(*pair, dilation - 1) for pair, dilation in zip(window.padding, window.input_dilation, strict=True)]
    shifted = lax.pad(shifted, jnp.int8(-_SHIFT), [(0, 0, 0), *interior, (0, 0, 0)])
    flat = Window(
        window.strides, ((0, 0),) * len(interior), (1,) * len(interior), window.kernel_dilation, window.groups
    )
    taps = tuple(range(kernel.ndim - 1))
    return run(shifted, kernel, flat, jnp.int32) + _SHIFT * _sum(kernel, taps)


def _convolve_by_shifts(codes, kernel, window: Window, result):
    """``convolve_by_shifts``, twice as many numbers at a time where a kernel that is known now keeps sums in int16."""
    bound = _largest_sum(kernel)
    if bound is None or bound > np.iinfo(np.int16).max:
        return convolve_by_shifts(codes, kernel, window, result)
    sums = convolve_by_shifts(codes, kernel, window, jnp.int16)
    sizes = [size for size in sums.shape if isinstance(size, int)]  # not the batch while exporting
    if len(sizes) == sums.ndim and math.prod(sizes) < _WORTH_A_BRANCH:
        return sums.astype(result)
    sums = lax.platform_dependent(sums, cpu=functools.partial(_apart, bound=bound), default=lambda sums: sums)
    return sums.astype(result)


def _largest_sum(kernel) -> int | None:
    """Returns a bound of a depthwise sum of int8 codes; None where the kernel is not known yet."""
    if not isinstance(kernel, np.ndarray):
        return None
    taps = tuple(range(kernel.ndim - 1))
    return _LARGEST_CODE * int(np.abs(kernel.astype(np.int64)).sum(axis=taps).max(initial=0))


def _apart(x: Integer[Array, "..."], bound: int) -> Integer[Array, "..."]:
    """Returns ``x``, all of it at most ``bound``, through a branch that is never taken.

    The compiler joins no loops across a branch. Joined with the rescale behind them, sums in int16 are computed as
    few at a time as that is in int32; apart, a depthwise layer takes two thirds of the time.
    """
    return lax.cond(x[(0,) * x.ndim] > bound, lambda x: x + 1, lambda x: x, x)


def multiply_int32(
    codes: Integer[Array, "*batch k"], kernel: Integer[Array, "k o"], code_maximum: int
) -> Int32[Array, "*batch o"]:
    """Returns the matrix product of integer codes over the last axis, exactly; ranges as in ``convolve_int32``."""
    kernel = kernel.astype(jnp.int8)
    if code_maximum <= 127:
        return _product(codes.astype(jnp.int8), kernel)
    shifted = (codes.astype(jnp.int32) - _SHIFT).astype(jnp.int8)
    return _product(shifted, kernel) + _SHIFT * _sum(kernel, (0,))


def _product(codes, kernel):
    """``codes @ kernel`` with both contracted over their last axis: few rows take half the time on a CPU.

    A kernel that is known now is transposed once, when a program is compiled.
    """
    rows = codes.reshape(-1, codes.shape[-1])
    sums = lax.dot_general(rows, kernel.T, (((1,), (1,)), ((), ())), preferred_element_type=jnp.int32)
    return sums.reshape(*codes.shape[:-1], kernel.shape[-1])


def _sum(kernel, axes: tuple[int, ...]) -> Int32[Array, "..."]:
    """Adds up in int32: a kernel known now by NumPy at once, since XLA takes seconds to fold the sum of a large one."""
    return kernel.sum(axis=axes, dtype=jnp.int32)
