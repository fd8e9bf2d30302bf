"""Training images that cannot be decoded: each is told once, they are counted, and too many end the run."""

from collections.abc import Callable, Iterable
from typing import Any

from ..errors import UserError
from .dataset import DamagedImage, Samples

KEY = "damaged"
"""Name of an int64 array [b] in a batch on its way to the main process: the index of the damaged image that a row
replaces, or -1."""


class DamagedImages:
    """Counts the damaged images of one training set over a run.

    Args:
        samples: the training set.
        most: how many may be damaged.
        warn: is told of each of them once.
        known: indices that were told before, such as those of the run that goes on.
    """

    def __init__(self, samples: Samples, most: int, warn: Callable[[str], Any], known: Iterable[int] = ()):
        self._samples, self._most, self._warn = samples, most, warn
        self._known = set(known)

    @property
    def indices(self) -> list[int]:
        """Those met so far, in order."""
        return sorted(self._known)

    def add(self, indices: Iterable[int]) -> None:
        """Takes note of damaged images that were told in an earlier part of the run."""
        self._known.update(indices)

    def take(self, batch: dict[str, Any]) -> None:
        """Takes the array of damaged images out of a batch and counts them.

        Raises:
            UserError: there are more than ``most``; names the last.
        """
        indices = batch.pop(KEY, None)
        for index in [] if indices is None else indices[indices >= 0].tolist():
            if index in self._known:
                continue
            self._known.add(index)
            reason = self._reason(index)
            if len(self._known) > self._most:
                raise UserError(
                    f"`max_damaged` must be at least the number of damaged training images, which is more than "
                    f"{self._most}; the last is this one: {reason}"
                )
            self._warn(f"{reason}; the image after it takes its place ({len(self._known)} damaged so far)")

    def _reason(self, index: int) -> str:
        try:
            self._samples[index]
        except DamagedImage as error:
            return str(error)
        return f"image {index} could not be decoded, but now it can"
