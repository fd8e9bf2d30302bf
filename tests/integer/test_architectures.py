"""Random networks keep every promise; thousands of them with ``make fuzz``."""

import subprocess
import sys

import pytest

from fuzz.architectures import check_all
from tests.short_run import ROOT

SCRIPT = ROOT / "fuzz" / "architectures.py"


@pytest.mark.slow
def test_a_few_random_networks():
    assert check_all(range(20, 22)) == ""


@pytest.mark.long
@pytest.mark.parametrize("first", range(0, 200, 10))
def test_random_networks(first):
    """In a process of its own: how it compiles is chosen before JAX computes anything."""
    command = [sys.executable, str(SCRIPT), "--inputs", "10", "--seed", str(first)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert "10 random networks: every promise kept" in done.stdout
