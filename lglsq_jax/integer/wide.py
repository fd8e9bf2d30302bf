"""64-bit sums of int32 products in 32-bit halves: no int64, no float.

A number is a pair ``(high, low)``: int32 and uint32, worth ``high * 2**32 + low``.
"""

import jax.numpy as jnp
from jaxtyping import Array, Int32, UInt32

Wide = tuple[Int32[Array, "..."], UInt32[Array, "..."]]


def product(a: Int32[Array, "..."], b: Int32[Array, "..."]) -> Wide:
    """Returns ``a * b`` exactly, from products of 16-bit halves."""
    a_low, b_low = a & 0xFFFF, b & 0xFFFF
    a_high, b_high = a >> 16, b >> 16
    low_low = a_low.astype(jnp.uint32) * b_low.astype(jnp.uint32)
    low_high, high_low = a_low * b_high, a_high * b_low  # each within int32
    middle = (
        (low_low >> 16) + (low_high & 0xFFFF).astype(jnp.uint32) + (high_low & 0xFFFF).astype(jnp.uint32)
    )  # at most 3 * 65535
    high = a_high * b_high + (low_high >> 16) + (high_low >> 16) + (middle >> 16).astype(jnp.int32)
    return high, (middle << 16) | (low_low & 0xFFFF)


def add(x: Wide, y: Wide) -> Wide:
    """Returns ``x + y``."""
    low = x[1] + y[1]
    return x[0] + y[0] + (low < x[1]).astype(jnp.int32), low


def shift_right(x: Wide, shift: int) -> Wide:
    """Returns ``x / 2**shift`` rounded down; ``shift`` from 0 to 63."""
    high, low = x
    if shift >= 32:
        high, low = high >> 31, high.astype(jnp.uint32) if shift == 32 else (high >> (shift - 32)).astype(jnp.uint32)
    elif shift > 0:
        high, low = high >> shift, (high << (32 - shift)).astype(jnp.uint32) | (low >> shift)
    return high, low


def clamp(x: Wide, smallest: tuple[int, int], largest: tuple[int, int]) -> Wide:
    """Returns ``x`` held between two constants, each given as ``(high, low)``."""
    for bound, above in ((smallest, False), (largest, True)):
        high, low = jnp.int32(bound[0]), jnp.uint32(bound[1])
        less = (x[0] < high) | ((x[0] == high) & (x[1] < low))
        greater = (x[0] > high) | ((x[0] == high) & (x[1] > low))
        outside = greater if above else less
        x = jnp.where(outside, high, x[0]), jnp.where(outside, low, x[1])
    return x


def round_shift(x: Wide, shift: int) -> Int32[Array, "..."]:
    """Returns ``x / 2**shift`` rounded to the nearest whole number, halves to even; the result must fit int32.

    Args:
        x: with ``|x| + 2**(shift - 1) < 2**63``.
        shift: from 1 to 62.
    """
    half = 1 << (shift - 1)
    high, low = add(x, (jnp.int32(half >> 32), jnp.uint32(half & 0xFFFFFFFF)))
    if shift >= 32:
        rest_low = low
        rest_high = high & ((1 << (shift - 32)) - 1)
        result = high >> (shift - 32)
        tie = (rest_low == 0) & (rest_high == 0)
    else:
        tie = (low & jnp.uint32((1 << shift) - 1)) == 0
        result = ((high << (32 - shift)).astype(jnp.uint32) | (low >> shift)).astype(jnp.int32)
    return result - (tie & ((result & 1) == 1)).astype(jnp.int32)
