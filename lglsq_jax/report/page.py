"""One page of HTML that holds everything: style, text, tables, pictures. No script, nothing from elsewhere."""

import math

from ..training.bit_options import describe_bits
from . import sections
from .findings import Findings
from .gallery import Gallery
from .html import Content, Html, element, together
from .layer_section import layers

_STYLE = """
:root { color-scheme: light dark; --line: #d5d5d5; --soft: #666; --back: #fff; --ink: #1c1c1c; --link: #00558c; }
@media (prefers-color-scheme: dark) {
  :root { --line: #444; --soft: #aaa; --back: #17191c; --ink: #e6e6e6; --link: #7cc4f5; }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; text-size-adjust: 100%; }
body { margin: 0 auto; padding: 1rem 1rem 4rem; max-width: 62rem; background: var(--back); color: var(--ink);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 1rem 0 .5rem; }
h2 { font-size: 1.3rem; margin: 2.8rem 0 .6rem; padding-top: .6rem; border-top: 1px solid var(--line); }
h3 { font-size: 1.05rem; margin: 1.6rem 0 .4rem; }
p, dd { max-width: 46rem; }
.lead { font-size: 1.1rem; }
.note { border-left: 4px solid #D55E00; padding: .2rem 0 .2rem .8rem; }
a { color: var(--link); }
nav ul { columns: 2; padding-left: 1.2rem; margin: .5rem 0; max-width: 46rem; }
dl { margin: .5rem 0 1rem; }
dt { font-weight: 600; }
dd { margin: 0 0 .4rem 1rem; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; max-width: 100%; margin: .8rem 0; align-self: start; }
table { border-collapse: collapse; font-size: .92rem; line-height: 1.35; }
th, td { padding: .25rem .7rem .25rem 0; text-align: left; white-space: nowrap; border-bottom: 1px solid var(--line); }
thead th { white-space: normal; vertical-align: bottom; min-width: 4.2rem; color: var(--soft); font-weight: 600; }
tbody th { font-weight: 500; }
.number { text-align: right; font-variant-numeric: tabular-nums; }
.total th, .total td { font-weight: 700; border-bottom: 0; }
.columns { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); gap: .5rem 1.5rem;
  align-items: start; }
.photos { display: flex; flex-wrap: wrap; gap: .8rem; }
figure { margin: .8rem 0; min-width: 0; }
figure img { display: block; width: 100%; height: auto; background: #fff; border-radius: 4px; }
.photo { margin: 0; width: 112px; }
.photo img { image-rendering: pixelated; border: 1px solid var(--line); }
figcaption { font-size: .88rem; line-height: 1.4; color: var(--soft); margin-top: .25rem; }
@media (max-width: 30rem) {
  body { padding: .5rem .8rem 3rem; }
  table { font-size: .85rem; }
  th, td { padding-right: .45rem; }
  thead th { min-width: 3rem; }
}
details { border-bottom: 1px solid var(--line); padding: .3rem 0; }
summary { cursor: pointer; font-weight: 600; padding: .3rem 0; }
"""


def render(found: Findings) -> tuple[str, dict[str, bytes]]:
    """Returns the page, and its pictures by file name."""
    gallery = Gallery()
    parts: list[tuple[str, str, list[Content]]] = [
        ("accuracy", "Accuracy and size", sections.accuracy(found, gallery)),
        ("training", "Training", sections.training(found, gallery)),
    ]
    if found.distributions:
        parts.append(("layers", "Each layer's codes", layers(found, gallery)))
    if found.sensitivity is not None:
        parts.append(("sensitivity", "Sensitivity of the layers", sections.sensitivity(found, gallery)))
    if found.plan is not None:
        parts.append(("costs", "Bits, bytes and arithmetic", sections.costs(found, gallery)))
    if found.predictions is not None:
        parts.append(("confusion", "Confusion matrix", sections.confusion(found, gallery)))
        parts.append(("mistakes", "Mistakes", sections.mistakes(found, gallery)))
    parts.append(("making", "How this was made", sections.making(found)))
    settings = found.config.quantized
    title = (
        f"{found.config.model.name} on {found.dataset.name if found.dataset else found.config.data.source}, "
        f"{describe_bits(settings)}"
    )
    links = [element("li", element("a", name, href=f"#{key}")) for key, name, _ in parts]
    body = [
        element("h1", title),
        *_lead(found),
        element("nav", element("ul", *links), aria_label="Contents"),
        element("main", *(element("section", element("h2", name), *content, id=key) for key, name, content in parts)),
    ]
    head = [
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", f"{title}: report"),
        element("style", Html(_STYLE)),
    ]
    page = element("html", element("head", *head), element("body", *body), lang="en")
    return together(Html("<!DOCTYPE html>\n"), page, Html("\n")), gallery.files


def _lead(found: Findings) -> list[Html]:
    """The result in a sentence, and what is missing in another."""
    summary = found.summary
    if summary is not None:
        size = summary["float"]["bytes"] / summary["integer"]["bytes"]
        now, before = summary["integer"]["top1"], summary["float"]["top1"]
        spread = math.hypot(*(sections.error(top1, summary["samples"]) for top1 in (now, before)))
        chance = ", a difference that may be chance" if abs(now - before) < 2 * spread else ""
        text = (
            f"As whole numbers alone, the network is right for {100 * now:.2f} % of {summary['samples']:,} test images "
            f"(in float: {100 * before:.2f} %{chance}), and its file is {size:.1f} times smaller."
        )
        lead = [element("p", text, class_="lead")]
        if found.predictor == "integer" and found.predictions is not None:
            now = found.predictions.top1
            if abs(now - summary["integer"]["top1"]) > 1e-9:
                text = (
                    f"The run ended with {100 * summary['integer']['top1']:.2f} %, but its integer program now gets "
                    f"{100 * now:.2f} % right: the program or the test images were changed since."
                )
                lead.append(element("p", text, class_="note"))
        return [*lead, *_missing(found)]
    state = {
        "": "No checkpoint is saved yet, so only the curves can be shown.",
        "float": "It is in its float phase: nothing is quantized yet, and the sections about layers come later.",
        "quantized": "It is in its quantized phase: layers are as they are now, and there is no integer program yet.",
    }[found.phase.split("-")[0]]
    return [element("p", f"This run is not finished. {state}", class_="note")]


def _missing(found: Findings) -> list[Html]:
    """What a finished run cannot show any more."""
    if found.phase == "quantized":
        return []
    left_out = "is missing or damaged, so the sections about layers are left out"
    text = {
        "": f"Every checkpoint of the run {left_out}, and so are those about mistakes.",
        "float": f"The checkpoint of its quantized phase {left_out}, and the mistakes are those of the float network.",
    }.get(found.phase, f"The checkpoint of its last stage is missing or damaged: layers are as in {found.phase}.")
    return [element("p", text, class_="note")]
