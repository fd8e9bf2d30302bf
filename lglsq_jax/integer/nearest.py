"""Proof that a rescale's code is the nearest one, for every accumulator that can occur; where it is not, made so."""

import dataclasses
from fractions import Fraction

import numpy as np

from .fixed import FixedPoint, least_sums
from .node import INT32_MAX, Node, aligned

MOST_CODES = 256
_TRIED = (0, 1, -1, 2, -2, 3, -3, 4, -4)  # changes of a multiplier's last digit
_UNSET = 99
_LARGEST_SUM = 2.0**62


@dataclasses.dataclass(frozen=True, eq=False)
class _Rows:
    """A rescale of one term, one row a channel; a falling row is mirrored, so that codes never fall with ``n``."""

    shape: tuple[int, ...]
    scale: np.ndarray
    bias: np.ndarray
    low: np.ndarray
    high: np.ndarray
    sign: np.ndarray
    codes: np.ndarray

    @property
    def first(self) -> np.ndarray:
        """Smallest ``n`` of each code ``k`` but the lowest, ``[rows, codes]``, within ``[low, high + 1]``.

        Where ``scale * n + bias`` is at least ``k - 1/2``, or above it for an odd ``k``: halves go to the even code.
        Decided in float64, and in fractions where that is too close to call.
        """
        wanted = self.codes - 0.5 - self.bias[:, None]
        with np.errstate(divide="ignore", invalid="ignore"):
            place = wanted / self.scale[:, None]
            doubt = 4e-15 * ((np.abs(self.codes) + np.abs(self.bias[:, None])) / self.scale[:, None] + np.abs(place))
        odd = self.codes % 2 == 1
        flat = np.where(np.where(odd, wanted < 0, wanted <= 0), -np.inf, np.inf)
        place = np.where(self.scale[:, None] > 0, place, flat)
        place = np.clip(place, self.low[:, None] - 2.0, self.high[:, None] + 2.0)
        first = np.ceil(place).astype(np.int64)
        for row, column in np.argwhere((np.abs(place - np.rint(place)) <= doubt) & (self.scale[:, None] > 0)):
            whole = int(np.rint(place[row, column]))
            value = Fraction(float(self.scale[row])) * whole + Fraction(float(self.bias[row]))
            edge = Fraction(2 * int(self.codes[column]) - 1, 2)
            reached = value > edge or (value == edge and not odd[column])
            first[row, column] = whole if reached else whole + 1
        return np.clip(first, self.low[:, None], self.high[:, None] + 1)


def is_code(node: Node) -> bool:
    """Whether a rescale makes codes of one integer tensor, of which nearness can be proved."""
    return len(node.inputs) == 1 and node.attributes["high"] - node.attributes["low"] < MOST_CODES


def made_nearest(node: Node, fixed: FixedPoint) -> FixedPoint | None:
    r"""Returns constants whose code is the nearest to :math:`s n + b` for every ``n`` that can occur; ties go to even.

    Codes never fall as ``n`` grows, so it is enough that each code begins at the right ``n``: at both sides of every
    boundary ``⌊n m / 2^t⌋ + B`` must fall on the right side of the code's lower end. These are bounds on ``B``; where
    they leave no ``B``, multipliers one to four units away are tried.

    Args:
        node: a rescale for which ``is_code`` holds.
        fixed: its constants, rounded.

    Returns:
        The constants, most often the given ones; None where no such constants were found.
    """
    rows = _rows(node)
    shape, first = rows.shape, rows.first
    near = np.abs(rows.codes).astype(float) * 2.0**fixed.shift < _LARGEST_SUM  # no sum reaches the other codes' ends
    codes, first = rows.codes[near], first[:, near]
    ends = least_sums(codes, fixed.shift)
    multiplier, bias = fixed.multipliers[0].astype(np.int64), fixed.bias
    (extra,) = fixed.term_shifts
    multiplier, bias = aligned(multiplier, len(shape)), aligned(bias, len(shape))
    shared = tuple(axis for axis, size in enumerate(multiplier.shape) if size == 1)
    within, above = first <= rows.high[:, None], first > rows.low[:, None]
    choice, low, high = np.full(multiplier.shape, _UNSET), np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    for change in _TRIED:
        factor = np.broadcast_to(multiplier + change, shape).ravel() * rows.sign
        most = np.where(above, ends - (((first - 1) * factor[:, None]) >> extra) - 1, 2**62).min(1, initial=2**62)
        least = np.where(within, ends - ((first * factor[:, None]) >> extra), -(2**62)).max(1, initial=-(2**62))
        possible = (least <= most).reshape(shape).all(axis=shared, keepdims=True) & (choice == _UNSET)
        low, high = (np.where(possible, new.reshape(shape), old) for new, old in ((least, low), (most, high)))
        choice = np.where(possible, change, choice)
        if (choice != _UNSET).all():
            break
    if (choice == _UNSET).any() or np.abs(multiplier + choice).max() > INT32_MAX:
        return None
    moved = np.clip(bias, low, high)
    if not choice.any() and (moved == bias).all():
        return fixed
    multiplier = (multiplier + choice).astype(np.int32)
    return dataclasses.replace(fixed, multipliers=[multiplier], bias=moved)


def nearest_steps(node: Node) -> tuple[np.ndarray, np.ndarray]:
    """Returns the rescale as thresholds and results of a staircase, which is exact whatever its factors are."""
    rows = _rows(node)
    results = np.concatenate([[node.attributes["low"]], rows.codes])
    rising = (rows.sign > 0)[:, None]
    thresholds = np.where(rising, rows.first, 1 - rows.first[:, ::-1])
    found = np.where(rising, results, results[::-1])
    return thresholds.reshape(*rows.shape, -1), found.reshape(*rows.shape, -1)


def _rows(node: Node) -> _Rows:
    scale, bias = node.constants["scale0"], node.constants["bias"]
    shape = np.broadcast_shapes(scale.shape, bias.shape)
    (term,) = node.inputs
    shared = tuple(axis for axis, size in enumerate(shape) if size == 1)
    low = np.broadcast_to(aligned(term.low, len(shape)).min(axis=shared, keepdims=True), shape).ravel()
    high = np.broadcast_to(aligned(term.high, len(shape)).max(axis=shared, keepdims=True), shape).ravel()
    scale, bias = np.broadcast_to(scale, shape).ravel(), np.broadcast_to(bias, shape).ravel()
    sign = np.where(scale < 0, -1, 1)
    low, high = np.where(sign < 0, -high, low), np.where(sign < 0, -low, high)
    codes = np.arange(node.attributes["low"] + 1, node.attributes["high"] + 1, dtype=np.int64)
    return _Rows(shape, np.abs(scale), bias, low, high, sign, codes)
