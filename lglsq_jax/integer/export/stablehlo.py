"""A program as a ``jax.export`` artefact: StableHLO that JAX runs without this package."""

import contextlib
import os
from collections.abc import Iterator

import jax
import jax.export
import jax.numpy as jnp

from ..dimensions import Batch, decode
from ..program import Instruction, IntegerProgram
from .write import write_export

PLATFORMS = ("cpu", "cuda", "tpu")


def save_stablehlo(program: IntegerProgram, path: str | os.PathLike) -> None:
    """Writes a program; see :meth:`IntegerProgram.to_stablehlo`."""
    write_export(path, bytes(stablehlo(program).serialize()))


def stablehlo(program: IntegerProgram) -> jax.export.Exported:
    """Returns the integer body, exported: from codes, one argument for each array that ``encode`` returns, to logits.

    The batch size is the symbol ``b`` where the model left it open.
    """
    scope = jax.export.SymbolicScope()
    codes = [_argument(program.instructions[number], scope) for number in program.entries]

    def integer_body(*codes):
        return program.integer_body(codes)

    with _without_source_locations():
        return jax.export.export(jax.jit(integer_body), platforms=PLATFORMS)(*codes)


def _argument(step: Instruction, scope: jax.export.SymbolicScope) -> jax.ShapeDtypeStruct:
    dims = (f"{dim.times}*b" if isinstance(dim, Batch) else str(dim) for dim in decode(list(step.shape)))
    shape = jax.export.symbolic_shape(", ".join(dims), scope=scope)
    return jax.ShapeDtypeStruct(shape, jnp.dtype(step.attributes["dtype"]))


@contextlib.contextmanager
def _without_source_locations() -> Iterator[None]:
    """Keeps the paths of the machine that exports out of the file, so that the same program is the same bytes."""
    limit = jax.config.jax_traceback_in_locations_limit  # pyright: ignore[reportAttributeAccessIssue]
    jax.config.update("jax_traceback_in_locations_limit", 0)
    try:
        yield
    finally:
        jax.config.update("jax_traceback_in_locations_limit", limit)
