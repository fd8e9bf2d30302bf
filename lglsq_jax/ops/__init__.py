"""Quantized convolution and matrix product on exact codes."""

from .exact import ARITHMETICS, choose_arithmetic, convolve_codes, largest_sum, multiply_codes
from .quantized import quantized_conv, quantized_matmul
from .window import Window

__all__ = [
    "ARITHMETICS",
    "Window",
    "choose_arithmetic",
    "convolve_codes",
    "largest_sum",
    "multiply_codes",
    "quantized_conv",
    "quantized_matmul",
]
