"""The bits of each layer that a run with ``bit_choices`` chose for itself: choosing, keeping and reading them."""

import dataclasses
from collections.abc import Iterable

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from ..bit_allocation import allocate_bits, layer_divergence, multiply_adds
from ..convert import calibrate, quantize_model
from ..errors import UserError
from ..files import read_json, write_json, writing
from ..paths import products
from .config import QuantizedConfig, TrainConfig
from .folder import RunFolder
from .networks import find_network
from .stages import LayerBits, quantization_rules


def choose_bits(config: TrainConfig, model: nnx.Module, batches: Iterable[Float[Array, "n ..."]]) -> LayerBits:
    """Returns the bits of weights and inputs of each inner layer with the least total divergence in the budget.

    For each number of bits the network is calibrated, and ``layer_divergence`` says what each layer alone does to its
    predictions; ``allocate_bits`` chooses. With a size budget only the weights' bits are chosen; with a compute budget
    a layer's inputs have as many as its weights. The first and the last layer stay as they are.

    Args:
        config: of the run.
        model: the trained float network.
        batches: normalised training images.
    """
    settings, network = config.quantized, find_network(config.model.name)
    batches = [jnp.asarray(batch) for batch in batches]
    inner = {path: layer for path, layer in products(model) if path not in (network.first, network.last)}
    pairs = _pairs(settings)
    divergence: dict[int, dict[str, float]] = {}
    quantized = model
    for bits, (weights, inputs) in pairs.items():
        uniform = dataclasses.replace(
            config,
            quantized=dataclasses.replace(
                settings, bit_choices=(), size_budget=None, compute_budget=None, weight_bits=weights, input_bits=inputs
            ),
        )
        quantized = quantize_model(model, quantization_rules(uniform, model))
        calibrate(quantized, batches)
        divergence[bits] = layer_divergence(quantized, batches)
    if settings.compute_budget is None:
        counts, mean = {path: int(layer.kernel.size) for path, layer in inner.items()}, settings.size_budget
        unit = {bits: weights for bits, (weights, _) in pairs.items()}
    else:
        counts, mean = multiply_adds(quantized, batches[0][:1]), settings.compute_budget
        unit = {bits: weights * inputs for bits, (weights, inputs) in pairs.items()}
    assert mean is not None
    chosen = allocate_bits(
        {path: {bits: divergence[bits][path] for bits in pairs} for path in inner},
        {path: {bits: unit[bits] * counts[path] for bits in pairs} for path in inner},
        mean * sum(counts[path] for path in inner),
    )
    return {path: pairs[bits] for path, bits in chosen.items()}


def keep_bits(folder: RunFolder, bits: LayerBits) -> None:
    """Writes the chosen bits into the run's folder, whole or not at all."""
    fields = {path: {"weights": weights, "inputs": inputs} for path, (weights, inputs) in bits.items()}
    with writing(folder.bits_file):
        write_json(folder.bits_file, fields)


def kept_bits(folder: RunFolder, config: TrainConfig) -> LayerBits | None:
    """Returns the bits that the run chose; None where it chooses none, or has not yet.

    Raises:
        UserError: the file is damaged, or not of this network.
    """
    if not config.quantized.bit_choices or not folder.bits_file.exists():
        return None
    fields, network = read_json(folder.bits_file), find_network(config.model.name)
    model = network.blank(10, 3, config.model.options)
    inner = {path for path, _ in products(model)} - {network.first, network.last}
    allowed = [{"weights": weights, "inputs": inputs} for weights, inputs in _pairs(config.quantized).values()]
    if not isinstance(fields, dict) or fields.keys() != inner or any(pair not in allowed for pair in fields.values()):
        raise UserError(
            f"{folder.bits_file} must hold bits of `bit_choices` for each inner layer of {config.model.name}, but it "
            "does not; it may be damaged"
        )
    return {path: (pair["weights"], pair["inputs"]) for path, pair in fields.items()}


def mean_bits(model: nnx.Module, bits: LayerBits) -> tuple[float, float]:
    """Returns the mean bits of all weights in these layers, and of their inputs by weight, to two decimals."""
    sizes = {path: int(layer.kernel.size) for path, layer in products(model) if path in bits}
    means = np.average([bits[path] for path in sizes], axis=0, weights=list(sizes.values()))
    return round(float(means[0]), 2), round(float(means[1]), 2)


def sentence(model: nnx.Module, bits: LayerBits) -> str:
    """Returns the bits of all layers in one line, such as ``bits: layer1/0/conv1 W3A4, ...; on average W3A4``."""
    each = ", ".join(f"{path} W{weights}A{inputs}" for path, (weights, inputs) in bits.items())
    weights, inputs = mean_bits(model, bits)
    return f"bits: {each}; on average W{weights:g}A{inputs:g}"


def _pairs(settings: QuantizedConfig) -> dict[int, tuple[int, int]]:
    """Returns the bits of weights and inputs that go with each choice."""
    return {b: (b, settings.input_bits if settings.compute_budget is None else b) for b in settings.bit_choices}
