"""The networks that a config can name. Light to import: a network's module is read when one is built."""

import dataclasses
import difflib

from ..errors import UserError


@dataclasses.dataclass(frozen=True)
class Network:
    """A network of ``lglsq_jax.models``.

    Attributes:
        name: of the function there.
        has_stem_stride: whether it takes ``stem_stride``.
    """

    name: str
    has_stem_stride: bool = False

    def build(self, num_classes: int, in_channels: int, stem_stride: int, seed: int):
        """Returns the float nnx model with weights drawn from ``seed``."""
        from flax import nnx

        from .. import models

        stride = {"stem_stride": stem_stride} if self.has_stem_stride else {}
        return getattr(models, self.name)(
            num_classes=num_classes, in_channels=in_channels, rngs=nnx.Rngs(seed), **stride
        )

    def blank(self, num_classes: int, in_channels: int, stem_stride: int):
        """Returns the model with zeros for weights, at once: drawing them takes seconds of compiling."""
        import jax
        import numpy as np
        from flax import nnx

        shapes = nnx.eval_shape(lambda: self.build(num_classes, in_channels, stem_stride, 0))
        graph, state = nnx.split(shapes)
        return nnx.merge(graph, jax.tree.map(lambda leaf: jax.numpy.asarray(np.zeros(leaf.shape, leaf.dtype)), state))


NETWORKS = {
    network.name: network
    for network in (
        Network("resnet8", has_stem_stride=True),
        Network("resnet20", has_stem_stride=True),
        Network("resnet18"),
        Network("resnet34"),
        Network("resnet50"),
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
