"""Training batches on the devices before the step that needs them."""

import time
from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array

from ..data.stream import Stream
from .mesh import place
from .signals import StopRequest

AHEAD = 2


class Feed(Iterator[dict[str, Array]]):
    """Places batches on the devices, ``AHEAD`` of them before they are needed, and counts the time waited for data.

    Args:
        stream: this host's rows of every batch.
        mesh: where they go.
        steps: how many batches are needed.
        stop: with several hosts each row carries whether its host was asked to stop; None: without.
    """

    def __init__(self, stream: Stream, mesh: Mesh, steps: int, stop: StopRequest | None = None):
        self._stream, self._mesh, self._left, self._stop = stream, mesh, steps, stop
        self._placed: deque[dict[str, Any]] = deque()
        self._began, self.waited = time.monotonic(), 0.0

    def __next__(self) -> dict[str, Array]:
        if not self._placed:
            self.fill()
        if not self._placed:
            raise StopIteration
        return self._placed.popleft()

    def fill(self) -> None:
        """Places batches until ``AHEAD`` of them are; called while the devices are at work on a step."""
        while self._left and len(self._placed) < AHEAD:
            began = time.monotonic()
            batch = next(self._stream)
            self.waited += time.monotonic() - began
            if self._stop is not None:
                batch["stop"] = np.full(len(batch["label"]), self._stop.signal is not None, np.int32)
            self._placed.append(place(self._mesh, batch))
            self._left -= 1

    def take_waiting(self) -> float:
        """Returns which share of the time since the last call went into waiting for data, from 0 to 1."""
        now = time.monotonic()
        share, self._began, self.waited = self.waited / max(now - self._began, 1e-9), now, 0.0
        return min(share, 1.0)

    def close(self) -> None:
        """Ends the stream's threads and processes."""
        self._stream.close()
