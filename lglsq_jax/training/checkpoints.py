"""Checkpoints with orbax: whole, checked leaf by leaf, and never of another model unnoticed."""

import errno
import hashlib
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import LatestN
from orbax.checkpoint.options import AtomicityMode, AtomicityOptions

from ..errors import UserError

_KEEP = 2


class Checkpoints:
    """The checkpoints of one phase of a run, in a folder of their own.

    A checkpoint holds every leaf of a pytree under its name and, beside it, a sha256 of each leaf: orbax restores
    flipped bits and other dtypes without a word.

    Args:
        folder: where they lie; made when the first one is saved.
        warn: called with a sentence where a damaged checkpoint is passed over.
    """

    def __init__(self, folder: Path, warn=print):
        self.folder = folder.absolute()
        self._warn = warn
        self._manager: ocp.CheckpointManager | None = None

    @property
    def steps(self) -> list[int]:
        """The steps of which there is a checkpoint that was written to its end, newest first."""
        if not self.folder.is_dir():
            return []
        return sorted(self._open().all_steps(), reverse=True)

    def save(self, step: int, state: Any, facts: dict[str, Any]) -> None:
        """Saves a pytree with JSON facts, whole or not at all; returns when it is on disk.

        Raises:
            UserError: it cannot be written, for instance because the disk is full; earlier checkpoints stay.
        """
        leaves = named_leaves(state)
        facts = {**facts, "sha256": {name: leaf_hash(leaf) for name, leaf in leaves.items()}}
        arguments = ocp.args.Composite(
            state=ocp.args.StandardSave(leaves),
            facts=ocp.args.JsonSave(facts),  # pyright: ignore[reportCallIssue]
        )
        try:
            self._check_room(sum(leaf.nbytes for leaf in leaves.values()))
            manager = self._open(create=True)
            manager.save(step, args=arguments)
            manager.wait_until_finished()
        except Exception as error:  # orbax and tensorstore raise many kinds
            reason = _reason(error)
            raise UserError(
                f"cannot save the checkpoint of step {step} to {self.folder}: {reason}; earlier checkpoints are kept"
            ) from error

    def restore(self, like: Any) -> tuple[int, Any, dict[str, Any]] | None:
        """Returns the newest good checkpoint as ``(step, state, facts)``; None where there is none at all.

        Args:
            like: a pytree with the structure, shapes and dtypes to restore.

        Raises:
            UserError: the newest checkpoint is of another model, or all are damaged.
        """
        damaged = []
        for step in self.steps:
            loaded = self.read(step)
            if isinstance(loaded, str):
                damaged.append((step, loaded))
                self._warn(
                    f"the checkpoint of step {step} in {self.folder} is damaged ({loaded}); trying an earlier one"
                )
                continue
            leaves, facts = loaded
            _check_same(named_leaves(like, abstract=True), leaves, step)
            for bad, _ in damaged:
                self._set_aside(bad)
            order, tree = jax.tree.flatten(like)
            names = list(named_leaves(like, abstract=True))
            assert len(order) == len(names)
            return step, jax.tree.unflatten(tree, [leaves[name] for name in names]), facts
        if damaged:
            step, reason = damaged[0]
            raise UserError(
                f"no checkpoint in {self.folder} can be read: that of step {step} is damaged ({reason}); "
                "use another run folder"
            )
        return None

    def read(self, step: int) -> tuple[dict[str, np.ndarray], dict[str, Any]] | str:
        """Returns the leaves by name and the facts of one checkpoint, or in what way it is damaged."""
        try:
            restored = self._open().restore(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardRestore(),  # pyright: ignore[reportCallIssue]
                    facts=ocp.args.JsonRestore(),  # pyright: ignore[reportCallIssue]
                ),
            )
            leaves, facts = restored["state"], dict(restored["facts"])
            hashes = facts.pop("sha256")
            leaves = {name: np.asarray(leaf) for name, leaf in leaves.items()}
        except Exception as error:  # orbax and tensorstore raise many kinds
            return _first_line(error)
        for name in sorted(hashes.keys() | leaves.keys()):
            if name not in leaves or name not in hashes or leaf_hash(leaves[name]) != hashes[name]:
                return f"the bytes of {name} are not those that were saved"
        return leaves, facts

    def close(self) -> None:
        """Waits for what is being written and closes orbax's manager."""
        if self._manager is not None:
            self._manager.close()
            self._manager = None

    def _check_room(self, size: int) -> None:
        """Raises ``OSError`` where a file of ``size`` bytes does not fit: better now than in tensorstore's threads."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=self.folder) as file:
            try:
                os.posix_fallocate(file.fileno(), 0, max(size, 1))
            except OSError as error:
                if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):  # some file systems cannot reserve
                    raise

    def _open(self, *, create: bool = False) -> ocp.CheckpointManager:
        if self._manager is None:
            self._manager = ocp.CheckpointManager(
                self.folder,
                item_names=("state", "facts"),
                options=ocp.CheckpointManagerOptions(
                    create=create,
                    enable_async_checkpointing=False,
                    preservation_policy=LatestN(_KEEP),
                    atomicity_options=AtomicityOptions(AtomicityMode.COMMIT_FILE),
                    cleanup_tmp_directories=create,
                ),
            )
        return self._manager

    def _set_aside(self, step: int) -> None:
        """Moves a damaged checkpoint out of the way of the next one of that step."""
        aside = self.folder.with_name(self.folder.name + "-damaged")
        aside.mkdir(exist_ok=True)
        target = aside / str(step)
        if target.exists():
            shutil.rmtree(target)
        self.close()
        os.replace(self.folder / str(step), target)


def named_leaves(state: Any, *, abstract: bool = False) -> dict[str, Any]:
    """Returns the leaves of a pytree by name, as NumPy arrays or, if ``abstract``, as they are; in a fixed order."""
    flat, _ = jax.tree_util.tree_flatten_with_path(state)
    names = [jax.tree_util.keystr(path, simple=True, separator=".").replace("/", ".") for path, _ in flat]
    assert len(set(names)) == len(names)
    leaves = [leaf for _, leaf in flat]
    return dict(zip(names, leaves if abstract else map(np.asarray, jax.device_get(leaves)), strict=True))


def leaf_hash(leaf: np.ndarray) -> str:
    """Returns the sha256 of an array's dtype, shape and bytes."""
    digest = hashlib.sha256(f"{leaf.dtype.name}{leaf.shape}".encode())
    digest.update(np.ascontiguousarray(leaf).data)
    return digest.hexdigest()


