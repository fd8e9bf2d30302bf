"""What ``metrics.jsonl`` says about the course of a run, as series."""

import dataclasses
from typing import Any

from ..errors import UserError
from ..training.config import TrainConfig
from ..training.folder import RunFolder
from ..training.log import read_metrics

Series = tuple[list[float], list[float]]
"""Places and values."""


@dataclasses.dataclass(frozen=True)
class History:
    """The lines of ``metrics.jsonl``; those of the float phase may be of the run that this one started from.

    The phase ``quantized`` is here all of its stages, such as ``quantized-w8a8``.

    Attributes:
        lines: in the order of their steps.
    """

    lines: tuple[dict[str, Any], ...]

    def series(self, phase: str, split: str, name: str) -> Series:
        """Returns a value of ``train`` or ``test`` over the steps of the run."""
        found = [line for line in self._of(phase, split) if name in line]
        return [line["step"] for line in found], [line[name] for line in found]

    def layer_series(self, path: str, name: str) -> Series:
        """Returns a statistic of a layer over the epochs of the quantized phase."""
        steps = sorted({line["step"] for line in self._of("quantized", "test")})
        epochs = {step: epoch for epoch, step in enumerate(steps, 1)}
        found = [line for line in self._of("quantized", "layers") if line["step"] in epochs]
        found = [line for line in found if name in line.get(path, {})]
        return [epochs[line["step"]] for line in found], [line[path][name] for line in found]

    def last(self, phase: str, name: str) -> float | None:
        """Returns a value on the test set after the last epoch of a phase; None where there was none."""
        values = self.series(phase, "test", name)[1]
        return values[-1] if values else None

    def first_step(self, phase: str) -> int | None:
        """Returns the first step of a phase that is on record."""
        steps = [line["step"] for line in self._of(phase, "train")]
        return min(steps, default=None)

    def _of(self, phase: str, split: str) -> list[dict[str, Any]]:
        return [line for line in self.lines if line["phase"].split("-")[0] == phase and line["split"] == split]


def read_history(folder: RunFolder, config: TrainConfig) -> History:
    """Reads a run's metrics, and the float phase of the run it started from where that is still there."""
    own, earlier = read_metrics(folder), []
    if config.pretraining.start_from is not None:
        try:
            source, _ = RunFolder.existing(config.pretraining.start_from)
            earlier = [line for line in read_metrics(source) if line["phase"] == "float"]
        except UserError:
            pass  # moved or removed since: its curves are left out
    return History(tuple(sorted([*earlier, *own], key=lambda line: line["step"])))
