"""Rewriting a float nnx model into a quantized one by rules, and setting its scales from data."""

import dataclasses
import re
import warnings
from collections.abc import Iterable, Sequence
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jaxtyping import Array, ArrayLike, Float

from .batches import Inputs, calls
from .calibration import STARTS, init_scale
from .layers import QuantConv, Quantizer, QuantLinear
from .observe import observed
from .ops.floats import conv_general_dilated
from .paths import QuantLayer, named_modules, places, products, quantized_layers
from .quantizers import check_progress
from .spec import QuantSpec

_OTHERS = (nnx.ConvTranspose, nnx.LinearGeneral, nnx.Einsum)


@dataclasses.dataclass(frozen=True)
class Rule:
    """Which layers get which quantizers.

    Attributes:
        pattern: regular expression that must match a layer's whole path, such as ``r"layer1/.*"``.
        weights: quantizer of the kernel; None leaves it float.
        inputs: quantizer of the inputs; None leaves them float.
        values: quantizer of what goes through an ``Identity``, such as the end of a residual branch; None leaves it
            float.

    Raises:
        ValueError: the pattern is not a regular expression, or ``values`` stand beside one of the others.
        TypeError: a spec is not a ``QuantSpec``.
    """

    pattern: str
    weights: QuantSpec | None = None
    inputs: QuantSpec | None = None
    values: QuantSpec | None = None

    def __post_init__(self):
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise ValueError(f"`pattern` must be a regular expression, got {self.pattern!r}: {error}") from None
        for name in ("weights", "inputs", "values"):
            spec = getattr(self, name)
            if spec is not None and not isinstance(spec, QuantSpec):
                raise TypeError(f"`{name}` must be a QuantSpec or None, got {spec!r}")
        if self.values is not None and (self.weights is not None or self.inputs is not None):
            raise ValueError("`values` must stand in a rule of their own, without `weights` and `inputs`")


def quantize_model(model: nnx.Module, rules: Sequence[Rule]) -> nnx.Module:
    """Returns a copy of ``model`` whose convolutions and linear layers are quantized by rules.

    Float weights, batch statistics and everything else are kept. The last rule whose pattern matches a layer's whole
    path decides; layers that none matches stay as they are. At each ``Identity``, the last matching rule that has
    ``values`` does. Scales are not set: call ``calibrate`` next.

    Args:
        model: any nnx model; it is not changed.
        rules: in order.

    Raises:
        ValueError: there is no rule, a rule matches no layer or place that it is for (the message lists the paths), or
            a layer (named) holds a stack of kernels.

    Warns:
        UserWarning: a rule matches layers of another kind with kernels, such as ``nnx.ConvTranspose``; they stay float.
    """
    rules = list(rules)
    if not rules:
        raise ValueError('`rules` must hold at least one rule, such as Rule(".*", weights=spec, inputs=spec), got none')
    model = nnx.clone(model)
    layers = products(model)
    open_places = places(model)
    for rule in rules:
        found = open_places if rule.values is not None else layers
        if not any(re.fullmatch(rule.pattern, path) for path, _ in found):
            kind = "`Identity` for its `values`" if rule.values is not None else "convolution or linear layer"
            paths = ", ".join(repr(path) for path, _ in found) or "none"
            raise ValueError(f"rule {rule.pattern!r} matches no {kind}; their paths are: {paths}")
    replaced = {}
    for path, place in open_places:
        values = [rule.values for rule in rules if rule.values is not None and re.fullmatch(rule.pattern, path)]
        if values:
            replaced[id(place)] = Quantizer(values[-1])
    for path, layer in layers:
        matching = [rule for rule in rules if rule.values is None and re.fullmatch(rule.pattern, path)]
        if matching and (any(_specs(matching[-1])) or isinstance(layer, QuantConv | QuantLinear)):
            replaced[id(layer)] = _copy_by(path, layer, matching[-1])
    _warn_of_others(model, [rule for rule in rules if any(_specs(rule))])
    if id(model) in replaced:
        return replaced[id(model)]
    for _, parent in list(nnx.iter_modules(model)):
        for name, child in list(nnx.iter_children(parent)):
            if id(child) not in replaced:
                continue
            if isinstance(name, int):
                cast(nnx.List, parent)[name] = replaced[id(child)]
            else:
                setattr(parent, str(name), replaced[id(child)])
    left = [path for path, layer in (*products(model), *places(model)) if id(layer) in replaced]
    if left:
        raise ValueError(f"cannot replace the layers {', '.join(left)}: hold them as attributes or in an nnx.List")
    return model


