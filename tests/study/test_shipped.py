"""The studies of configs/studies load wherever the command is given."""

import pytest

from tests.short_run import ROOT

FOLDER = ROOT / "configs" / "studies"


@pytest.mark.parametrize(
    ("name", "cells"), [("quick", 30), ("methods", 1650), ("search", 55), ("confirm", 30), ("practice", 160)]
)
def test_a_study_loads_with_what_lies_beside_it(name, cells, command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    listed = command("study", FOLDER / f"{name}.py", "--list")
    assert listed.status == 0, listed.error
    assert listed.output.splitlines()[-1].startswith(f"0 of {cells} cells finished")
