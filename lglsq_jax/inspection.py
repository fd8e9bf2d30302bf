"""Looking at a quantized model: its plan, its scales, how its codes are used."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, Integer

from .batches import Inputs, arguments
from .counting import histogram, joined
from .observe import observed
from .paths import QuantLayer, products, quantized_layers
from .quantizers import quantize
from .spec import QuantSpec


@dataclasses.dataclass(frozen=True)
class PlanRow:
    """One convolution or linear layer of a model and what is quantized in it."""

    path: str
    kind: str
    kernel_shape: tuple[int, ...]
    weights: QuantSpec | None
    inputs: QuantSpec | None
    calibrated: bool

    @property
    def weight_bytes(self) -> float:
        """Bytes of the kernel at its true bit width."""
        return int(np.prod(self.kernel_shape)) * (32 if self.weights is None else self.weights.bits) / 8


@dataclasses.dataclass(frozen=True)
class Plan:
    """Every convolution and linear layer of a model; prints as a table."""

    rows: tuple[PlanRow, ...]

    def __str__(self) -> str:
        cells = [("layer", "kind", "kernel", "weights", "inputs", "calibrated")]
        for row in self.rows:
            quantized = row.weights is not None or row.inputs is not None
            cells.append(
                (
                    row.path or "(the model)",
                    row.kind,
                    "x".join(map(str, row.kernel_shape)),
                    describe(row.weights),
                    describe(row.inputs),
                    ("yes" if row.calibrated else "no") if quantized else "",
                )
            )
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells
        )


def describe(spec: QuantSpec | None) -> str:
    """Returns a spec in a few words, such as ``3 bits signed per channel``."""
    if spec is None:
        return "float"
    words = [f"{spec.bits} bits", "signed" if spec.signed else "unsigned"]
    if spec.narrow_range:
        words.append("narrow")
    if spec.channel_axis is not None:
        words.append("per channel")
    return " ".join(words)


def plan(model: nnx.Module) -> Plan:
    """Returns which layers of ``model`` are quantized and how; ``print`` shows it as a table."""
    return Plan(
        tuple(
            PlanRow(
                path,
                type(layer).__name__,
                tuple(layer.kernel.shape),
                getattr(layer, "weights", None),
                getattr(layer, "inputs", None),
                bool(getattr(layer, "calibrated", False)),
            )
            for path, layer in products(model)
        )
    )


def check_scales(model: nnx.Module) -> None:
    """Checks that every scale of ``model`` is finite and positive and every offset finite.

    Raises:
        ValueError: naming the first layer where one is not, and the value seen.
    """
    for path, layer in quantized_layers(model):
        for name, variable in (("weight", layer.weight_scale), ("input", layer.input_scale)):
            if variable is None:
                continue
            values = np.asarray(variable[...], np.float32)
            bad = values[~(np.isfinite(values) & (values > 0))]
            if bad.size:
                raise ValueError(
                    f"the {name} scale of layer {path!r} must be finite and positive, got {float(bad.flat[0])}"
                    + (" (not calibrated: call calibrate(model, batches) first)" if np.isnan(bad.flat[0]) else "")
                )
        if layer.input_offset is not None and not np.isfinite(np.asarray(layer.input_offset[...])):
            raise ValueError(f"the input offset of layer {path!r} must be finite, got {layer.input_offset[...]}")


def weight_codes(model: nnx.Module) -> dict[str, Integer[Array, "..."]]:
    """Returns the integer codes of every quantized kernel, by layer path.

    Raises:
        ValueError: a layer is not calibrated.
    """
    check_scales(model)
    return {
        path: quantize(layer.quantizer_kernel, layer.weight_scale[...], layer.weights)
        for path, layer in quantized_layers(model)
        if layer.weights is not None and layer.weight_scale is not None
    }


def layer_statistics(model: nnx.Module, inputs: Inputs) -> dict[str, dict[str, float]]:
    """Returns, for every quantized layer, how its quantizers are used on one batch in evaluation mode.

    Per layer path: ``weight_scale`` and ``input_scale`` (mean over channels), ``weight_clipped`` and ``input_clipped``
    (fraction of elements outside the clip range), ``weight_codes_used`` and ``input_codes_used`` (fraction of the
    possible codes that occur).

    Args:
        model: with quantized layers, calibrated; it is not changed.
        inputs: one batch of what the model takes: an array, or a tuple of the positional arguments of a call where it
            takes several.

    Raises:
        ValueError: a layer is not calibrated, or the model does not take as many arrays.
        TypeError: ``inputs`` is neither an array nor a tuple of arrays.
    """
    return statistics_and_histograms(model, inputs)[0]


@dataclasses.dataclass(frozen=True)
class Histogram:
    """How values lie on the codes.

    Attributes:
        edges: of the bins [n + 1], in codes.
        counts: values in each bin [n]; the first and the last also hold what lies beyond.
    """

    edges: Float[np.ndarray, "n+1"]
    counts: Int[np.ndarray, "n"]


def statistics_and_histograms(
    model: nnx.Module, inputs: Inputs
) -> tuple[dict[str, dict[str, float]], dict[str, dict[str, Histogram]]]:
    """Returns ``layer_statistics`` and, from the same run of the model, two histograms for every quantized layer.

    Per layer path: ``weights``, in units of codes before they are rounded (:math:`w / s`), and ``input_codes``, a bin a
    code. Arguments and errors as in ``layer_statistics``.
    """
    check_scales(model)
    found = jax.device_get(observed(model, _statistics, in_float=False)(*arguments(model, inputs, "`inputs`")))
    statistics: dict[str, dict[str, float]] = {}
    histograms: dict[str, dict[str, Histogram]] = {}
    for path, layer in quantized_layers(model):
        counts = {name: found[path].pop(f"{name} counts", None) for name in ("weights", "input_codes")}
        statistics[path] = {name: float(value) for name, value in found[path].items()}
        histograms[path] = {}
        for name, spec, edges in (
            ("weights", layer.weights, _weight_edges),
            ("input_codes", layer.inputs, _code_edges),
        ):
            if spec is not None and counts[name] is not None:
                histograms[path][name] = Histogram(edges(spec), np.asarray(counts[name]))
    return statistics, histograms


def _code_edges(spec: QuantSpec) -> np.ndarray:
    return np.arange(spec.minimum, spec.maximum + 2) - 0.5


def _weight_edges(spec: QuantSpec) -> np.ndarray:
    """One code more on each side; few codes are divided, so that one sees where within a code the weights lie."""
    codes = spec.maximum - spec.minimum + 3
    bins = max(1, 64 // codes)
    return np.linspace(spec.minimum - 1.5, spec.maximum + 1.5, codes * bins + 1)


def _statistics(layer: QuantLayer, calls: list[Array]) -> dict[str, Array]:
    values: dict[str, Array] = {}
    if layer.weights is not None and layer.weight_scale is not None:
        v, _ = _describe(values, "weight", layer.quantizer_kernel, layer.weight_scale[...], layer.weights)
        values["weights counts"] = _counts(v, _weight_edges(layer.weights))
    if layer.inputs is not None and layer.input_scale is not None and calls:
        x = joined(calls)
        if layer.input_offset is not None:
            x = x - layer.input_offset[...]
        _, values["input_codes counts"] = _describe(values, "input", x, layer.input_scale[...], layer.inputs)
    return values


def _describe(values, prefix, x, scale, spec: QuantSpec):
    """Adds what is said of one quantizer to ``values``; returns ``x`` in units of codes, and how often each occurs."""
    wide = scale if spec.channel_axis is None else scale.reshape((1,) * (x.ndim - 1) + (-1,))
    v = x.astype(jnp.float32) / wide
    counts = _counts(jnp.round(v), _code_edges(spec))
    values[f"{prefix}_scale"] = jnp.mean(scale)
    values[f"{prefix}_clipped"] = jnp.mean((v < spec.minimum) | (v > spec.maximum))
    values[f"{prefix}_codes_used"] = jnp.mean(counts > 0)
    return v, counts


def _counts(v, edges: np.ndarray) -> Int[Array, "n"]:
    return histogram(v, float(edges[0]), float(edges[-1]), len(edges) - 1)
