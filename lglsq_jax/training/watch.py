"""A run that makes no progress ends with a sentence instead of never."""

import contextlib
import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator

HUNG = 75
"""Exit status of a run that made no progress; the same command goes on from its last checkpoint."""

_GRACE = 15.0  # seconds that the thread has to end the process before faulthandler does


class Watch:
    """Ends the process when nothing was finished for a while, which another host that hangs would otherwise prevent.

    A collective operation waits for ever for a host that does not take part, and no exception reaches it; so the
    process is ended from a thread, as if it were killed: checkpoints are whole or not there. Where the wait keeps
    Python itself from running, ``faulthandler`` ends it a little later, with the place where it waits and status 1.

    Args:
        seconds: without progress; 0: never ends it.
        end: what ends the process, given the sentence.
    """

    def __init__(self, seconds: float, end: Callable[[str], None] | None = None):
        self._seconds, self._end = seconds, end or _end_process
        self._last_resort = end is None and seconds > 0
        self._last, self._what = time.monotonic(), "the start"
        self._over = threading.Event()

    def progress(self, what: str) -> None:
        """Takes note that something was finished."""
        self._last, self._what = time.monotonic(), what
        if self._last_resort:
            faulthandler.dump_traceback_later(self._seconds + _GRACE, exit=True, file=sys.__stderr__ or sys.stderr)

    @contextlib.contextmanager
    def watching(self) -> Iterator["Watch"]:
        """Watches meanwhile."""
        if not self._seconds:
            yield self
            return
        thread = threading.Thread(target=self._watch, name="watch", daemon=True)
        self._over.clear()
        self.progress(self._what)
        thread.start()
        try:
            yield self
        finally:
            self._over.set()
            thread.join()
            if self._last_resort:
                faulthandler.cancel_dump_traceback_later()

    def _watch(self) -> None:
        while not self._over.wait(min(1.0, self._seconds / 4)):
            idle = time.monotonic() - self._last
            if idle > self._seconds:
                self._end(
                    f"nothing was finished for {idle:.0f} seconds since {self._what}: a host or a device hangs, or "
                    "`mesh.timeout` is too short; what was saved is kept and the same command goes on from there"
                )
                return


def _end_process(sentence: str) -> None:
    print(f"error: {sentence}", file=sys.stderr, flush=True)
    os._exit(HUNG)
