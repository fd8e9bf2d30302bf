"""Figures about one layer, as PNG bytes."""

import numpy as np

from .distributions import Distribution, LayerDistributions
from .drawing import BLUE, GREY, ORANGE, figure, png, stack, whole_numbers
from .history import History

_DRAWN_CODES = 16  # more lines than that would hide the values
_HEIGHT = 400


def histograms(layer: LayerDistributions) -> bytes:
    """Draws the weights above the inputs of a layer, with the codes on them."""
    parts = [("weights", layer.weights), ("inputs", layer.inputs)]
    parts = [(name, found) for name, found in parts if found is not None]
    with figure(_HEIGHT * max(len(parts), 1) / 2) as drawn:
        for axes, (name, found) in zip(stack(drawn, len(parts), gap=64, bottom=42), parts, strict=True):
            _histogram(axes, name, found)
        return png(drawn)


def _histogram(axes, name: str, found: Distribution) -> None:
    spec, shares = found.spec, 100 * found.counts / max(found.counts.sum(), 1)
    filled = np.flatnonzero(found.counts)
    low = min(found.edges[filled[0]] if len(filled) else np.inf, spec.minimum - 0.75)
    high = max(found.edges[filled[-1] + 1] if len(filled) else -np.inf, spec.maximum + 0.75)
    axes.stairs(shares, found.edges, fill=True, color=BLUE, alpha=0.75)
    for edge, end in ((spec.minimum - 0.5, low), (spec.maximum + 0.5, high)):
        axes.axvspan(edge, end, color=GREY, alpha=0.18, linewidth=0)
    if found.codes <= _DRAWN_CODES:
        codes = range(spec.minimum, spec.maximum + 1)
        axes.vlines(codes, 0, 1, transform=axes.get_xaxis_transform(), color=ORANGE, linewidth=1.1)
        axes.set_xticks([code for code in codes if found.codes <= 9 or code % 2 == 0])
    else:
        ends = [spec.minimum, spec.maximum]
        axes.vlines(ends, 0, 1, transform=axes.get_xaxis_transform(), color=ORANGE, linewidth=1.1)
    axes.set_yscale("log")
    axes.minorticks_off()
    smallest = shares[filled].min() if len(filled) else 0.1
    axes.set(xlim=(low, high), ylim=(smallest / 2, 150), ylabel="% of values", xlabel=f"{name}, in codes")
    axes.set_title(f"{name}: {spec.bits} bits, {found.codes_used} of {found.codes} codes in use")
    axes.grid(False)


def over_time(path: str, history: History) -> bytes:
    """Draws a layer's scales, clipped shares and flips over the epochs of the quantized phase."""
    with figure(_HEIGHT) as drawn:
        scales, clipped, flips = stack(drawn, 3, gap=30, bottom=66, share_x=True)
        for name, colour in (("weight", BLUE), ("input", ORANGE)):
            epochs, values = history.layer_series(path, f"{name}_scale")
            if epochs:
                values = np.array(values)
                scales.plot(epochs, values / values[0], color=colour, marker=".", label=f"{name}s")
            epochs, values = history.layer_series(path, f"{name}_clipped")
            clipped.plot(epochs, 100 * np.array(values), color=colour, marker=".")
        epochs, values = history.layer_series(path, "weight_codes_flipped")
        flips.plot(epochs, 100 * np.array(values), color=BLUE, marker=".")
        scales.set_title("scale, times that of the first epoch")
        clipped.set_title("values clipped, %")
        flips.set_title("weight codes that changed in the epoch, %")
        for axes in (clipped, flips):
            axes.set_ylim(bottom=0)
            axes.ticklabel_format(axis="y", style="plain")
        flips.set_xlabel("epoch of the quantized phase")
        whole_numbers(flips)
        drawn.legend(loc="lower center", ncols=2)
        return png(drawn)
