"""An nnx model taken apart into flat dictionaries of arrays, and put together again."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Key, Shaped

from ..layers import Scale
from ..paths import join

Arrays = dict[str, Shaped[Array, "..."]]


@dataclasses.dataclass(frozen=True, eq=False)
class Skeleton:
    """The static half of a model. Its arrays travel as ``{"layer1/0/conv1/kernel": array}`` through pure functions.

    Attributes:
        graph: nnx's graph definition.
        parameters: the learned variables, by path, without meaning in their values.
        rest: all other variables (batch statistics, progress, random state), by path.
    """

    graph: nnx.GraphDef
    parameters: dict[tuple, nnx.Variable]
    rest: dict[tuple, nnx.Variable]

    @classmethod
    def of(cls, model: nnx.Module) -> tuple["Skeleton", Arrays, Arrays]:
        """Returns a model's skeleton, its parameters and its other arrays."""
        graph, parameters, rest = nnx.split(model, nnx.Param, ...)
        variables = dict(nnx.to_flat_state(parameters)), dict(nnx.to_flat_state(rest))
        skeleton = cls(graph, *variables)
        return skeleton, _arrays(variables[0]), _arrays(variables[1])

    def model(self, parameters: Arrays, rest: Arrays) -> nnx.Module:
        """Returns a new model that holds these arrays."""
        states = (_state(self.parameters, parameters), _state(self.rest, rest))
        return nnx.merge(self.graph, *states, copy=True)

    def arrays(self, model: nnx.Module) -> tuple[Arrays, Arrays]:
        """Returns the parameters and the other arrays of a model made by ``model``."""
        _, parameters, rest = nnx.split(model, nnx.Param, ...)
        return _arrays(dict(nnx.to_flat_state(parameters))), _arrays(dict(nnx.to_flat_state(rest)))

    @property
    def scales(self) -> frozenset[str]:
        """The paths of the quantizers' scales."""
        return frozenset(join(path) for path, variable in self.parameters.items() if isinstance(variable, Scale))


def _arrays(variables: dict[tuple, nnx.Variable]) -> Arrays:
    return {join(path): _plain(variable[...]) for path, variable in variables.items()}


def _state(variables: dict[tuple, nnx.Variable], arrays: Arrays) -> nnx.State:
    def value(path, variable):
        array, like = arrays[join(path)], variable[...]
        if jnp.issubdtype(like.dtype, jax.dtypes.prng_key):
            array = jax.random.wrap_key_data(array, impl=jax.random.key_impl(like))
        return variable.replace(array)

    return nnx.from_flat_state([(path, value(path, variable)) for path, variable in variables.items()])


def _plain(array: Shaped[Array, "..."] | Key[Array, "..."]) -> Shaped[Array, "..."]:
    """A random key as the numbers in it, which can be saved."""
    return jax.random.key_data(array) if jnp.issubdtype(array.dtype, jax.dtypes.prng_key) else array
