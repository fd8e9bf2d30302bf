"""The stages of the quantized phase: one, or several of falling bits, and what is quantized how in each."""

import dataclasses
from collections.abc import Mapping

from flax import nnx

from .. import methods
from ..bit_allocation import with_bits
from ..convert import Rule
from ..models import recommended_rules
from ..spec import QuantSpec
from .config import TrainConfig

LayerBits = Mapping[str, tuple[int, int]]
"""Bits of the weights and of the inputs of layers, by path."""


@dataclasses.dataclass(frozen=True)
class Stage:
    """A part of the quantized phase that is trained at the same bits, with a schedule of its own.

    Attributes:
        name: of its checkpoints and metrics: ``quantized`` for the last, such as ``quantized-w8a8`` for one before.
        config: of the run, with the bits and the epochs of this stage.
    """

    name: str
    config: TrainConfig


def stages_of(config: TrainConfig) -> tuple[Stage, ...]:
    """Returns the stages of a run, first to last.

    A stage of ``b`` bits has ``max(b, weight_bits)`` and ``max(b, input_bits)`` of them, so the last is the network
    that was asked for. Epochs are shared out as equally as whole numbers can be.
    """
    whole = config.quantized
    bits, stages = whole.progressive_bits, []
    if not bits:
        return (Stage("quantized", config),)
    for place, wanted in enumerate(bits):
        epochs = whole.epochs * (place + 1) // len(bits) - whole.epochs * place // len(bits)
        weights, inputs = max(wanted, whole.weight_bits), max(wanted, whole.input_bits)
        settings = dataclasses.replace(
            whole,
            progressive_bits=(),
            weight_bits=weights,
            input_bits=inputs,
            epochs=epochs,
            warmup_epochs=min(whole.warmup_epochs, epochs),
        )
        name = "quantized" if place == len(bits) - 1 else f"quantized-w{weights}a{inputs}"
        stages.append(Stage(name, dataclasses.replace(config, quantized=settings)))
    return tuple(stages)


def quantization_rules(config: TrainConfig, model: nnx.Module, chosen: LayerBits | None = None) -> list[Rule]:
    """Returns the recommended rules of the network for the bits and the method of a config.

    Args:
        config: of a stage.
        model: the network.
        chosen: bits of single layers in the place of the config's.
    """
    settings = config.quantized
    method = methods.with_constants(
        settings.method,
        sharpness=settings.sharpness,
        sharpness_start=settings.sharpness_start,
        strength=settings.strength,
        strength_schedule=settings.strength_schedule,
        strength_power=settings.strength_power,
        tau=settings.tau,
        eta=settings.eta,
        weight_start=settings.weight_start,
    )
    axis = 3 if settings.per_channel else None
    weights = QuantSpec(settings.weight_bits, signed=True, channel_axis=axis, method=method)
    inputs = QuantSpec(settings.input_bits, signed=False, batch_axis=0, method=method)
    stream = None
    if settings.stream_bits is not None:
        stream = dataclasses.replace(inputs, bits=settings.stream_bits)
    rules = recommended_rules(model, weights=weights, inputs=inputs, stream=stream)
    return with_bits(model, rules, chosen or {})