def _warn_of_others(model: nnx.Module, rules: Sequence[Rule]) -> None:
    """Warns of layers that rules mean and that have kernels of a kind that stays in float."""
    found = [
        f"{path!r} ({type(module).__name__})"
        for path, module in named_modules(model)
        if isinstance(module, _OTHERS) and any(re.fullmatch(rule.pattern, path) for rule in rules)
    ]
    if found:
        warnings.warn(
            f"the rules match {', '.join(found)}, which stay in float: only nnx.Conv and nnx.Linear can be quantized",
            stacklevel=3,
        )


def _specs(rule: Rule) -> tuple[QuantSpec | None, QuantSpec | None]:
    return rule.weights, rule.inputs


def _copy_by(path: str, layer: nnx.Conv | nnx.Linear, rule: Rule) -> nnx.Conv | nnx.Linear:
    """The layer with the rule's quantizers, or, where it has none, as one of nnx's own."""
    if type(layer) not in (nnx.Conv, QuantConv, nnx.Linear, QuantLinear):
        raise TypeError(f"layer {path!r} is a {type(layer).__name__}; only nnx.Conv and nnx.Linear can be quantized")
    axes = len(layer.kernel_size) + 2 if isinstance(layer, nnx.Conv) else 2
    if layer.kernel.ndim != axes:
        raise ValueError(
            f"layer {path!r} must hold one kernel, of {axes} axes, but it holds a stack of them, of shape "
            f"{layer.kernel.shape}, as nnx.vmap makes: quantize the layers before they are stacked, or in an nnx.List"
        )
    zeros = nnx.initializers.zeros_init()
    shared = {
        name: getattr(layer, name)
        for name in ("use_bias", "dtype", "param_dtype", "precision", "promote_dtype", "preferred_element_type")
    }
    shared.update(kernel_init=zeros, rngs=nnx.Rngs(0))
    quantized = any(_specs(rule))
    if quantized:
        shared.update(weights=rule.weights, inputs=rule.inputs)
    if isinstance(layer, nnx.Conv):
        own = layer.conv_general_dilated
        if not isinstance(layer, QuantConv) and own not in (lax.conv_general_dilated, conv_general_dilated):
            raise TypeError(
                f"layer {path!r} convolves by a function of its own, {getattr(own, '__qualname__', own)}; only "
                "lax.conv_general_dilated can be replaced by a quantized convolution"
            )
        names = ("strides", "padding", "input_dilation", "kernel_dilation", "feature_group_count", "mask")
        shared.update({name: getattr(layer, name) for name in names})
        kind = QuantConv if quantized else nnx.Conv
        copy = kind(layer.in_features, layer.out_features, layer.kernel_size, **shared)
    else:
        copy = (QuantLinear if quantized else nnx.Linear)(layer.in_features, layer.out_features, **shared)
    copy.kernel = layer.kernel
    copy.bias = layer.bias
    return copy


def set_progress(model: nnx.Module, fraction: Float[ArrayLike, ""]) -> None:
    """Tells every quantizer of ``model`` how far training is, from 0 to 1.

    ``fraction`` may be traced, so a train step can set it from its step counter without compiling again.

    Raises:
        ValueError: ``fraction`` is not one number, or (seen where it is concrete) not finite or not in [0, 1].
    """
    check_progress(fraction, "fraction")
    value = jnp.asarray(fraction, jnp.float32)
    for _, layer in quantized_layers(model):
        layer.progress[...] = value


