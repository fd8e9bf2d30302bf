"""What the quantized layers of a model are given when it runs."""

from flax import nnx
from jaxtyping import Array, Float

from .paths import quantized_layers


def layer_inputs(model: nnx.Module, batch: Float[Array, "n ..."], *, in_float: bool) -> dict[str, list[Array]]:
    """Runs ``model`` in evaluation mode and returns what each quantized layer was given, one array a call.

    Works while JAX is tracing. Batch statistics and everything else of ``model`` stay as they are.

    Args:
        model: with quantized layers.
        batch: what the model takes.
        in_float: run every layer in float, as before quantization.
    """
    copy = nnx.merge(*nnx.split(model))
    copy.eval()
    seen: dict[str, list[Array]] = {}
    for path, layer in quantized_layers(copy):
        calls = seen[path] = []

        def observer(x, calls=calls):
            calls.append(x)
            return in_float

        object.__setattr__(layer, "observer", observer)  # past nnx: not a part of the module's state
    copy(batch)
    return seen
