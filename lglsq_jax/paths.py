"""Module paths: how layers of an nnx model are named everywhere, such as ``layer1/0/conv1``."""

from collections.abc import Iterator

from flax import nnx

from .identity import Identity
from .layers import QuantConv, Quantizer, QuantLinear

QuantLayer = QuantConv | QuantLinear | Quantizer


def join(path: tuple) -> str:
    """Returns a module's path with its parts joined by ``/``; the model itself is the empty string."""
    return "/".join(map(str, path))


def named_modules(model: nnx.Module) -> Iterator[tuple[str, nnx.Module]]:
    """Yields every module once with its path, parents after children; a shared module has the first of its paths."""
    for path, module in nnx.iter_modules(model):
        yield join(path), module


def products(model: nnx.Module) -> list[tuple[str, nnx.Conv | nnx.Linear]]:
    """Returns the convolutions and linear layers, quantized or not, in the order in which the model holds them."""
    found = [(path, module) for path, module in named_modules(model) if isinstance(module, nnx.Conv | nnx.Linear)]
    return sorted(found, key=lambda item: _natural(item[0]))


def places(model: nnx.Module) -> list[tuple[str, Identity]]:
    """Returns where a rule may put a ``Quantizer``, in the order in which the model holds the places."""
    found = [(path, module) for path, module in named_modules(model) if isinstance(module, Identity)]
    return sorted(found, key=lambda item: _natural(item[0]))


def quantized_layers(model: nnx.Module) -> list[tuple[str, QuantLayer]]:
    """Returns the quantized layers with their paths, in the order in which the model holds them."""
    found = [(path, module) for path, module in named_modules(model) if isinstance(module, QuantLayer)]
    return sorted(found, key=lambda item: _natural(item[0]))


def _natural(path: str) -> list[tuple[bool, int, str]]:
    return [(part.isdigit(), int(part) if part.isdigit() else 0, part) for part in path.split("/")]
