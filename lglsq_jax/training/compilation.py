"""Compiled programs that are kept in a folder, so that one run does not compile what another has."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import jax
from jax.experimental.compilation_cache.compilation_cache import reset_cache


@contextlib.contextmanager
def compiled_once(folder: Path) -> Iterator[None]:
    """Keeps compiled programs in a folder meanwhile, unless they are kept somewhere already."""
    if getattr(jax.config, "jax_compilation_cache_dir", None):
        yield
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    try:
        yield
    finally:
        jax.config.update("jax_compilation_cache_dir", None)
        reset_cache()
