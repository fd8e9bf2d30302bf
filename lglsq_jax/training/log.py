"""What a run says while it runs: ``metrics.jsonl``, TensorBoard events, and lines or a progress bar for people."""

import contextlib
import json
import math
import sys
from collections.abc import Mapping
from typing import Any

import rich.console
import rich.progress

from ..errors import UserError
from ..files import write_whole, writing
from ..inspection import Histogram
from .events import Events
from .folder import RunFolder
from .layer_table import layer_table

_WIDE = 120  # columns of a terminal that has room for a bar beside the figures
_BAR = 20  # columns of the bar


class RunLog:
    """Writes metrics to files and sentences to people. Use it as a context manager.

    Args:
        folder: of the run.
        tables: whether people are shown the table of all layers at the end of every epoch.
        console: where the progress line and warnings go; None: standard error.
    """

    def __init__(self, folder: RunFolder, *, tables: bool = False, console: rich.console.Console | None = None):
        self._folder, self._tables = folder, tables
        self._file = None
        self._events: Events | None = None
        self._console = console or rich.console.Console(stderr=True, highlight=False, soft_wrap=True)
        self._progress: rich.progress.Progress | None = None
        self._task: rich.progress.TaskID | None = None

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception) -> None:
        self.end_phase()
        with contextlib.ExitStack() as closing:
            if kind is not None:  # what went wrong first is what people should read
                closing.enter_context(contextlib.suppress(UserError))
            if self._events is not None:
                closing.callback(self._events.close)
            closing.callback(self._close_metrics)

    def _close_metrics(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            with writing(self._folder.metrics_file):
                file.close()

    def say(self, text: str) -> None:
        """Shows people a line: above the bar on a terminal, plainly elsewhere."""
        if self._progress is not None and sys.stdout.isatty():
            self._progress.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            print(text, file=sys.stdout, flush=True)

    def warn(self, text: str) -> None:
        """Shows people a warning, on standard error."""
        self._console.print(f"warning: {text}", markup=False)

    def begin_phase(self, phase: str, first_step: int, done: int, steps: int, *, resumed: bool) -> None:
        """Takes back the metrics of this phase that are later than its checkpoint, and starts the progress line."""
        self._close_metrics()
        last = first_step + done if resumed else -1
        kept = [line for line in read_metrics(self._folder) if line["phase"] != phase or line["step"] <= last]
        with writing(self._folder.metrics_file):
            write_whole(self._folder.metrics_file, "".join(json.dumps(line) + "\n" for line in kept).encode())
            self._file = self._folder.metrics_file.open("a")
        if self._events is None:
            self._events = Events(self._folder.path / "tensorboard", first_step + done + 1)
        if self._console.is_terminal:
            bar = [rich.progress.BarColumn(bar_width=_BAR)] if self._console.width >= _WIDE else []
            self._progress = rich.progress.Progress(
                *bar,
                rich.progress.TextColumn(
                    "{task.description} {task.completed:.0f}/{task.total:.0f} {task.fields[status]}", markup=False
                ),
                console=self._console,
                redirect_stdout=sys.stdout.isatty(),  # a file behind it gets the lines
                transient=True,
            )
            self._task = self._progress.add_task(phase, total=steps, completed=done, status="")
            self._progress.start()

    def end_phase(self) -> None:
        """Takes the progress line away."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def advance(self, done: int, *statuses: str) -> None:
        """Writes the progress line again, on a terminal; elsewhere nothing.

        Args:
            done: steps of the phase.
            *statuses: what may stand behind them, the longest first; the first that the line has room for does, or the
                beginning of the last.
        """
        if self._progress is not None and self._task is not None:
            (task,) = self._progress.tasks
            room = self._console.width - (_BAR + 1 if self._console.width >= _WIDE else 0)
            room -= len(f"{task.description} {done}/{task.total:.0f} ")
            status = next((status for status in statuses if len(status) <= room), statuses[-1])
            self._progress.update(self._task, completed=done, status=status)

    def metrics(self, step: int, phase: str, split: str, values: dict[str, Any]) -> None:
        """Writes one line of metrics; values are numbers or nested dictionaries of numbers."""
        assert self._file is not None and self._events is not None
        with writing(self._folder.metrics_file):
            self._file.write(json.dumps({"step": step, "phase": phase, "split": split, **values}) + "\n")
        for name, value in _flat(values):
            if math.isfinite(value):
                self._events.scalar(f"{split}/{name}", value, step)

    def layers(
        self,
        step: int,
        phase: str,
        values: Mapping[str, Mapping[str, float]],
        histograms: Mapping[str, Mapping[str, Histogram]],
    ) -> None:
        """Writes what an epoch's statistics say of each layer, by its path, and shows people the table if they want it.

        The histograms become TensorBoard's, under ``weights/PATH`` and ``input_codes/PATH``, in units of codes.
        """
        self.metrics(step, phase, "layers", dict(values))
        assert self._events is not None
        for path, found in histograms.items():
            for kind, histogram in found.items():
                self._events.histogram(f"{kind}/{path or 'model'}", histogram, step)
        if self._tables:
            self.say(layer_table(values))

    def flush(self) -> None:
        """Brings all metrics so far to disk."""
        if self._file is not None:
            with writing(self._folder.metrics_file):
                self._file.flush()


def read_metrics(folder: RunFolder) -> list[dict[str, Any]]:
    """Returns the lines of ``metrics.jsonl``; a line that a killed process left unfinished is passed over."""
    found = []
    if folder.metrics_file.exists():
        for text in folder.metrics_file.read_text(errors="replace").splitlines():
            try:
                line = json.loads(text)
            except ValueError:
                continue
            if isinstance(line, dict) and {"step", "phase", "split"} <= line.keys():
                found.append(line)
    return found


def _flat(values: dict[str, Any], prefix: str = ""):
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}/")
        else:
            yield prefix + name, value
