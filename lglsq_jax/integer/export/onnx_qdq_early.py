"""Quantizers as early as they can be: in front of what moves values or picks the largest of them.

A program rounds the sums of a convolution to fixed point, takes the largest of each window, and makes codes of what is
left. To make the codes first gives the same ones, since rounding and clipping keep the order, and then a runtime has a
convolution that ends in codes, for which it has a kernel; left to itself it finds the quantizer behind the pooling,
moves it there, and rounds the weights anew.
"""

import collections
import dataclasses
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from ..fixed import join
from ..layers import PRODUCTS
from ..program import Instruction

_ORDERLY = {"clip", "window_max", "max", "reshape", "transpose", "broadcast", "slice", "reverse", "take", "pad"}
"""What gives one of the values that it is given, and the larger of two the larger one."""


def quantized_early(steps: Sequence[Instruction]) -> list[Instruction]:
    """Returns a program with the same codes and logits whose quantizers stand right behind what is rounded.

    Two rescales become one, of the product of their factors: the first one's rounding, of a part in 2**30 of its range,
    falls away. Constants of a rescale may then be Python's integers, beyond 64 bits.
    """
    readers = collections.Counter(number for step in steps for number in step.inputs)
    changed: dict[int, Instruction] = {}
    behind: dict[int, Instruction] = {}
    gone: set[int] = set()
    for index, last in enumerate(steps[:-1]):
        chain = _chain(steps, readers, last)
        if not chain:
            continue
        at = steps[chain[-1]].inputs[0]
        low, high = last.attributes["low"], last.attributes["high"]
        moved = {}
        for number in chain:
            step = steps[number]
            attributes = dict(step.attributes)
            if step.op == "clip":
                low, high = max(low, _code(last, attributes["low"])), min(high, _code(last, attributes["high"]))
            elif step.op == "pad":
                attributes["value"] = min(max(_code(last, attributes["value"]), low), high)
            moved[number] = dataclasses.replace(step, attributes=attributes, low=last.low, high=last.high)
        source = steps[at]
        if source.op == "rescale":
            ends = (_code(last, source.attributes[name]) for name in ("low", "high"))
            low, high = max(low, next(ends)), min(high, next(ends))
        if low >= high:
            continue
        if source.op == "rescale":
            changed[at] = _joined(source, last, low, high)
        else:
            behind[at] = _behind(source, last, low, high)
        changed |= moved
        gone |= {index, *(number for number in chain if steps[number].op == "clip")}
    return _rebuilt(steps, changed, behind, gone)


def _chain(steps: Sequence[Instruction], readers: collections.Counter, last: Instruction) -> list[int]:
    """Returns what lies between a quantizer and the sums that it rounds, last first; nothing where it must stay."""
    if last.op != "rescale" or len(last.inputs) != 1 or last.attributes["dtype"] == "int32":
        return []
    whole = all(np.size(constant) == 1 for constant in last.constants.values())
    if not whole or "term_shifts" in last.attributes:
        return []
    if int(last.constants["multiplier0"].flat[0]) <= 0:
        return []
    chain, at = [], last.inputs[0]
    while readers[at] == 1 and steps[at].op in _ORDERLY and len(steps[at].inputs) == 1:
        chain.append(at)
        at = steps[at].inputs[0]
    source = steps[at]
    rounds = source.op == "rescale" and source.attributes["dtype"] == "int32"
    return chain if readers[at] == 1 and (rounds or source.op in PRODUCTS) else []


def _constants(rescale: Instruction) -> tuple[int, int, int]:
    """Multiplier, bias and shift of a quantizer with one of each."""
    bias = join(rescale.constants["bias_high"], rescale.constants["bias_low"])
    return int(rescale.constants["multiplier0"].flat[0]), int(bias.flat[0]), rescale.attributes["shift"]


def _code(rescale: Instruction, value: int) -> int:
    """The code of one whole number."""
    multiplier, bias, shift = _constants(rescale)
    code = round(Fraction(value * multiplier + bias, 1 << shift))  # halves to even
    return min(max(code, rescale.attributes["low"]), rescale.attributes["high"])


def _behind(product: Instruction, last: Instruction, low: int, high: int) -> Instruction:
    """The quantizer right behind a product."""
    ones = (1,) * len(product.shape)
    return dataclasses.replace(
        last,
        shape=product.shape,
        low=max(low, last.low),
        high=min(high, last.high),
        attributes=last.attributes | {"low": low, "high": high},
        constants={name: constant.reshape(ones) for name, constant in last.constants.items()},
    )


def _joined(first: Instruction, last: Instruction, low: int, high: int) -> Instruction:
    """Both rescales in one, in the place of the first."""
    multiplier, bias, shift = _constants(last)
    own = join(first.constants["bias_high"], first.constants["bias_low"]).astype(object)
    total = own * multiplier + (bias << first.attributes["shift"])
    constants = {
        name: constant.astype(object) * multiplier
        for name, constant in first.constants.items()
        if name.startswith("multiplier")
    }
    constants |= {"bias_high": np.asarray(total >> 32, object), "bias_low": np.asarray(total & (2**32 - 1), object)}
    changed = {
        "dtype": last.attributes["dtype"],
        "shift": first.attributes["shift"] + shift,
        "low": low,
        "high": high,
        "clamp": None,  # the ends say the same
    }
    return dataclasses.replace(
        first,
        low=max(low, last.low),
        high=min(high, last.high),
        attributes=first.attributes | changed,
        constants=constants,
    )


def _rebuilt(
    steps: Sequence[Instruction], changed: dict[int, Instruction], behind: dict[int, Instruction], gone: set[int]
) -> list[Instruction]:
    """The steps with some changed, some behind others and some gone, numbered anew."""
    found: list[Instruction] = []
    places: list[int] = []  # by the old number
    for index, step in enumerate(steps):
        if index in gone:
            places.append(places[step.inputs[0]])
            continue
        step = changed.get(index, step)
        found.append(dataclasses.replace(step, inputs=tuple(places[number] for number in step.inputs)))
        if index in behind:
            found.append(dataclasses.replace(behind[index], inputs=(len(found) - 1,)))
        places.append(len(found) - 1)
    return found
