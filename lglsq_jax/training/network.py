"""A model as the training loop needs it, taken apart."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax import nnx

from ..inspection import weight_codes
from ..paths import quantized_layers
from . import hosts
from .skeleton import Arrays, Skeleton


@dataclasses.dataclass(frozen=True)
class Network:
    """A model as the loop needs it: its skeleton and arrays."""

    skeleton: Skeleton
    parameters: Arrays
    rest: Arrays

    @classmethod
    def of(cls, model: nnx.Module) -> "Network":
        """Takes a model apart."""
        return cls(*Skeleton.of(model))

    def as_before(self, before: "Network") -> "Network":
        """Returns the network that this one was quantized from, with the arrays as they are now."""
        parameters = {path: self.parameters[path] for path in before.parameters}
        return Network(before.skeleton, parameters, {path: self.rest[path] for path in before.rest})

    def model(self) -> nnx.Module:
        """Returns the model, in evaluation mode."""
        model = self.skeleton.model(self.parameters, self.rest)
        model.eval()
        return model


def codes_of(network: Network) -> dict[str, np.ndarray]:
    """Returns the weight codes of every quantized layer by its path; none for a float network."""
    if not network.skeleton.scales:
        return {}
    return {path: np.asarray(codes) for path, codes in weight_codes(network.model()).items()}


def low_bit_layers(network: Network) -> list[str]:
    """Returns the paths of the layers whose weights have less than 8 bits; of all quantized ones where none has."""
    bits = {path: layer.weights.bits for path, layer in quantized_layers(network.model()) if layer.weights is not None}
    return [path for path, width in bits.items() if width < 8] or list(bits)


def codes_like(template: Network) -> dict[str, Any]:
    """Structure of ``codes_of`` for a network whose scales are not set."""
    if not template.skeleton.scales:
        return {}
    return {
        path: jax.ShapeDtypeStruct(layer.kernel.shape, layer.weights.code_dtype)
        for path, layer in quantized_layers(template.model())
        if layer.weights is not None
    }


def from_first(template: Network, start: Callable[[], Network]) -> Network:
    """Returns the network that ``start`` makes on the first host, on every host."""
    network = None

    def make():
        nonlocal network
        network = start()

    hosts.on_first(make)
    network = network or template
    return Network(template.skeleton, *hosts.sent((network.parameters, network.rest)))
