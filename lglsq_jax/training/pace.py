"""How fast a phase goes and how long it will still take, by the clock of this process."""

import datetime
import time
from collections.abc import Callable


class Pace:
    """Images a second and the time that is left.

    Args:
        steps: of the whole phase.
        batch_size: images a step.
        clock: seconds from any start on.
    """

    def __init__(self, steps: int, batch_size: int, clock: Callable[[], float] = time.monotonic):
        self._steps, self._batch_size, self._clock = steps, batch_size, clock
        self._began: tuple[int, float] | None = None  # steps done and the time, where the long average begins
        self._rested = False
        self._done, self._since, self._rate = 0, 0.0, 0.0

    def start(self, done: int) -> None:
        """Starts the clock after so many steps, the first time: when the step is compiled and the device has begun."""
        if self._began is None:
            self._since = self._clock()
            self._began, self._done = (done, self._since), done

    def count(self, done: int) -> None:
        """Takes note that the device has done so many steps of the phase."""
        now = self._clock()
        if done > self._done and now > self._since:
            self._rate = (done - self._done) * self._batch_size / (now - self._since)
        self._done, self._since = done, now

    def rest(self) -> None:
        """Takes the time since the last count, an evaluation's or a save's, out of the images a second.

        The first one has compiled the evaluation too: the long average begins anew behind it.
        """
        self._since = self._clock()
        if not self._rested:
            self._rested, self._began = True, (self._done, self._since)

    @property
    def images_per_second(self) -> float:
        """Of the steps between the last two counts; 0 before there are any."""
        return self._rate

    @property
    def left(self) -> datetime.timedelta | None:
        """Time to the end of the phase, evaluations and saves included; None while it cannot be told."""
        if self._began is None or self._done == self._began[0]:
            return None
        a_step = (self._clock() - self._began[1]) / (self._done - self._began[0])
        return datetime.timedelta(seconds=round(a_step * (self._steps - self._done)))

    def __str__(self) -> str:
        """Such as ``5,230 images/s, 0:00:41 left``; nothing before the first count."""
        rate, left = self._rate, self.left
        return ", ".join(([f"{rate:,.0f} images/s"] if rate else []) + ([f"{left} left"] if left else []))
