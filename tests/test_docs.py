"""Every Python example of the README and of docs/ runs as it is printed."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [page for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))) if page.exists()]

# A block that cannot run here says why in a comment before it: <!-- not run: reason -->
BLOCK = re.compile(r"^(<!-- not run: \S[^\n]*-->\n+)?```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def examples(text: str) -> list[tuple[int, str]]:
    """Returns the blocks that run, each with the number of its first line."""
    found = BLOCK.finditer(text)
    return [(text.count("\n", 0, match.start(2)) + 1, match[2]) for match in found if match[1] is None]


WITH_EXAMPLES = [
    pytest.param(page, id=page.name, marks=[pytest.mark.slow] if page.name == "tutorial.md" else [])
    for page in PAGES
    if examples(page.read_text())
]


@pytest.mark.parametrize("page", WITH_EXAMPLES)
def test_examples_run_in_order(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "__main__"}
    for line, source in examples(page.read_text()):
        exec(compile("\n" * (line - 1) + source, str(page), "exec"), names)  # errors show the page's own lines


def test_a_block_is_left_out_only_with_a_reason():
    text = "```python\na\n```\n<!-- not run: needs a run -->\n```python\nb\n```\n<!-- note -->\n```python\nc\n```\n"
    assert examples(text) == [(2, "a\n"), (10, "c\n")]


def test_every_page_links_to_files_that_exist():
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:|#)([^)#\s]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}, which does not exist"
