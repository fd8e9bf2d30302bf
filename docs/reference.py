"""Writes docs/reference.md from the docstrings of the public names: python docs/reference.py"""

import ast
import inspect
import itertools
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import lglsq_jax as lq

PAGE = Path(__file__).with_name("reference.md")
SECTIONS = (
    ("Numerics", ("QuantSpec", "quantize", "dequantize", "fake_quantize", "init_scale")),
    ("Layers", ("QuantConv", "QuantLinear", "Quantizer", "Identity", "Normalize", "BatchNorm", "Scale", "Offset",
                "Progress")),
    ("Whole models", ("Rule", "quantize_model", "calibrate", "set_progress", "compute_in", "accumulate_gradients",
                      "set_batch_norm_groups", "reestimate_batch_norm")),
    ("Bits by layer", ("allocate_bits", "layer_divergence", "multiply_adds")),
    ("Looking at a model", ("plan", "check_scales", "layer_statistics", "weight_codes", "sensitivity")),
    ("Errors", ("UserError",)),
)  # fmt: skip
MODULES = ("methods", "gradients", "oscillations", "ops", "models", "integer", "data", "training", "study")


def main() -> int:
    """Writes the page and says whether it changed."""
    text = reference()
    changed = not PAGE.exists() or PAGE.read_text() != text
    PAGE.write_text(text)
    print(f"{PAGE.name} {'is new' if changed else 'was up to date'}")
    return 0


def reference() -> str:
    """Returns the page; the same for the same sources, whatever the machine."""
    lines = [
        "# Reference",
        "",
        "Every public name with its signature and docstring, after `import lglsq_jax as lq`. Made by",
        "`python docs/reference.py`; a test checks that it is up to date. Flags of the command line:",
        "`python train.py digits --help` and `python -m lglsq_jax COMMAND --help`.",
        "",
    ]
    modules = {name for name in lq.__all__ if isinstance(getattr(lq, name), ModuleType)}
    if modules != set(MODULES):
        differing = ", ".join(sorted(modules ^ set(MODULES)))
        raise SystemExit(f"MODULES must be those of lq.__all__; they differ in {differing}")
    in_modules = {name for module in MODULES for name in public(getattr(lq, module))}
    rest = [name for name in lq.__all__ if not name.startswith("__") and name not in modules]
    listed = [name for _, names in SECTIONS for name in names]
    if missing := set(rest) - set(listed) - in_modules:
        raise SystemExit(f"name the section of {', '.join(sorted(missing))} in SECTIONS")
    sections = [(title, "lq", lq, names, "") for title, names in SECTIONS]
    for name in MODULES:
        module = getattr(lq, name)
        if not public(module):
            raise SystemExit(f"lq.{name} must name what is public in `__all__`")
        sections.append((f"lq.{name}", f"lq.{name}", module, public(module), inspect.getdoc(module) or ""))
    lines += [f"* [{title}](#{anchor(title)})" for title, *_ in sections] + [""]
    for title, prefix, module, names, meaning in sections:
        lines += [f"## {title}", ""] + ([markdown(meaning), ""] if meaning else [])
        for name in names:
            lines += entry(f"{prefix}.{name}", module, name)
    return "\n".join(lines).rstrip() + "\n"


def public(module: ModuleType) -> list[str]:
    """Returns the public names of a module, in their order: ``__all__``, or what it defines and describes."""
    if hasattr(module, "__all__"):
        return [name for name in module.__all__ if not isinstance(getattr(module, name), ModuleType)]
    return [name for name, _ in described(ast.parse(inspect.getsource(module)).body) if not name.startswith("_")]


