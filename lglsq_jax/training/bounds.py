"""Checks of single numbers in a config."""

import math
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
