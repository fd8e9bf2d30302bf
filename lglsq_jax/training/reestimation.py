"""Batch norm's statistics measured anew after the last step, on whatever devices the run has."""

import dataclasses
from collections.abc import Iterable

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array

from ..batch_norm import joined_batch_norm, observed_batch_norm
from ..errors import UserError
from .mesh import by_samples, spread, whole
from .skeleton import Arrays, Skeleton
from .step import TrainState


def with_new_statistics(
    skeleton: Skeleton, state: TrainState, batches: Iterable[dict[str, Array]], mesh: Mesh, layout: TrainState
) -> TrainState:
    """Returns a state whose running statistics are those of the batches, as ``lq.reestimate_batch_norm`` sets them.

    Args:
        skeleton: of the model.
        state: on the mesh; the parameters that are evaluated count, and stay as they are.
        batches: training batches on the mesh; each is normalised as one, over all devices.
        mesh: from ``make_mesh``.
        layout: where on the mesh each array of the state lies.

    Raises:
        UserError: the statistics of a batch norm (named) are not finite.
    """
    same = whole(mesh)
    evaluated = layout.average if state.average else layout.parameters

    def observe(parameters, rest, images):
        return observed_batch_norm(skeleton.model(jax.lax.with_sharding_constraint(parameters, same), rest), images)

    run = jax.jit(observe, in_shardings=(evaluated, same, by_samples(mesh)), out_shardings=same)
    with jax.set_mesh(mesh):
        seen = [jax.device_get(run(state.evaluated, state.rest, batch["image"])) for batch in batches]
    try:
        measured = joined_batch_norm(seen)
    except ValueError as error:
        raise UserError(str(error)) from None
    new: Arrays = {}
    for path, values in measured.items():
        for name, array in zip(("mean", "var"), values, strict=True):
            where = f"{path}/{name}" if path else name
            new[where] = np.asarray(array, state.rest[where].dtype)  # pyright: ignore[reportArgumentType]
    return dataclasses.replace(state, rest=state.rest | spread(new, same))
