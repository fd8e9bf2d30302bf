"""Batch norm's statistics of a trained network, measured anew on what its layers see in the end."""

from collections.abc import Iterable

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from .paths import named_modules


def reestimate_batch_norm(model: nnx.Module, batches: Iterable[Float[Array, "n ..."]]) -> int:
    r"""Sets the running statistics of every batch norm of ``model``, in place, to those of the batches.

    At low bits a weight that lies between two codes moves from one to the other in the last steps, and with it the mean
    and variance of its output; the running averages, which evaluation and integers use, come from weights that are no
    longer there. Over batches ``b`` with means :math:`\mu_b` and variances :math:`v_b`, each taken while all layers
    before it normalise by their batch,

    .. math:: \mu = \frac{1}{B} \sum_b \mu_b, \qquad v = \frac{1}{B} \sum_b v_b + \frac{1}{B} \sum_b (\mu_b - \mu)^2

    Weights, scales and everything else stay as they are; dropout is off.

    Args:
        model: any nnx model; only its batch norms change.
        batches: training inputs as the model takes them, each as large as those of training; several thousand samples.

    Returns:
        How many batch norms were set; 0 for a model without one.

    Raises:
        ValueError: there is no batch, or the statistics of a batch norm (named) are not finite.

    References: Sun et al., "Hybrid 8-bit Floating Point (HFP8) Training", NeurIPS 2019, section 3.2; Nagel et al.,
    "Overcoming Oscillations in Quantization-Aware Training", ICML 2022, section 3.2.
    """
    norms = _norms(model)
    graph, state = nnx.split(model)

    @jax.jit
    def observe(state, batch):
        copy = nnx.merge(graph, state)
        copy.eval()
        for norm in _norms(copy).values():
            norm.use_running_average, norm.momentum = False, 0.0  # the running statistics become those of the batch
        copy(batch)
        return {path: (norm.mean[...], norm.var[...]) for path, norm in _norms(copy).items()}

    seen = [jax.device_get(observe(state, jnp.asarray(batch))) for batch in batches]
    if not seen:
        raise ValueError("`batches` must hold at least one batch to measure batch norm's statistics on, got none")
    measured = {}
    for path in norms:
        means, variances = (jnp.stack([found[path][which] for found in seen]) for which in (0, 1))
        mean, variance = means.mean(0), variances.mean(0) + means.var(0)
        if not bool(jnp.isfinite(mean).all() & jnp.isfinite(variance).all()):
            raise ValueError(f"the statistics of batch norm {path!r} must be finite on the batches, and are not")
        measured[path] = mean, variance
    for path, norm in norms.items():
        norm.mean[...], norm.var[...] = (array.astype(norm.mean.dtype) for array in measured[path])
    return len(norms)


def _norms(model: nnx.Module) -> dict[str, nnx.BatchNorm]:
    return {path: module for path, module in named_modules(model) if isinstance(module, nnx.BatchNorm)}