def anchor(title: str) -> str:
    """Returns what GitHub makes of a heading: lower case, no punctuation, hyphens for spaces."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def entry(called: str, module: ModuleType, name: str) -> list[str]:
    """Returns the lines of one name."""
    value = getattr(module, name)
    lines = [f"### {called}", ""]
    if not (inspect.isclass(value) or inspect.isfunction(value)):
        return [*lines, markdown(constants(module).get(name, "")) or f"`{type(value).__name__}`", ""]
    tree = ast.parse(textwrap.dedent(inspect.getsource(value))).body[0]
    assert isinstance(tree, ast.ClassDef | ast.FunctionDef)
    lines += ["```py", signature(called, tree), "```", "", markdown(ast.get_docstring(tree) or ""), ""]
    if not isinstance(tree, ast.ClassDef):
        return lines
    for field, meaning in described(tree.body):
        lines += [f"* `{field}`: {one_line(meaning)}"]
    for method in tree.body:
        if isinstance(method, ast.FunctionDef) and not method.name.startswith("_") and ast.get_docstring(method):
            property_ = any("property" in ast.unparse(d) for d in method.decorator_list)
            shown = method.name if property_ else signature(method.name, method)
            lines += [f"* `{shown}`: {one_line(ast.get_docstring(method) or '')}"]
    return lines if lines[-1] == "" else [*lines, ""]


def signature(called: str, tree: ast.ClassDef | ast.FunctionDef) -> str:
    """Returns a call with arguments, types and defaults as they stand in the source."""
    if isinstance(tree, ast.FunctionDef):
        arguments = ast.unparse(tree.args)
        arguments = re.sub(r"^(self|cls)(, )?", "", arguments)
        return f"{called}({arguments})" + (f" -> {ast.unparse(tree.returns)}" if tree.returns else "")
    start = [f for f in tree.body if isinstance(f, ast.FunctionDef) and f.name == "__init__"]
    if start:
        return signature(called, start[0]).removesuffix(" -> None")
    fields = [ast.unparse(node) for node in tree.body if isinstance(node, ast.AnnAssign)]
    fields = [re.sub(r"dataclasses.field\(default_factory=(\w+)\)", r"\1()", field) for field in fields]
    return f"{called}({', '.join(fields)})" if fields else called


def described(body: list[ast.stmt]) -> Iterator[tuple[str, str]]:
    """Yields each assigned name that a string follows, and the string."""
    for node, after in itertools.pairwise(body):
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if isinstance(targets[0], ast.Name) and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            yield targets[0].id, inspect.cleandoc(str(after.value.value))


def constants(module: ModuleType) -> dict[str, str]:
    """Returns the described constants of a module and of the files of its folder."""
    found: dict[str, str] = {}
    for value in vars(module).values():
        if isinstance(value, ModuleType) and value.__name__.startswith(f"{module.__name__}."):
            found.update(described(ast.parse(inspect.getsource(value)).body))
    found.update(described(ast.parse(inspect.getsource(module)).body))
    return found


def one_line(text: str) -> str:
    """Returns the first paragraph on one line."""
    return " ".join(markdown(text.split("\n\n")[0]).split())


def markdown(docstring: str) -> str:
    """Returns a docstring as Markdown: sections in bold with lists, formulas between dollars, names as code."""
    text = re.sub(r":\w+:`(?:~)?([^`$\\]+)`", r"`\1`", re.sub(r":math:`([^`]+)`", r"$\1$", docstring))
    text = text.replace("``", "`")
    text = re.sub(r"^\.\. math:: *(.+?)(?=\n\n|\n[^\s]|\Z)", r"$$\1$$", text, flags=re.MULTILINE | re.DOTALL)
    lines: list[str] = []
    section = False
    for line in text.splitlines():
        if re.fullmatch(r"(Args|Returns|Raises|Attributes|Yields):", line):
            section = True
            lines += [f"**{line.rstrip(':')}**", ""]
        elif section and re.match(r"    [\w`*][\w`, *.\[\]]*: ", line):
            lines.append("* " + re.sub(r"^([\w*, .\[\]]+): ", r"`\1`: ", line.strip()))
        elif section and line.startswith("    "):
            lines.append(("  " if line.startswith("        ") else "") + line.strip())
        else:
            section = section and not line.strip()
            lines.append(line)
    return "\n".join(lines).strip()


if __name__ == "__main__":
    sys.exit(main())
