"""What an installer and a reader of the release see: version, requirements, exported names."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import lglsq_jax

ROOT = Path(__file__).resolve().parent.parent


def requirements(name: str) -> list[Requirement]:
    lines = (line.split("#")[0].strip() for line in (ROOT / name).read_text().splitlines())
    return [Requirement(line) for line in lines if line]


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_changelog_starts_with_the_version_of_the_package():
    versions = re.findall(r"^## (\d\S*)", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    assert versions[0] == lglsq_jax.__version__
    assert versions == sorted(versions, key=Version, reverse=True)


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-dev.txt", "requirements-export.txt"])
def test_every_requirement_has_both_bounds_and_allows_its_pin(name: str):
    pins = {canonicalize_name(pin.name): pin for pin in requirements("constraints.txt")}
    for requirement in requirements(name):
        operators = {clause.operator for clause in requirement.specifier}
        assert operators == {">=", "<"}, f"{requirement} needs a lower and an upper bound"
        assert canonicalize_name(requirement.name) in pins, f"{requirement} has no pin in constraints.txt"
        (pin,) = pins[canonicalize_name(requirement.name)].specifier
        assert requirement.specifier.contains(pin.version), f"{requirement} leaves out its pin {pin}"


def test_constraints_are_exact_versions_each_named_once():
    pins = requirements("constraints.txt")
    for pin in pins:
        assert [clause.operator for clause in pin.specifier] == ["=="], f"{pin} is not an exact version"
        assert pin.url is None, f"{pin} names a place instead of a version"
    assert len({canonicalize_name(pin.name) for pin in pins}) == len(pins)


def test_every_exported_name_exists():
    names = lglsq_jax.__all__
    assert len(set(names)) == len(names)
    for name in names:
        assert hasattr(lglsq_jax, name), f"`{name}` is in lglsq_jax.__all__ and does not exist"


def test_files_that_the_package_ships_exist():
    assert (ROOT / "lglsq_jax" / "py.typed").exists()
    for name in project()["license-files"]:
        assert "Apache License" in (ROOT / name).read_text()
