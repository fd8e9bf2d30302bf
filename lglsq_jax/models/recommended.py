"""Which layers of our own networks to quantize how: the rules that stand beside a network."""

import dataclasses

from flax import nnx

from ..convert import Rule
from ..spec import QuantSpec
from .resnet import ResNet

_END_BITS = 8


def recommended_rules(
    model: nnx.Module, *, weights: QuantSpec | None = None, inputs: QuantSpec | None = None
) -> list[Rule]:
    """Rules for ``quantize_model``: the given quantizers inside the network, 8 bits at its two ends.

    The first layer sees signed images and the last one decides between classes; at 8 bits both cost little and keep
    most of the accuracy, which is the usual practice (Esser et al., LSQ, ICLR 2020, section 3).

    Args:
        model: a network of ``lglsq_jax.models``.
        weights: quantizer of the inner layers' weights; None leaves all weights in float.
        inputs: quantizer of the inner layers' inputs, which all follow a ReLU; None leaves all inputs in float.

    Raises:
        TypeError: there are no rules for this kind of model.
    """
    for kind, rules in _RULES.items():
        if isinstance(model, kind):
            return rules(weights, inputs)
    known = ", ".join(kind.__name__ for kind in _RULES)
    raise TypeError(
        f"`model` must be one of the networks with recommended rules ({known}), got {type(model).__name__}; "
        "write a list of Rule for it"
    )


def _resnet_rules(weights: QuantSpec | None, inputs: QuantSpec | None) -> list[Rule]:
    return [
        Rule(r".*", weights=weights, inputs=inputs),
        Rule(
            r"conv1", weights=_at_the_end(weights, signed=True), inputs=_at_the_end(inputs, signed=True, batch_axis=0)
        ),
        Rule(
            r"fc",
            weights=_of_a_matrix(_at_the_end(weights, signed=True)),
            inputs=_of_a_matrix(_at_the_end(inputs, signed=False, narrow_range=False, batch_axis=0)),
        ),
    ]


def _at_the_end(spec: QuantSpec | None, **changes) -> QuantSpec | None:
    return spec and dataclasses.replace(spec, bits=_END_BITS, **changes)


def _of_a_matrix(spec: QuantSpec | None) -> QuantSpec | None:
    """The last axis of ``[kh kw in out]`` and ``[n h w c]`` as the last axis of ``[in out]`` and ``[n c]``."""
    if spec is None or spec.channel_axis != 3:
        return spec
    return dataclasses.replace(spec, channel_axis=1)


_RULES = {ResNet: _resnet_rules}
