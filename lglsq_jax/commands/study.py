"""``python -m lglsq_jax study FILE``: train the cells of a study that are missing, and print its tables."""

import contextlib
import dataclasses
import fnmatch
import math
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError
from .command import Command, Result, options_of, positional, setting, switch
from .orphans import as_parent, stop_with_parent
from .train import load_module

if TYPE_CHECKING:
    from ..study import Cells, Table
    from ..study.plan import Cell


def _study(options: Any) -> Result:
    from ..study import Cells, known_results
    from ..training.signals import Stopped

    stop_with_parent()
    study = _loaded(options.file)
    known = known_results(study, options.known) if options.known is not None else {}
    cells = Cells(study, Path(options.runs or f"runs/studies/{study.name}"), known)
    chosen = _chosen(cells, options)
    cells.check()
    if options.list:
        return _listing(cells, chosen)
    status = 0
    if not options.table:
        try:
            status = _trained(cells, chosen, options)
        except Stopped as stopped:
            _say(str(stopped))
            status = stopped.status
    return _reported(cells, chosen, status)


def _loaded(file: str) -> Any:
    from ..study import Study

    if not Path(file).is_file():
        raise UserError(f"FILE must be a Python file with a `study`, such as configs/studies/quick.py, got {file!r}")
    study = getattr(load_module(Path(file)), "study", None)
    if not isinstance(study, Study):
        raise UserError(f"{file} must define `study` as a Study, got {study!r}")
    return study


def _chosen(cells: "Cells", options: Any) -> "list[Cell]":
    chosen = [cell for cell in cells.study.cells if fnmatch.fnmatchcase(cell.name, options.only or "*")]
    if not chosen:
        raise UserError(
            f"`--only` must match a cell, such as {cells.study.cells[0].name} or '*/seed0', got {options.only!r}"
        )
    if options.processes is not None and options.processes < 1:
        raise UserError(f"`--processes` must be a whole number of at least 1, got {options.processes}")
    if options.share is not None:
        index, count = _share(options.share)
        chosen = [cell for cell in chosen if cell.seed % count == index]
    return chosen


