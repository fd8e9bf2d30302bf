"""Rounding ties of a rescale, found before it runs: most tensors have none, and then no tie has to be put right."""

import numpy as np

_MANY = 3  # places of ties that are looked at; two of one channel already differ in what they round to


def tie_correction(multiplier: np.ndarray, bias: np.ndarray, shift: int, low: int, high: int) -> np.ndarray | None:
    r"""Returns what to add to the bias so that :math:`\lfloor (n m + B + 2^{s-1}) / 2^s \rfloor` takes ties to even.

    A tie is a whole number ``n`` with :math:`n m + B + 2^{s-1} \equiv 0 \pmod{2^s}`: a congruence that has a solution
    only every :math:`2^{s-z}` numbers, where :math:`2^z` is the power of two in ``m``. Where a channel has no solution
    between ``low`` and ``high``, nothing is to be done; where it has one whose quotient is odd, one less in the bias
    moves the tie to the even side and no other number.

    Args:
        multiplier: int32 or wider, any shape.
        bias: int64; both broadcast together.
        shift: from 1 to 62.
        low: the smallest ``n``.
        high: the largest ``n``.

    Returns:
        0 or -1 for each channel, in the shape that ``multiplier`` and ``bias`` broadcast to; None where a channel has
        ties of both kinds.
    """
    multiplier, bias = np.broadcast_arrays(multiplier, bias)
    found = np.zeros(multiplier.shape, np.int64)
    for index in np.ndindex(multiplier.shape):
        parities = {value & 1 for value in _tied_quotients(int(multiplier[index]), int(bias[index]), shift, low, high)}
        if len(parities) == 2:
            return None
        found[index] = -1 if parities == {1} else 0
    return found


def _tied_quotients(multiplier: int, bias: int, shift: int, low: int, high: int) -> list[int]:
    """Returns the quotients, rounded up, of the first few ties."""
    whole = 1 << shift
    offset = bias + (whole >> 1)
    if multiplier == 0:
        return [] if offset % whole else [offset >> shift]
    power = min((multiplier & -multiplier).bit_length() - 1, shift)
    if offset % (1 << power):
        return []
    every = whole >> power
    start = (-(offset >> power) * pow(multiplier >> power, -1, every)) % every if every > 1 else 0
    first = low + (start - low) % every
    return [(number * multiplier + offset) >> shift for number in range(first, high + 1, every)[:_MANY]]
