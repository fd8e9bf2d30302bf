"""Elements picked by known indices: ``x[:, 0]``, ``x[:, ::-1]``, tiles and nearest-neighbour resizing."""

import math
from collections.abc import Callable

import numpy as np

from ..affine import Affine, Value
from ..arrange import ARRANGE
from ..build import rearranged
from ..dimensions import Batch, encode, known_shape, resolve, sized
from ..node import aligned
from ..trace import Equation
from .context import Context, known, unsupported

Step = tuple[str, dict]


def _pick(context: Context, equation: Equation, x: Affine, *indices: Value) -> Affine:
    """Writes the operation as picks along one axis at a time and a reshape, found by running it on a batch of indices.

    The same steps are then tried on a larger batch, so that nothing is taken for a pick that is not one.
    """
    constants = [known(equation, index, "an index") for index in indices]
    shape = context.shape(equation)

    def run(size: int) -> np.ndarray:
        sizes = resolve(x.shape, size)
        wide = [resolve(known_shape(operand.shape, context.batch), size) for operand in equation.operands[1:]]
        arrays = [np.broadcast_to(aligned(a, len(s)), s) for a, s in zip(constants, wide, strict=True)]
        numbers = np.arange(math.prod(sizes), dtype=np.int32).reshape(sizes)
        return np.asarray(equation.primitive.bind(numbers, *arrays, **sized(equation.params, context.batch, size)))

    picked = run(2)
    if picked.size == 0 or picked.min() < 0:
        raise unsupported(equation, "an index lies outside")
    steps: list[Step] = []
    for axis, positions in enumerate(np.unravel_index(picked, resolve(x.shape, 2))):
        if isinstance(x.shape[axis], Batch):
            continue
        along = [other for other in range(picked.ndim) if np.ptp(positions, axis=other).any()]
        if len(along) > 1:
            raise unsupported(equation, "its indices depend on one another")
        profile = np.moveaxis(positions, along[0], 0) if along else positions.reshape(-1, 1)[:1]
        chosen = [int(index) for index in profile.reshape(len(profile), -1)[:, 0]]
        if chosen != list(range(int(resolve(x.shape, 1)[axis]))):
            steps.append(("take", {"axis": axis, "indices": chosen}))
    steps.append(("reshape", {"sizes": encode(shape)}))
    found = _applied(steps, resolve(x.shape, 3))
    if found is None or not np.array_equal(found, run(3)):
        raise unsupported(equation, "it is no choice of positions along single axes")
    for op, attributes in steps:
        sizes = list(x.shape)
        if op == "take":
            sizes[attributes["axis"]] = len(attributes["indices"])
        x = rearranged(op, attributes, tuple(sizes) if op == "take" else shape, equation.path, x)
    return x


def _applied(steps: list[Step], sizes: tuple[int, ...]) -> np.ndarray | None:
    numbers = np.arange(math.prod(sizes), dtype=np.int32).reshape(sizes)
    try:
        for op, attributes in steps:
            numbers = ARRANGE[op](np, attributes, 3, numbers)
    except ValueError:
        return None
    return numbers


INDEXING: dict[str, Callable] = {"gather": _pick, "tile": _pick, "dynamic_slice": _pick}
