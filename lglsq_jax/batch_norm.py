"""Batch norm over parts of a batch, and its statistics measured anew on what a trained network's layers see."""

from collections.abc import Iterable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.nnx.nn import dtypes
from jaxtyping import Array, Shaped

from .batches import Inputs, calls
from .paths import named_modules
from .variables import RunningStatistic

Statistics = Mapping[str, tuple[Array, Array]]
"""Mean and variance of what a batch norm sees, by its path."""


class BatchNorm(nnx.BatchNorm):
    r"""``nnx.BatchNorm`` that may normalise equal parts of a training batch each by its own statistics.

    With ``groups`` parts of consecutive samples, part :math:`g` becomes :math:`\gamma (x - \mu_g) / \sqrt{v_g +
    \epsilon} + \beta`, and the running statistics take the mean of the parts' means and of their variances. With one
    part a device nothing is sent between devices; 1, as it starts, is the whole batch. Evaluation does not change.

    Attributes:
        groups: in how many parts; ``set_batch_norm_groups`` sets it.

    References: Hoffer et al., "Train longer, generalize better", NeurIPS 2017 (ghost batch norm).
    """

    groups: int = 1

    def __init__(self, num_features: int, *, rngs: nnx.Rngs, **options):
        super().__init__(num_features, rngs=rngs, **options)
        self.mean, self.var = (RunningStatistic(statistic[...]) for statistic in (self.mean, self.var))

    def __call__(self, x, use_running_average=None, *, mask=None):
        """Normalises; arguments and result as in ``nnx.BatchNorm``."""
        running = self.use_running_average if use_running_average is None else use_running_average
        if self.groups == 1 or running:
            return super().__call__(x, use_running_average, mask=mask)
        if mask is not None or self.axis_name is not None or self.axis not in (-1, x.ndim - 1):
            raise ValueError("batch norm in groups must have its features last, no mask and no `axis_name`")
        if x.shape[0] % self.groups:
            raise ValueError(f"the batch must be a multiple of `groups`, {self.groups}, got {x.shape[0]} samples")
        parts = x.reshape(self.groups, -1, *x.shape[1:]).astype(jnp.float32)
        axes = tuple(range(1, parts.ndim - 1))
        means = parts.mean(axes, keepdims=True)
        if self.use_fast_variance:
            variances = jnp.maximum(0, jnp.square(parts).mean(axes, keepdims=True) - jnp.square(means))
        else:
            variances = jnp.square(parts - means).mean(axes, keepdims=True)
        for running, found in ((self.mean, means), (self.var, variances)):
            new = jax.lax.stop_gradient(found).mean(0).reshape(-1)
            running[...] = self.momentum * running[...] + (1 - self.momentum) * new
        factor = jax.lax.rsqrt(variances + self.epsilon)
        if self.scale is not None:
            factor = factor * self.scale[...]
        y = (parts - means) * factor
        if self.bias is not None:
            y = y + self.bias[...]
        given = (x, *(variable[...] for variable in (self.scale, self.bias) if variable is not None))
        return y.reshape(x.shape).astype(dtypes.canonicalize_dtype(*given, dtype=self.dtype))


def set_batch_norm_groups(model: nnx.Module, groups: int) -> None:
    """Sets into how many parts every batch norm of a model takes a training batch.

    Raises:
        ValueError: ``groups`` is not a whole number of at least 1, or a batch norm (named) is nnx's own, which knows no
            parts; then none is changed.
    """
    if isinstance(groups, bool) or not isinstance(groups, int | np.integer) or groups < 1:
        raise ValueError(f"`groups` must be a whole number of at least 1, got {groups!r}")
    norms = _norms(model)
    for path, norm in norms.items():
        if groups > 1 and not isinstance(norm, BatchNorm):
            raise ValueError(f"batch norm {path!r} must be lq.BatchNorm to be taken in {groups} groups")
    for norm in norms.values():
        if isinstance(norm, BatchNorm):
            norm.groups = int(groups)


def reestimate_batch_norm(model: nnx.Module, batches: Iterable[Inputs]) -> int:
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
            An array each, or a tuple of the positional arguments of a call where the model takes several. No labels.

    Returns:
        How many batch norms were set; 0 for a model without one.

    Raises:
        ValueError: there is no batch, the model does not take as many arrays as one holds, or a batch norm (named) has
            statistics that are not finite, or takes its running statistics whatever the model is told, by
            ``use_running_average=True`` in the call.
        TypeError: ``batches`` are one array, or a batch is neither an array nor a tuple of arrays.

    References: Sun et al., "Hybrid 8-bit Floating Point (HFP8) Training", NeurIPS 2019, section 3.2; Nagel et al.,
    "Overcoming Oscillations in Quantization-Aware Training", ICML 2022, section 3.2.
    """
    norms = _norms(model)
    graph, state = nnx.split(model)
    observe = jax.jit(lambda state, *arguments: observed_batch_norm(nnx.merge(graph, state), *arguments))
    measured = joined_batch_norm([jax.device_get(observe(state, *each)) for each in calls(model, batches)])
    for path, norm in norms.items():
        norm.mean[...], norm.var[...] = (jnp.asarray(array, norm.mean.dtype) for array in measured[path])
    return len(norms)


def observed_batch_norm(model: nnx.Module, *arguments: Shaped[Array, "n ..."]) -> Statistics:
    """Returns mean and variance of what every batch norm of ``model`` sees in one call, by the norm's path.

    Of a norm that is called several times, those of the last. One that does not look at its batch has the variance -1.
    The model is used up: it is in evaluation mode afterwards and its running statistics are those of the batch.
    """
    model.eval()
    norms = _norms(model)
    for norm in norms.values():
        norm.use_running_average, norm.momentum = False, 0.0  # the running statistics become those of the batch
        norm.mean[...], norm.var[...] = jnp.zeros_like(norm.mean[...]), jnp.full_like(norm.var[...], -1)
        if isinstance(norm, BatchNorm):
            norm.groups = 1
    model(*arguments)  # pyright: ignore[reportCallIssue]
    return {path: (norm.mean[...], norm.var[...]) for path, norm in norms.items()}


def joined_batch_norm(seen: Sequence[Statistics]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Returns the statistics of equally large batches together, as ``reestimate_batch_norm`` says, in float64.

    Raises:
        ValueError: there is no batch, or a batch norm (named) was not measured or has statistics that are not finite.
    """
    if not seen:
        raise ValueError("`batches` must hold at least one batch to measure batch norm's statistics on, got none")
    measured = {}
    for path in seen[0]:
        means, variances = (
            np.stack([np.asarray(found[path][which], np.float64) for found in seen]) for which in (0, 1)
        )
        if (variances < 0).any():
            raise ValueError(
                f"batch norm {path!r} must normalise by its batch to be measured, but the model does not call it, or "
                "with use_running_average=True: set that by model.train() and model.eval() instead"
            )
        mean, variance = means.mean(0), variances.mean(0) + means.var(0)
        if not (np.isfinite(mean) & np.isfinite(variance)).all():
            raise ValueError(f"the statistics of batch norm {path!r} must be finite on the batches, and are not")
        measured[path] = mean, variance
    return measured


def _norms(model: nnx.Module) -> dict[str, nnx.BatchNorm]:
    return {path: module for path, module in named_modules(model) if isinstance(module, nnx.BatchNorm)}
