"""Lowering to integers: the program that is deployed, and the proof that it is the network that was trained."""

from .errors import LoweringError
from .lower import as_function, lower
from .program import Instruction, IntegerProgram
from .storage import load
from .verify import LayerReport, VerifyReport, verify

__all__ = [
    "Instruction",
    "IntegerProgram",
    "LayerReport",
    "LoweringError",
    "VerifyReport",
    "as_function",
    "load",
    "lower",
    "verify",
]
