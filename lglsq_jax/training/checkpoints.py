"""Checkpoints that are written while training goes on, checked leaf by leaf, and never of another model unnoticed."""

import hashlib
import json
import math
import os
import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ..errors import UserError
from .leaves import leaf_hash, named_leaves, whole_hash
from .step_folders import StepFolders, Unreadable, reason

__all__ = ["Checkpoints", "leaf_hash", "named_leaves", "whole_hash"]


class Checkpoints:
    """The checkpoints of one phase of a run, in a folder of their own.

    A checkpoint holds every leaf of a pytree under its name and, beside it, a sha256 of each leaf and of the facts:
    orbax restores flipped bits and other dtypes without a word. One thread hashes and writes while training goes on;
    there is at most one save on its way. In a program of several processes only process 0
    may use it (the others get a ``RuntimeError``); it waits for none of them.

    Args:
        folder: where they lie; made when the first one is saved.
        warn: called with a sentence where a damaged checkpoint is passed over.
        keep: how many of the newest are kept.
        keep_best: whether the best one is kept too.
    """

    def __init__(self, folder: Path, warn=print, keep: int = 2, keep_best: bool = True):
        if keep < 1:
            raise ValueError(f"`keep` must be at least 1, got {keep}")
        self.folder = folder.absolute()
        self._warn = warn
        self._keep = keep
        self._keep_best = keep_best
        self._folders = StepFolders(folder)
        self._thread: ThreadPoolExecutor | None = None
        self._saving: Future[None] | None = None
        self._seen = False  # whether the folder was there
        self._given_up: set[int] = set()  # damaged, and cannot be moved out of the way

    @property
    def steps(self) -> list[int]:
        """The steps of which there is a checkpoint that was written to its end, newest first.

        Raises:
            UserError: the folder cannot be read.
        """
        self._settle()
        try:
            found = self._folders.finished()
        except OSError as error:
            raise UserError(f"cannot read the checkpoints in {self.folder}: {reason(error)}") from None
        self._seen |= bool(found)
        return [step for step in found if step not in self._given_up]

    @property
    def best(self) -> int | None:
        """The step whose ``best_by`` is the largest, the newest of equals; None where none was saved with one."""
        return self._best_of(self.steps)

    def save(self, step: int, state: Any, facts: dict[str, Any], *, best_by: float | None = None) -> None:
        """Copies a pytree to the host and returns; it is written with JSON facts, whole or not at all, by ``wait``.

        Args:
            step: must not have a checkpoint yet.
            state: arrays of JAX or NumPy; they may be donated or overwritten as soon as this returns.
            facts: JSON values.
            best_by: how good it is, larger is better, such as the accuracy on the test set.

        Raises:
            UserError: the save before this one failed, for instance because the disk is full; earlier checkpoints stay.
        """
        self.wait()
        if step in self.steps:
            raise UserError(f"cannot save the checkpoint of step {step} to {self.folder}: there is one already")
        if self._seen and not self.folder.is_dir():
            self._warn(f"the folder of the checkpoints, {self.folder}, was removed; it is made again")
        leaves = {name: np.array(leaf) for name, leaf in named_leaves(state).items()}  # a CPU's own memory else
        if best_by is not None and not math.isnan(best_by):
            facts = {**facts, "best_by": float(best_by)}
        facts = json.loads(json.dumps(facts))
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "checkpoints")
        self._saving = self._thread.submit(self._write, step, leaves, facts)

    def wait(self) -> None:
        """Returns when the last save is on disk.

        Raises:
            UserError: it cannot be written; said once. Earlier checkpoints stay.
        """
        if self._saving is not None:
            try:
                self._saving.result()
            finally:
                if self._saving.done():
                    self._saving = None

    def restore(self, like: Any) -> tuple[int, Any, dict[str, Any]] | None:
        """Returns the newest good checkpoint as ``(step, state, facts)``; None where there is none at all.

        Args:
            like: a pytree with the structure, shapes and dtypes to restore.

        Raises:
            UserError: the newest checkpoint is of another model, or all are damaged.
        """
        damaged, steps = [], self.steps
        for step in self._folders.unfinished():
            if not steps or step > steps[0]:
                self._warn(
                    f"the checkpoint of step {step} in {self.folder} was not written to its end; it does not count"
                )
        for step in steps:
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
            step, what = damaged[0]
            raise UserError(
                f"no checkpoint in {self.folder} can be read: that of step {step} is damaged ({what}); "
                "use another run folder"
            )
        return None

    def read(self, step: int) -> tuple[dict[str, np.ndarray], dict[str, Any]] | str:
        """Returns the leaves by name and the facts of one checkpoint, or in what way it is damaged."""
        self._settle()
        try:
            leaves, facts = self._folders.read(step)
            _check_facts(facts)
            hashes = facts.pop("sha256")
        except Unreadable as error:
            return str(error)
        except KeyError:
            return "its facts lack the hashes of its arrays"
        for name in sorted(hashes.keys() | leaves.keys()):
            if name not in leaves:
                return f"{name} is missing"
            if name not in hashes or leaf_hash(leaves[name]) != hashes[name]:
                return f"the bytes of {name} are not those that were saved"
        facts.pop("best_by", None)
        return leaves, facts

    def close(self) -> None:
        """Waits for what is being written and closes orbax's objects; raises what ``wait`` raises."""
        try:
            self.wait()
        finally:
            if self._thread is not None:
                self._thread.shutdown()
                self._thread = None
            self._folders.close()

    def _settle(self) -> None:
        """Waits for what is being written and leaves its error to ``wait``."""
        if self._saving is not None:
            wait_for([self._saving])

    def _write(self, step: int, leaves: dict[str, np.ndarray], facts: dict[str, Any]) -> None:
        """Hashes and writes a checkpoint and deletes those that are not kept; runs beside the training."""
        try:
            hashes = {name: leaf_hash(leaf) for name, leaf in leaves.items()}
            self._folders.write(step, leaves, {**facts, "sha256": hashes, "facts_sha256": _facts_hash(facts)})
            self._given_up.discard(step)
            for old in self._superfluous():
                self._folders.delete(old)
        except Exception as error:  # orbax and tensorstore raise many kinds
            raise UserError(
                f"cannot save the checkpoint of step {step} to {self.folder}: {reason(error)}; "
                "earlier checkpoints are kept"
            ) from error

    def _superfluous(self) -> list[int]:
        steps = self._folders.finished()
        kept = {*steps[: self._keep], self._best_of(steps) if self._keep_best else None}
        return [step for step in steps if step not in kept]

    def _best_of(self, steps: list[int]) -> int | None:
        scores = [(score, step) for step in steps if (score := self._score(step)) is not None]
        return max(scores)[1] if scores else None

    def _score(self, step: int) -> float | None:
        try:
            facts = self._folders.read_facts(step)
            _check_facts(facts)
        except Unreadable:
            return None
        return facts.get("best_by")

    def _set_aside(self, step: int) -> None:
        """Moves a damaged checkpoint out of the way of the next one of that step."""
        aside = self.folder.with_name(self.folder.name + "-damaged")
        target = aside / str(step)
        try:
            aside.mkdir(exist_ok=True)
            if target.exists():
                shutil.rmtree(target)
            os.replace(self.folder / str(step), target)
        except OSError as error:
            self._given_up.add(step)
            self._warn(f"the damaged checkpoint of step {step} cannot be moved to {aside}: {reason(error)}")


def _facts_hash(facts: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _check_facts(facts: dict[str, Any]) -> None:
    """Takes the hash of the facts out of them; raises ``Unreadable`` where they are not those that were saved."""
    rest = {name: value for name, value in facts.items() if name != "sha256"}
    wanted = rest.pop("facts_sha256", None)
    if wanted is not None and wanted != _facts_hash(rest):  # older checkpoints have none
        raise Unreadable("its facts are not those that were saved")
    facts.pop("facts_sha256", None)


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
