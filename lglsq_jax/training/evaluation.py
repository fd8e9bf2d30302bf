"""Accuracy on the whole test set."""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh

from ..data import Dataset, eval_batches
from ..errors import UserError
from .config import TrainConfig
from .mesh import make_mesh, place, spread, whole
from .network import Network
from .step import make_eval_step


def evaluate(
    network: Network,
    dataset: Dataset,
    config: TrainConfig,
    mesh: Mesh,
    eval_step: Any = None,
    progress: Callable[[int], None] = lambda batches: None,
) -> dict[str, float]:
    """Returns ``accuracy`` (top-1, a fraction), mean ``loss`` and ``samples`` over the whole test set.

    Args:
        network: on the devices of the mesh where ``eval_step`` is given, anywhere else.
        dataset: images and labels.
        config: of the run.
        mesh: of the devices.
        eval_step: as ``make_eval_step`` makes it; None: it is made here.
        progress: is told after each batch how many are done.
    """
    if eval_step is None:
        eval_step = make_eval_step(mesh, network.skeleton)
        network = Network(network.skeleton, *(spread(tree, whole(mesh)) for tree in (network.parameters, network.rest)))
    sums: dict[str, Any] = {}
    batches = eval_batches(dataset, config.data, host=jax.process_index(), hosts=jax.process_count())
    for number, batch in enumerate(batches, 1):
        part = jax.device_get(eval_step(network.parameters, network.rest, place(mesh, batch)))
        sums = {name: sums.get(name, 0) + value for name, value in part.items()}
        progress(number)
    samples = int(sums["samples"])
    assert samples == len(dataset.test), f"evaluated {samples} of {len(dataset.test)} samples"
    return {"accuracy": float(sums["correct"]) / samples, "loss": float(sums["loss"]) / samples, "samples": samples}


def mesh_of(config: TrainConfig) -> Mesh:
    """Returns the mesh of an experiment's devices.

    Raises:
        UserError: as ``make_mesh``, or a part of a batch (``accumulate``) cannot be spread over the devices.
    """
    data = config.data
    sizes = {"batch_size": data.batch_size, "eval_batch_size": data.eval_batch_size}
    mesh = make_mesh(config.mesh, sizes)
    if data.batch_size % (mesh.size * config.accumulate):
        raise UserError(
            f"`batch_size` must be a multiple of the number of devices x accumulate, {mesh.size} x "
            f"{config.accumulate}, got {data.batch_size}"
        )
    return mesh
