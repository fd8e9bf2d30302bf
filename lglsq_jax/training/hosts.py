"""Several processes with one run: the first does what is done once, and the others learn of it.

Every host runs the same program. What touches the run's folder happens on the first host alone, so that the folder
need not be shared; its result, or the sentence with which it ended, reaches all.
"""

import base64
import contextlib
import json
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from ..errors import UserError
from .signals import Stopped

T = TypeVar("T")


def first() -> bool:
    """Whether this is the host that writes."""
    return jax.process_index() == 0


def several() -> bool:
    """Whether there are other hosts."""
    return jax.process_count() > 1


def on_first(work: Callable[[], T]) -> T | None:
    """Does something on the first host while the others wait; they get None, or the error that ended it.

    Raises:
        UserError, Stopped: as ``work`` did, on every host.
    """
    return _agreed(work, lambda value: None)


def told(work: Callable[[], T]) -> T:
    """Does something on the first host and returns its result, which JSON can hold, on every host.

    Raises:
        UserError, Stopped: as ``work`` did, on every host.
    """
    return _agreed(work, lambda value: value)


def sent(tree: T) -> T:
    """Returns the arrays of the first host on every host, bit for bit; the others give arrays of the same shapes."""
    if not several():
        return tree

    def send(leaf):
        array = np.asarray(leaf)
        data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        found = np.asarray(multihost_utils.broadcast_one_to_all(data))
        return found.view(array.dtype).reshape(array.shape)

    return jax.tree.map(send, tree)


def all_say(answer: bool) -> bool:
    """Whether the answer of every host is yes."""
    return bool(np.all(multihost_utils.process_allgather(np.bool_(answer)))) if several() else answer


def all_see(folder: Path) -> bool:
    """Whether all hosts find in a folder what the first one puts there; one that cannot be written nobody sees."""
    if not several():
        return True

    def put() -> str:
        file = folder / f".seen-{uuid.uuid4().hex}"
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            file.touch()
        return file.name

    file = folder / told(put)
    found = all_say(file.exists())
    if first():
        with contextlib.suppress(OSError):
            file.unlink()
    return found


def _agreed(work: Callable[[], T], passed_on: Callable[[T], Any]):
    if not several():
        return work()
    if not first():
        return _result(json.loads(_said(None)))
    try:
        value = work()
        answer: dict[str, Any] = {"value": passed_on(value)}
    except UserError as error:
        _said({"error": str(error)})
        raise
    except Stopped as stopped:
        _said({"stopped": [stopped.status - 128, str(stopped)]})
        raise
    _said(answer)
    return value


def _result(answer: dict[str, Any]) -> Any:
    if "error" in answer:
        raise UserError(answer["error"])
    if "stopped" in answer:
        raise Stopped(*answer["stopped"])
    return answer["value"]


def _said(answer: dict[str, Any] | None) -> str:
    """Sends the first host's answer as JSON text; first its length, since an array's shape is the same everywhere."""
    text = b"" if answer is None else base64.b64encode(json.dumps(answer).encode())
    length = int(multihost_utils.broadcast_one_to_all(np.int32(len(text))))
    data = np.frombuffer(text.ljust(length), np.uint8)[:length]
    return base64.b64decode(np.asarray(multihost_utils.broadcast_one_to_all(data)).tobytes()).decode()
