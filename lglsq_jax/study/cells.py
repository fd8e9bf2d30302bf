"""The cells of a study in a folder: which are finished, what they found, and training those that are not."""

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError
from ..files import read_json, write_json, writing
from ..training.config import TrainConfig, as_dict, differences, from_dict
from ..training.folder import MAY_CHANGE, RunFolder
from .plan import Cell, Study, changed, changes_to

FINISHED = "cell.json"
"""The file in a run's folder that says that its cell is finished."""
FOUND = ("top1", "seconds", "diverged")
"""What it holds, whatever version has written it."""
MORE = ("float_top1", "flipped")
"""What it holds besides; None where it was not measured.

``float_top1``: of the float network that it started from; ``flipped``: the share of weight codes that the last epoch
changed, mean over the layers whose weights have less than 8 bits.
"""
_START = ("pretraining.start_from ", "pretraining.weights ")


@dataclasses.dataclass(frozen=True)
class Cells:
    """Where the runs of a study are: a folder a cell, and one a float network, which several cells start from.

    Attributes:
        study: the plan.
        folder: of the whole study.
        known: what cells found that were trained elsewhere, by name; they count as finished.
    """

    study: Study
    folder: Path
    known: Mapping[str, dict[str, Any]] = dataclasses.field(default_factory=dict)

    def run_folder(self, cell: Cell) -> Path:
        """The folder of a cell's run."""
        return self.folder / cell.name

    def float_folder(self, cell: Cell) -> Path:
        """The folder of the run whose float network the cell starts from, named after what is not a default in it."""
        return self.folder / "float" / f"seed{cell.seed}-{_digest(cell.float_config)}"

    def config(self, cell: Cell) -> TrainConfig:
        """The cell's config, starting from its float network."""
        start_from = str(self.float_folder(cell))
        start = dataclasses.replace(cell.config.pretraining, start_from=start_from, weights=None)
        return dataclasses.replace(cell.config, pretraining=start)

    def result(self, cell: Cell) -> dict[str, Any] | None:
        """What a finished cell found, ``top1`` (a fraction) and ``seconds``; None where it is not finished."""
        return _result(self.run_folder(cell)) or self.known.get(cell.name)

    def check(self) -> None:
        """Sees to it that what is finished in the folder is what the study means by these names now.

        Raises:
            UserError: a cell was trained with another config; the fields are named.
        """
        cells = self.study.cells
        for cell in cells:
            # Where its float network lies may be another place; which one it is follows from the other fields.
            self._check(cell.name, self.run_folder(cell), cell.config, passed_over=_START)
        for folder, config in {self.float_folder(cell): cell.float_config for cell in cells}.items():
            self._check(f"float/{folder.name}", folder, config)

    def _check(self, name: str, path: Path, config: TrainConfig, passed_over: tuple[str, ...] = ()) -> None:
        if not self.has_config(path):
            return
        differing = [field for field in RunFolder(path).changes(config) if not field.startswith(passed_over)]
        if differing := differing + (self._other_weights(path, config) if passed_over else []):
            raise UserError(
                f"{name} in {self.folder} was trained with another config, which differs in {', '.join(differing)}; "
                f"name another folder with --runs, or remove {path}"
            )

    def _other_weights(self, path: Path, config: TrainConfig) -> list[str]:
        """The file of weights behind a finished cell, which its float network alone names, where it is another one."""
        started = Path(RunFolder.existing(path)[1].pretraining.start_from or "").name
        start = RunFolder(self.folder / "float" / started)
        found = start.changes(config) if start.config_file.exists() else []
        return [field for field in found if field.startswith("pretraining.weights ")]

    @staticmethod
    def has_config(path: Path) -> bool:
        """Whether a run that is finished says with what config."""
        return (path / FINISHED).exists() and RunFolder(path).config_file.exists()

    def changes(self, cell: Cell) -> dict[str, Any] | None:
        """What ``changed`` makes the cell's config of the study's base with; None: that of its run was never seen."""
        known = self.known.get(cell.name)
        seen = known["changes"] is not None if known else False
        return changes_to(self.study.base, cell.config) if seen or self.has_config(self.run_folder(cell)) else None

    @property
    def results(self) -> dict[tuple[str, str, int], dict[str, Any]]:
        """What each finished cell found, by setting, variant and seed."""
        found = ((cell, self.result(cell)) for cell in self.study.cells)
        return {(cell.setting, cell.variant, cell.seed): result for cell, result in found if result}

    @property
    def top1(self) -> dict[tuple[str, str, int], float]:
        """Top-1 of each finished cell by setting, variant and seed, a fraction."""
        return {key: result["top1"] for key, result in self.results.items()}

    @property
    def diverged(self) -> list[str]:
        """Names of the cells whose loss did not stay finite; they count with the accuracy of a guess."""
        found = ((cell, self.result(cell)) for cell in self.study.cells)
        return [cell.name for cell, result in found if result and result["diverged"]]

    def seconds_left(self, chosen: Sequence[Cell]) -> float | None:
        """Seconds that the unfinished ones of ``chosen`` will take in one process, judged by those that are finished.

        Cells count as others of their setting do, or as all do where none of it is finished; None: nothing is.
        """
        taken: dict[str, list[float]] = {}
        for cell in self.study.cells:
            if result := self.result(cell):
                taken.setdefault(cell.setting, []).append(result["seconds"])
        floats = {self.float_folder(cell) for cell in self.study.cells}
        started = [result["seconds"] for folder in floats if (result := _result(folder))]
        left = [cell for cell in chosen if self.result(cell) is None]
        floats_left = {folder for cell in left if not _result(folder := self.float_folder(cell))}
        if not left:
            return 0.0
        if not taken:
            return None
        everywhere = [seconds for each in taken.values() for seconds in each]
        each = sum(float(np.mean(taken.get(cell.setting, everywhere))) for cell in left)
        return each + len(floats_left) * float(np.mean(started or everywhere))


