"""The sections about a run as a whole: accuracy and size, training, sensitivity, costs, mistakes, how it was made."""

import math

import numpy as np

from ..training.bit_options import describe_bits
from .drawing import BLUE, GREEN, photo
from .figures import (
    accuracy_and_size,
    confusion_chart,
    layer_bars,
    learning_rate,
    sensitivity_chart,
    training_curve,
)
from .findings import Findings
from .gallery import Gallery, columns
from .history import History
from .html import Content, Html, element, table, together

_NETWORKS = {"float": "float", "fake_quantized": "fake-quantized", "integer": "integer"}
_PAIRS = 12
_PHOTOS = 12


def accuracy(found: Findings, gallery: Gallery) -> list[Content]:
    """Top-1 and size of the three networks, and whether the integers are what was trained."""
    summary = found.summary
    if summary is None:
        rows = [
            (name, percent(value))
            for name, value in (
                ("float", found.history.last("float", "accuracy")),
                ("fake-quantized", found.history.last("quantized", "accuracy")),
            )
            if value is not None
        ]
        text = element(
            "p",
            "The share of test images that each network puts into the right class (top-1) after its last epoch so far. "
            "Sizes, and the integer network, come when the run is finished.",
        )
        return [text, table("Accuracy", ["network", "top-1"], rows)] if rows else [text]
    networks = [
        (name, summary[key]["top1"], error(summary[key]["top1"], summary["samples"]), summary[key]["bytes"])
        for key, name in _NETWORKS.items()
    ]
    rows = [
        (name, f"{percent(top1)} ± {100 * spread:.2f}", f"{size:,}", f"{networks[0][3] / size:.1f}×")
        for name, top1, spread, size in networks
    ]
    bits, mean = summary["bits"], " on average" if "layer_bits" in summary else ""
    text = (
        f"The same network three times, on the {summary['samples']:,} test images. Float is what it was before "
        f"quantization. Fake-quantized is what was trained: weights rounded to {bits['weights']:g} bits{mean}, the "
        f"inputs of layers to {bits['inputs']:g} bits{mean} (8 bits in the first and the last layer), computed in "
        "float. Integer is what is deployed: whole numbers only. Good: the last two are equal to the digit and close "
        "to the first, at a fraction of the size. A difference within three times the ± (one standard error of a share "
        "of so many images) may be chance, and another seed moves it by more."
    )
    kept = (
        f"The integers give {100 * summary['agreement']:.3f} % of the images the class that the fake-quantized network "
        f"gives. In {summary['tied_samples']:,} images a value lay in the middle between two codes and was rounded the "
        f"other way; {summary['unexplained']:,} differences have no such reason (good: none). Given the same inputs, "
        f"every layer makes at least {100 * summary['own_equal_codes']:.4f} % of the same codes."
    )
    chart = gallery.chart(
        "accuracy-and-size",
        accuracy_and_size(networks),
        "Top-1 and file size of the float, the fake-quantized and the integer network; the numbers are in the table.",
        "Accuracy above, size below. The file of the fake-quantized network keeps float weights, so it is not smaller.",
    )
    cells = table("Accuracy and size", ["network", "top-1", "bytes", "smaller by"], rows)
    return [element("p", text), cells, element("p", kept), columns(chart)]


def training(found: Findings, gallery: Gallery) -> list[Content]:
    """Loss, accuracy and learning rate over both phases."""
    history = found.history
    if not history.lines:
        return [element("p", "No step is on record yet.")]
    text = (
        "How the network learned. Pale: every step; the line through it: a running mean; points: the test set after "
        "each epoch. The quantized phase (from the dashed line on) starts with the weights of the float phase. "
        "Good: the loss falls and levels off, and training and test stay close. Bad: jumps that do not heal, or a test "
        "curve that turns while the training curve goes on (overfitting)."
    )
    lowest = _lowest_accuracy(history)
    charts = [
        gallery.chart(
            "training-loss",
            training_curve(history, "loss", "loss (cross entropy, nats)", log=True),
            "Loss over training steps for training batches and the test set, in both phases.",
            "Loss: how far the predictions are from the labels. The axis is logarithmic.",
        ),
        gallery.chart(
            "training-accuracy",
            training_curve(history, "accuracy", "top-1, %", percent=True, bottom=lowest),
            "Top-1 over training steps for training batches and the test set, in both phases.",
            "Accuracy on training batches and on the test images."
            + (f" The axis begins at {lowest:.0f} %, so that the end can be read." if lowest else ""),
        ),
        gallery.chart(
            "learning-rate",
            learning_rate(history),
            "Learning rate over training steps, in both phases.",
            "Learning rate: how far each step may move the weights. It rises at the start and falls to 0.",
        ),
    ]
    return [element("p", text), columns(*charts)]


