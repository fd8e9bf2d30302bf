"""What an equation gives whose operands are all known before the model runs."""

import numpy as np

from .dimensions import Batch, Shape, known_shape, resolve, sized
from .node import aligned, compact
from .rules.context import Context, unsupported
from .trace import Equation

_REPEATING = ("broadcast_in_dim", "reshape", "squeeze", "expand_dims")


def evaluate(context: Context, equation: Equation, operands: list[np.ndarray]) -> list[np.ndarray]:
    """Returns the results, by the equation's own primitive in its own precision.

    A result that only repeats along an axis may have size 1 there, which is how constants get along with an open batch.
    """
    shapes = [context.shape(equation, index) for index in range(len(equation.results))]
    if equation.primitive.name in _REPEATING:
        return [_repeat(equation, operands[0], shapes[0])]
    if equation.primitive.name == "dim_as_value":
        raise unsupported(equation, "it computes with the batch size")
    given = [known_shape(operand.shape, context.batch) for operand in equation.operands]
    if not any(isinstance(dim, Batch) for shape in (*given, *shapes) for dim in shape):
        return _bind(equation, operands, given, None, 1)
    two, three = (_bind(equation, operands, given, context.batch, size) for size in (2, 3))
    for result, larger, shape in zip(two, three, shapes, strict=True):
        first = result[tuple(slice(0, 1) if isinstance(dim, Batch) else slice(None) for dim in shape)]
        if not (
            np.array_equal(_full(first, result.shape), result) and np.array_equal(_full(first, larger.shape), larger)
        ):
            raise unsupported(equation, "it computes a constant from the batch size")
    return [compact(result) for result in two]


def _bind(equation: Equation, operands, given: list[Shape], batch, size: int) -> list[np.ndarray]:
    full = [_full(operand, resolve(shape, size)) for operand, shape in zip(operands, given, strict=True)]
    results = equation.primitive.bind(*full, **sized(equation.params, batch, size))
    return [np.asarray(result) for result in (results if equation.primitive.multiple_results else [results])]


def _full(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    return np.broadcast_to(aligned(array, len(shape)), shape)


def _repeat(equation: Equation, operand: np.ndarray, shape: Shape) -> np.ndarray:
    if equation.primitive.name == "broadcast_in_dim":
        kept = [1] * len(shape)
        for axis, target in enumerate(equation.params["broadcast_dimensions"]):
            kept[target] = operand.shape[axis]
        return operand.reshape(kept)
    if operand.size == 1:
        return operand.reshape((1,) * len(shape))
    if any(isinstance(dim, Batch) for dim in shape):
        raise unsupported(equation, "it computes a constant from the batch size")
    full = np.broadcast_to(operand, equation.operands[0].shape)
    return full.reshape([int(dim) for dim in shape if not isinstance(dim, Batch)])
