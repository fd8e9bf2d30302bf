"""Which layers of our own networks to quantize how: the rules that stand beside a network."""

import dataclasses
import re

from flax import nnx

from ..convert import Rule
from ..paths import places
from ..spec import QuantSpec
from .ds_cnn import DSCNN
from .mobilenet import MobileNetV2
from .resnet import ResNet
from .shufflenet import ShuffleNetV2

_END_BITS = 8


def recommended_rules(
    model: nnx.Module,
    *,
    weights: QuantSpec | None = None,
    inputs: QuantSpec | None = None,
    stream: QuantSpec | None = None,
) -> list[Rule]:
    """Rules for ``quantize_model``: the given quantizers inside the network, 8 bits at its two ends.

    The first layer sees signed images and the last one decides between classes; at 8 bits both cost little and keep
    most of the accuracy, which is the usual practice (Esser et al., LSQ, ICLR 2020, section 3). Depthwise
    convolutions have a weight scale for each channel.

    Args:
        model: a network of ``lglsq_jax.models``, or one with a method ``quantization_rules(weights, inputs)``, whose
            list of rules is returned.
        weights: quantizer of the inner layers' weights; None leaves all weights in float.
        inputs: quantizer of the inner layers' inputs, unsigned where a network has only ReLUs between its layers; it is
            made signed for the inputs that follow no ReLU. None leaves all inputs in float.
        stream: quantizer of the residual stream, usually of 8 bits: of what the stem gives, of both sides of every
            addition and of its result, for runtimes and chips that add bytes; its sign is that of the value. None
            adds unrounded values.

    Raises:
        ValueError: ``stream`` is given for a network without residual additions.
        TypeError: there are no rules for this kind of model.
    """
    own = getattr(model, "quantization_rules", None)
    if own is not None:
        if stream is not None:
            raise ValueError(
                f"`stream` must be None for {type(model).__name__}, which has quantization_rules of its own: give them "
                "a Rule with `values`, or the model a Quantizer"
            )
        return own(weights, inputs)
    for kind, rules in _RULES.items():
        if isinstance(model, kind):
            return rules(weights, inputs) + (_stream_rules(model, kind, stream) if stream is not None else [])
    known = ", ".join(kind.__name__ for kind in _RULES)
    raise TypeError(
        f"`model` must be one of the networks with recommended rules ({known}), got {type(model).__name__}; "
        "give it a method quantization_rules(weights, inputs), or write a list of Rule"
    )


def _stream_rules(model: nnx.Module, kind: type, stream: QuantSpec) -> list[Rule]:
    if not (patterns := _STREAMS[kind]):
        raise ValueError(f"`stream` must be None for {kind.__name__}, which has no residual additions")
    paths = [path for path, _ in places(model)]  # a ResNet whose shortcuts all fit has no downsample
    return [
        Rule(pattern, values=dataclasses.replace(stream, signed=signed))
        for pattern, signed in patterns
        if any(re.fullmatch(pattern, path) for path in paths)
    ]


def _resnet_rules(weights: QuantSpec | None, inputs: QuantSpec | None) -> list[Rule]:
    return [Rule(r".*", weights=weights, inputs=inputs), *end_rules("conv1", "fc", weights, inputs)]


def _mobilenet_rules(weights: QuantSpec | None, inputs: QuantSpec | None) -> list[Rule]:
    # Expansions, and the last convolution, read a linear bottleneck: the only inner inputs below zero.
    return [
        Rule(r".*", weights=weights, inputs=inputs),
        Rule(r"features/(1/conv/0|\d+/conv/1)/0", weights=_per_channel(weights), inputs=inputs),
        Rule(r"features/(([2-9]|1\d)/conv/0|18)/0", weights=weights, inputs=_signed(inputs)),
        *end_rules("features/0/0", "classifier/1", weights, inputs),
    ]


def _shufflenet_rules(weights: QuantSpec | None, inputs: QuantSpec | None) -> list[Rule]:
    # A 1x1 convolution after a depthwise one reads its batch norm without an activation between.
    return [
        Rule(r".*", weights=weights, inputs=inputs),
        Rule(r"stage\d/\d/(branch1/0|branch2/3)", weights=_per_channel(weights), inputs=inputs),
        Rule(r"stage\d/\d/(branch1/2|branch2/5)", weights=weights, inputs=_signed(inputs)),
        *end_rules("conv1/0", "fc", weights, inputs),
    ]


def _ds_cnn_rules(weights: QuantSpec | None, inputs: QuantSpec | None) -> list[Rule]:
    return [
        Rule(r".*", weights=weights, inputs=inputs),
        Rule(r"blocks/\d+/depthwise", weights=_per_channel(weights), inputs=inputs),
        *end_rules("conv1", "fc", weights, inputs),
    ]


def end_rules(first: str, last: str, weights: QuantSpec | None, inputs: QuantSpec | None) -> list[Rule]:
    """Returns the rules of a network's two ends: its first convolution and its last linear layer, at 8 bits.

    Args:
        first: path of the convolution that sees the images, which are signed.
        last: path of the linear layer, whose inputs follow a ReLU.
        weights: quantizer of the inner weights, which gives method and channel axis; None leaves weights in float.
        inputs: quantizer of the inner inputs; None leaves them in float.
    """
    return [
        Rule(first, weights=_at_the_end(weights, signed=True), inputs=_at_the_end(inputs, signed=True, batch_axis=0)),
        Rule(
            last,
            weights=_of_a_matrix(_at_the_end(weights, signed=True)),
            inputs=_of_a_matrix(_at_the_end(inputs, signed=False, narrow_range=False, batch_axis=0)),
        ),
    ]


def _per_channel(spec: QuantSpec | None) -> QuantSpec | None:
    """One scale a channel: the filters of a depthwise convolution differ in size by orders of magnitude."""
    return spec and dataclasses.replace(spec, channel_axis=-1)


def _signed(spec: QuantSpec | None) -> QuantSpec | None:
    return spec and dataclasses.replace(spec, signed=True)


def _at_the_end(spec: QuantSpec | None, **changes) -> QuantSpec | None:
    return spec and dataclasses.replace(spec, bits=_END_BITS, **changes)


def _of_a_matrix(spec: QuantSpec | None) -> QuantSpec | None:
    """The last axis of ``[kh kw in out]`` and ``[n h w c]`` as the last axis of ``[in out]`` and ``[n c]``."""
    if spec is None or spec.channel_axis != 3:
        return spec
    return dataclasses.replace(spec, channel_axis=1)


# Where the residual stream may be quantized, and whether there are values below zero.
_STREAMS: dict[type, list[tuple[str, bool]]] = {
    ResNet: [(r"stem|.*/out", False), (r".*/branch", True), (r".*/downsample/2", True)],
    MobileNetV2: [(r"features/\d+/(branch|out)", True)],
    ShuffleNetV2: [],
    DSCNN: [],
}
_RULES = {
    ResNet: _resnet_rules,
    MobileNetV2: _mobilenet_rules,
    ShuffleNetV2: _shufflenet_rules,
    DSCNN: _ds_cnn_rules,
}
