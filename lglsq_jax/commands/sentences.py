"""Every error that a user can put right, as one sentence on standard error and exit status 2."""

import contextlib
import io
import logging
import re
import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

from ..errors import UserError

T = TypeVar("T")


def parse(kind: type[T], arguments: Sequence[str], *, default: T | None = None, prog: str, description: str = "") -> T:
    """Returns the dataclass ``kind`` filled from the command line by tyro.

    Raises:
        UserError: a flag is not known, or a value is missing or not allowed.
        SystemExit: status 0 after ``--help``.
    """
    import tyro

    said = io.StringIO()
    start = tyro.MISSING_NONPROP if default is None else default
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(kind, args=list(arguments), prog=prog, description=description or None, default=start)
    except SystemExit as exit:
        if not exit.code:
            raise
        raise UserError(_sentence(said.getvalue(), prog)) from None


def _sentence(box: str, prog: str) -> str:
    """Returns what tyro says in a box as one sentence."""
    lines = [re.sub(r"[│╭╮╰╯─]|-{4,}", " ", line).strip() for line in box.splitlines()]
    lines = lines[2:] if lines[1:2] == [""] else lines[1:]  # below the title, which has a rule of its own in ASCII
    first, rest = [], iter(lines)
    for line in rest:
        if not line:
            break
        first.append(line)
    text = " ".join(first)
    text = re.sub(r"^Error parsing [\w.-]+: (?=`)", "", text)
    text = re.sub(r"^Unrecognized options: ([^,]*).*$", r"there is no option \1", text)
    text = re.sub(r"^Error parsing (\S+): (.*)$", r"`\1` cannot be read: \2", text)
    text = re.sub(r"^Missing value for argument '(\S+)'.*$", r"`\1` must have a value, got none", text)
    text = re.sub(r"^Missing from .*: (\S+) .*$", r"\1 must be given, got nothing", text)
    close = [found.group() for found in (re.match(r"--[\w.-]+", line) for line in rest) if found]
    if close and text.startswith("there is no option"):
        text += f"; did you mean {close[0]}?"
    return f"{text}; `{prog} --help` lists all options" if "option" in text else text


def answer(command: Callable[[], int | None]) -> int:
    """Runs a command and returns its exit status: 2 after a ``UserError``, 128 plus the signal after a stop.

    What it printed is written here, and not when Python ends, so that a full disk is a sentence too.
    """
    # Threads of orbax and tensorstore log the failure of a write with tracebacks of their own; the sentence says it.
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    status = 0
    try:
        status = _status(command)
        _flush()
    except BrokenPipeError:  # the reader of a pipe has seen enough
        _leave_output()
    except OSError as error:
        if not _output_fails():
            raise
        print(f"error: cannot write the output: {error.strerror}", file=sys.stderr)
        _leave_output()
        return 2
    return status


def _flush() -> None:
    if sys.stdout is not None:  # where it was closed before Python began
        sys.stdout.flush()


def _output_fails() -> bool:
    """Whether it is standard output that cannot be written: an empty line cannot be either."""
    try:
        print(flush=True)
    except OSError:
        return True
    return False


def _leave_output() -> None:
    """Closes standard output, which Python would flush once more at its end."""
    with contextlib.suppress(OSError):
        sys.stdout.close()


def _status(command: Callable[[], int | None]) -> int:
    try:
        return command() or 0
    except SystemExit as exit:  # after --help
        if exit.code:
            raise
        return 0
    except UserError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("lglsq_jax"):
            raise
        print(
            f"error: the package {error.name} is missing from {sys.executable}; `make env` installs everything into "
            ".venv, and `. .venv/bin/activate` makes it the `python` of this shell",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt:
        print("stopped by Ctrl-C; what was saved is kept", file=sys.stderr)
        return 130
