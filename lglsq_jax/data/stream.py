"""Batches as they come out of grain, and an end for the threads and processes behind them."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import grain


class Stream(Iterator[dict[str, Any]]):
    """Grain's iterator, closed once: by ``close``, when nobody holds it any more, or before Python takes itself down.

    Left to itself, an iterator that is still open when Python ends fails to end its threads and processes.

    Args:
        stream: what to iterate over.
        copy: whether to copy every array, as those of worker processes need: they lie in shared memory that is
            unmapped with them.
    """

    def __init__(self, stream: grain.IterDataset[Any], *, copy: bool = False):
        self._opened = [iter(stream)]
        self._copy = copy
        self._end = weakref.finalize(self, _close, self._opened)

    def __next__(self) -> dict[str, Any]:
        if not self._opened:
            raise StopIteration
        batch = next(self._opened[0])
        return {key: np.array(value) for key, value in batch.items()} if self._copy else batch

    def close(self) -> None:
        """Ends threads and processes; the stream gives no more batches."""
        self._end()


def _close(opened: list[Any]) -> None:
    while opened:
        opened.pop().close()