def sensitivity(found: Findings, gallery: Gallery) -> list[Content]:
    """What the quantizers of each layer cost."""
    measured = found.sensitivity
    assert measured is not None
    text = (
        "Which layers suffer most from few bits. All figures use the weights of the trained quantized network; only "
        "rounding is switched on and off. Blue: every layer is in float but one, and the accuracy says what rounding "
        "in this layer alone costs. Orange: every layer is rounded but one, and the accuracy says what this layer "
        "would give back. Good: all points stay near the dashed line of their colour. A blue point far to the left of "
        "its line is a layer that needs more bits. Since the weights learned to work with rounding, the network can be "
        "better with it than without, and points may lie on either side."
    )
    rows = [
        (
            row.path or "(the model)",
            percent(row.alone.top1),
            _points(row.alone.top1 - measured.unquantized.top1),
            percent(row.left_out.top1),
            _points(row.left_out.top1 - measured.quantized.top1),
        )
        for row in measured.layers
    ]
    heads = ["layer", "only this quantized", "change, points", "only this in float", "change, points"]
    one = 100 * measured.standard_error(measured.quantized.top1)
    note = (
        f"{measured.samples:,} test images, spread evenly over the test set. No layer quantized: "
        f"{percent(measured.unquantized.top1)}; every layer: {percent(measured.quantized.top1)}, with a standard error "
        f"of {one:.2f} points. All rows use the same images, so a difference between two rows is a little more certain "
        f"than that; one image more or less is {100 / measured.samples:.2f} points."
    )
    chart = gallery.chart(
        "sensitivity",
        sensitivity_chart(measured),
        "For each layer, top-1 with only this layer quantized and with only this layer in float; see the table.",
        "Blue points: only this layer quantized. Orange: only this layer in float.",
    )
    return [element("p", text), element("p", note), columns(chart), table("Sensitivity", heads, rows)]


def costs(found: Findings, gallery: Gallery) -> list[Content]:
    """Bits, bytes and multiply-adds of each layer."""
    if found.costs is None:
        assert found.plan is not None
        rows = [
            (
                row.path,
                str(row.weights.bits if row.weights else 32),
                str(row.inputs.bits if row.inputs else 32),
                "×".join(map(str, row.kernel_shape)),
                f"{row.weight_bytes:,.0f}",
            )
            for row in found.plan.rows
        ]
        text = "Where the bytes are. Multiply-adds are counted when the run is finished and the integer program exists."
        heads = ["layer", "weight bits", "input bits", "kernel", "weight bytes"]
        return [element("p", text), table("Costs", heads, rows)]
    layers = found.costs.rows
    rows = [
        (
            row.path or "(the model)",
            str(row.weight_bits),
            str(row.input_bits),
            "×".join(map(str, row.weight_shape)),
            f"{row.weight_bytes:,}",
            f"{row.multiply_adds:,}",
            str(row.accumulator_bits),
        )
        for row in layers
    ]
    rows.append(("total", "", "", "", f"{found.costs.weight_bytes:,}", f"{found.costs.multiply_adds:,}", ""))
    text = (
        "Where the bytes and the arithmetic of the integer network are. Multiply-adds are for one image. The sum bits "
        "say how wide the widest sum of a layer can get; 32 is the limit, and it is checked before anything runs. "
        f"Multipliers and biases take another {found.costs.constant_bytes:,} bytes."
    )
    heads = ["layer", "weight bits", "input bits", "kernel", "weight bytes", "multiply-adds", "sum bits"]
    paths = [row.path for row in layers]
    charts = [
        gallery.chart(
            "weight-bytes",
            layer_bars(paths, [row.weight_bytes for row in layers], "bytes of the weights", GREEN),
            "Bytes of the weights of each layer; the numbers are in the table.",
            "Bytes of the weights at their true width.",
        ),
        gallery.chart(
            "multiply-adds",
            layer_bars(paths, [row.multiply_adds / 1000 for row in layers], "thousand multiply-adds an image", BLUE),
            "Multiply-adds of each layer for one image; the numbers are in the table.",
            "Multiply-adds for one image.",
        ),
    ]
    return [element("p", text), table("Costs", heads, rows, last_is_total=True), columns(*charts)]


