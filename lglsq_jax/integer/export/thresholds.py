"""A whole bias and a float step with which a quantized kernel makes a rescale's own codes, sum by sum."""

import dataclasses

import numpy as np

from ..fixed import least_sums

_TRIED = np.arange(-8, 9)
"""Biases that are tried, relative to the nearest one."""


@dataclasses.dataclass(frozen=True)
class Fit:
    """``code = clip(round((gain * n + count) / step), low, high)`` for one sum ``n`` a channel; all arrays ``[c]``.

    Attributes:
        counts: the bias, whole numbers.
        steps: gained sums to a code.
        constant: channels whose code is the same for every sum: their weights may be left out.
        exact: channels that have the codes of the rescale for every sum that can occur.
    """

    counts: np.ndarray
    steps: np.ndarray
    constant: np.ndarray
    exact: np.ndarray


def fit(
    multipliers: np.ndarray,
    biases: np.ndarray,
    shift: int,
    codes: tuple[int, int],
    sums: tuple[np.ndarray, np.ndarray],
    gains: np.ndarray,
) -> Fit:
    r"""Returns the bias and the step of each channel.

    Code :math:`c` begins at the smallest sum :math:`A_c` that the rescale rounds to it or above. A kernel has the same
    codes where :math:`g (A_c - 1) + b < (c - 1/2)\, t \le g A_c + b` for every ``c``: for each whole ``b`` the steps
    ``t`` of an interval. The widest one is taken, and the middle of it, so that float rounding is harmless.

    Args:
        multipliers: whole numbers ``[c]``, none negative.
        biases: whole numbers ``[c]``.
        shift: the rescale's.
        codes: the smallest and the largest code.
        sums: the smallest and the largest sum of each channel.
        gains: what the weights are multiplied with, ``[c]``.
    """
    low, high = codes
    thresholds = np.arange(low + 1, high + 1)
    first = _first_sums(multipliers, biases, shift, thresholds)
    least, most = sums[0][:, None], sums[1][:, None]
    constant = np.asarray(((first <= least) | (first > most)).all(axis=1))
    middles, gain = (thresholds - 0.5)[None, :, None], gains[:, None, None].astype(np.float64)
    below = np.where(first <= least, -np.inf, np.minimum(first - 1, most))[:, :, None]
    above = np.where(first > most, np.inf, np.maximum(first, least))[:, :, None]
    real = np.array([float(int(m)) for m in multipliers])
    real_bias = np.array([float(int(b)) for b in biases])
    safe = np.where(real > 0, real, 1.0)
    nearest = np.where(constant, 0, np.rint(real_bias / safe * gains))
    tried = nearest[:, None] + _TRIED
    offsets = tried[:, None, :]
    # (gain * below + b) < middle * t <= (gain * above + b); dividing by a negative middle turns both around.
    lower, upper = (gain * below + offsets) / middles, (gain * above + offsets) / middles
    lower, upper = np.where(middles > 0, lower, upper), np.where(middles > 0, upper, lower)
    begin, end = np.maximum(lower.max(axis=1), 0), upper.min(axis=1)
    exact_step = 2.0**shift / safe * gains
    begin, end = np.maximum(begin, exact_step[:, None] / 2), np.minimum(end, exact_step[:, None] * 2)
    width = (end - begin) / exact_step[:, None]
    best = width.argmax(axis=1)
    rows = np.arange(len(gains))
    exact = width[rows, best] > 2.0**-20
    steps = np.where(exact, (begin + end)[rows, best] / 2, exact_step)
    counts = np.where(exact, tried[rows, best], nearest)
    code = np.clip(_constant_codes(first, least, thresholds, low), low, high)
    return Fit(
        counts=np.where(constant, code, counts).astype(np.int64),
        steps=np.where(constant, 1.0, steps),
        constant=constant,
        exact=exact | constant,
    )


def _first_sums(multipliers: np.ndarray, biases: np.ndarray, shift: int, codes: np.ndarray) -> np.ndarray:
    """Returns the smallest whole ``n`` that a rescale takes to each code or above, exactly; float64 ``[c, codes]``."""
    found = np.empty((len(multipliers), len(codes)))
    for row, (multiplier, bias) in enumerate(zip(multipliers, biases, strict=True)):
        for column, code in enumerate(codes.tolist()):
            needed = least_sums(code, shift) - int(bias)
            if multiplier == 0:
                found[row, column] = -np.inf if needed <= 0 else np.inf
            else:
                found[row, column] = -(-needed // int(multiplier))
    return found


def _constant_codes(first: np.ndarray, least: np.ndarray, thresholds: np.ndarray, low: int) -> np.ndarray:
    """Returns the code of each channel's smallest sum."""
    return low + (first <= least).sum(axis=1) if len(thresholds) else np.full(len(first), low)
