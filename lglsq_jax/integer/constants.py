"""What an equation gives whose operands are all known before the model runs."""

import numpy as np

from .dimensions import Batch, Shape
from .rules.context import Context, unsupported
from .trace import Equation

_REPEATING = ("broadcast_in_dim", "reshape", "squeeze", "expand_dims")


def evaluate(context: Context, equation: Equation, operands: list[np.ndarray]) -> list[np.ndarray]:
    """Returns the results, by the equation's own primitive in its own precision.

    A result that only repeats along an axis may have size 1 there, which is how constants get along with an open batch.
    """
    primitive, params = equation.primitive, equation.params
    shapes = [context.shape(equation, index) for index in range(len(equation.results))]
    if primitive.name in _REPEATING:
        return [_repeat(equation, operands[0], shapes[0])]
    open_batch = any(isinstance(dim, Batch) for shape in shapes for dim in shape)
    seen = [tuple(operand.shape) for operand in equation.operands]
    short = any(operand.shape != shape for operand, shape in zip(operands, seen, strict=True))
    if open_batch or short:
        if (
            any(
                shape not in ((), tuple(equation.results[0].shape)) and operand.size > 1
                for shape, operand in zip(seen, operands, strict=True)
            )
            and open_batch
        ):
            raise unsupported(equation, "it computes a constant from the batch size")
        if all(shape in ((), tuple(equation.results[0].shape)) for shape in seen):
            operands = list(np.broadcast_arrays(*operands))
        else:
            operands = [np.broadcast_to(operand, shape) for operand, shape in zip(operands, seen, strict=True)]
    results = primitive.bind(*operands, **params)
    return [np.asarray(result) for result in (results if primitive.multiple_results else [results])]


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
    return full.reshape(shape)  # pyright: ignore[reportArgumentType]
