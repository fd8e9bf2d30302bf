"""What every rule is given besides its operands, and the checks that several of them share."""

import dataclasses
from typing import Any

import numpy as np

from ..affine import Affine, Value
from ..build import Names
from ..dimensions import Shape, known_shape
from ..errors import LoweringError, OpenBatchError
from ..trace import Equation


@dataclasses.dataclass
class Context:
    """State of one lowering: the batch symbol and the names given so far."""

    batch: Any | None
    names: Names = dataclasses.field(default_factory=Names)

    def shape(self, equation: Equation, index: int = 0) -> Shape:
        """Returns the shape of a result of the equation."""
        return self.known(equation, equation.results[index].shape)

    def known(self, equation: Equation, shape: tuple) -> Shape:
        """Returns a shape with the batch symbol replaced.

        Raises:
            OpenBatchError: a dimension is not a multiple of the batch.
        """
        try:
            return known_shape(shape, self.batch)
        except ValueError as error:
            raise OpenBatchError(f"`{equation.primitive.name}` in {equation.where}: {error}") from None


def unsupported(equation: Equation, why: str) -> LoweringError:
    """Returns the error that names the primitive, the module and the source line."""
    return LoweringError(f"`{equation.primitive.name}` in {equation.where} has no integer form: {why}")


def known(equation: Equation, value: Value, what: str) -> np.ndarray:
    """Returns a constant operand.

    Raises:
        LoweringError: it depends on the model's input.
    """
    if isinstance(value, Affine):
        if value.is_constant:
            return value.value()
        raise unsupported(equation, f"{what} depends on the input")
    return value


def affine(value: Value, shape: Shape) -> Affine:
    """Returns an operand as an affine value; a constant becomes a bias alone."""
    return value if isinstance(value, Affine) else Affine.of([], value, shape)
