"""How the values that a layer's quantizers see lie on their codes."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, ArrayLike, Float, Int

from ..counting import histogram, joined, occurrences
from ..inspection import check_scales
from ..observe import observed
from ..paths import QuantLayer, quantized_layers
from ..quantizers import broadcast_scale
from ..spec import QuantSpec

_BINS = 128  # at least so many bins over the range of codes, so that two bits are more than four bars


@dataclasses.dataclass(frozen=True)
class Distribution:
    r"""The values before a quantizer, in units of its codes: :math:`v = (x - \beta) / s`.

    Attributes:
        spec: of the quantizer.
        edges: of the bins [n + 1], in codes; half a range more than the codes on each side.
        counts: values in each bin [n]; the first and the last also hold what lies beyond.
        scale: smallest and largest scale over the channels, in the unit of the values; equal for one scale.
        clipped: fraction of the values beyond the smallest and the largest code, that is below ``Qn`` or above ``Qp``.
        codes_used: how many different codes occur.
        signal_to_noise: :math:`10 \log_{10} (\sum x^2 / \sum (x - \hat x)^2)` in decibels; infinite without an error,
            NaN where every value is 0.
    """

    spec: QuantSpec
    edges: Float[np.ndarray, "n+1"]
    counts: Int[np.ndarray, "n"]
    scale: tuple[float, float]
    clipped: float
    codes_used: int
    signal_to_noise: float

    @property
    def codes(self) -> int:
        """How many codes there are."""
        return self.spec.maximum - self.spec.minimum + 1


@dataclasses.dataclass(frozen=True)
class LayerDistributions:
    """Both quantizers of a layer; None for one that it has not, or that no value reached."""

    path: str
    weights: Distribution | None
    inputs: Distribution | None


def layer_distributions(model: nnx.Module, images: Float[ArrayLike, "n ..."]) -> list[LayerDistributions]:
    """Returns the distributions of every quantized layer, with all layers before it quantized, in evaluation mode.

    Args:
        model: quantized and calibrated.
        images: what the model takes; the inputs are those that these images make.

    Raises:
        ValueError: a layer is not calibrated.
    """
    check_scales(model)
    measured = jax.device_get(observed(model, _measure, in_float=False)(jnp.asarray(images)))
    return [
        LayerDistributions(
            path,
            _distribution(layer.weights, measured[path].get("weights")),
            _distribution(layer.inputs, measured[path].get("inputs")),
        )
        for path, layer in quantized_layers(model)
    ]


def _measure(layer: QuantLayer, calls: list[Array]) -> dict[str, Any]:
    values = {}
    if layer.weights is not None and layer.weight_scale is not None:
        values["weights"] = _sums(layer.quantizer_kernel, layer.weight_scale[...], None, layer.weights)
    if layer.inputs is not None and layer.input_scale is not None and calls:
        offset = None if layer.input_offset is None else layer.input_offset[...]
        values["inputs"] = _sums(joined(calls), layer.input_scale[...], offset, layer.inputs)
    return values


def _bins(spec: QuantSpec) -> tuple[int, float, float]:
    """Bins a code, and where the first begins and the last ends: borders between codes are borders of bins."""
    levels = spec.maximum - spec.minimum + 1
    return max(1, _BINS // levels), spec.minimum - 0.5 - levels // 2, spec.maximum + 0.5 + levels // 2


def _sums(x, scale, offset, spec: QuantSpec):
    x = x.astype(jnp.float32)
    wide = broadcast_scale(scale.astype(jnp.float32), spec, x.ndim)
    shift = 0.0 if offset is None else offset
    v = (x - shift) / wide
    codes = jnp.clip(jnp.round(v), spec.minimum, spec.maximum)
    a_code, low, high = _bins(spec)
    used = occurrences((codes - spec.minimum).astype(jnp.int32), spec.maximum - spec.minimum + 1)
    return {
        "counts": histogram(v, low, high, round((high - low) * a_code)),
        "scale": jnp.stack([jnp.min(scale), jnp.max(scale)]),
        "clipped": jnp.mean((v < spec.minimum) | (v > spec.maximum)),
        "codes_used": jnp.sum(used > 0),
        "signal": jnp.sum(x**2),
        "noise": jnp.sum((x - (codes * wide + shift)) ** 2),
    }


def _distribution(spec: QuantSpec | None, sums) -> Distribution | None:
    if spec is None or sums is None:
        return None
    _, low, high = _bins(spec)
    signal, noise = float(sums["signal"]), float(sums["noise"])
    if not signal:
        ratio = math.nan
    else:
        ratio = 10 * math.log10(signal / noise) if noise else math.inf
    return Distribution(
        spec,
        np.linspace(low, high, len(sums["counts"]) + 1),
        np.asarray(sums["counts"]),
        (float(sums["scale"][0]), float(sums["scale"][1])),
        float(sums["clipped"]),
        int(sums["codes_used"]),
        ratio,
    )
