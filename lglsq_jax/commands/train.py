"""``train.py``: an experiment from ``configs/``, its fields as flags."""

import ast
import dataclasses
import difflib
import importlib.util
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from ..errors import UserError
from .command import setting, switch
from .sentences import answer, parse

_USAGE = """usage: python train.py CONFIG [--field.subfield VALUE ...] [--run-dir DIR] [--dry-run]

CONFIG is a file's name in configs/ (--list shows them) or the path of such a file.
python train.py CONFIG --help lists every field with its type, default and meaning.
The same command on an unfinished run continues it; --dry-run tries the whole way on made-up images first."""


def main(arguments: Sequence[str], configs: Path) -> int:
    """Runs ``train.py`` and returns its exit status.

    Args:
        arguments: the command line without the program's name.
        configs: the folder of experiments.
    """
    return answer(lambda: _train(list(arguments), configs))


def _train(arguments: list[str], configs: Path) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_USAGE, end="\n\n")
        _list(configs)
        if not arguments:
            raise UserError(f"CONFIG must be given first, such as {_names(configs)[0]}")
        return 0
    if arguments[0] == "--list":
        return _list(configs)
    chosen, given, run_dir = read(arguments, configs)
    from ..training.cluster import join

    join(**{name: getattr(given, name) for name in ("distributed", "coordinator", "processes", "process_id")})
    return _run(chosen, run_dir, given.dry_run, given.watch)


def read(arguments: Sequence[str], configs: Path) -> tuple[Any, Any, str]:
    """Returns the ``TrainConfig`` that a command line names, all its options, and the folder of the run.

    Raises:
        UserError: it does not name a config first, or a flag is wrong.
        SystemExit: status 0 after ``--help``.
    """
    name, *flags = arguments
    if name.startswith("-"):
        raise UserError(f"CONFIG must come first, before {name}; it is one of {', '.join(_names(configs))}")
    file = _find(name, configs)
    module = load_module(file)

    from ..training.config import TrainConfig

    config = getattr(module, "config", None)
    if not isinstance(config, TrainConfig):
        raise UserError(f"{file} must define `config` as a TrainConfig, got {config!r}")
    kind = _with_options(TrainConfig)
    fields = {field.name: getattr(config, field.name) for field in dataclasses.fields(TrainConfig)}
    default = kind(**fields)
    description = (module.__doc__ or "").strip()
    given: Any = parse(kind, flags, default=default, prog=f"train.py {name}", description=description)
    if given.run_dir == "":
        raise UserError("`--run-dir` must be a folder, got an empty text")
    chosen = TrainConfig(**{name: getattr(given, name) for name in fields})
    return chosen, given, given.run_dir or f"runs/{file.stem}{'-dry-run' if given.dry_run else ''}"


def _run(config, run_dir: str, dry: bool, watch: bool) -> int:
    from ..report import results_table
    from ..training import hosts
    from ..training.dry_run import dry_run
    from ..training.experiment import BrokenPromise, run_experiment
    from ..training.folder import RunFolder
    from ..training.signals import Stopped

    if dry and hosts.several():
        raise UserError("--dry-run must be run in one process, it is a try of everything else")
    finished = RunFolder(Path(run_dir)).finished
    try:
        summary = (dry_run if dry else run_experiment)(config, run_dir, tables=watch)
    except Stopped as stopped:
        print(stopped, file=sys.stderr)
        return stopped.status
    except BrokenPromise as broken:
        print(f"FAILED: {broken}", file=sys.stderr)
        return 1
    if not hosts.first():
        return 0
    print()
    print(results_table(summary))
    if finished:
        print(f"this run was finished before; name another folder with --run-dir to run it again ({run_dir})")
    else:
        print(f"everything is in {run_dir}")
    return 0


def _with_options(kind: type):
    """The config with what is not a part of the experiment."""
    import tyro

    find = "This process is one of several of a cluster that JAX knows: Slurm, Open MPI, a TPU pod, JobSet."
    found = "host:port of the first process of several, with --processes and --process-id."
    folder = "Folder of the run, runs/CONFIG if None; it may be one that was begun with the same fields."
    dry = "Try the whole way in minutes: made-up images, few steps, stopped once and continued."
    options = [
        ("run_dir", Annotated[str | None, tyro.conf.arg(help=folder)], dataclasses.field(default=None)),
        ("dry_run", *switch(dry)),
        ("watch", *switch("Print a table of all quantized layers at the end of every epoch.")),
        ("distributed", *switch(find)),
        ("coordinator", *setting(str, found)),
        ("processes", *setting(int, "How many processes there are.")),
        ("process_id", *setting(int, "Which of them this is, from 0.")),
    ]
    return dataclasses.make_dataclass(kind.__name__, options, bases=(kind,), frozen=True)


def _names(configs: Path) -> list[str]:
    return sorted(file.stem for file in configs.glob("*.py") if not file.stem.startswith("_"))


def _list(configs: Path) -> int:
    names = _names(configs)
    width = max(map(len, names), default=0)
    for name in names:
        try:
            text = (ast.get_docstring(ast.parse((configs / f"{name}.py").read_text())) or "").splitlines()
        except (SyntaxError, ValueError) as error:
            text = [f"cannot be read: {error}"]
        print(f"{name.ljust(width)}  {text[0] if text else ''}".rstrip())
    return 0


def _find(name: str, configs: Path) -> Path:
    if name in _names(configs):
        return configs / f"{name}.py"
    if name.endswith(".py"):
        if Path(name).is_file():
            return Path(name)
        raise UserError(f"CONFIG must be a file, but {name} does not exist")
    close = difflib.get_close_matches(name, _names(configs), n=1)
    hint = f"; did you mean {close[0]}?" if close else ""
    raise UserError(f"CONFIG must be one of {', '.join(_names(configs))}, got {name!r}{hint}")


def load_module(file: Path):
    """Returns the module of a Python file; what it builds may raise ``UserError``, which then names the file.

    Like a script, it may import the files beside it, wherever the command is given.

    Raises:
        UserError: it is not a Python file, or cannot be compiled.
    """
    spec = importlib.util.spec_from_file_location(f"configs.{file.stem}", file)
    if spec is None or spec.loader is None:
        raise UserError(f"the file must be Python and end in .py, got {file}")
    module, beside = importlib.util.module_from_spec(spec), str(file.resolve().parent)
    sys.path.insert(0, beside)
    try:
        spec.loader.exec_module(module)
    except UserError as error:
        raise UserError(f"{file}: {error}") from None
    except SyntaxError as error:
        raise UserError(f"{error.filename}, line {error.lineno}: {error.msg}") from None
    except ModuleNotFoundError as error:
        package = str(Path(__file__).parent.parent)
        if any(frame.filename.startswith(package) for frame in traceback.extract_tb(error.__traceback__)[1:]):
            raise  # it is this package that misses one
        raise UserError(f"{file} imports {error.name}, which is missing from {sys.executable}") from None
    finally:
        sys.path.remove(beside)
    return module
