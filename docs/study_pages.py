"""Writes docs/studies/NAME.md, the tables of each study, of its cells in NAME.json: python docs/study_pages.py"""

import sys
from pathlib import Path

from lglsq_jax.commands.train import load_module
from lglsq_jax.study import Cells, known_results, tables
from lglsq_jax.study.text import report

FOLDER = Path(__file__).with_name("studies")
STUDIES = Path(__file__).parents[1] / "configs" / "studies"


def main() -> int:
    """Writes the pages and says which have changed."""
    for file in sorted(FOLDER.glob("*.json")):
        page, text = file.with_suffix(".md"), made(file)
        changed = not page.exists() or page.read_text() != text
        page.write_text(text)
        print(f"{page.name} {'is new' if changed else 'was up to date'}")
    return 0


def made(file: Path) -> str:
    """Returns what ``study --known FILE --table`` prints of the study, with where it is from below it."""
    study = load_module(STUDIES / f"{file.stem}.py").study
    cells = Cells(study, FOLDER / "nothing", known_results(study, file))
    source = (
        f"Made by `python docs/study_pages.py` from every cell's top-1 in [{file.name}]({file.name}); the plan is "
        f"`configs/studies/{file.stem}.py`, and what to read from it is in [Studies](../study.md)."
    )
    return f"{report(cells, tables(study, cells.top1))}\n{source}\n"


if __name__ == "__main__":
    sys.exit(main())
