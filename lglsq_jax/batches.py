"""Batches as a model takes them: an array each, or a tuple of the arguments of one call where it takes several."""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, ArrayLike, Shaped

Inputs = Shaped[ArrayLike, "n ..."] | tuple[Shaped[ArrayLike, "n ..."], ...]
"""What a model takes in one call: an array, or a tuple of its positional arguments where it takes several."""

_SETTINGS = ("out_sharding", "use_running_average")  # of nnx's own layers, where None is no array left out


def calls(model: nnx.Module | Callable, batches: Iterable[Inputs]) -> Iterator[tuple[Array, ...]]:
    """Returns the positional arguments of one call of ``model`` for each batch.

    Raises:
        TypeError: ``batches`` are one array, a dict or no iterable; or, once it is reached, as in ``arguments``.
        ValueError: once it is reached, as in ``arguments``.
    """
    check_batches(batches)
    return (arguments(model, batch, f"batch {index}") for index, batch in enumerate(batches))


def check_batches(batches: Any) -> None:
    """Checks that these are batches and not one: an array would be taken apart into its rows.

    Raises:
        TypeError: with what was given.
    """
    if hasattr(batches, "__array__"):
        raise TypeError(
            f"`batches` must be an iterable of batches, got one array of shape {np.shape(batches)}; give [array] for "
            "one batch, list(array) for a batch a row"
        )
    if isinstance(batches, Mapping) or not (isinstance(batches, Iterable) or hasattr(batches, "__getitem__")):
        raise TypeError(f"`batches` must be an iterable of batches, such as a list, got {kind(batches)}")


def arguments(model: nnx.Module | Callable, batch: Inputs, name: str) -> tuple[Array, ...]:
    """Returns the positional arguments of one call of ``model``.

    Args:
        model: what is called.
        batch: an array, or a tuple of one array an argument.
        name: what error messages call the batch.

    Raises:
        TypeError: the batch is neither.
        ValueError: ``model`` takes more or fewer arguments.
    """
    given = batch if isinstance(batch, tuple) else (batch,)
    arrays = tuple(_array(value, batch, name) for value in given)
    fewest, names, more = _parameters(model)
    if fewest <= len(arrays) and (more or len(arrays) <= len(names)):
        return arrays
    named = f" ({', '.join(f'`{each}`' for each in names)})" if names else ""
    most = "or more" if more else f"to {len(names)}"
    count = str(fewest) if fewest == len(names) and not more else f"{fewest} {most}"
    taken = "one array" if count == "1" else f"a tuple of {count} arrays"
    hint = "; give the images alone, without their labels" if len(arrays) > fewest else ""
    raise ValueError(f"{name} must be what the model takes, {taken}{named}, got {kind(batch)}{hint}")


def _array(value, batch, name: str) -> Array:
    """One argument as an array; ``batch`` is what it came in, for the error message."""
    try:
        return jnp.asarray(value)
    except (TypeError, ValueError, OverflowError):
        pass
    seen = f"{kind(batch)} with {kind(value)} in it" if isinstance(batch, tuple) else kind(batch)
    if isinstance(value, Mapping) and value:
        seen += f"; give what the model takes of it, such as batch[{next(iter(value))!r}]"
    raise TypeError(f"{name} must be an array, or a tuple of arrays where the model takes several, got {seen}")


def kind(value) -> str:
    """Returns what ``value`` is, in a few words for an error message."""
    if isinstance(value, Mapping):
        return f"a dict with the keys {', '.join(map(repr, value)) or '(none)'}"
    if isinstance(value, tuple):
        return f"a tuple of {len(value)}"
    if hasattr(value, "__array__"):
        return "one array"
    return f"{value!r}" if value is None or isinstance(value, str | int | float) else f"a {type(value).__name__}"


def _parameters(model: nnx.Module | Callable) -> tuple[int, list[str], bool]:
    """How many arrays a call needs at least, the names of those that it can take, and whether it takes any more."""
    while isinstance(model, nnx.Sequential) and type(model).__call__ is nnx.Sequential.__call__ and len(model.layers):
        model = model.layers[0]
    try:
        parameters = inspect.signature(model).parameters.values()  # pyright: ignore[reportArgumentType]
    except (TypeError, ValueError):  # a callable that does not say
        return 1, [], True
    empty = inspect.Parameter.empty
    inputs = [
        each
        for each in parameters
        if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)
        and each.name not in _SETTINGS
        and not isinstance(each.default, bool | str)
    ]
    fewest = sum(each.default is empty for each in inputs)
    return max(fewest, 1), [each.name for each in inputs], any(each.kind == each.VAR_POSITIONAL for each in parameters)
