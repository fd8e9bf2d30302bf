"""Files that appear whole or not at all."""

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .errors import UserError

PARTLY = ".part-"
"""How the names of files begin that are being written."""


def write_whole(path: str | os.PathLike, data: bytes) -> None:
    """Writes ``data`` under ``path``: an earlier file of that name is replaced at once, or left as it was.

    A link stays, and what it leads to is replaced. What is no file, such as a pipe or ``/dev/stdout``, is written to.

    Raises:
        OSError: the folder is missing, may not be written, or is full.
    """
    target = os.path.realpath(os.fspath(path))
    if os.path.exists(target) and not os.path.isfile(target) and not os.path.isdir(target):
        Path(target).write_bytes(data)
        return
    handle, temporary = tempfile.mkstemp(dir=os.path.dirname(target), prefix=PARTLY)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)  # a temporary file starts out private
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.remove(temporary)
        raise


@contextlib.contextmanager
def writing(what: object) -> Iterator[None]:
    """Makes an error of the operating system meanwhile one sentence, ``cannot write WHAT: ...``.

    Raises:
        UserError: the disk is full, a folder is missing or may not be written, and the like.
    """
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write {what}: {error.strerror or error}") from None


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Writes ``value`` as indented JSON, whole or not at all."""
    write_whole(path, (json.dumps(value, indent=2) + "\n").encode())


def read_json(path: str | os.PathLike) -> Any:
    """Reads a JSON file.

    Raises:
        UserError: it is missing or not JSON.
    """
    try:
        return json.loads(Path(path).read_text())
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"{path} must be JSON, but it is not ({error}); it may be damaged") from None
