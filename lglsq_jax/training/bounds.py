"""Checks of single values in a config."""

import math
import re
from typing import Any

from ..errors import UserError


def check_whole(name: str, value: Any, smallest: int, largest: int | None = None) -> None:
    """Raises ``UserError`` where ``value`` is not a whole number from ``smallest`` to ``largest``."""
    allowed = f"of at least {smallest}" if largest is None else f"between {smallest} and {largest}"
    good = isinstance(value, int) and not isinstance(value, bool) and value >= smallest
    if not good or (largest is not None and value > largest):
        raise UserError(f"`{name}` must be a whole number {allowed}, got {value!r}")


def check_number(
    name: str, value: Any, low: float, high: float, *, open_low: bool = False, open_high: bool = False
) -> None:
    """Raises ``UserError`` where ``value`` is not a finite number in the interval, whose ends may be left out."""
    good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    good = good and (value > low if open_low else value >= low) and (value < high if open_high else value <= high)
    if good:
        return
    above = f"above {low:g}" if open_low else f"of at least {low:g}"
    below = "" if high == math.inf else f" and below {high:g}" if open_high else f" and at most {high:g}"
    raise UserError(f"`{name}` must be a finite number {above}{below}, got {value!r}")


def check_rates(name: str, value: Any) -> tuple[tuple[str, float], ...]:
    """Returns pairs of a regular expression and a factor of at least 0 as tuples; raises ``UserError`` for others."""
    example = "pairs of a pattern and a factor, such as (('fc/.*', 0.1),)"
    if not isinstance(value, list | tuple) or any(not isinstance(p, list | tuple) or len(p) != 2 for p in value):
        raise UserError(f"`{name}` must be {example}, got {value!r}")
    for pattern, factor in value:
        try:
            re.compile(pattern)
        except (re.error, TypeError) as error:
            raise UserError(f"`{name}` must be {example}, but {pattern!r} is no regular expression: {error}") from None
        check_number(name, factor, 0, math.inf)
    return tuple((pattern, float(factor)) for pattern, factor in value)
