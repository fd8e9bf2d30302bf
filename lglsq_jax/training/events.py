"""TensorBoard's events, written where and when they are said.

TensorboardX's own ``SummaryWriter`` hands them to a thread. When a disk is full that thread dies with a traceback, and
the next event waits for it for ever.
"""

import time
from pathlib import Path
from typing import Any

from ..files import writing
from ..inspection import Histogram

_FLUSH_AFTER = 60.0  # seconds


class Events:
    """An event file in a folder, which TensorBoard shows from ``first_step`` on in the place of earlier files.

    Raises:
        UserError: any method, where the file cannot be written.
    """

    def __init__(self, folder: Path, first_step: int):
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto import event_pb2

        made: Any = event_pb2  # its classes are made when it is imported
        self._what = f"TensorBoard's events to {folder}"
        self._event, self._flushed = made.Event, time.monotonic()
        with writing(self._what):
            folder.mkdir(parents=True, exist_ok=True)
            self._writer = EventsWriter(str(folder / "events"))
            start = made.SessionLog(status=made.SessionLog.START)
            self._writer.write_event(made.Event(step=first_step, session_log=start))

    def scalar(self, name: str, value: float, step: int) -> None:
        """Writes one number."""
        from tensorboardX.summary import scalar

        self._write(scalar(name, value), step)

    def histogram(self, name: str, histogram: Histogram, step: int) -> None:
        """Writes a histogram; each value counts as the middle of its bin."""
        from tensorboardX.summary import histogram_raw

        centres = (histogram.edges[:-1] + histogram.edges[1:]) / 2
        summary = histogram_raw(
            name,
            min=histogram.edges[0],
            max=histogram.edges[-1],
            num=int(histogram.counts.sum()),
            sum=float(centres @ histogram.counts),
            sum_squares=float(centres**2 @ histogram.counts),
            bucket_limits=histogram.edges[1:].tolist(),
            bucket_counts=histogram.counts.tolist(),
        )
        self._write(summary, step)

    def close(self) -> None:
        """Closes the file."""
        with writing(self._what):
            self._writer.close()

    def _write(self, summary, step: int) -> None:
        with writing(self._what):
            self._writer.write_event(self._event(step=step, wall_time=time.time(), summary=summary))
            if time.monotonic() - self._flushed > _FLUSH_AFTER:
                self._flushed = time.monotonic()
                self._writer.flush()
