"""A named place in a network where a rule may put a quantizer."""

from flax import nnx
from jaxtyping import Array, Shaped


class Identity(nnx.Module):
    """Returns its input. ``quantize_model`` puts a ``Quantizer`` there where a rule has ``values`` for its path.

    It has no parameters, so weights of a network with and without one are the same.
    """

    def __call__(self, x: Shaped[Array, "..."]) -> Shaped[Array, "..."]:
        """Returns the value as it is."""
        return x
