"""Bits by layer: what each layer's rounding does to the predictions, what it costs, and the best choice in a budget."""

import dataclasses
import math
import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from .batches import Inputs, arguments, calls
from .convert import Rule
from .inspection import check_scales
from .layer_sensitivity import switched_logits
from .observe import observed
from .paths import products, quantized_layers

Choice = TypeVar("Choice", bound=Hashable)


def layer_divergence(model: nnx.Module, batches: Iterable[Inputs]) -> dict[str, float]:
    r"""Returns how much rounding in one layer alone changes the predictions of ``model``, for each quantized layer.

    .. math:: D_l = \frac{1}{n} \sum_i \mathrm{KL}(\mathrm{softmax}\, z_i \,\|\, \mathrm{softmax}\, z^l_i)

    in nats, where :math:`z` are the logits with every quantizer off and :math:`z^l` those with only the quantizers of
    layer :math:`l` on, for its weights and its inputs. No labels are needed. Close to a trained network it is the
    increase of the loss where the network's own predictions are the labels. The network is compiled once and run
    ``L + 1`` times a batch, for ``L`` quantized layers; ``lq.sensitivity`` runs it twice as often and counts accuracy.

    Args:
        model: with quantized layers, calibrated; logits are ``[n, classes]``. It is run in evaluation mode and not
            changed. The kernels go through the method's float transform (DoReFa) in all runs.
        batches: what the model takes, best of one size: an array each, or a tuple of the positional arguments of a
            call where it takes several. Without labels.

    Returns:
        The divergence by path of the layer, finite and at least 0.

    Raises:
        ValueError: there is no quantized layer or no batch, a scale is not set, the model does not take as many arrays
            as a batch holds, or a layer's quantizers cannot be switched.
        TypeError: ``batches`` are one array, or a batch is neither an array nor a tuple of arrays.
    """
    paths = [path for path, _ in quantized_layers(model)]
    if not paths:
        raise ValueError("`model` has no quantized layer: call quantize_model(model, rules) first")
    check_scales(model)
    graph, state = nnx.split(model)

    @jax.jit
    def log_probabilities(state, setting, inputs):
        return jax.nn.log_softmax(switched_logits(graph, state, setting, *inputs))

    @jax.jit
    def divergence(true, found):
        return jnp.sum(jnp.where(true > -jnp.inf, jnp.exp(true) * (true - found), 0))  # masked classes: 0 log 0 is 0

    settings, sums, samples = np.eye(len(paths), dtype=bool), np.zeros(len(paths)), 0
    for inputs in calls(model, batches):
        true = log_probabilities(state, np.zeros(len(paths), bool), inputs)
        samples += len(true)
        sums += [float(divergence(true, log_probabilities(state, setting, inputs))) for setting in settings]
    if not samples:
        raise ValueError("`batches` must hold at least one sample, got none")
    return dict(zip(paths, np.maximum(sums / samples, 0).tolist(), strict=True))


def multiply_adds(model: nnx.Module, example: Inputs) -> dict[str, int]:
    """Returns the multiply-adds of each quantized convolution and linear layer for one sample.

    Products with padding are counted. A layer that is called several times counts each time.

    Args:
        model: with quantized layers; scales need not be set.
        example: what the model takes, one sample or more: an array, or a tuple of the positional arguments of a call
            where it takes several. Only shapes count.

    Raises:
        ValueError: the model does not take as many arrays.
        TypeError: ``example`` is neither an array nor a tuple of arrays.
    """
    layers = dict(products(model))

    def positions(layer, calls):
        if not isinstance(layer, nnx.Conv | nnx.Linear):
            return jnp.zeros((), jnp.int32)
        shapes = [jax.eval_shape(layer, x).shape for x in calls]
        return jnp.int32(sum(math.prod(shape[:-1]) for shape in shapes))

    given = arguments(model, example, "`example`")
    one = tuple(jnp.zeros((1, *array.shape[1:]), array.dtype) if array.ndim else array for array in given)
    found = observed(model, positions, in_float=True)(*one)
    return {path: int(count) * layers[path].kernel.size for path, count in found.items() if path in layers}


