"""Figures about the whole network, as PNG bytes."""

from collections.abc import Sequence

import numpy as np

from ..layer_sensitivity import Sensitivity
from .drawing import BLACK, BLUE, GREEN, GREY, ORANGE, figure, png, whole_numbers
from .history import History

_ROW = 17  # CSS pixels of one layer in a chart of all layers


def training_curve(
    history: History, name: str, label: str, *, percent: bool = False, log: bool = False, bottom: float | None = None
) -> bytes:
    """Draws a value over the steps of both phases: each step (pale), their running mean, and the test set."""
    times = 100 if percent else 1
    with figure(290) as drawn:
        axes = drawn.subplots()
        for phase, colour in (("float", GREY), ("quantized", BLUE)):
            steps, values = (np.asarray(part, float) for part in history.series(phase, "train", name))
            if len(steps):
                axes.plot(steps, times * values, color=colour, alpha=0.22, linewidth=0.7)
                mean = running_mean(times * values)
                axes.plot(steps, mean, color=colour, linewidth=1.5, label=f"{phase}, training")
            steps, values = (np.asarray(part, float) for part in history.series(phase, "test", name))
            if len(steps):
                style = {"marker": "o", "markersize": 3.5, "linewidth": 1.2, "label": f"{phase}, test"}
                axes.plot(steps, times * values, color=BLACK if phase == "float" else ORANGE, **style)
        start = history.first_step("quantized")
        if start is not None:
            axes.axvline(start, color=GREY, linestyle="--", linewidth=1)
        if log:
            axes.set_yscale("log")
        axes.set(xlabel="training step", ylabel=label)
        axes.set_ylim(bottom=bottom, top=min(axes.get_ylim()[1], 100.5) if percent else None)
        whole_numbers(axes)
        drawn.legend(loc="outside lower center", ncols=2)
        return png(drawn)


def learning_rate(history: History) -> bytes:
    """Draws the learning rate over the steps of both phases."""
    with figure(230) as drawn:
        axes = drawn.subplots()
        for phase, colour in (("float", GREY), ("quantized", BLUE)):
            steps, values = history.series(phase, "train", "learning_rate")
            if steps:
                axes.plot(steps, values, color=colour, linewidth=1.5, label=phase)
        axes.set(xlabel="training step", ylabel="learning rate")
        whole_numbers(axes)
        drawn.legend(loc="outside lower center", ncols=2)
        return png(drawn)


def running_mean(values: np.ndarray) -> np.ndarray:
    """Returns the mean over a fiftieth of the series around each place, fewer at its ends."""
    half = len(values) // 100
    if not half:
        return values
    sums = np.concatenate([[0.0], np.cumsum(values)])
    places = np.arange(len(values))
    low, high = np.maximum(places - half, 0), np.minimum(places + half + 1, len(values))
    return (sums[high] - sums[low]) / (high - low)


def accuracy_and_size(rows: Sequence[tuple[str, float, float, float]]) -> bytes:
    """Draws networks as (name, top-1, its standard error, bytes): accuracy as points, size as bars."""
    names = [row[0] for row in rows]
    places = np.arange(len(rows))[::-1]
    with figure(300) as drawn:
        upper, lower = drawn.subplots(2, 1)
        top1, errors = (np.array([100 * row[column] for row in rows]) for column in (1, 2))
        upper.errorbar(top1, places, xerr=errors, fmt="o", color=BLUE, capsize=4, markersize=7)
        upper.set(xlabel="top-1, % (line: ± one standard error)")
        kilobytes = [row[3] / 1000 for row in rows]
        bars = lower.barh(places, kilobytes, height=0.55, color=GREEN)
        lower.bar_label(bars, [f"{value:,.0f}" for value in kilobytes], padding=3, fontsize=9)
        lower.set(xlabel="size of the file, kB", xlim=(0, 1.15 * max(kilobytes)))
        for axes in (upper, lower):
            axes.set_yticks(places, names)
            axes.grid(False, axis="y")
            axes.set_ylim(-0.6, len(rows) - 0.4)
        return png(drawn)


def sensitivity_chart(found: Sensitivity) -> bytes:
    """Draws a row a layer: top-1 with only this layer quantized, and with only this one left in float."""
    places = np.arange(len(found.layers))[::-1]
    with figure(135 + _ROW * len(found.layers)) as drawn:
        axes = drawn.subplots()
        for score, text, colour in (
            (found.unquantized, "no layer quantized", BLUE),
            (found.quantized, "every layer quantized", ORANGE),
        ):
            axes.axvline(100 * score.top1, color=colour, linestyle="--", linewidth=1.2, label=text)
        for values, text, marker, colour in (
            ([row.alone.top1 for row in found.layers], "only this layer quantized", "o", BLUE),
            ([row.left_out.top1 for row in found.layers], "only this layer in float", "D", ORANGE),
        ):
            axes.plot(100 * np.array(values), places, marker, color=colour, markersize=4.5, alpha=0.85, label=text)
        _layers_on(axes, places, [row.path for row in found.layers])
        axes.set(xlabel=f"top-1 of {found.samples:,} test images, %")
        drawn.legend(loc="outside lower center", ncols=2)
        return png(drawn)


def layer_bars(paths: Sequence[str], values: Sequence[float], label: str, colour: str) -> bytes:
    """Draws one bar a layer."""
    places = np.arange(len(paths))[::-1]
    with figure(75 + _ROW * len(paths)) as drawn:
        axes = drawn.subplots()
        axes.barh(places, values, height=0.7, color=colour)
        _layers_on(axes, places, paths)
        axes.grid(False, axis="y")
        axes.set(xlabel=label)
        axes.margins(x=0.02)
        whole_numbers(axes)
        return png(drawn)


def _layers_on(axes, places, paths: Sequence[str]) -> None:
    axes.set_yticks(places, [path or "(the model)" for path in paths], fontsize=8)
    axes.set_ylim(-0.7, len(paths) - 0.3)
    axes.locator_params(axis="x", nbins=5)


def confusion_chart(matrix: np.ndarray) -> bytes:
    """Draws how often each true class (row) was called what (column); with numbers where there are few classes."""
    from matplotlib.ticker import MaxNLocator

    count = len(matrix)
    wrong = matrix * (1 - np.eye(count, dtype=matrix.dtype))
    with figure(440) as drawn:
        axes = drawn.subplots()
        axes.imshow(np.eye(count), cmap="Greys", vmin=0, vmax=8)  # the diagonal pale grey, the rest white
        most = max(wrong.max(), 1)
        axes.imshow(np.where(wrong, wrong, np.nan), cmap="Oranges", vmin=-0.25 * most, vmax=most)
        axes.set(xlabel="class that the network says", ylabel="true class")
        axes.grid(False)
        if count > 20:
            for axis in (axes.xaxis, axes.yaxis):
                axis.set_major_locator(MaxNLocator(integer=True))
            return png(drawn)
        axes.set_xticks(range(count))
        axes.set_yticks(range(count))
        for row, column in zip(*np.nonzero(matrix), strict=True):
            dark = row != column and wrong[row, column] > 0.55 * most
            style = {"fontsize": 9 if count <= 10 else 6.5, "color": "white" if dark else BLACK}
            axes.text(column, row, f"{matrix[row, column]:,}", ha="center", va="center", **style)
        return png(drawn)