def calibrate(model: nnx.Module, batches: Iterable[Inputs], how: str | None = None) -> None:
    r"""Sets every scale of ``model``, in place, from its weights and from the inputs its layers see.

    The model runs in float, in evaluation mode. A layer's input scale is the mean over its calls of ``init_scale`` (the
    largest, for ``how="max"``). An offset (LSQ+) starts at the smallest input of an unsigned quantizer and at the
    middle of the range of a signed one. Layers may be called inside ``jax.jit``, ``jax.checkpoint``, loops and the
    like (a turn of a loop is a call); on one device then.

    Args:
        model: from ``quantize_model``, or with ``QuantConv`` and ``QuantLinear`` layers of your own.
        batches: what the model takes, a few hundred samples in all: an array each, or a tuple of the positional
            arguments of a call where it takes several. Without labels.
        how: a start of ``init_scale`` for every scale; None: what the method of each quantizer asks for, or ``"mse"``.

    Raises:
        ValueError: there is no quantized layer or no batch, a batch holds NaN or infinity or not as many arrays as the
            model takes, ``how`` is not known, or a layer was not reached by the batches (named). No scale is set then.
        TypeError: ``batches`` are one array, or a batch is neither an array nor a tuple of arrays.
    """
    if how is not None and how not in STARTS:
        raise ValueError(f"`how` must be one of {', '.join(STARTS)}, got {how!r}")
    layers = quantized_layers(model)
    if not layers:
        raise ValueError("`model` has no quantized layer to calibrate: call quantize_model(model, rules) first")
    observe = observed(model, lambda layer, calls: _observation(layer, calls, how), in_float=True)
    seen = []
    for index, arguments in enumerate(calls(model, batches)):
        for array in arguments:
            if jnp.issubdtype(array.dtype, jnp.floating) and not bool(jnp.isfinite(array).all()):
                raise ValueError(f"batch {index} for calibration must be finite, got NaN or infinity in it")
        seen.append(jax.device_get(observe(*arguments)))
    if not seen:
        raise ValueError("`batches` must hold at least one batch to calibrate from, got none")
    starts = []
    for path, layer in layers:
        try:
            starts += layer.checked_scales(*_starts(layer, [found[path] for found in seen], how))
        except ValueError as error:
            raise ValueError(f"cannot calibrate layer {path!r}: {error}") from None
    for variable, value in starts:
        variable[...] = jnp.asarray(value, jnp.float32)
    for path, layer in layers:
        negative = [float(found[path].negative) for found in seen if found[path].calls]
        cut_at_zero = layer.inputs is not None and not layer.inputs.signed and layer.input_offset is None
        if negative and cut_at_zero and np.mean(negative) > 0.01:
            share = 100 * np.mean(negative)
            warnings.warn(
                f"{share:.0f} % of the inputs of layer {path!r} are negative and its unsigned quantizer makes them 0; "
                "use a signed spec for it",
                stacklevel=2,
            )


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class _Observation:
    scales: list[Array]
    offsets: list[Array]
    negative: Array
    calls: int = dataclasses.field(metadata={"static": True})


def _observation(layer: QuantLayer, calls: list[Array], how: str | None) -> _Observation:
    spec = layer.inputs
    if spec is None:
        return _Observation([], [], jnp.float32(0), 0)
    start = how or spec.method.input_start or "mse"
    scales, offsets, negative = [], [], jnp.float32(0)
    for x in calls:
        x = x.astype(jnp.float32)
        offset = jnp.float32(0)
        if layer.input_offset is not None:
            offset = (jnp.max(x) + jnp.min(x)) / 2 if spec.signed else jnp.min(x)
        scales.append(init_scale(x - offset, spec, start))
        offsets.append(offset)
        negative = negative + jnp.mean(x < 0) / len(calls)
    return _Observation(scales, offsets, negative, len(calls))


def _starts(layer: QuantLayer, observed: list[_Observation], how: str | None):
    """Scale of the weights, scale of the inputs and their offset; None for what the layer has not."""
    weights = None if layer.weights is None else layer.start_weight_scale(how)
    if layer.inputs is None:
        return weights, None, None
    scales = [scale for observation in observed for scale in observation.scales]
    if not scales:
        raise ValueError("the model does not call it on these batches")
    combine = np.max if (how or layer.inputs.method.input_start) == "max" else np.mean
    offsets = [offset for observation in observed for offset in observation.offsets]
    offset = None if layer.input_offset is None else np.float32(np.mean(offsets))
    return weights, np.float32(combine(scales)), offset
