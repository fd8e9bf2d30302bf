"""Learning rates of single parameters, by patterns of their paths."""

import difflib
import re
from collections.abc import Iterable, Sequence

import jax
import optax

from ..errors import UserError

Rates = Sequence[tuple[str, float]]
"""Pairs of a regular expression and the factor of the parameters whose whole path it matches."""
_SHOWN = 12


def factor_of(rates: Rates, path: str) -> float:
    """Returns what the learning rate of a parameter is multiplied by: the last pattern that matches decides, or 1."""
    matching = [factor for pattern, factor in rates if re.fullmatch(pattern, path)]
    return matching[-1] if matching else 1.0


def check_matches(rates: Rates, paths: Iterable[str]) -> None:
    """Checks that each pattern matches a parameter.

    Raises:
        UserError: one does not; some paths, the likeliest first, are listed.
    """
    paths = sorted(paths)
    for pattern, _ in rates:
        if any(re.fullmatch(pattern, path) for path in paths):
            continue
        close = difflib.get_close_matches(pattern.replace("\\", ""), paths, n=_SHOWN // 2, cutoff=0.4)
        shown = [*close, *(path for path in paths if path not in close)][:_SHOWN]
        more = f" and {len(paths) - len(shown)} more" if len(paths) > len(shown) else ""
        raise UserError(
            f"`learning_rates` must have patterns that match the whole path of a parameter, but {pattern!r} matches "
            f"none; the paths are {', '.join(shown)}{more}"
        )


def multiplied(rates: Rates) -> optax.GradientTransformation:
    """Multiplies the updates of ``{path: array}`` each by its factor; comes after the learning rate in a chain."""

    def update(updates, _):
        return jax.tree_util.tree_map_with_path(lambda keys, array: factor_of(rates, keys[0].key) * array, updates)

    return optax.stateless(update)
