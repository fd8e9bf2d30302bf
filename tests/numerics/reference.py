"""Every formula of the method in float64 NumPy, written from the formulas alone: one scale and its elements at a time.

Nothing here is shared with the package. A rule is a tuple: its name, then its constants.
"""

import dataclasses
import math

import numpy as np


@dataclasses.dataclass(frozen=True)
class Grid:
    """A quantizer's codes and which elements share a scale."""

    bits: int
    signed: bool = True
    narrow: bool = False
    channel_axis: int | None = None
    batch_axis: int | None = None

    @property
    def low(self) -> int:
        if not self.signed:
            return 0
        return -(2 ** (self.bits - 1)) + (1 if self.narrow else 0)

    @property
    def high(self) -> int:
        return 2 ** (self.bits - 1) - 1 if self.signed else 2**self.bits - 1

    def groups(self, shape):
        """One index a scale: ``x[index]`` are the elements that share it."""
        if self.channel_axis is None:
            return [(...,)]
        axis = self.channel_axis % len(shape)
        return [(slice(None),) * axis + (channel,) for channel in range(shape[axis])]

    def count(self, shape) -> int:
        """``N``: elements that share one scale, without the batch axis."""
        sizes = dict(enumerate(shape))
        for axis in {axis % len(shape) for axis in (self.channel_axis, self.batch_axis) if axis is not None}:
            del sizes[axis]
        return math.prod(sizes.values())


def codes(grid: Grid, x, scale, offset=None):
    """``clip(round((x - offset) / s), Qn, Qp)``, halves to even."""
    found = np.empty(x.shape)
    for number, index in enumerate(grid.groups(x.shape)):
        s, beta = np.ravel(scale)[number], 0.0 if offset is None else np.ravel(offset)[number]
        found[index] = np.clip(np.rint((np.float64(x[index]) - np.float64(beta)) / np.float64(s)), grid.low, grid.high)
    return found


def soft_round_slope(k: float, v):
    """``A / (1 + k^2 (v - floor(v) - 1/2)^2)`` with ``A = (k/2) / arctan(k/2)``."""
    half = k / 2  # 0 also where k is the smallest subnormal number
    gain = half / math.atan(half) if half else 1.0
    return gain / (1 + k**2 * (v - np.floor(v) - 0.5) ** 2)


def sharpness_at(p: float, last: float, first: float | None = None) -> float:
    """A straight line from ``first`` to ``last``."""
    return last if first is None else first + (last - first) * p


def strength_at(p: float, strength: float, schedule: str = "linear") -> float:
    """MDE's strength over the training progress."""
    share = {"linear": p, "constant": 1.0, "decaying": 1 - p, "cosine": (1 - math.cos(math.pi * p)) / 2}[schedule]
    return strength * share


def error_factor(rule, g, e, p):
    name, *constants = rule
    if name == "mde" and len(constants) == 3:  # pulls that grow with a power of the distance, equal at the cell's edge
        strength = strength_at(p, *constants[:2])
        pulls = np.where(e == 0, 0.0, np.copysign((np.abs(e) / 0.5) ** constants[2] * 0.5, e))
        return 1 + strength * np.sign(g) * pulls
    strength = {"none": lambda: 0.0, "mde": lambda *c: strength_at(p, *c), "ewgs": lambda d: d}[name](*constants)
    return 1 + strength * np.sign(g) * e


def direction(v, q) -> float:
    """``d``: half the derivative of ``log ||x_hat - x||^2`` by ``log s``, codes fixed, within [-1, 1]."""
    if not q.any():
        return 1.0 if v.any() else 0.0
    error = q - v
    return float(np.clip((error * q).sum() / max((error**2).sum(), np.finfo(np.float32).tiny), -1, 1))


@dataclasses.dataclass(frozen=True)
class Gradients:
    """Gradients of one quantizer, and the size of the terms that each is a sum of.

    A float32 sum is exact to a fraction of the sum of its absolute terms; where they cancel, the sum says nothing
    about its error. ``scale_size`` and ``offset_size`` are those sums, carried through the steps after the sum.
    """

    x: np.ndarray
    scale: np.ndarray
    offset: np.ndarray
    scale_size: np.ndarray
    offset_size: np.ndarray
    decided: np.ndarray  # LLSQ only: False where two errors are too close for float32 to tell them apart


def gradients(grid: Grid, x, scale, g, *, offset=None, p=1.0, round_rule=("ste",), error_rule=("none",), scale_rule):
    """The backward pass: round rule, error rule, scale rule, and LSQ+'s offset."""
    x, g = np.float64(x), np.float64(g)
    g_x, per_scale = np.empty(x.shape), []
    for number, index in enumerate(grid.groups(x.shape)):
        s = float(np.ravel(scale)[number])
        beta = 0.0 if offset is None else float(np.ravel(offset)[number])
        v = (x[index] - beta) / s
        q = np.clip(np.rint(v), grid.low, grid.high)
        inside = (v >= grid.low) & (v <= grid.high)
        slope = 1.0 if round_rule[0] == "ste" else soft_round_slope(sharpness_at(p, *round_rule[1:]), v)
        factor = error_factor(error_rule, g[index], np.clip(v - q, -0.5, 0.5), p)
        g_x[index] = g[index] * inside * slope * factor
        norm = math.sqrt(grid.count(x.shape) * grid.high)
        outside = g[index] * (1 - inside) / norm
        per_scale.append(
            (*_scale_gradient(grid, scale_rule, g[index], v, q, inside, s, norm, p), outside.sum(), abs(outside).sum())
        )
    g_s, size, decided, g_b, size_b = map(np.array, zip(*per_scale, strict=True))
    shape = np.shape(scale)
    return Gradients(
        g_x, g_s.reshape(shape), g_b.reshape(shape), size.reshape(shape), size_b.reshape(shape), decided.reshape(shape)
    )


def _scale_gradient(grid, rule, g, v, q, inside, s, norm, p):
    """Returns the gradient, the size of its terms, and whether float32 can decide it."""
    terms = g * (q - v * inside) / norm
    name, *constants = rule
    if name == "fixed":
        return 0.0, 0.0, True
    if name == "lsq":
        return terms.sum(), abs(terms).sum(), True
    if name in ("pact", "pact_clip"):
        above = g * (v > grid.high) * (grid.high if name == "pact" else 1 / grid.high)
        return above.sum(), abs(above).sum(), True
    if name == "llsq":
        half, same, double = (
            ((f * np.clip(np.rint(v / f), grid.low, grid.high) - v) ** 2).sum() for f in (0.5, 1.0, 2.0)
        )
        best = min(half, same, double)
        winners = [error for error in (half, same, double) if error == best]
        sign = 0 if len(winners) > 1 else {half: 1, same: 0, double: -1}[best]
        rest = [error for error in (half, same, double) if error != best]
        clear = not rest or min(rest) - best > 1e-5 * max(rest)
        return sign * s**2, s**2, clear
    tau, eta = constants
    task = tau * math.tanh(terms.sum() / (tau * s))
    d = direction(v, q)
    error = ((q - v) ** 2).sum()
    d_size = abs(d) + (abs((q - v) * q).sum() / error if error else 0.0)
    size = abs(terms).sum() * (1 - (task / tau) ** 2) + s * (abs(task) + eta * (1 - p) * d_size)
    return s * (task + eta * (1 - p) * d), size, True
