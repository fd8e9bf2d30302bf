"""Every page of the README and of docs/: examples run as they are printed, commands exist, links lead somewhere."""

import contextlib
import importlib.util
import io
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from lglsq_jax.commands.runs import COMMANDS
from lglsq_jax.commands.sentences import parse
from lglsq_jax.commands.train import read
from lglsq_jax.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
PAGES = [page for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))) if page.exists()]

LONG = ("tutorial.md", "paper-row.md")

# A block that cannot run here says why in a comment before it: <!-- not run: reason -->
# A block of text right behind a block is what it prints.
BLOCK = re.compile(
    r"^(<!-- not run: \S[^\n]*-->\n+)?```python\n(.*?)^```$(?:\n+```text\n(.*?)^```$)?", re.MULTILINE | re.DOTALL
)


def examples(text: str) -> list[tuple[int, str, str | None]]:
    """Returns the blocks that run, each with the number of its first line and what the page says that it prints."""
    found = BLOCK.finditer(text)
    return [(text.count("\n", 0, match.start(2)) + 1, match[2], match[3]) for match in found if match[1] is None]


def without_digits(text: str) -> str:
    """Returns what is printed without its digits: the last ones differ between machines."""
    return re.sub(r"[ \d,.-]+", " ", text)


WITH_EXAMPLES = [
    pytest.param(page, id=page.name, marks=[pytest.mark.long] if page.name in LONG else [])
    for page in PAGES
    if examples(page.read_text())
]


@pytest.mark.parametrize("page", WITH_EXAMPLES)
def test_examples_run_in_order(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "__main__"}
    for line, source, shown in examples(page.read_text()):
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(compile("\n" * (line - 1) + source, str(page), "exec"), names)  # errors show the page's own lines
        if shown is not None:
            assert without_digits(printed.getvalue()) == without_digits(shown), f"{page.name}, line {line}"


def test_a_block_is_left_out_only_with_a_reason():
    text = "```python\na\n```\n<!-- not run: needs a run -->\n```python\nb\n```\n<!-- note -->\n```python\nc\n```\n"
    assert examples(text) == [(2, "a\n", None), (10, "c\n", None)]


def test_the_text_behind_a_block_is_what_it_prints():
    text = "```python\na\n```\n\n```text\n1,437 b\n```\n```python\nc\n```\nwords\n```text\nd\n```\n"
    assert examples(text) == [(2, "a\n", "1,437 b\n"), (9, "c\n", None)]
    assert without_digits("1,437 b  0.5 c\n") == without_digits("12 b 3.25  c\n") != without_digits("12 b 3.25 d\n")


def prose(text: str) -> str:
    """Returns a page without its code, whose brackets are no links and whose # are no headings."""
    return re.sub(r"^```.*?^```$|`[^`\n]*`", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors(text: str) -> set[str]:
    """Returns the anchors that GitHub gives to a page's headings: a second one of the same text ends in -1."""
    seen: Counter[str] = Counter()
    found = set()
    for title in re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL), re.M):
        name = re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
        found.add(name if not seen[name] else f"{name}-{seen[name]}")
        seen[name] += 1
    return found


def broken_links(page: Path) -> list[str]:
    """Returns the links of a page to files or headings that do not exist."""
    found = []
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", prose(page.read_text())):
        file, _, heading = target.partition("#")
        to = page.parent / file if file else page
        if not to.exists() or (heading and heading not in anchors(to.read_text())):
            found.append(target)
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page):
    assert broken_links(page) == []


def test_a_broken_link_is_found(tmp_path):
    (tmp_path / "a.md").write_text(
        "# A `b`: c\n[x](#a-b-c) [y](#no) [z](b.md) [w](a.md#a-b-c)\n```\n# D\n[v](c.md)\n```\n"
    )
    assert broken_links(tmp_path / "a.md") == ["#no", "b.md"]


def test_every_page_is_on_the_map():
    mapped = set(re.findall(r"\]\(([\w.-]+\.md)\)", (ROOT / "docs/index.md").read_text()))
    assert mapped | {"index.md"} == {page.name for page in (ROOT / "docs").glob("*.md")}


