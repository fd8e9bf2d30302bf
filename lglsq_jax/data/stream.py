"""Batches as they come out of grain, and an end for the threads and processes behind them."""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import UserError

if TYPE_CHECKING:
    import grain


ERROR = "error"


@dataclasses.dataclass(frozen=True)
class Batches:
    """Makes batches as a function does, and of its ``UserError`` a batch with the message for ``Stream`` to raise:
    where a worker process raises, grain leaves shared memory behind.

    Attributes:
        make: the function; picklable.
    """

    make: Callable[..., dict[str, Any]]

    def __call__(self, *arguments: Any) -> dict[str, Any]:
        try:
            return self.make(*arguments)
        except UserError as error:
            return {ERROR: np.frombuffer(str(error).encode(errors="backslashreplace"), np.uint8)}


class Stream(Iterator[dict[str, Any]]):
    """Grain's iterator, closed once: by ``close``, when nobody holds it any more, or before Python takes itself down.

    Left to itself, an iterator that is still open when Python ends fails to end its threads and processes.

    Args:
        stream: what to iterate over.
        look: is shown every batch when it is taken, and may change it.
    """

    def __init__(
        self,
        stream: grain.IterDataset[Any],
        *,
        look: Callable[[dict[str, Any]], None] | None = None,
    ):
        self._opened = [iter(stream)]
        self._look = look
        self._end = weakref.finalize(self, _close, self._opened)

    def __next__(self) -> dict[str, Any]:
        if not self._opened:
            raise StopIteration
        batch = dict(next(self._opened[0]))
        if ERROR in batch:
            message = batch.pop(ERROR).tobytes().decode()
            self.close()
            raise UserError(message)
        if self._look is not None:
            self._look(batch)
        return batch

    def close(self) -> None:
        """Ends threads and processes; the stream gives no more batches."""
        self._end()


def _close(opened: list[Any]) -> None:
    while opened:
        opened.pop().close()
