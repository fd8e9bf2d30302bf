"""The log of a host that is not the first."""

import contextlib
from collections.abc import Iterator
from typing import Any

from .config import TrainConfig
from .folder import RunFolder
from .hosts import first, on_first
from .log import RunLog


class QuietLog(RunLog):
    """Says and writes nothing, but for warnings, which are about this host."""

    def say(self, text: str) -> None:
        """Says nothing."""

    def begin_phase(self, phase: str, first_step: int, done: int, steps: int, *, resumed: bool) -> None:
        """Opens nothing."""

    def advance(self, done: int, *statuses: str) -> None:
        """Shows nothing."""

    def metrics(self, step: int, phase: str, split: str, values: dict[str, Any]) -> None:
        """Writes nothing."""


@contextlib.contextmanager
def opened(folder: RunFolder, config: TrainConfig, *, tables: bool = False) -> Iterator[RunLog]:
    """Claims a run's folder on the first host and opens its log; the other hosts touch nothing and log nothing.

    ``tables``: whether the log shows the table of all layers at the end of every epoch.

    Raises:
        UserError: the folder cannot be claimed; on every host.
    """
    with contextlib.ExitStack() as stack:
        on_first(lambda: stack.enter_context(folder.claimed(config)))
        yield stack.enter_context(RunLog(folder, tables=tables) if first() else QuietLog(folder))
