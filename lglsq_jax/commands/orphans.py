"""Processes that stop politely when the one that started them is gone, however it ended."""

import ctypes
import os
import signal
import sys

_PARENT = "LGLSQ_JAX_PARENT"
_PR_SET_PDEATHSIG = 1


def as_parent() -> dict[str, str]:
    """Returns the environment for processes that are to call ``stop_with_parent``."""
    return {**os.environ, _PARENT: str(os.getpid())}


def stop_with_parent() -> None:
    """Lets Linux send this process SIGTERM when its parent ends; elsewhere, and without ``as_parent``, nothing."""
    parent = os.environ.pop(_PARENT, "")
    if sys.platform != "linux" or not parent.isdecimal():
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != int(parent):  # it ended before the kernel was asked
        os.kill(os.getpid(), signal.SIGTERM)