def known_results(study: Study, file: str | os.PathLike) -> dict[str, dict[str, Any]]:
    """Reads what cells of the study found on another machine, from what ``study FILE --list --json`` printed there.

    Cells of which the list does not say with what config they were trained, as of earlier versions, count by name.

    Raises:
        UserError: it cannot be read, is no such list, is that of another study, or has a cell of another config.
    """
    listed = read_json(file)
    try:
        rows, name, base = {row["cell"]: row for row in listed["cells"]}, listed["study"], listed.get("base")
        found = {cell: {key: row[key] for key in FOUND} for cell, row in rows.items()}
        found = {cell: {**result, **{key: rows[cell].get(key) for key in MORE}} for cell, result in found.items()}
        changes = {cell: rows[cell].get("changes") if base else None for cell in found}
        finished = {cell: {**row, "changes": changes[cell]} for cell, row in found.items() if row["top1"] is not None}
        right = all(0 <= row["top1"] <= 1 and row["seconds"] >= 0 for row in finished.values())
        right = right and all(isinstance(each, dict | None) for each in (base, *changes.values()))
    except (TypeError, KeyError, AttributeError):
        name, base, found, finished, right = None, None, {}, {}, False
    if not right:
        raise UserError(f"{file} must be what `study FILE --list --json` prints, but it is not")
    if name != study.name:
        raise UserError(f"{file} must be of the study {study.name!r}, but it is of {name!r}")
    if strange := sorted(set(found) - {cell.name for cell in study.cells}, key=str):
        raise UserError(f"{file} must hold cells of the study {study.name!r} alone, but it holds {strange[0]!r}")
    for cell in study.cells:
        there = finished[cell.name]["changes"] if cell.name in finished else None
        if base is not None and there is not None:
            before, now = as_dict(_known_config(base, there, f"{cell.name} in {file}")), as_dict(cell.config)
            if differing := [field for field in differences(before, now) if not field.startswith(MAY_CHANGE)]:
                raise UserError(
                    f"{cell.name} in {file} was trained with another config, which differs in {', '.join(differing)}"
                )
    return finished


def _known_config(base: dict[str, Any], changes: dict[str, Any], where: str) -> TrainConfig:
    try:
        return changed(from_dict(base), changes)
    except (UserError, TypeError, ValueError) as error:
        raise UserError(f"the config of {where} is of another version or damaged: {error}") from None


