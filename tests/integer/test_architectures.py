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


RANGES = [(first, 15) for first in range(0, 210, 15)]


@pytest.mark.long
@pytest.mark.parametrize(("first", "count"), RANGES)
def test_random_networks(first, count):
    """In a process of its own: how it compiles is chosen before JAX computes anything."""
    command = [sys.executable, str(SCRIPT), "--inputs", str(count), "--seed", str(first)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert f"{count} random networks: every promise kept" in done.stdout
