"""Quantized products on meshes: the gradients of one device, and a batch that stays where it is."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.short_run import ROOT

SCRIPT = Path(__file__).with_name("gradients_on_meshes.py")
REFUSED = ("linear unchecked",)


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> dict[str, dict]:
    """What the script found, on four simulated devices."""
    out = tmp_path_factory.mktemp("meshes") / "found.json"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(out)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(out.read_text())


@pytest.mark.slow
def test_gradients_are_those_of_one_device(found):
    differences = {name: entry["difference"] for name, entry in found.items() if name not in REFUSED}
    assert len(differences) > 20
    assert {name: size for name, size in differences.items() if not size < 1e-5} == {}


@pytest.mark.slow
def test_no_device_is_sent_the_rows_of_another(found):
    counted = {name: entry["gathers"] for name, entry in found.items() if "gathers" in entry}
    assert len(counted) > 18
    assert {name: count for name, count in counted.items() if count} == {}


@pytest.mark.slow
def test_a_rule_that_is_not_linear_needs_types_that_tell_what_varies(found):
    for name in REFUSED:
        assert "`check_vma` of jax.shard_map must be True" in found[name]["refused"], name
