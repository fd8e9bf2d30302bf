"""Inputs on which float32 computes ``v = x / s`` exactly: every tie, every clip edge and both neighbours of each.

Scales are powers of two, so that ``v`` carries no rounding of its own and the reference sees the same codes.
"""

import dataclasses

import numpy as np
from hypothesis import strategies as st

import lglsq_jax as lq

from .reference import Grid

SHAPE = (3, 4, 5)


@dataclasses.dataclass(frozen=True)
class Case:
    """One quantizer and its tensors."""

    grid: Grid
    x: np.ndarray
    scale: np.ndarray
    offset: np.ndarray | None
    g: np.ndarray
    progress: float

    def spec(self, method) -> lq.QuantSpec:
        return spec_of(self.grid, method)


def spec_of(grid: Grid, method=lq.methods.LSQ) -> lq.QuantSpec:
    return lq.QuantSpec(
        bits=grid.bits,
        signed=grid.signed,
        channel_axis=grid.channel_axis,
        batch_axis=grid.batch_axis,
        narrow_range=grid.narrow,
        method=method,
    )


@st.composite
def grids(draw) -> Grid:
    signed = draw(st.booleans())
    axes = st.sampled_from([None, *range(-len(SHAPE), len(SHAPE))])
    channel, batch = draw(axes), draw(axes)
    if channel is not None and batch is not None and channel % len(SHAPE) == batch % len(SHAPE):
        batch = None
    return Grid(draw(st.integers(2, 8)), signed, signed and draw(st.booleans()), channel, batch)


def points(grid: Grid) -> np.ndarray:
    """Ties and clip edges, in codes."""
    inner = np.arange(grid.low, grid.high + 1)
    return np.concatenate([inner + 0.5, inner - 0.5, [grid.low, grid.high, grid.low - 3, grid.high + 3]])


@st.composite
def cases(draw, *, offset: bool = False) -> Case:
    """A third ties, edges and far values, a third their float32 neighbours, the rest anywhere; some gradients are 0."""
    grid = draw(grids())
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    channels = 1 if grid.channel_axis is None else SHAPE[grid.channel_axis]
    scale = np.float32(2.0) ** rng.integers(-6, 5, channels).astype(np.float32)
    shift = rng.integers(-8, 9, channels).astype(np.float32) * scale / 8 if offset else np.zeros(channels, np.float32)
    x = np.empty(SHAPE, np.float32)
    for number, index in enumerate(grid.groups(SHAPE)):
        x[index] = _values(rng, grid, x[index].shape, scale[number], shift[number], neighbours=not offset)
    g = rng.normal(size=SHAPE).astype(np.float32) * (rng.random(SHAPE) > 0.1)
    shape = () if grid.channel_axis is None else (channels,)
    progress = draw(st.sampled_from([0.0, 0.25, 1.0]))
    return Case(grid, x, scale.reshape(shape), shift.reshape(shape) if offset else None, g, progress)


def _values(rng, grid, shape, scale, shift, *, neighbours: bool):
    exact = (rng.choice(points(grid), shape) * scale).astype(np.float32)
    next_to = np.nextafter(exact, np.where(rng.random(shape) < 0.5, -np.inf, np.inf).astype(np.float32))
    # Compiled code flushes subnormal numbers to 0: next to 0 stands a normal one.
    next_to = np.where(exact == 0, np.copysign(np.float32(2.0**-100), next_to), next_to)
    somewhere = rng.integers((grid.low - 3) * 1024, (grid.high + 3) * 1024, shape) / 1024 * scale
    kind = rng.integers(0, 3, shape)
    return np.choose(kind, [exact + shift, next_to if neighbours else exact + shift, somewhere + shift])
