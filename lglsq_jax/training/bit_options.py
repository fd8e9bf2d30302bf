"""What a config may say about low bits: constants of the rules, start of the weights, bits by layer and by stage."""

import dataclasses
import math
from typing import Any

from ..errors import UserError
from ..method_names import SCHEDULES, STARTS, check_constants
from .bounds import check_number, check_whole


@dataclasses.dataclass(frozen=True)
class BitOptions:
    """A part of the quantized phase; every default leaves the training as it is without the option."""

    sharpness: float | None = None
    """Sharpness of ASR at the end of training; None: the method's own."""
    sharpness_start: float | None = None
    """Sharpness of ASR at the beginning, from where it moves in a straight line; None: constant."""
    strength: float | None = None
    """Largest strength of MDE, or the strength of EWGS; None: the method's own."""
    strength_schedule: str | None = None
    """How MDE's strength goes over training: linear (from 0), constant, decaying (to 0) or cosine; None: linear."""
    strength_power: float | None = None
    """Power of the rounding error in MDE: large, it acts near the edges of a rounding cell alone; None: 1."""
    tau: float | None = None
    """Largest relative task gradient of a scale with SSG; None: the method's own."""
    eta: float | None = None
    """Strength of SSG's direction term at the start of training; None: the method's own."""
    weight_start: str | None = None
    """Where weight scales start: mse, lsq, max or sigma, by channel with per_channel; None: the method's own."""
    bit_choices: tuple[int, ...] = ()
    """Bits that each inner layer's weights may have, such as 2 3 4: chosen by how much they change the predictions,
    within a budget, before training. Empty: all have weight_bits."""
    size_budget: float | None = None
    """With bit_choices: the mean bits of all weights but those of the first and the last layer, at most."""
    compute_budget: float | None = None
    """With bit_choices, instead of size_budget: the mean of weight bits x input bits over the multiply-adds, at most, 9
    being as W3A3; a layer's inputs then have as many bits as its weights."""
    progressive_bits: tuple[int, ...] = ()
    """Train in stages of falling bits, such as 8 4 3, each from the weights of the one before, with an equal share of
    the epochs and a cosine of its own; the last must be the smaller of weight_bits and input_bits. Empty: one stage."""


def describe_bits(settings: Any) -> str:
    """Returns the bits that a ``QuantizedConfig`` asks for in a few words, such as ``3-bit weights, 3-bit inputs``."""
    inputs = f"{settings.input_bits}-bit inputs"
    choices = ", ".join(map(str, sorted(settings.bit_choices)))
    if settings.size_budget is not None:
        return f"weights of {choices} bits by layer, at most {settings.size_budget:g} on average, {inputs}"
    if settings.compute_budget is not None:
        return (
            f"{choices} bits by layer, weights x inputs at most {settings.compute_budget:g} a multiply-add on average"
        )
    stages = f", in stages of {', '.join(map(str, settings.progressive_bits))}" if settings.progressive_bits else ""
    return f"{settings.weight_bits}-bit weights, {inputs}{stages}"


def check_bit_options(settings: Any) -> None:
    """Checks the options of a ``QuantizedConfig``, whose other fields are checked already, and makes lists tuples.

    Raises:
        UserError: one is out of range, or does not go with another.
    """
    constants = {}
    for name in ("sharpness", "sharpness_start", "strength", "strength_schedule", "strength_power", "tau", "eta"):
        constants[name] = getattr(settings, name)
    for name in ("sharpness", "sharpness_start", "strength_power", "tau", "eta"):
        if constants[name] is not None:
            check_number(name, constants[name], 0, math.inf, open_low=name == "tau")
    if settings.strength is not None:
        check_number("strength", settings.strength, 0, 2, open_high=True)
    for name, allowed in (("strength_schedule", SCHEDULES), ("weight_start", STARTS)):
        if getattr(settings, name) not in (None, *allowed):
            raise UserError(f"`{name}` must be one of {', '.join(allowed)}, got {getattr(settings, name)!r}")
    try:
        check_constants(settings.method, **constants)
    except ValueError as error:
        raise UserError(str(error)) from None
    for name in ("bit_choices", "progressive_bits"):
        value = getattr(settings, name)
        if not isinstance(value, tuple | list):
            raise UserError(f"`{name}` must be several whole numbers, got {value!r}")
        for bits in value:
            check_whole(name, bits, 2, 8)
        object.__setattr__(settings, name, tuple(value))
    _check_choices(settings)
    _check_stages(settings)


def _check_choices(settings: Any) -> None:
    choices, budgets = settings.bit_choices, ("size_budget", "compute_budget")
    given = [name for name in budgets if getattr(settings, name) is not None]
    if not choices and given:
        raise UserError(f"`{given[0]}` must be None without `bit_choices`, got {getattr(settings, given[0])}")
    if not choices:
        return
    if len(choices) < 2 or len(set(choices)) < len(choices):
        raise UserError(f"`bit_choices` must be at least two different numbers, got {' '.join(map(str, choices))}")
    if len(given) != 1:
        raise UserError(f"`bit_choices` must come with one of `size_budget` and `compute_budget`, got {len(given)}")
    smallest = min(choices) ** (1 if given[0] == "size_budget" else 2)
    check_number(given[0], getattr(settings, given[0]), smallest, math.inf)


def _check_stages(settings: Any) -> None:
    stages, last = settings.progressive_bits, min(settings.weight_bits, settings.input_bits)
    if not stages:
        return
    text = " ".join(map(str, stages))
    if settings.bit_choices:
        raise UserError(f"`progressive_bits` must be empty with `bit_choices`, got {text}")
    if list(stages) != sorted(set(stages), reverse=True):
        raise UserError(f"`progressive_bits` must fall from stage to stage, got {text}")
    if stages[-1] != last:
        raise UserError(
            f"`progressive_bits` must end with the smaller of weight_bits and input_bits, {last}, got {text}"
        )
    if settings.epochs < len(stages):
        raise UserError(f"`epochs` must be at least one for each of the {len(stages)} stages, got {settings.epochs}")
