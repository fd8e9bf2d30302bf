"""The section about each layer's quantizers: a table of all, and a fold for each with its figures."""

import math

from .distributions import Distribution, LayerDistributions
from .findings import IMAGES_OF_HISTOGRAMS, Findings
from .gallery import Gallery, columns
from .html import Content, Html, element, table
from .layer_figures import histograms, over_time

_MOST_OPEN = 12  # folds that are open from the start; more would bury the sections after them

_HEADS = [
    "layer",
    "of",
    "bits",
    "scale",
    "clipped",
    "codes in use",
    "signal-to-noise",
    "flipped, last epoch",
]


def layers(found: Findings, gallery: Gallery) -> list[Content]:
    """How each layer's weights and inputs lie on their codes, at the end and over time."""
    explanation = (
        "A quantizer divides a value by its scale and rounds it to a whole number, its code; what lies beyond the last "
        "code is clipped to it. For each layer this shows how well that fits."
    )
    terms = {
        "scale": "the value of one step between codes, learned in training. Over time it should settle; one that falls "
        "or rises without end is a warning.",
        "clipped": "the share of values beyond the last code. A little is normal and good at few bits (it makes the "
        "steps finer for the rest); tens of percent mean that much is lost.",
        "codes in use": "how many of the possible codes occur. Many unused codes at 2 to 4 bits are wasted bits; at 8 "
        "bits they do not matter.",
        "signal-to-noise": "how much larger the values are than the error of rounding them, in decibels: 20 dB means "
        "an error of a tenth, 40 dB of a hundredth. Each bit adds about 6 dB.",
        "flipped": "the share of weights whose code changed in the last epoch. It should fall towards 0 as training "
        "ends; weights that still flip swing between two codes.",
    }
    described = element("dl", *(element(tag, text) for pair in terms.items() for tag, text in zip(("dt", "dd"), pair)))  # noqa: B905
    rows = [row for layer in found.distributions for row in _rows(layer, found)]
    note = (
        f"Weights and inputs at the end of training; the inputs are those that {IMAGES_OF_HISTOGRAMS} test images make "
        "(all of them where there are fewer). In the histograms one unit is one code: orange lines are the codes (for "
        "more than 16, the first and the last), and grey is what lies beyond them. The axis of shares is logarithmic, "
        "so that rare values can be seen."
    )
    folds = [
        _fold(layer, found, gallery, is_open=len(found.distributions) <= _MOST_OPEN) for layer in found.distributions
    ]
    return [
        element("p", explanation),
        described,
        table("Quantizers", _HEADS, rows, text_columns=2),
        element("p", note),
        *folds,
    ]


def _rows(layer: LayerDistributions, found: Findings) -> list[list[Content]]:
    flips = found.history.layer_series(layer.path, "weight_codes_flipped")[1]
    rows = []
    for name, part in (("weights", layer.weights), ("inputs", layer.inputs)):
        if part is not None:
            flipped = f"{100 * flips[-1]:.1f} %" if flips and name == "weights" else ""
            rows.append(
                [
                    layer.path or "(the model)",
                    name,
                    str(part.spec.bits),
                    _scale(part),
                    f"{100 * part.clipped:.2f} %",
                    f"{part.codes_used} of {part.codes}",
                    decibels(part.signal_to_noise),
                    flipped,
                ]
            )
    return rows


def _scale(part: Distribution) -> str:
    low, high = part.scale
    return f"{low:.3g}" if low == high else f"{low:.3g} to {high:.3g}"


def decibels(ratio: float) -> str:
    """Returns a signal-to-noise ratio for people."""
    if math.isnan(ratio):
        return "all 0"
    return "no error" if math.isinf(ratio) else f"{ratio:.1f} dB"


def _fold(layer: LayerDistributions, found: Findings, gallery: Gallery, *, is_open: bool) -> Html:
    path = layer.path or "(the model)"
    name = (layer.path or "model").replace("/", "-")
    figures = []
    if layer.weights is not None or layer.inputs is not None:
        figures.append(
            gallery.chart(
                f"layer-{name}-values",
                histograms(layer),
                f"Histograms of the weights and inputs of {path} with the codes drawn on them.",
                f"{path}: where the values lie on the codes.",
            )
        )
    if any(found.history.layer_series(layer.path, name)[0] for name in ("weight_scale", "input_scale")):
        figures.append(
            gallery.chart(
                f"layer-{name}-over-time",
                over_time(layer.path, found.history),
                f"Scale, clipped share and flipped weight codes of {path} over the epochs of the quantized phase.",
                f"{path}: how its quantizers changed in training.",
            )
        )
    return element("details", element("summary", path), columns(*figures), open=is_open)
