"""What each operation's attributes and constants must be, as one table; a file that breaks it is refused.

The table says what a kernel takes for granted. Shapes and types of what an instruction reads are in ``shapes.py``.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from .dimensions import Batch, decode

INT32 = (-(2**31), 2**31 - 1)
LARGEST_SIZE = 2**31 - 1
MOST_AXES = 32
DTYPES = ("int8", "uint8", "int32")
INPUT_DTYPES = ("float32", "float16", "bfloat16", "float64", "uint8", "int8")

Check = Callable[[Any], bool]


@dataclasses.dataclass(frozen=True)
class Attribute:
    """What one attribute must be.

    Attributes:
        meaning: in words, for the sentence that refuses another value.
        holds: whether a value is that.
        optional: whether it may be missing.
    """

    meaning: str
    holds: Check
    optional: bool = False


@dataclasses.dataclass(frozen=True)
class Operation:
    """What an instruction of one operation must be.

    Attributes:
        inputs: how many tensors it reads, at least and at most.
        attributes: by name.
        constants: by name, the dtypes that they may be stored in; a name that ends in ``*`` stands for one a term.
        order: pairs of attributes of which the first may not be larger than the second.
    """

    inputs: tuple[int, int]
    attributes: Mapping[str, Attribute] = dataclasses.field(default_factory=dict)
    constants: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    order: tuple[tuple[str, str], ...] = ()


def is_whole(value: Any, low: int = INT32[0], high: int = INT32[1]) -> bool:
    """Whether a value is an ``int``, no bool, from ``low`` to ``high``."""
    return type(value) is int and low <= value <= high


def _whole(low: int = INT32[0], high: int = INT32[1]) -> Attribute:
    return Attribute(f"a whole number from {low} to {high}", lambda value: is_whole(value, low, high))


def _wholes(low: int, high: int = INT32[1], least: int = 0) -> Attribute:
    return Attribute(
        f"a list of {f'at least {least} ' if least else ''}whole numbers from {low} to {high}",
        lambda value: _is_list(value, least) and all(is_whole(item, low, high) for item in value),
    )


def _rows(width: int) -> Attribute:
    return Attribute(
        f"a list of lists of {width} whole numbers within int32",
        lambda value: (
            _is_list(value) and all(_is_list(row) and len(row) == width and all(map(is_whole, row)) for row in value)
        ),
    )


def _is_list(value: Any, least: int = 0) -> bool:
    return isinstance(value, list) and len(value) >= least


def _one_of(*values: str) -> Attribute:
    return Attribute(f"one of {', '.join(values)}", lambda value: isinstance(value, str) and value in values)


def _is_shape(value: Any) -> bool:
    try:
        return _is_list(value) and all(isinstance(dim, int | Batch) for dim in decode(value))
    except ValueError:
        return False


def _is_clamp(value: Any) -> bool:
    if value is None:
        return True
    if not (_is_list(value) and len(value) == 2 and all(_is_list(half) and len(half) == 2 for half in value)):
        return False
    if not all(is_whole(high) and is_whole(low, 0, 2**32 - 1) for high, low in value):
        return False
    return value[0] <= value[1]  # lists compare by their upper halves first


_BOOL = Attribute("true or false", lambda value: isinstance(value, bool))
_SIZES = Attribute("a list of sizes", _is_shape)
_CLAMP = Attribute("null or the halves of two ordered 64-bit numbers, [[high, low], [high, low]]", _is_clamp)
_ENDS = {"low": _whole(), "high": _whole()}
_SIGNED = ("int8", "int16", "int32")
_STORED = ("int8", "uint8", "int16", "int32")
_WINDOW = {
    "dimensions": _wholes(1),
    "strides": _wholes(1),
    "padding": _rows(2),
    "base_dilation": _wholes(1),
    "window_dilation": _wholes(1),
}

OPERATIONS: dict[str, Operation] = {
    "input": Operation((0, 0), {"index": _whole(0), "dtype": _one_of(*INPUT_DTYPES)}),
    "encode": Operation(
        (1, 1),
        {**_ENDS, "dtype": _one_of(*DTYPES)},
        dict.fromkeys(("gain", "bias", "scale", "offset"), ("float32",)),
        (("low", "high"),),
    ),
    "constant": Operation((0, 0), {"bits": _whole(2, 8), "signed": _BOOL}, {"codes": ("int8", "uint8")}),
    "convolve": Operation(
        (2, 2),
        {
            "strides": _wholes(1),
            "padding": _rows(2),
            "input_dilation": _wholes(1),
            "kernel_dilation": _wholes(1),
            "groups": _whole(1),
            "code_maximum": _whole(-128, 255),
        },
    ),
    "multiply": Operation((2, 2), {"code_maximum": _whole(-128, 255)}),
    "rescale": Operation(
        (1, 2**20),
        {
            **_ENDS,
            "shift": _whole(1, 62),
            "term_shifts": dataclasses.replace(_wholes(0, 62), optional=True),
            "clamp": _CLAMP,
            "dtype": _one_of(*DTYPES),
            "nearest": dataclasses.replace(_BOOL, optional=True),
        },
        {"multiplier*": _SIGNED, "bias_high": _SIGNED, "bias_low": ("uint32",)},
        (("low", "high"),),
    ),
    "clip": Operation((1, 1), _ENDS, order=(("low", "high"),)),
    "times": Operation((2, 2)),
    "table": Operation((1, 1), {"low": _whole(), "dtype": _one_of(*DTYPES)}, {"table": _STORED}),
    "staircase": Operation((1, 1), {"dtype": _one_of(*DTYPES)}, {"thresholds": _SIGNED, "values": _STORED}),
    "maximum": Operation((2, 2)),
    "minimum": Operation((2, 2)),
    "window_max": Operation((1, 1), _WINDOW),
    "window_sum": Operation((1, 1), _WINDOW),
    "sum": Operation((1, 1), {"axes": _wholes(0, MOST_AXES)}),
    "max": Operation((1, 1), {"axes": _wholes(0, MOST_AXES)}),
    "reshape": Operation((1, 1), {"sizes": _SIZES}),
    "transpose": Operation((1, 1), {"permutation": _wholes(0, MOST_AXES)}),
    "broadcast": Operation((1, 1), {"sizes": _SIZES, "axes": _wholes(0, MOST_AXES)}),
    "slice": Operation((1, 1), {"starts": _SIZES, "stops": _SIZES, "strides": _wholes(1)}),
    "reverse": Operation((1, 1), {"axes": _wholes(0, MOST_AXES)}),
    "take": Operation((1, 1), {"axis": _whole(0, MOST_AXES), "indices": _wholes(0, least=1)}),
    "pad": Operation((1, 1), {"padding": _rows(3), "value": _whole()}),
    "concatenate": Operation((1, 2**20), {"axis": _whole(0, MOST_AXES)}),
}
"""What each operation must be."""


def check_instruction(op: str, terms: int, attributes: Any, stored: Any) -> None:
    """Checks an instruction's attributes, and the names and dtypes of its constants, before any of them is read.

    Args:
        op: its operation, a key of ``OPERATIONS``.
        terms: how many tensors it reads.
        attributes: as they stand in the file.
        stored: its constants as they stand in the file, ``{name: [dtype, shape, offset]}``.

    Raises:
        ValueError: one is missing, of another kind, or not known.
    """
    operation = OPERATIONS[op]
    least, most = operation.inputs
    if not least <= terms <= most:
        raise ValueError(f"a {op} reads {least if least == most else 'one or more'} tensors, not {terms}")
    if not isinstance(attributes, dict):
        raise ValueError(f"its attributes are {_shown(attributes)}, not an object")
    for name, wanted in operation.attributes.items():
        if name not in attributes:
            if not wanted.optional:
                raise ValueError(f"it has no attribute {name!r}, which must be {wanted.meaning}")
        elif not wanted.holds(attributes[name]):
            raise ValueError(f"its {name!r} must be {wanted.meaning}, got {_shown(attributes[name])}")
    unknown = set(attributes) - set(operation.attributes)
    if unknown:
        raise ValueError(f"a {op} has no attribute {_shown(min(unknown))}")
    for low, high in operation.order:
        if attributes[low] > attributes[high]:
            raise ValueError(f"its {low!r}, {attributes[low]}, is above its {high!r}, {attributes[high]}")
    if len(attributes.get("term_shifts", ())) not in (0, terms) or attributes.get("term_shifts") == []:
        raise ValueError(f"it has {len(attributes['term_shifts'])} term shifts for {terms} terms")
    if op in ("encode", "rescale"):
        check_within(attributes["dtype"], attributes["low"], attributes["high"])
    _check_constants(op, terms, attributes, stored)


def _check_constants(op: str, terms: int, attributes: dict[str, Any], stored: Any) -> None:
    if not isinstance(stored, dict):
        raise ValueError(f"its constants are {_shown(stored)}, not an object")
    wanted: dict[str, tuple[str, ...]] = {}
    for name, kinds in OPERATIONS[op].constants.items():
        names = [f"{name[:-1]}{index}" for index in range(terms)] if name.endswith("*") else [name]
        wanted |= dict.fromkeys(names, kinds)
    if set(stored) != set(wanted):
        raise ValueError(f"its constants are {_shown(sorted(stored))}, not {sorted(wanted)}")
    for name, place in stored.items():
        if not isinstance(place, list) or len(place) != 3:
            raise ValueError(f"constant {name!r} is {_shown(place)}, not [dtype, shape, offset]")
        kind, shape, offset = place
        if kind not in wanted[name]:
            raise ValueError(f"constant {name!r} is {str(kind)[:60]}, not {', '.join(wanted[name])}")
        whole = isinstance(shape, list) and all(is_whole(size, 0, 2**62) for size in shape) and len(shape) <= MOST_AXES
        if not whole or not is_whole(offset, 0, 2**62):
            raise ValueError(f"constant {name!r} has shape {_shown(shape)} at {_shown(offset)}")
    if op == "constant" and stored["codes"][0] != ("int8" if attributes["signed"] else "uint8"):
        raise ValueError(f"constant 'codes' is {stored['codes'][0]} although 'signed' is {attributes['signed']}")


def check_numbers(op: str, attributes: dict[str, Any], constants: dict[str, np.ndarray]) -> None:
    """Checks the numbers in an instruction's constants, once they are read.

    Raises:
        ValueError: they are out of range, not in order, or not finite.
    """
    if op == "encode":
        if not all(np.isfinite(array).all() for array in constants.values()) or not (constants["scale"] > 0).all():
            raise ValueError("the constants of its encode are not finite, or its scale is not above 0")
    for name in ("table", "values"):
        if name in constants and constants[name].size:
            check_within(attributes["dtype"], int(constants[name].min()), int(constants[name].max()))
    if op == "staircase":
        thresholds = constants["thresholds"]
        if (thresholds[..., 1:] < thresholds[..., :-1]).any():
            raise ValueError("its thresholds are not in ascending order")


def check_within(dtype: str, low: int, high: int) -> None:
    """Checks that a range of numbers fits a dtype.

    Raises:
        ValueError: it does not.
    """
    ends = np.iinfo(dtype)
    if low < ends.min or high > ends.max:
        raise ValueError(f"its values from {low} to {high} do not fit {dtype}")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
