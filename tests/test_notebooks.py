"""The notebooks run, and hold what they print. To store their outputs again: python tests/test_notebooks.py"""

import re
import sys
from pathlib import Path

import nbclient
import nbformat
import pytest

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))


def executed(file: Path) -> nbformat.NotebookNode:
    """Returns the notebook with its outputs made again by the interpreter of this process."""
    notebook = nbformat.read(file, as_version=4)
    client = nbclient.NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": ROOT}}
    )
    client.execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # times of the day
    return notebook


def printed(notebook: nbformat.NotebookNode) -> list[str]:
    """Returns what each code cell prints, digits left out: the last ones differ between machines."""
    texts = ["".join(output.get("text", "") for output in cell.get("outputs", ())) for cell in notebook.cells]
    return [re.sub(r"[ \d,.-]+", " ", text) for text in texts]


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")  # those of Jupyter's packages in this process; the kernel is another one
@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.name)
def test_a_notebook_runs_and_holds_what_it_prints(file):
    stored = nbformat.read(file, as_version=4)
    nbformat.validate(stored)
    assert all(cell.outputs for cell in stored.cells if cell.cell_type == "code")
    assert printed(executed(file)) == printed(stored)


if __name__ == "__main__":
    for file in NOTEBOOKS:
        nbformat.write(executed(file), file)
        print(f"wrote {file.name}", file=sys.stderr)
