"""Any function of an integer with whole results as steps: at which integers the result changes, and to what.

For a quantizer behind an activation: ``code = clip(round(f(s n + b) / step))`` takes few values, so the integers ``n``
at which it changes say it all, exactly.
"""

from collections.abc import Callable

import numpy as np

from .errors import LoweringError
from .node import INT32_MAX, compact

Sampler = Callable[[np.ndarray], np.ndarray]

_EVERY_INTEGER = 2**16  # ranges up to here are looked at integer by integer
_MOST_SAMPLES = 2**23
_GRID = 2049
_MOST_TURNS = 16
_NOISE = 1e-9  # of a code; by how much float64 may rise or fall where a function is flat, such as a saturated tanh


def steps_of(
    codes: Sampler, values: Sampler, low: int, high: int, axes: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Returns sorted thresholds ``[*axes, k]`` (int32) and results ``[*axes, k + 1]`` of a function of integers.

    ``results[..., number of thresholds <= n]`` is ``codes(n)`` for every ``n`` in ``[low, high]``. Ranges of up to
    65,536 integers are tried one by one. In larger ones the function behind the codes is sampled at 2,049 places, once
    more around each of its turns, and every change is found by halving: it is taken to turn at most once between
    samples.

    Args:
        codes: integers ``[*axes, k]`` to whole numbers of the same shape.
        values: integers to the real values behind the codes, before rounding and clipping.
        low: smallest integer that can occur.
        high: largest.
        axes: leading axes, along which the function differs.

    Raises:
        LoweringError: the function has no number there, or turns too often.
    """
    rows, code, value = int(np.prod(axes)), _by_row(codes, axes), _by_row(values, axes)
    if high - low < _EVERY_INTEGER and (high - low + 1) * rows <= _MOST_SAMPLES:
        places = np.tile(np.arange(low, high + 1, dtype=np.int64), (rows, 1))
    else:
        places = _sample_places(value, low, high, rows)
    found = code(places)
    if np.isnan(found).any():
        raise LoweringError("it gives no number for a value that can occur")
    at, signs = _changes(code, places, found.astype(np.int64))
    results = np.concatenate([found[:, :1].astype(np.int64), signs], 1).cumsum(1)
    thresholds = compact(at.reshape(*axes, -1)) if at.shape[1] else np.zeros((1,) * len(axes) + (0,), np.int64)
    results = compact(results.reshape(*axes, -1))
    both = np.broadcast_shapes(thresholds.shape[:-1], results.shape[:-1])
    thresholds = np.broadcast_to(thresholds, (*both, at.shape[1]))
    return thresholds.astype(np.int32), np.broadcast_to(results, (*both, at.shape[1] + 1))


def _by_row(sampler: Sampler, axes: tuple[int, ...]) -> Sampler:
    """Returns the sampler on integers ``[rows, k]``, a row for each place of the leading axes."""

    def sample(n: np.ndarray) -> np.ndarray:
        found = sampler(n.reshape(*axes, n.shape[-1]))
        return np.broadcast_to(found, (*axes, n.shape[-1])).reshape(n.shape)

    return sample


def _sample_places(value: Sampler, low: int, high: int, rows: int) -> np.ndarray:
    """Returns where to look, ``[rows, k]``: an even grid, and a finer one around every turn of the function."""
    grid = np.unique(np.rint(np.linspace(low, high, _GRID)).astype(np.int64))
    grid = np.tile(grid, (rows, 1))
    found = value(grid)
    rises = np.diff(found, axis=1)
    rises[np.abs(rises) <= _NOISE + 1e-12 * np.abs(found[:, 1:])] = 0
    # Of each step between samples the last one before it and the first one after it that is not flat.
    steps = np.arange(rises.shape[1])
    before = np.maximum.accumulate(np.where(rises != 0, steps, 0), axis=1)[:, :-1]
    after = np.minimum.accumulate(np.where(rises != 0, steps, len(steps) - 1)[:, ::-1], axis=1)[:, ::-1][:, 1:]
    slopes = np.sign(rises)
    falls_after = np.take_along_axis(slopes, before, 1) * np.take_along_axis(slopes, after, 1) < 0
    turns = falls_after & (before == steps[:-1])  # once a turn: at the step with which it begins
    most = int(turns.sum(1).max(initial=0))
    if most > _MOST_TURNS:
        raise LoweringError(f"it rises and falls more than {_MOST_TURNS} times; quantize its input first")
    if not most:
        return grid
    order = np.argsort(~turns, axis=1, kind="stable")[:, :most]  # the turns first; what follows only adds samples
    start = np.take_along_axis(grid, np.take_along_axis(before, order, 1), 1)
    end = np.take_along_axis(grid, np.take_along_axis(after, order, 1) + 1, 1)
    finer = np.rint(np.linspace(start, end, _GRID, axis=2)).astype(np.int64)
    return np.sort(np.concatenate([grid, finer.reshape(rows, -1)], 1), axis=1)


def _changes(code: Sampler, places: np.ndarray, found: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns for every change of the code by one the integer where it happens and its sign, sorted, ``[rows, k]``."""
    jumps = np.diff(found, axis=1)
    row, gap = np.nonzero(jumps)
    sizes = np.abs(jumps[row, gap])
    count = np.bincount(row, sizes, len(places)).astype(int)
    most = int(count.max(initial=0))
    row, gap = np.repeat(row, sizes), np.repeat(gap, sizes)
    rank = np.arange(len(row)) - np.repeat(np.cumsum(sizes) - sizes, sizes) + 1  # 1, 2, ... within each jump
    column = np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count)
    start = np.tile(places[:, :1], (1, most))
    end, before, sign, wanted = start + 1, np.zeros_like(start), np.zeros_like(start), np.zeros_like(start)
    start[row, column], end[row, column] = places[row, gap], places[row, gap + 1]
    before[row, column], wanted[row, column] = found[row, gap], rank
    sign[row, column] = np.sign(jumps[row, gap])
    while most and (end - start > 1).any():
        middle = (start + end) // 2
        reached = sign * (code(middle) - before) >= wanted
        end, start = np.where(reached, middle, end), np.where(reached, start, middle)
    at = np.where(sign == 0, INT32_MAX, end)  # rows with fewer changes are filled up with what is never reached
    order = np.argsort(at, axis=1, kind="stable")
    return np.take_along_axis(at, order, 1), np.take_along_axis(sign, order, 1)
