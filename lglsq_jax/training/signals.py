"""Stopping politely: SIGTERM and Ctrl-C let the step end and save; a second Ctrl-C stops at once."""

import contextlib
import signal
from collections.abc import Iterator


class Stopped(Exception):
    """A run was asked to stop, and has saved what it had.

    Attributes:
        status: exit status of the process, 128 plus the signal's number.
    """

    def __init__(self, number: int, message: str):
        super().__init__(message)
        self.status = 128 + number


class StopRequest:
    """Whether, and by which signal, the process was asked to stop.

    Args:
        after_steps: stop by itself after so many steps of training, as SIGTERM would; None: never.
    """

    def __init__(self, after_steps: int | None = None):
        self.signal: int | None = None
        self._steps_left = after_steps

    def count_step(self) -> None:
        """Takes note of one step of training."""
        if self._steps_left is not None:
            self._steps_left -= 1
            if self._steps_left == 0:
                self.signal = signal.SIGTERM

    @property
    def name(self) -> str:
        """What people call the signal."""
        return "Ctrl-C" if self.signal == signal.SIGINT else "SIGTERM"

    def hear(self) -> None:
        """Takes note that another host was asked to stop."""
        self.signal = self.signal or signal.SIGTERM

    def check(self, message: str) -> None:
        """Raises ``Stopped`` if the process was asked to stop."""
        if self.signal is not None:
            raise Stopped(self.signal, f"stopped by {self.name} {message}")

    @contextlib.contextmanager
    def listening(self) -> Iterator["StopRequest"]:
        """Takes note of SIGTERM and SIGINT; a second SIGINT raises ``KeyboardInterrupt``."""

        def note(number, frame):
            if self.signal is not None and number == signal.SIGINT:
                raise KeyboardInterrupt
            self.signal = number

        before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