def allocate_bits(
    sensitivities: Mapping[str, Mapping[Choice, float]],
    costs: Mapping[str, Mapping[Choice, float]],
    budget: float,
) -> dict[str, Choice]:
    r"""Returns for each layer the choice of bits with the least total sensitivity within a budget.

    .. math:: \min_b \sum_l S_l(b_l) \quad \text{where} \quad \sum_l C_l(b_l) \le B

    That layers add up is an assumption, good where each changes the predictions a little. The minimum is exact to a
    billionth of the largest sensitivity: an integer program, solved by branch and bound (HiGHS). The same arguments
    give the same answer.

    Args:
        sensitivities: by layer and choice, such as the bits; for example ``layer_divergence`` of models at these bits.
        costs: the same layers and choices: bytes, or multiply-adds x weight bits x input bits, at least 0.
        budget: in the unit of the costs.

    Raises:
        ValueError: layers or choices differ, a number is not finite, a cost is below 0, or even the cheapest choices
            cost more than the budget (named).
    """
    _check_tables(sensitivities, costs, budget)
    pairs = [(layer, choice) for layer in sensitivities for choice in sensitivities[layer]]
    cheapest = {layer: min(costs[layer], key=lambda choice, layer=layer: costs[layer][choice]) for layer in costs}
    smallest = _total(costs, cheapest)
    if smallest > budget * (1 + 1e-12):
        raise ValueError(f"`budget` must be at least what the cheapest choices cost, {smallest:g}, got {budget:g}")
    # The solver holds the budget up to its tolerance; where the answer is above it, it is asked for a little less.
    for held_back in (0.0, 1e-6, 1e-5, 1e-4):
        chosen = _solved(sensitivities, costs, budget * (1 - held_back), pairs)
        if chosen is not None and _total(costs, chosen) <= budget * (1 + 1e-12):
            return chosen
    return cheapest


def with_bits(model: nnx.Module, rules: Sequence[Rule], bits: Mapping[str, tuple[int, int]]) -> list[Rule]:
    """Returns rules for ``quantize_model`` that give some layers other bits and are the same in everything else.

    Args:
        model: the model that the rules are for.
        rules: in order; the last one that matches a layer decides.
        bits: of the weights and of the inputs, by path of the layer.

    Raises:
        ValueError: a path is not that of a layer that the rules quantize.
    """
    rules, paths, added = list(rules), {path for path, _ in products(model)}, []
    for path, (weights, inputs) in bits.items():
        matching = [rule for rule in rules if rule.values is None and re.fullmatch(rule.pattern, path)]
        last = matching[-1] if matching and path in paths else None
        if last is None or last.weights is None or last.inputs is None:
            raise ValueError(f"`bits` must name layers that the rules quantize, got {path!r}")
        added.append(
            Rule(
                re.escape(path),
                weights=dataclasses.replace(last.weights, bits=weights),
                inputs=dataclasses.replace(last.inputs, bits=inputs),
            )
        )
    return rules + added


def _check_tables(sensitivities, costs, budget: float) -> None:
    if not sensitivities or sensitivities.keys() != costs.keys():
        raise ValueError("`costs` must be of the same layers as `sensitivities`, at least one")
    for layer in sensitivities:
        if not sensitivities[layer] or sensitivities[layer].keys() != costs[layer].keys():
            raise ValueError(f"`costs` must have the same choices as `sensitivities` for {layer!r}, at least one")
        for name, table in (("sensitivities", sensitivities), ("costs", costs)):
            for choice, value in table[layer].items():
                if not math.isfinite(value) or (name == "costs" and value < 0):
                    raise ValueError(
                        f"`{name}` must be finite{' and at least 0' if name == 'costs' else ''}, got {value} for "
                        f"{choice} in {layer!r}"
                    )
    if not math.isfinite(budget):
        raise ValueError(f"`budget` must be finite, got {budget}")


def _total(costs, chosen) -> float:
    return math.fsum(costs[layer][choice] for layer, choice in chosen.items())


def _solved(sensitivities, costs, budget: float, pairs):
    """Returns the solver's choice, or None where it says that there is none."""
    from scipy import optimize, sparse

    values = np.array([sensitivities[layer][choice] for layer, choice in pairs], np.float64)
    prices = np.array([costs[layer][choice] for layer, choice in pairs], np.float64)
    rows = {layer: row for row, layer in enumerate(sensitivities)}
    places = np.array([rows[layer] for layer, _ in pairs])
    unit = budget / 1e6 if budget > 0 else 1.0  # the solver's tolerance is a millionth: of this, not of the budget
    one_each = sparse.csr_array((np.ones(len(pairs)), (places, np.arange(len(pairs)))))
    # Its gap is absolute: the largest sensitivity is made large. Costs are in millionths of the budget.
    result = optimize.milp(
        values * (1000 / max(np.abs(values).max(), np.finfo(float).tiny)),
        integrality=np.ones(len(pairs)),
        bounds=optimize.Bounds(0, 1),
        constraints=[
            optimize.LinearConstraint(one_each, 1, 1),
            optimize.LinearConstraint(prices / unit, -np.inf, budget / unit),
        ],
        options={"mip_rel_gap": 0},
    )
    if result.x is None:
        return None
    best = [max(np.flatnonzero(places == row), key=lambda pair: result.x[pair]) for row in range(len(rows))]
    return dict(pairs[place] for place in best)
