"""glibc's allocator, told to keep freed memory: on a CPU, XLA takes the memory of every step's results anew.

Left to itself glibc gives that memory back to the kernel after each step, and the next one pays for every page again:
20,000 page faults a step of a small network, a quarter of its time.
"""

import ctypes
import importlib.metadata
import importlib.util
import os
import platform

# mallopt's parameters, from glibc's malloc.h
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -2, -4, -8
_SETTINGS = (
    (_M_ARENA_MAX, 1),  # the heaps of other arenas are given back when they are empty, whatever the threshold
    (_M_MMAP_MAX, 0),  # large blocks from the heap too; mapped ones are given back when they are freed
    (_M_TRIM_THRESHOLD, 2**31 - 1),
    (_M_TOP_PAD, 2**26),
)
_OF_THE_USER = ("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD")


def keep_freed_memory() -> bool:
    """Tells glibc to keep what is freed for the next step; returns whether it did.

    It does nothing with another C library, where JAX may find an accelerator, and where the environment has settings
    of the allocator (``MALLOC_...``, ``GLIBC_TUNABLES``) or loads another (``LD_PRELOAD``). Call it before JAX runs
    anything: threads keep the arena that they began with.
    """
    if platform.libc_ver()[0] != "glibc" or any(name.startswith(_OF_THE_USER) for name in os.environ):
        return False
    if _may_find_an_accelerator():
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return all(mallopt(name, value) == 1 for name, value in _SETTINGS)


def _may_find_an_accelerator() -> bool:
    if (asked := os.environ.get("JAX_PLATFORMS", "")) != "":
        return asked != "cpu"
    return bool(importlib.metadata.entry_points(group="jax_plugins")) or importlib.util.find_spec("libtpu") is not None
