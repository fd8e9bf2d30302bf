"""The overview of a block in several settings, and the pages of docs/studies/, made of the kept cells."""

import re

import pytest

from lglsq_jax.commands.train import load_module
from lglsq_jax.study import Block, Cells, Setting, Variant, tables
from lglsq_jax.study.beside import Beside, Mean
from lglsq_jax.study.statistics import Interval
from lglsq_jax.study.text import beside_overview, overview, report
from tests.short_run import ROOT
from tests.study.test_comparison import found
from tests.study.tiny import METHODS, W2A2, tiny_study

SETTINGS = (W2A2, Setting("more", {**W2A2.changes, "quantized.epochs": 3}))
study_pages = load_module(ROOT / "docs" / "study_pages.py")


def test_a_line_a_setting_and_a_column_a_variant_bold_where_something_is_claimed():
    top1 = found(10, 0.01)
    top1 |= {("more", variant, seed): value for (_, variant, seed), value in found(5, 0.01).items()}
    block = Block("A", SETTINGS, (*METHODS, Variant("ewgs")), "lsq")
    (table,) = tables(tiny_study(seeds=10, blocks=(block,)), top1)
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in overview(table) if line.startswith("|")]
    assert lines[0] == ["setting", "seeds", "lsq", "lsq+asr", "ewgs"]
    by_row = {(row.setting, row.variant): row for row in table.rows}
    for line, setting, seeds, bold in ((lines[2], "w2a2", "10", "**"), (lines[3], "more", "5", "")):
        base, other = by_row[setting, "lsq"], by_row[setting, "lsq+asr"]
        assert line[:3] == [setting, seeds, f"{base.mean:.2f} ± {base.error:.2f}"]
        assert line[3:] == [f"{bold}{other.difference:+.2f} ± {other.difference_error:.2f}{bold}", ""]


def test_seeds_are_those_of_what_is_shown():
    top1 = found(10, 0.01)
    top1 |= {("more", variant, seed): value for (_, variant, seed), value in top1.items()}
    for seed in range(7):
        del top1["w2a2", "lsq", seed]
        del top1["more", "lsq+asr", seed]
    study = tiny_study(seeds=10, settings=SETTINGS)
    (table,) = tables(study, top1)
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in overview(table) if line.startswith("|")]
    assert [line[1] for line in lines[2:]] == ["3", "10, 3"]
    shown = report(Cells(study, ROOT / "nothing"), [table])
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in shown.splitlines()]
    assert [line[2] for line in lines if line[0] in ("w2a2", "more") and len(line) == 10] == [
        "3", "10, 3 pairs", "10", "3",
    ]  # fmt: skip


def test_one_setting_needs_no_overview():
    assert overview(tables(tiny_study(seeds=10), found(10, 0.01))[0]) == []


@pytest.mark.parametrize("file", sorted((ROOT / "docs" / "studies").glob("*.json")), ids=lambda file: file.stem)
def test_the_pages_are_what_the_kept_cells_make(file):
    assert file.with_suffix(".md").read_text() == study_pages.made(file), "run: python docs/study_pages.py"


def test_what_stands_beside_top1_has_an_overview_too():
    mean = Mean(5, -1.25, 0.1, Interval(-1.5, -1.0))
    rows = [Beside("a", "lsq", mean, mean, None), Beside("a", "ewgs", None, mean, mean)]
    assert beside_overview(rows) == []  # one setting
    lines = beside_overview([*rows, Beside("b", "ewgs", mean, None, None)])
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    assert cells[0] == cells[4] == ["setting", "lsq", "ewgs"]
    assert cells[2:4] == [["a", "-1.25 ± 0.10", ""], ["b", "", "-1.25 ± 0.10"]]
    assert cells[6:] == [["a", "-1.25 ± 0.10", "-1.25 ± 0.10"], ["b", "", ""]]


def test_the_overviews_in_the_text_are_those_of_the_pages():
    """Tables of docs/study.md whose second column is of seeds are made; the others were written by hand."""
    shown = re.findall(r"\| setting +\| seeds \|.*\n(?:\|.*\n)+", (ROOT / "docs" / "study.md").read_text())
    pages = "".join(page.read_text() for page in (ROOT / "docs" / "studies").glob("*.md"))
    assert len(shown) >= 8 and [table for table in shown if table not in pages] == []
