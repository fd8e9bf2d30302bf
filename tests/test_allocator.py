"""Commands on a CPU keep the memory of a step's results for the next one."""

import json
import os
import platform
import subprocess
import sys

import pytest

from lglsq_jax.commands.allocator import _OF_THE_USER, keep_freed_memory
from tests.short_run import ROOT

glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")


def run(*arguments: str, **environment: str) -> dict:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_OF_THE_USER)}
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
    plain, kept = run(), run("keep")
    assert not plain["kept"] and plain["faults"] >= 32  # 16,384 of 4 kB, 32 where the kernel gives huge pages
    assert kept["kept"] and kept["faults"] < plain["faults"] / 5


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


@glibc
@pytest.mark.parametrize("program", [["train.py"], ["-m", "lglsq_jax"]])
def test_the_programs_keep_it(program, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "import lglsq_jax.commands.allocator as a\na.keep_freed_memory = lambda: print('kept')\n"
    )
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    said = subprocess.run(
        [sys.executable, *program, "--help"], capture_output=True, text=True, env=environment, cwd=ROOT, check=True
    )
    assert said.stdout.startswith("kept\nusage: ")
