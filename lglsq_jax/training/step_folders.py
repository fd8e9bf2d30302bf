"""The folders that checkpoints lie in, one a step, written with orbax: each is whole or does not count."""

import contextlib
import errno
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.options import AsyncOptions, AtomicityMode, AtomicityOptions, MultiprocessingOptions

_MARKER = "commit_success.txt"  # orbax writes it last; a folder without it was not written to its end


class Unreadable(Exception):
    """A checkpoint, or a part of it, cannot be read; the text says which and why."""


class StepFolders:
    """Named arrays and JSON facts of a step in a folder of that step's number.

    In a program of several processes only process 0 may call it (the others get a ``RuntimeError``): orbax waits for
    none of them.

    Args:
        folder: where they lie; made when the first one is written.
    """

    def __init__(self, folder: Path):
        self.folder = folder.absolute()
        self._checkpointer: ocp.Checkpointer | None = None

    def finished(self) -> list[int]:
        """Returns the steps that were written to their end, newest first."""
        return self._steps(finished=True)

    def unfinished(self) -> list[int]:
        """Returns the steps whose folder was begun or half deleted, newest first."""
        return self._steps(finished=False)

    def write(self, step: int, leaves: dict[str, np.ndarray], facts: dict[str, Any]) -> None:
        """Writes a step to its end in place of what is there; leaves nothing of it where orbax or the system raises."""
        self._check_room(sum(leaf.nbytes for leaf in leaves.values()))
        for old in {*self.unfinished(), step}:
            self.delete(old)
        arguments = ocp.args.Composite(
            state=ocp.args.PyTreeSave(leaves),
            facts=ocp.args.JsonSave(facts),  # pyright: ignore[reportCallIssue]
        )
        try:
            self._open().save(self.folder / str(step), args=arguments)
        except BaseException:
            self.delete(step)
            raise

    def read(self, step: int) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Returns the arrays by name and the facts of a step.

        Raises:
            Unreadable: a file is missing or damaged; the array is named where it is known.
        """
        facts = self.read_facts(step)
        leaves = self._restore(step, state=ocp.args.PyTreeRestore())["state"]  # pyright: ignore[reportCallIssue]
        return {name: np.asarray(leaf) for name, leaf in leaves.items()}, facts

    def read_facts(self, step: int) -> dict[str, Any]:
        """Returns the facts of a step; raises ``Unreadable`` where there are none."""
        facts = self._restore(step, facts=ocp.args.JsonRestore())["facts"]  # pyright: ignore[reportCallIssue]
        if not isinstance(facts, dict):
            raise Unreadable("its facts are not a JSON object")
        return facts

    def delete(self, step: int) -> None:
        """Deletes a step: killed on the way, what is left does not count. What cannot be deleted stays."""
        path = self.folder / str(step)
        with contextlib.suppress(OSError):
            (path / _MARKER).unlink(missing_ok=True)
            shutil.rmtree(path)

    def close(self) -> None:
        """Closes orbax's objects; they are opened again when they are needed."""
        if self._checkpointer is not None:
            self._checkpointer.close()
            self._checkpointer = None

    def _steps(self, *, finished: bool) -> list[int]:
        _check_process()
        if not self.folder.is_dir():
            return []
        found = (path for path in self.folder.iterdir() if path.name.isdecimal() and path.is_dir())
        return sorted((int(path.name) for path in found if (path / _MARKER).exists() == finished), reverse=True)

    def _check_room(self, size: int) -> None:
        """Raises ``OSError`` where a file of ``size`` bytes does not fit: better now than in tensorstore's threads."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=self.folder) as file:
            try:
                os.posix_fallocate(file.fileno(), 0, max(size, 1))
            except OSError as error:
                if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):  # some file systems cannot reserve
                    raise

    def _restore(self, step: int, **arguments: Any) -> Any:
        try:
            return self._open().restore(self.folder / str(step), args=ocp.args.Composite(**arguments))
        except Exception as error:  # orbax and tensorstore raise many kinds
            raise Unreadable(_what_is_unreadable(error, next(iter(arguments)))) from None

    def _open(self) -> ocp.Checkpointer:
        if self._checkpointer is None:
            processes = _this_process_alone()
            atomicity = AtomicityOptions(AtomicityMode.COMMIT_FILE)
            handler = ocp.CompositeCheckpointHandler(
                composite_options=ocp.CompositeOptions(
                    multiprocessing_options=processes,
                    atomicity_options=atomicity,
                    async_options=AsyncOptions(create_directories_asynchronously=False),
                ),
                # Compressed, weights are 8 % smaller and take twice the processor time, which is the training's.
                state=ocp.PyTreeCheckpointHandler(multiprocessing_options=processes, use_compression=False),
                facts=ocp.JsonCheckpointHandler(multiprocessing_options=processes),
            )
            self._checkpointer = ocp.Checkpointer(
                handler, multiprocessing_options=processes, atomicity_options=atomicity
            )
        return self._checkpointer


def reason(error: BaseException) -> str:
    """Returns the system's own word for what went wrong, where there is one in the text."""
    code = getattr(error, "errno", None) or next(iter(re.findall(r"os_error_code='(\d+)'", str(error))), None)
    return os.strerror(int(code)) if code else _first_line(error)


def _this_process_alone() -> MultiprocessingOptions:
    """Tells orbax to wait for no other process."""
    _check_process()
    if jax.process_count() == 1:
        return MultiprocessingOptions()
    return MultiprocessingOptions(primary_host=0, active_processes={0}, barrier_sync_key_prefix="checkpoints")


def _check_process() -> None:
    if jax.process_index() != 0:
        raise RuntimeError(f"only process 0 saves and reads checkpoints, not process {jax.process_index()}")


def _what_is_unreadable(error: Exception, item: str) -> str:
    """Names the array or the file that an error of orbax or tensorstore is about."""
    leaf = re.search(r'"([^"/]+)/(?:\.zarray|[\d.]+)" in OCDBT database', str(error))
    if leaf:
        return f"{leaf[1]} cannot be read: {_cause(error)}"
    part = {"state": "the list of its arrays", "facts": "its facts"}[item]
    return f"{part} cannot be read: {_first_line(error)}"


def _cause(error: Exception) -> str:
    """Returns the last and most particular part of tensorstore's nested messages, without its specifications."""
    text = re.split(r" \[(?:tensorstore_spec|source locations|domain)", str(error).strip().splitlines()[0])[0]
    return text.rsplit('": ', 1)[-1][:200]


def _first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:200]}" if text else type(error).__name__
