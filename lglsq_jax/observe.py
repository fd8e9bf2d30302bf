"""What the quantized layers of a model are given when it runs."""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
from flax import nnx
from jaxtyping import Array

from .paths import QuantLayer, quantized_layers

T = TypeVar("T")


class _Graph:
    """A model's definition as a static argument; one without a hash, as of a model with a list, equals itself alone."""

    def __init__(self, definition: Any):
        self.definition = definition
        try:
            self._hash: int | None = hash(definition)
        except (TypeError, ValueError):
            self._hash = None

    def __hash__(self) -> int:
        return id(self) if self._hash is None else self._hash

    def __eq__(self, other: object) -> bool:
        if self is other or not isinstance(other, _Graph) or self._hash is None:
            return self is other
        return self._hash == other._hash and self.definition == other.definition


def observed(
    model: nnx.Module, measure: Callable[[QuantLayer, list[Array]], T], *, in_float: bool
) -> Callable[..., dict[str, T]]:
    """Returns a compiled function of a call's arguments: what ``measure`` makes of each quantized layer and its inputs.

    Batch statistics and everything else of ``model`` stay as they are. What a layer is given inside ``jax.jit``,
    ``jax.checkpoint``, a loop, a branch or ``vmap`` is no value of the model's own trace: where one is asked for, the
    inputs of all layers are handed out by callbacks instead, which works on one device. A loop makes a call of each
    turn, ``vmap`` of each sample.

    Args:
        model: with quantized layers; it runs in evaluation mode.
        measure: from a layer and its inputs, one array a call, to a pytree of arrays.
        in_float: run every layer in float, as before quantization.
    """
    definition, state = nnx.split(model)
    graph = _Graph(definition)
    given: dict[str, list[Array]] = {}

    @jax.jit
    def handing_out(state, arguments):
        def hand_out(path, x):
            jax.debug.callback(lambda x: given.setdefault(path, []).append(x), x, ordered=True)

        _run(nnx.merge(definition, state), arguments, in_float, hand_out)

    inside = False  # whether some layer was found inside a transformation

    def observe(*arguments):
        nonlocal inside
        if not inside:
            try:
                return _observed_within(graph, measure, in_float, state, arguments)
            except jax.errors.UnexpectedTracerError:
                inside = True
        given.clear()
        handing_out(state, arguments)
        jax.effects_barrier()
        return _measured(graph, measure, state, given)

    return observe


@jax.jit(static_argnums=(0, 1, 2))
def _observed_within(graph: _Graph, measure, in_float: bool, state, arguments):
    calls: dict[str, list[Array]] = {}
    _run(nnx.merge(graph.definition, state), arguments, in_float, lambda path, x: calls.setdefault(path, []).append(x))
    return _measured(graph, measure, state, calls)


@jax.jit(static_argnums=(0, 1))
def _measured(graph: _Graph, measure, state, calls: dict[str, list[Array]]):
    model = nnx.merge(graph.definition, state)
    return {path: measure(layer, calls.get(path, [])) for path, layer in quantized_layers(model)}


def _run(model: nnx.Module, arguments, in_float: bool, see: Callable[[str, Array], None]) -> None:
    """Runs a copy of ``model`` in evaluation mode; ``see`` gets the path of each quantized layer and its input."""
    copy = nnx.merge(*nnx.split(model))
    copy.eval()
    for path, layer in quantized_layers(copy):

        def observer(x, path=path):
            see(path, x)
            return in_float

        object.__setattr__(layer, "observer", observer)  # past nnx: not a part of the module's state
    copy(*arguments)
