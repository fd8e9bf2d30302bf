"""Steps whose numbers went wrong: which images they had, and how many may be left out."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..data import Dataset
from ..data.pipeline import batch_indices
from ..errors import UserError
from ..files import writing
from .config import TrainConfig
from .hosts import first


class Diverged(UserError):
    """The loss or a scale is not finite and positive any more."""


class BadSteps:
    """Writes the images of bad steps to a file and counts those that were skipped.

    Args:
        file: gets one JSON object a line: ``phase``, ``step``, ``loss``, ``indices`` of the training images.
        dataset: the data.
        config: seed and batch size, and ``skip_bad_steps``.
        warn: is told of each skipped step.
    """

    def __init__(self, file: Path, dataset: Dataset, config: TrainConfig, warn: Callable[[str], Any]):
        self.file, self.skipped = file, 0
        self._dataset, self._config, self._warn, self._phase = dataset, config, warn, ""

    def begin(self, phase: str, skipped: int) -> None:
        """Begins a phase of which ``skipped`` steps were skipped before."""
        self._phase, self.skipped = phase, skipped

    def note(self, step: int, loss: float) -> None:
        """Writes down the images of a step, which counts from 1."""
        if not first():
            return
        indices = batch_indices(self._dataset, self._config.data, self._config.seed, step - 1)
        line = {"phase": self._phase, "step": step, "loss": repr(loss), "indices": indices.tolist()}
        with writing(self.file), self.file.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def skip(self, step: int, loss: float) -> None:
        """Counts a step that was skipped.

        Raises:
            Diverged: there were more than ``skip_bad_steps``.
        """
        self.note(step, loss)
        self.skipped += 1
        allowed = self._config.skip_bad_steps
        if self.skipped > allowed:
            raise Diverged(
                f"`skip_bad_steps` must be at least the number of steps whose loss or gradient is not finite, which is "
                f"more than {allowed}; the last is step {step}; the images of each are in {self.file.name}"
            )
        self._warn(f"step {step} was skipped: its loss or gradient is not finite ({self.skipped} so far)")
