"""Compiled programs that are kept in a folder, so that a command that goes on does not compile them again."""

import contextlib
import importlib
import os
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from . import hosts

_ZSTD = b"\x28\xb5\x2f\xfd"  # how such data begin; JAX uses it where one of these modules is there, and zlib elsewhere
_ZSTD_MODULES = ("compression.zstd", "zstandard")
_SHORTEST = 0.05  # seconds of compiling that are worth a file


@contextlib.contextmanager
def compiled_once(folder: Path) -> Iterator[None]:
    """Keeps compiled programs in a folder meanwhile, and finds those that are there already.

    Nothing is done where they are kept somewhere already (``JAX_COMPILATION_CACHE_DIR``), where JAX may not keep them,
    and with several processes of which one does not see the folder of the first: had some of them a program and others
    none, those could wait for the first one's part in compiling it. The first process alone writes.

    JAX does not write a program at one blow, and it never replaces a file that it cannot read. A process that was
    killed may have left such a file: it is removed first, and its program compiled again. A folder that cannot be
    written costs the time of compiling and nothing else.

    Args:
        folder: this run's own; no other one may write there meanwhile.
    """
    import jax
    from jax.experimental.compilation_cache.compilation_cache import reset_cache

    config: dict = jax.config.values
    wanted = config["jax_enable_compilation_cache"] and not config["jax_compilation_cache_dir"]
    if not (hosts.all_say(wanted) and hosts.all_see(folder)):
        yield
        return
    hosts.on_first(lambda: _remove_damaged(folder))
    settings: dict[str, Any] = {"jax_compilation_cache_dir": str(folder)}
    shortest = "jax_persistent_cache_min_compile_time_secs"
    if shortest.upper() not in os.environ:
        settings[shortest] = _SHORTEST
    before = {name: config[name] for name in settings}
    _set(settings)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache")
            yield
    finally:
        _set(before)
        reset_cache()


def _set(settings: dict) -> None:
    import jax

    for name, value in settings.items():
        jax.config.update(name, value)


def _remove_damaged(folder: Path) -> None:
    for file in folder.glob("*-cache"):
        with contextlib.suppress(OSError):
            if not _whole(file.read_bytes()):
                file.unlink()


def _whole(data: bytes) -> bool:
    try:
        if not data.startswith(_ZSTD):
            zlib.decompress(data)
            return True
        for name in _ZSTD_MODULES:
            with contextlib.suppress(ModuleNotFoundError):
                importlib.import_module(name).decompress(data)
                break
    except Exception:  # each of the three has its own
        return False
    return True