def whole_hash(leaves: dict[str, np.ndarray]) -> str:
    """Returns one sha256 over all leaves in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(leaves):
        digest.update(f"{name} {leaf_hash(leaves[name])}\n".encode())
    return digest.hexdigest()


def _check_same(wanted: dict[str, Any], found: dict[str, np.ndarray], step: int) -> None:
    if wanted.keys() != found.keys():
        name = min(wanted.keys() ^ found.keys())
        problem = f"it lacks {name}" if name in wanted else f"it has {name}, which the model lacks"
        raise UserError(f"the checkpoint of step {step} is of another model: {problem}")
    for name, leaf in found.items():
        want = wanted[name]
        if leaf.shape != want.shape or leaf.dtype != want.dtype:
            raise UserError(
                f"the checkpoint of step {step} is of another model: {name} must be {want.dtype} {list(want.shape)}, "
                f"got {leaf.dtype} {list(leaf.shape)}"
            )


def _reason(error: BaseException) -> str:
    """Returns the system's own word for what went wrong, where there is one in the text."""
    code = getattr(error, "errno", None) or next(iter(re.findall(r"os_error_code='(\d+)'", str(error))), None)
    return os.strerror(int(code)) if code else _first_line(error)


def _first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:200]}" if text else type(error).__name__
