"""The annotated types and shapes of public functions are those that really come and go."""

import subprocess
import sys
from pathlib import Path


def test_annotated_types_and_shapes_hold():
    walk = Path(__file__).resolve().parent / "typed_walk.py"
    run = subprocess.run([sys.executable, str(walk)], capture_output=True, text=True)
    assert (run.returncode, run.stdout.strip()) == (0, "annotations hold"), run.stderr[-3000:]