def confusion(found: Findings, gallery: Gallery) -> list[Content]:
    """Which classes are taken for which."""
    predictions = found.predictions
    assert predictions is not None
    text = (
        f"Which classes the {_NETWORKS[found.predictor]} network takes for which, on all {len(predictions.labels):,} "
        f"test images: {percent(predictions.top1)} right, {len(predictions.mistakes):,} wrong. Each row is a true "
        "class, each column what the network says; the diagonal is right, and orange is wrong. Good: nothing off the "
        "diagonal. A dark cell says that two classes look alike to the network."
    )
    parts: list[Content] = []
    if predictions.num_classes <= 100:
        parts.append(
            gallery.chart(
                "confusion",
                confusion_chart(predictions.confusion),
                "Confusion matrix: how often each true class was given each class; the commonest errors are a table.",
                "Number of test images; cells without a number are 0."
                if predictions.num_classes <= 20
                else "The darker, the more test images; the diagonal is left out.",
            )
        )
    pairs = predictions.confused_pairs(_PAIRS)
    if pairs:
        rows = [(str(true), str(said), f"{count:,}") for true, said, count in pairs]
        parts.append(table("Commonest mistakes", ["true class", "network says", "images"], rows, text_columns=2))
    return [element("p", text), columns(*map(together, parts))]


def mistakes(found: Findings, gallery: Gallery) -> list[Content]:
    """The most and the least certain mistakes as images."""
    predictions, dataset = found.predictions, found.dataset
    assert predictions is not None and dataset is not None
    wrong = predictions.mistakes
    if not len(wrong):
        return [element("p", "The network made no mistake on the test images.")]
    text = (
        "The network gives every answer a certainty, in percent. Its most certain mistakes show what fools it, or "
        "labels that are wrong; its least certain ones are close calls between classes. Below each image: its true "
        "class, what the network says, and how certain it is."
    )
    most = wrong[:_PHOTOS]
    least = [index for index in wrong[::-1][:_PHOTOS] if index not in most]
    parts: list[Content] = [element("p", text)]
    for title, name, chosen in (("Most certain", "mistake-certain", most), ("Least certain", "mistake-unsure", least)):
        if not len(chosen):
            continue
        figures = []
        for place, index in enumerate(map(int, chosen), 1):
            true, said = predictions.labels[index], predictions.classes[index]
            caption = f"is {true}, said {said} ({100 * predictions.certainty[index]:.0f} %)"
            alt = f"Test image {index} of class {true}, which the network calls {said}."
            image = photo(dataset.test[index]["image"])
            figures.append(gallery.photo(f"{name}-{place:02d}", image, alt, caption))
        parts += [element("h3", title), element("div", *figures, class_="photos")]
    return parts


def making(found: Findings) -> list[Content]:
    """What the run was: settings, machine, versions."""
    config, known = found.config, found.environment
    pretraining, quantized = config.pretraining, config.quantized
    float_start = pretraining.start_from or pretraining.weights
    facts = {
        "run": str(found.folder.path),
        "network": config.model.name,
        "data": f"{found.dataset.name if found.dataset else config.data.source}, batches of {config.data.batch_size}",
        "float phase": f"taken from {float_start}" if float_start else f"{pretraining.epochs} epochs",
        "quantized phase": f"{quantized.epochs} epochs, method {quantized.method}, {describe_bits(quantized)}",
        "steps so far": f"{(found.summary or {}).get('step', found.step):,}",
        "seed": str(config.seed),
    }
    if found.summary is not None:
        facts["training time"] = f"{found.summary['training_seconds']:,.0f} s"
    if known:
        facts["machine"] = f"{known.get('machine', '')}, {known.get('devices', '')}"
        facts["versions"] = ", ".join(f"{name} {version}" for name, version in known.get("packages", {}).items())
        facts["command"] = " ".join(known.get("command", []))
    rows = [together(element("dt", name), element("dd", value)) for name, value in facts.items()]
    return [element("p", "One run with one seed; another seed gives somewhat other numbers."), element("dl", *rows)]


def _lowest_accuracy(history: History) -> float:
    """Where the axis of accuracy begins, in percent, so that the later epochs fill it."""
    values = [value for phase in ("float", "quantized") for value in history.series(phase, "test", "accuracy")[1]]
    if not values:
        return 0.0
    usual, best = np.quantile(values, 0.2), max(values)
    return max(0.0, math.floor(100 * (2 * usual - best) - 2))


def error(top1: float, samples: int) -> float:
    """Returns the standard error of a top-1, a fraction."""
    return math.sqrt(top1 * (1 - top1) / samples)


def percent(fraction: float) -> str:
    """Returns a fraction in percent."""
    return f"{100 * fraction:.2f} %"


def _points(difference: float) -> Html:
    return element("span", f"{100 * difference:+.2f}".replace("-", "−"))