def _share(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if not found or not int(found[1]) < int(found[2]):
        raise UserError(f"`--share` must be I/N with I from 0 to N - 1, such as 0/2 and 1/2, got {text!r}")
    return int(found[1]), int(found[2])


def _trained(cells: "Cells", chosen: "list[Cell]", options: Any) -> int:
    from ..study import run_cells

    if options.processes in (None, 1):
        run_cells(cells, chosen, _say)
        return 0
    if options.share is not None:
        raise UserError("`--processes` and `--share` must not both be given: each divides the seeds")
    return _in_processes(options)


def _in_processes(options: Any) -> int:
    """Runs this command once a share of the seeds, each on its own part of the CPUs, and returns the worst status."""
    count = options.processes
    more = [
        word for name in ("runs", "only", "known") if (value := getattr(options, name)) for word in (f"--{name}", value)
    ]
    command = [sys.executable, "-m", "lglsq_jax", "study", options.file, *more]
    with _noted_signals() as asked:
        started: list[subprocess.Popen] = []
        while len(started) < count and not asked:
            with _on_a_part_of_the_cpus(len(started), count):
                started.append(
                    subprocess.Popen(
                        [*command, "--share", f"{len(started)}/{count}"],
                        stdout=subprocess.DEVNULL,  # the tables of a part; the whole ones come at the end
                        start_new_session=True,  # Ctrl-C reaches it once, through this process
                        env=as_parent(),
                    )
                )
        stopped = [128 + asked[0]] if len(started) < count else []
        statuses = [_waited(process, started, asked) for process in started]
    return max([*stopped, *(status if status >= 0 else 128 - status for status in statuses)])


@contextlib.contextmanager
def _noted_signals() -> Iterator[list[int]]:
    """Yields a list to which each SIGTERM, Ctrl-C and SIGHUP is added; not SIGHUP below ``nohup``, which ignores it."""
    asked: list[int] = []
    kept_up = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    heard = (signal.SIGTERM, signal.SIGINT, *(() if kept_up else (signal.SIGHUP,)))
    before = {number: signal.signal(number, lambda number, frame: asked.append(number)) for number in heard}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _waited(process: subprocess.Popen, started: list[subprocess.Popen], asked: list[int]) -> int:
    """Returns the status of a process, and meanwhile passes signals on to all; SIGHUP as SIGTERM, which saves first."""
    while True:
        while asked:
            number = asked.pop(0)
            for each in started:
                each.send_signal(signal.SIGTERM if number == signal.SIGHUP else number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(timeout=0.2)


@contextlib.contextmanager
def _on_a_part_of_the_cpus(index: int, count: int) -> Iterator[None]:
    """Gives processes that are started meanwhile every ``count``-th CPU, where there are enough and Linux can."""
    cpus = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if count > len(cpus):
        yield
        return
    os.sched_setaffinity(0, cpus[index::count])  # of this thread, which a process inherits
    try:
        yield
    finally:
        os.sched_setaffinity(0, cpus)


def _listing(cells: "Cells", chosen: "list[Cell]") -> Result:
    from ..study.cells import FOUND, MORE
    from ..training.config import as_dict

    rows = []
    for cell in chosen:
        found = cells.result(cell) or {}
        told = {key: found.get(key) for key in (*FOUND, *MORE)}
        rows.append({"cell": cell.name, **told, "changes": cells.changes(cell)})
    lines = [f"{row['cell']}  " + ("-" if row["top1"] is None else f"{100 * row['top1']:.2f} %") for row in rows]
    fields = {**_progress(cells, chosen), "base": as_dict(cells.study.base), "cells": rows}
    return Result(fields, "\n".join([*lines, _left(cells, chosen)]))


def _reported(cells: "Cells", chosen: "list[Cell]", status: int) -> Result:
    from ..study import tables
    from ..study.beside import measures
    from ..study.text import report

    found = tables(cells.study, cells.top1)
    text = report(cells, found)
    # Cells that are only known from elsewhere leave no folder behind.
    files, said = _written(cells.folder / "report", text, found) if cells.top1 and cells.folder.is_dir() else ([], [])
    notes = [_left(cells, chosen), *said]
    fields = {
        **_progress(cells, chosen),
        "files": files,
        "diverged": cells.diverged,
        "tables": [
            {
                "title": table.block.title,
                "baseline": table.block.baseline,
                "comparisons": table.comparisons,
                "rows": [_plain(dataclasses.asdict(row)) for row in table.rows],
            }
            for table in found
        ],
        "beside": [_plain(dataclasses.asdict(row)) for row in measures(cells.study, cells.results)],
    }
    return Result(fields, "\n".join([text, *notes]), status=status)


def _written(place: Path, text: str, found: "list[Table]") -> tuple[list[str], list[str]]:
    """Writes the tables and their figures, and returns the files and what is to be said of them."""
    from ..files import write_whole, writing
    from ..study.plots import can_plot, draw

    files, notes = [], []
    try:
        with writing(f"to {place}"):
            place.mkdir(exist_ok=True)
            write_whole(place / "tables.md", text.encode())
        files.append(str(place / "tables.md"))
        if can_plot():
            files += map(str, draw(found, place))
        else:
            notes.append("Matplotlib is not installed, so there are no figures; pip install matplotlib brings them")
    except UserError as error:  # the tables are printed all the same
        notes.append(str(error))
    return files, [*(["wrote " + ", ".join(files)] if files else []), *notes]


def _progress(cells: "Cells", chosen: "list[Cell]") -> dict[str, Any]:
    seconds = cells.seconds_left(chosen)
    return {
        "study": cells.study.name,
        "folder": str(cells.folder),
        "chosen": len(chosen),
        "finished": sum(cells.result(cell) is not None for cell in chosen),
        "hours_left": None if seconds is None else seconds / 3600,
    }


def _left(cells: "Cells", chosen: "list[Cell]") -> str:
    progress = _progress(cells, chosen)
    hours = progress["hours_left"]
    left = (
        "how long they take is known after the first" if hours is None else f"about {hours:.2f} h left in one process"
    )
    finished, count = progress["finished"], len(chosen)
    return f"{finished} of {count} cells finished" + ("" if finished == count else f", {left}")


def _plain(value: Any) -> Any:
    """JSON has no NaN: None in its place."""
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _options() -> type:
    return options_of(
        "Options",
        [
            ("file", positional("FILE", "Python file with a `study`, such as configs/studies/quick.py.")),
            ("runs", *setting(str, "Folder of the study's runs, runs/studies/NAME if None.")),
            ("only", *setting(str, "Cells to run, such as '*/lsq/*' or '*/seed[0-4]'; all if None.")),
            ("processes", *setting(int, "Processes that share the seeds, each with its part of the CPUs; 1 if None.")),
            ("share", *setting(str, "I/N: every Nth seed from I on, for several machines with one folder.")),
            ("known", *setting(str, "File of `--list --json` from another machine; its cells count as finished.")),
            ("list", *switch("Print the cells, and what the finished ones found; run nothing.")),
            ("table", *switch("Print the tables of what is finished; run nothing.")),
        ],
    )


STUDY_COMMAND = Command(
    "study", "train the cells of a study that are missing, and print means and paired differences", _study, _options
)