def commands(text: str) -> list[str]:
    """Returns the commands of a page's shell blocks that belong to this project, comments and line ends taken away."""
    blocks = re.findall(r"^(<!-- tried: \S[^\n]*-->\n+)?```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    lines = [line for tried, block in blocks if not tried for line in block.replace("\\\n", " ").splitlines()]
    return [" ".join(shlex.split(line, comments=True)) for line in lines if re.match(r"(python|make) ", line)]


def mistake(command: str) -> str:
    """Returns what is wrong with a command as it is typed; nothing where its words can be understood."""
    program, *words = shlex.split(re.sub(r"\$\w+", "0", command.partition(" > ")[0]))
    if program == "make":
        return "" if re.search(rf"^{words[0]}:", (ROOT / "Makefile").read_text(), re.M) else f"no target {words[0]}"
    if words[:2] == ["-m", "lglsq_jax"]:
        try:
            parse(COMMANDS[words[2]].options(), words[3:], prog=words[2])
        except (UserError, KeyError) as error:
            return str(error)
        return ""
    if words[0] != "train.py" or words[1].startswith("--"):
        return "" if (ROOT / words[0]).is_file() else f"no file {words[0]}"
    try:
        read(words[1:], ROOT / "configs")
    except UserError as error:
        return str(error)
    except SystemExit:  # --help
        pass
    return ""


ALL_COMMANDS = [
    pytest.param(page, command, id=f"{page.name}: {command}")
    for page in PAGES
    for command in commands(page.read_text())
]


@pytest.mark.parametrize(("page", "command"), ALL_COMMANDS)
def test_every_command_can_be_understood(page, command, capsys):
    assert mistake(command) == ""


def test_a_wrong_command_is_found():
    assert "did you mean --quantized.epochs" in mistake("python train.py digits --quantized.epohcs 3")
    assert "must be given" in mistake("python -m lglsq_jax verify")
    assert mistake("make lunch") and mistake("python benchmarks/no.py") and not mistake("python train.py digits")


def test_the_reference_is_up_to_date():
    spec = importlib.util.spec_from_file_location("reference", ROOT / "docs/reference.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (ROOT / "docs/reference.md").read_text() == module.reference(), "run: python docs/reference.py"


@pytest.mark.long
@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
def test_a_trained_run_goes_on_a_chip(finished_run, command, tmp_path, monkeypatch, capsys):
    """The commands of chip.md, on the run of the tests and into a folder of its own."""
    text = (ROOT / "docs/chip.md").read_text()
    export, compiler = re.search(r"python -m lglsq_jax (export .*?) +#.*\n(cc .*)\n", text).groups()
    header = tmp_path / "program.h"
    assert command(*export.replace("runs/digits", str(finished_run)).split(), "--output", header).status == 0
    words = shlex.split(compiler.replace("runs/digits/integer/program.h", str(header)))
    words = [str(ROOT / word) if word.startswith("examples/") else word for word in words]
    subprocess.run(words, cwd=tmp_path, check=True)
    (source,) = re.findall(r"<!-- not run: needs the run .*-->\n```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(compile(source, "chip.md", "exec"), {})
    top1 = json.loads((finished_run / "summary.json").read_text())["integer"]["top1"]
    assert capsys.readouterr().out.endswith(f"top-1 in C: {100 * top1:.2f} %\n")


@pytest.mark.slow
def test_what_extending_says_works_word_for_word(tmp_path):
    text = (ROOT / "docs/extending.md").read_text()
    for folder in ("lglsq_jax", "configs"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "train.py", tmp_path)
    files = re.findall(r"^<!-- not run: written to (\S+) -->\n```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    lines = re.findall(r"^<!-- a line for (\S+) -->\n```diff\n (.*)\n\+(.*)\n```$", text, re.MULTILINE)
    assert (len(files), len(lines)) == (4, 4)
    for file, source in files:
        assert not (tmp_path / file).exists()
        (tmp_path / file).write_text(source)
    for file, after, line in lines:
        old = (tmp_path / file).read_text()
        assert old.count(f"{after}\n") == 1, f"{file} must have the line {after!r} once"
        (tmp_path / file).write_text(old.replace(f"{after}\n", f"{after}\n{line}\n"))
    (command,) = re.findall(r"^<!-- tried: .*-->\n```sh\npython (.*)\n```$", text, re.MULTILINE)
    done = subprocess.run([sys.executable, *command.split()], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "tiny on stripes, 128 test images, triangle" in done.stdout and "0 unexplained" in done.stdout
    for folder in ("lglsq_jax", "configs"):
        ruff = [Path(sys.executable).with_name("ruff"), "check", "--config", ROOT / "pyproject.toml", tmp_path / folder]
        assert subprocess.run(ruff, capture_output=True, text=True, check=False).returncode == 0
