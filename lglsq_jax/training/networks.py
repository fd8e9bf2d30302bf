"""The networks that a config can name. Light to import: a network's module is read when one is built."""

import dataclasses
import difflib
import importlib
from typing import Any

from ..errors import UserError


@dataclasses.dataclass(frozen=True)
class Network:
    """A network of ``lglsq_jax.models``.

    Attributes:
        name: of the function there.
        options: which of its arguments a config may set.
        widths: the values that ``width`` may have; empty: any number above 0.
        first: path of its first convolution.
        last: path of its last linear layer.
        module: the file of ``lglsq_jax/models`` with the function, where ``lglsq_jax.models`` itself has it not.
    """

    name: str
    options: frozenset[str] = frozenset()
    widths: tuple[float, ...] = ()
    first: str = "conv1"
    last: str = "fc"
    module: str = ""

    def build(self, num_classes: int, in_channels: int, options: dict[str, Any], seed: int):
        """Returns the float nnx model with weights drawn from ``seed``."""
        import numpy as np
        from flax import nnx

        from .once import run_once

        make = self._maker(num_classes, in_channels, options)
        # One program for all draws: by themselves, each shape's is compiled apart.
        graph, _ = nnx.split(nnx.eval_shape(make, np.uint32(seed)))
        return nnx.merge(graph, run_once(lambda seed: nnx.state(make(seed)), np.uint32(seed)))

    def _maker(self, num_classes: int, in_channels: int, options: dict[str, Any]):
        import jax
        from flax import nnx

        models = importlib.import_module(f"..models.{self.module}".rstrip("."), __package__)
        network = getattr(models, self.name)

        def make(seed):
            rngs = nnx.Rngs(jax.random.key(seed))
            return network(num_classes=num_classes, in_channels=in_channels, rngs=rngs, **options)

        return make

    def blank(self, num_classes: int, in_channels: int, options: dict[str, Any]):
        """Returns the model with zeros for weights, at once: drawing them takes seconds of compiling."""
        import jax
        import jax.numpy as jnp
        import numpy as np
        from flax import nnx

        def zeros(leaf):
            if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
                return jnp.zeros(leaf.shape, leaf.dtype)
            return jnp.asarray(np.zeros(leaf.shape, leaf.dtype))

        shapes = nnx.eval_shape(self._maker(num_classes, in_channels, options), np.uint32(0))
        graph, state = nnx.split(shapes)
        return nnx.merge(graph, jax.tree.map(zeros, state))


_STRIDE = frozenset({"stem_stride"})
NETWORKS = {
    network.name: network
    for network in (
        Network("resnet8", _STRIDE),
        Network("resnet20", _STRIDE),
        Network("resnet18"),
        Network("resnet34"),
        Network("resnet50"),
        Network("mobilenet_v2", _STRIDE | {"width", "dropout"}, first="features/0/0", last="classifier/1"),
        Network("shufflenet_v2", _STRIDE | {"width", "stem_pool"}, widths=(0.5, 1.0, 1.5, 2.0), first="conv1/0"),
        Network("ds_cnn", _STRIDE),
    )
}


def find_network(name: str) -> Network:
    """Returns the network of that name.

    Raises:
        UserError: there is none; names the known ones, and the closest.
    """
    if isinstance(name, str) and name in NETWORKS:
        return NETWORKS[name]
    close = difflib.get_close_matches(str(name), NETWORKS, n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    raise UserError(f"`name` must be one of {', '.join(NETWORKS)}, got {name!r}{hint}")