def run_cells(cells: Cells, chosen: Sequence[Cell], say: Callable[[str], Any], stop=None) -> None:
    """Trains the unfinished ones of ``chosen``, one after another; what the runs say goes to ``log.txt``.

    A cell that was killed goes on from its checkpoint. One whose loss does not stay finite counts with the accuracy
    of a guess, one over the number of classes.

    Args:
        cells: of the study.
        chosen: some or all of them.
        say: is told a line about each.
        stop: what asks to stop; None: SIGTERM and Ctrl-C alone.

    Raises:
        Stopped: SIGTERM or Ctrl-C; the state is saved.
        UserError: something that the user can put right, with the name of the cell; a finished cell has another config.
    """
    from ..training.cache import compiled_once
    from ..training.signals import StopRequest

    stop = stop or StopRequest()
    cells.check()
    left = [cell for cell in chosen if cells.result(cell) is None]
    with stop.listening(), compiled_once(cells.folder / "compiled"), _logged(cells.folder):
        for number, cell in enumerate(left, 1):
            stop.check("between two cells; the same command goes on from here")
            try:
                result = _run(cells, cell, stop)
            except UserError as error:
                raise UserError(f"{cell.name}: {error}") from None
            seconds = cells.seconds_left(left)
            hours = "" if seconds is None else f", about {seconds / 3600:.2f} h left"
            diverged = " (the loss was not finite)" if result["diverged"] else ""
            say(f"{number}/{len(left)} {cell.name}: top-1 {100 * result['top1']:.2f} %{diverged}{hours}")


def _run(cells: Cells, cell: Cell, stop) -> dict[str, Any]:
    if _result(start := cells.float_folder(cell)) is None:
        _finish(start, _train(start, cell.float_config, "float", stop))
    if _result(folder := cells.run_folder(cell)) is None:
        found = _train(folder, cells.config(cell), "quantized", stop)
        _finish(folder, {**found, "float_top1": (_result(start) or {}).get("top1"), "flipped": _flipped(folder)})
    result = cells.result(cell)
    assert result is not None
    return result


def _train(folder: Path, config: TrainConfig, last: str, stop) -> dict[str, Any]:
    from ..data import open_dataset
    from ..training.bad_steps import Diverged
    from ..training.experiment import train_alone

    began, diverged = time.monotonic(), ""
    try:
        top1 = train_alone(config, folder, stop, last=last)
    except Diverged as error:
        if last == "float":
            raise
        top1, diverged = 1 / open_dataset(config.data).num_classes, str(error)
    # A run that was stopped and went on has epochs on record that this process has not seen.
    return {"top1": top1, "seconds": max(time.monotonic() - began, _seconds_on_record(folder)), "diverged": diverged}


def _seconds_on_record(folder: Path) -> float:
    return sum(line.get("seconds", 0.0) for line in _test_lines(folder))


def _finish(folder: Path, found: dict[str, Any]) -> None:
    with writing(folder / FINISHED):
        write_json(folder / FINISHED, found)


def _flipped(folder: Path) -> float | None:
    """Returns the share of weight codes that the last epoch changed, as its line in the log says it."""
    found = [line.get("weight_codes_flipped") for line in _test_lines(folder)]
    return found[-1] if found else None


def _test_lines(folder: Path) -> list[dict[str, Any]]:
    from ..training.log import read_metrics

    return [line for line in read_metrics(RunFolder(folder)) if line["split"] == "test"]


@functools.cache
def _digest(config: TrainConfig) -> str:
    fields = changes_to(TrainConfig(), config)
    fields = {name: value for name, value in fields.items() if not f"{name} ".startswith(MAY_CHANGE)}
    numbers = {name: float(value) for name, value in fields.items() if type(value) is int}
    text = json.dumps({**fields, **numbers}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _result(folder: Path) -> dict[str, Any] | None:
    file = folder / FINISHED
    return read_json(file) if file.exists() else None


@contextlib.contextmanager
def _logged(folder: Path) -> Iterator[None]:
    with writing(f"to the study's folder {folder}"):
        folder.mkdir(parents=True, exist_ok=True)
        log = (folder / "log.txt").open("a")
    with log, contextlib.redirect_stdout(log):
        yield
