"""Learned low-bit quantization in JAX, down to an integer-only program."""
