"""Commands on a CPU keep the memory of a step's results for the next one."""

import json
import os
import platform
import subprocess
import sys

import pytest

from lglsq_jax.commands.allocator import keep_freed_memory
from tests.short_run import ROOT

glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")


def run(*arguments: str, **environment: str) -> dict:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "LD_PRELOAD"))}
    said = subprocess.run(
        [sys.executable, ROOT / "tests" / "freed_memory.py", *arguments],
        capture_output=True,
        text=True,
        env={**kept, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", **environment},
        check=True,
    )
    return json.loads(said.stdout)


@glibc
def test_freed_memory_is_kept_for_the_next_call():
    assert run() == {"kept": False, "faults": pytest.approx(2**26 / os.sysconf("SC_PAGESIZE"), rel=0.05)}
    kept = run("keep")
    assert kept["kept"] and kept["faults"] < 100


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MALLOC_ARENA_MAX", "4"),
        ("GLIBC_TUNABLES", "glibc.malloc.arena_max=4"),
        ("LD_PRELOAD", "libjemalloc.so"),
        ("JAX_PLATFORMS", "cuda,cpu"),
    ],
)
def test_what_the_user_chose_is_left_alone(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    assert not keep_freed_memory()
