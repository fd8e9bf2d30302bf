"""Every script of benchmarks/, studies/ and fuzz/ starts from anywhere and says what it does."""

import ast
import subprocess
import sys

import pytest

from tests.short_run import ROOT

SCRIPTS = sorted(file for folder in ("benchmarks", "studies", "fuzz") for file in (ROOT / folder).glob("*.py"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_a_script_names_its_command_and_its_options(script, tmp_path):
    said = subprocess.run([sys.executable, script, "--help"], capture_output=True, text=True, cwd=tmp_path, check=True)
    meaning = ast.get_docstring(ast.parse(script.read_text()))
    assert meaning is not None and f"python {script.relative_to(ROOT)}" in meaning
    assert meaning.splitlines()[0] in said.stdout and said.stderr == ""


def test_a_study_prints_what_there_is(tmp_path):
    command = [sys.executable, ROOT / "studies" / "mobile_networks.py", "--table", "--runs", tmp_path]
    assert subprocess.run(command, capture_output=True, text=True, cwd=tmp_path).stdout == "no seed is finished yet\n"
