"""Which module may import which: downwards only, and no file grows without an idea of its own.

``ROWS`` is the whole rule, top row first. A module may import from its own row and from every row below it.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = "lglsq_jax"
ROOT = Path(__file__).resolve().parent.parent

ROWS = {
    "scripts": {"train", "configs", "benchmarks", "studies", "fuzz"},
    "package": {PACKAGE},  # lglsq_jax/__init__.py, which collects the public names
    "system": {"training", "data", "report", "study", "integer", "commands", "__main__"},
    "model": {
        "models",
        "accumulation",
        "batch_norm",
        "batches",
        "bit_allocation",
        "convert",
        "precision",
        "inspection",
        "layer_sensitivity",
        "observe",
        "paths",
    },
    "layer": {"identity", "layers", "normalize", "variables"},
    "function": {"ops"},
    "numerics": {
        "quantizers",
        "counting",
        "deferred",
        "gradients",
        "mesh_axes",
        "methods",
        "method_names",
        "calibration",
        "spec",
        "primitives",
        "oscillations",
    },
    "errors": {"errors", "files"},
}
WITHOUT_FLAX = ("numerics", "errors")
MOST_LINES = 400
NAMES_WITHOUT_MEANING = {"common", "helper", "helpers", "misc", "util", "utils"}


def source_files() -> list[Path]:
    scripts = [ROOT / "train.py", *(p for n in ROWS["scripts"] - {"train"} for p in (ROOT / n).rglob("*.py"))]
    return sorted(path for path in [*(ROOT / PACKAGE).rglob("*.py"), *scripts] if path.exists())


def dotted_name(path: Path) -> tuple[str, ...]:
    """Returns ``("lglsq_jax", "ops", "exact")`` for ``lglsq_jax/ops/exact.py``; an ``__init__`` is its folder."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts[:-1] if parts[-1] == "__init__" else parts


def component(name: tuple[str, ...]) -> str:
    """The entry of ``ROWS`` that a dotted name belongs to."""
    return name[1] if name[0] == PACKAGE and len(name) > 1 else name[0]


def row_of(entry: str) -> int:
    for number, entries in enumerate(ROWS.values()):
        if entry in entries:
            return number
    raise AssertionError(
        f"`{entry}` is in no row: add it to the row of ROWS in tests/test_layering.py where it belongs"
    )


def is_module(name: tuple[str, ...]) -> bool:
    path = ROOT.joinpath(*name)
    return path.is_dir() or path.with_suffix(".py").exists()


def imports(source: str, name: tuple[str, ...], is_folder: bool) -> Iterator[tuple[str, ...]]:
    """Dotted names that a module imports, anywhere in it; relative ones resolved."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (tuple(alias.name.split(".")) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ()
            if node.level:
                base = name[: len(name) - node.level + is_folder]
            base += tuple(node.module.split(".")) if node.module else ()
            for alias in node.names:
                inner = (*base, alias.name)
                yield inner if base[0] == PACKAGE and is_module(inner) else base


def upward_imports(source: str, name: tuple[str, ...], is_folder: bool = False) -> list[str]:
    here = row_of(component(name))
    own = {PACKAGE} | ROWS["scripts"]
    return [
        ".".join(target)
        for target in imports(source, name, is_folder)
        if target[0] in own and row_of(component(target)) < here
    ]


@pytest.mark.parametrize("path", source_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_downwards(path: Path):
    wrong = upward_imports(path.read_text(), dotted_name(path), path.stem == "__init__")
    assert not wrong, f"{path.relative_to(ROOT)} imports from a row above its own: {', '.join(wrong)}"


@pytest.mark.parametrize("row", WITHOUT_FLAX)
def test_numerics_know_no_flax(row: str):
    for path in source_files():
        name = dotted_name(path)
        if component(name) in ROWS[row]:
            found = {target[0] for target in imports(path.read_text(), name, path.stem == "__init__")}
            assert "flax" not in found, f"{path.relative_to(ROOT)} imports flax, which the row `{row}` does without"


def test_files_stay_small_and_have_a_name():
    for path in source_files():
        lines = len(path.read_text().splitlines())
        assert lines <= MOST_LINES, f"{path.relative_to(ROOT)} has {lines} lines: split it into a folder of its name"
        assert not NAMES_WITHOUT_MEANING & set(dotted_name(path)), (
            f"{path.relative_to(ROOT)}: name it after its one job"
        )


@pytest.mark.parametrize(
    ("source", "name", "is_folder", "wrong"),
    [
        ("from ..layers import QuantConv", ("lglsq_jax", "ops", "exact"), False, ["lglsq_jax.layers"]),
        ("from .. import layers, spec", ("lglsq_jax", "ops", "exact"), False, ["lglsq_jax.layers"]),
        ("from .. import QuantSpec", ("lglsq_jax", "ops", "exact"), False, ["lglsq_jax"]),
        ("def f():\n    import lglsq_jax.models.resnet", ("lglsq_jax", "layers"), False, ["lglsq_jax.models.resnet"]),
        ("from configs import digits", ("lglsq_jax", "training", "loop"), False, ["configs"]),
        ("from ..spec import QuantSpec\nfrom .exact import f", ("lglsq_jax", "ops", "quantized"), False, []),
        ("import lglsq_jax as lq\nfrom lglsq_jax import models", ("train",), False, []),
        ("from . import exact\nfrom ..layers import QuantConv", ("lglsq_jax", "ops"), True, ["lglsq_jax.layers"]),
    ],
)
def test_the_reader_sees_every_way_to_import(source: str, name: tuple[str, ...], is_folder: bool, wrong: list[str]):
    assert upward_imports(source, name, is_folder) == wrong


def test_a_module_in_no_row_is_named():
    with pytest.raises(AssertionError, match=r"`novel` is in no row: add it"):
        upward_imports("", ("lglsq_jax", "novel"))
