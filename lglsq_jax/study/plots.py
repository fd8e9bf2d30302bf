"""A study's tables as figures, where Matplotlib is installed."""

import importlib.util
import math
from collections.abc import Sequence
from pathlib import Path

from ..files import writing
from .comparison import Row, Table

_COLOURS = {"better": "tab:green", "worse": "tab:red"}


def can_plot() -> bool:
    """Whether Matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def draw(tables: Sequence[Table], folder: Path) -> list[Path]:
    """Draws two panels a table, top-1 and the differences to the baseline, and returns the files, PNG.

    Left: mean and standard error of each row. Right: mean paired difference with its 95 % t interval; green and red
    where a claim may be made, grey otherwise.

    Raises:
        UserError: a file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # pyright: ignore[reportMissingImports]
    from matplotlib.figure import Figure  # pyright: ignore[reportMissingImports]

    written = []
    for number, table in enumerate(tables, 1):
        rows = list(table.rows)
        if not rows:
            continue
        figure = Figure(figsize=(10, 1.2 + 0.3 * len(rows)), layout="constrained")
        FigureCanvasAgg(figure)
        left, right = figure.subplots(1, 2, sharey=True)
        places = range(len(rows))
        for place, row in zip(places, rows, strict=True):
            colour = _COLOURS.get(row.verdict, "tab:gray")
            left.errorbar(row.mean, place, xerr=_reach(row.error), fmt="o", color="tab:blue", capsize=3)
            if row.pairs:
                reach = _reach((row.interval.high - row.interval.low) / 2)
                right.errorbar(row.difference, place, xerr=reach, fmt="o", color=colour, capsize=3)
        right.axvline(0, color="black", linewidth=0.8)
        left.set_yticks(list(places), [_label(row) for row in rows])
        left.invert_yaxis()
        left.set_xlabel("top-1, %: mean ± standard error")
        right.set_xlabel(f"points against {table.block.baseline}: mean, 95 % t interval")
        figure.suptitle(table.block.title)
        file = folder / f"table{number}.png"
        with writing(file):
            figure.savefig(file, dpi=120)
        written.append(file)
    return written


def _reach(value: float) -> float:
    return 0.0 if math.isnan(value) else value


def _label(row: Row) -> str:
    return f"{row.setting}  {row.variant} ({row.seeds})"
