"""The first step of a network that takes raw images: from pixels to normalised values."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Shaped


class Normalize(nnx.Module):
    r"""Brings pixels to the range that a network was trained on: :math:`y_c = (u \, x_c - \mu_c) / \sigma_c`.

    A model that begins with it takes uint8 images, and so does its integer program, in which nothing is a float then::

        model = nnx.Sequential(lq.Normalize(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)), network)
        program = lq.integer.lower(model, images)  # uint8 images in, int32 logits out

    Args:
        mean: :math:`\mu`, a number or one a channel (last axis), in units of the scaled pixels.
        std: :math:`\sigma`, the same; positive.
        unit: :math:`u`, by which pixels are multiplied first; None: 1/255 for integer pixels, 1 for float ones.

    Raises:
        ValueError: ``mean``, ``std`` or ``unit`` is not finite, one of the last two not positive, or the first two are
            of different lengths.
    """

    def __init__(self, mean: float | Sequence[float], std: float | Sequence[float], unit: float | None = None):
        centre, spread = np.asarray(mean, np.float64), np.asarray(std, np.float64)
        if centre.ndim > 1 or spread.ndim > 1 or len({*centre.shape, *spread.shape}) > 1:
            raise ValueError(
                f"`mean` and `std` must be numbers or one a channel, got the shapes {centre.shape} and {spread.shape}"
            )
        if not np.isfinite(centre).all() or not (np.isfinite(spread) & (spread > 0)).all():
            raise ValueError(f"`mean` must be finite and `std` finite and positive, got {mean} and {std}")
        if unit is not None and not 0 < unit < np.inf:
            raise ValueError(f"`unit` must be finite and positive, or None, got {unit}")
        self.mean, self.std = tuple(np.atleast_1d(centre).tolist()), tuple(np.atleast_1d(spread).tolist())
        self.unit = unit

    def __call__(self, x: Shaped[Array, "*shape"]) -> Float[Array, "*shape"]:
        """Returns the normalised values: float32 for integer pixels, otherwise in the dtype of ``x``.

        Raises:
            ValueError: there are several means or deviations, and not one for each channel of ``x``.
        """
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != 1 and (not x.ndim or len(values) != x.shape[-1]):
                raise ValueError(
                    f"`x` must have its {len(values)} channels last, one for each of `{name}`, got shape {x.shape}"
                )
        integer = jnp.issubdtype(x.dtype, jnp.integer)
        unit = self.unit if self.unit is not None else (1 / 255 if integer else 1.0)
        x = x.astype(jnp.float32) if integer else x
        std = np.asarray(self.std)
        gain, shift = unit / std, np.asarray(self.mean) / std
        return x * gain.astype(x.dtype) - shift.astype(x.dtype)
