"""What a training step does about weights that oscillate between two codes, for a whole network."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..errors import UserError
from ..oscillations import Oscillations, dampening, freeze, hold, on_cosine, start, track
from ..paths import QuantLayer, quantized_layers
from ..quantizers import float_codes
from ..spec import QuantSpec
from .config import PhaseConfig, QuantizedConfig
from .skeleton import Arrays, Skeleton

MOST_BITS = 4
"""Layers of more bits are not tracked: their codes are so fine that going back and forth costs nothing."""
OFTEN = 0.005
"""Frequency above which a weight counts as oscillating (Nagel et al., section 3.1)."""

Known = dict[str, Oscillations]


@dataclasses.dataclass(frozen=True)
class Tracking:
    """Follows the codes of every layer of at most ``MOST_BITS`` bits, and freezes them where that is asked for.

    Attributes:
        skeleton: of the model.
        momentum: of the moving averages.
        first_threshold: frequency above which a code is frozen, at the beginning.
        last_threshold: the same at the end; 0: none is frozen.
    """

    skeleton: Skeleton
    momentum: float
    first_threshold: float
    last_threshold: float

    @classmethod
    def of(cls, skeleton: Skeleton, phase: PhaseConfig) -> "Tracking | None":
        """Returns what a phase asks for; None where that is nothing."""
        threshold = getattr(phase, "freeze_threshold", 0.0)
        if not threshold and not getattr(phase, "track_oscillations", False):
            return None
        momentum, first = (getattr(phase, name) for name in ("oscillation_momentum", "freeze_threshold_start"))
        return cls(skeleton, momentum, first, threshold)

    def start(self, parameters: Arrays, rest: Arrays) -> Known:
        """Returns what is known before the first step; nothing where no layer has so few bits, as in a first stage."""
        return {path: start(_codes(layer, spec)) for path, layer, spec in self._layers(parameters, rest)}

    def after(
        self, progress: Float[Array, ""], parameters: Arrays, average: Arrays, rest: Arrays, known: Known
    ) -> tuple[Arrays, Arrays, Known]:
        """Returns the parameters and their moving average with frozen weights on their codes, and what is known now.

        Args:
            progress: of training, from 0 to 1.
            parameters: after the optimizer's update.
            average: the moving average of them; empty where there is none.
            rest: other arrays of the model.
            known: after the step before.
        """
        parameters, average, now = dict(parameters), dict(average), {}
        threshold = on_cosine(self.first_threshold, self.last_threshold, progress)
        for path, layer, spec in self._layers(parameters, rest):
            now[path] = track(known[path], _codes(layer, spec), self.momentum)
            if not self.last_threshold:
                continue
            now[path] = freeze(now[path], threshold)
            prefix = f"{path}/" if path else ""
            for arrays in (parameters, average) if average else (parameters,):
                kernel, scale = arrays[f"{prefix}kernel"], arrays[f"{prefix}weight_scale"]
                arrays[f"{prefix}kernel"] = hold(kernel, scale, spec, now[path])
        return parameters, average, now

    def _layers(self, parameters: Arrays, rest: Arrays):
        found = _with_quantized_weights(self.skeleton, parameters, rest)
        return [(path, layer, spec) for path, layer, spec in found if spec.bits <= MOST_BITS]


def check_tracked(phase: QuantizedConfig) -> None:
    """Raises ``UserError`` where tracking or freezing is asked for and no layer will have so few bits."""
    fewest = min(phase.bit_choices or (phase.weight_bits,))
    if (phase.freeze_threshold or phase.track_oscillations) and fewest > MOST_BITS:
        raise UserError(
            "`freeze_threshold` and `track_oscillations` must be off for a network without weights of at most "
            f"{MOST_BITS} bits, got {fewest}"
        )


def describe(known: Known) -> dict[str, dict[str, float]]:
    """Returns for each layer which share of its weights oscillates and how many are frozen."""
    return {
        path: {
            "weights_oscillating": float(np.mean(np.asarray(layer.frequency) > OFTEN)),
            "weights_frozen": float(np.sum(np.asarray(layer.frozen))),
        }
        for path, layer in known.items()
    }


def make_dampening(
    skeleton: Skeleton, phase: PhaseConfig
) -> Callable[[Float[Array, ""], Arrays, Arrays], tuple[Float[Array, ""], Arrays]] | None:
    r"""Returns ``dampen(progress, parameters, rest) -> (loss, gradients)``, or None where a phase asks for none.

    The loss is :math:`\lambda_t` times the sum of ``oscillations.dampening`` over all layers with quantized weights,
    :math:`\lambda_t` on a cosine from 0 to ``phase.dampening``. It does not look at the batch, so its gradient is taken
    beside that of the network, once a step, on parameters as they lie on the devices.
    """
    last = getattr(phase, "dampening", 0.0)
    if not last:
        return None

    def distance(parameters: Arrays, rest: Arrays) -> Float[Array, ""]:
        layers = _with_quantized_weights(skeleton, parameters, rest)
        distances = [dampening(layer.quantizer_kernel, _scale(layer), spec) for _, layer, spec in layers]
        return jnp.sum(jnp.stack(distances))

    def dampen(progress, parameters, rest):
        weight = on_cosine(0.0, last, progress)
        loss, gradients = jax.value_and_grad(distance)(parameters, rest)
        return weight * loss, jax.tree.map(lambda gradient: weight * gradient, gradients)

    return dampen


def _with_quantized_weights(
    skeleton: Skeleton, parameters: Arrays, rest: Arrays
) -> list[tuple[str, QuantLayer, QuantSpec]]:
    layers = quantized_layers(skeleton.model(parameters, rest))
    return [(path, layer, layer.weights) for path, layer in layers if layer.weights is not None]


def _codes(layer: QuantLayer, spec: QuantSpec):
    return float_codes(layer.quantizer_kernel, _scale(layer), None, spec).astype(spec.code_dtype)


def _scale(layer: QuantLayer):
    assert layer.weight_scale is not None
    return layer.weight_scale[...]
