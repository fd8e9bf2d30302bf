"""A program as an ONNX file: of integers alone, or of quantized float operators."""

import os
from typing import TYPE_CHECKING

from ...errors import UserError
from .write import write_export

if TYPE_CHECKING:
    from ..program import IntegerProgram

FORMS = ("integer", "qdq")
OPSETS = (18, 24)
"""First and last operator set that can be asked for."""


def save_onnx(
    program: "IntegerProgram", path: str | os.PathLike, form: str, opset: int, *, wide_sums: bool = False
) -> None:
    """Writes a program as an ONNX model; see :meth:`IntegerProgram.to_onnx`."""
    if form not in FORMS:
        raise UserError(f'`form` must be "integer" or "qdq", got {form!r}')
    if isinstance(opset, bool) or not isinstance(opset, int) or not OPSETS[0] <= opset <= OPSETS[1]:
        raise UserError(f"`opset` must be a whole number from {OPSETS[0]} to {OPSETS[1]}, got {opset!r}")
    if wide_sums and form != "qdq":
        raise UserError(f'`wide_sums` is of `form` "qdq", got it with {form!r}, which is right on every machine')
    try:
        import onnx  # noqa: F401
    except ImportError:
        raise UserError(
            "writing ONNX needs the package onnx, which is not installed: pip install 'lglsq_jax[export]'"
        ) from None
    if form == "integer":
        from .onnx_integer import integer_model

        model = integer_model(program, opset)
    else:
        from .onnx_qdq import qdq_model

        model = qdq_model(program, opset, wide_sums=wide_sums)
    write_export(path, model.SerializeToString())
