"""From an eval-mode model to an integer program."""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from ..inspection import check_scales
from ..paths import named_modules
from ..primitives import QUANTIZE_NAME
from .affine import Affine, Value
from .build import fixed_point
from .constants import evaluate
from .dimensions import known_shape
from .emit import emit
from .errors import LoweringError
from .node import Node
from .program import IntegerProgram
from .rules import RULES
from .rules.context import Context
from .trace import Equation, Trace, Variable, trace


def lower(model: nnx.Module | Callable, example_input: Float[Array, "n ..."]) -> IntegerProgram:
    r"""Returns the integer program of a quantized model: ``encode``, an integer-only body, ``decode``.

    The model is traced in evaluation mode and its equations are interpreted over values
    :math:`\sum_i s_i n_i + b` with integer tensors ``n_i`` and constants known now. Batch norm, biases and scales only
    change the constants; a quantizer rounds the pending sum to codes once, in fixed point; a ReLU becomes a clip. What
    no quantizer touches (a residual stream, a mean) travels as int32 fixed point.

    Args:
        model: any nnx model, or plain function of one array, of supported primitives; calibrated and in eval mode.
        example_input: fixes every axis of the input but the first, the batch.

    Raises:
        LoweringError: an operation has no integer form or meets an unquantized value (names the primitive, the module's
            path and the source line), or an accumulator could overflow.
        ValueError: the model is in training mode or has a scale that is not finite and positive (names the module), or
            does not return one array.
    """
    example = jnp.asarray(example_input)
    if not jnp.issubdtype(example.dtype, jnp.floating) or example.ndim < 1:
        raise ValueError(
            f"`example_input` must be a float array with a batch axis, got {example.dtype} {example.shape}"
        )
    if isinstance(model, nnx.Module):
        check_evaluation_mode(model)
        check_scales(model)
    traced = trace(model, example)
    value = _interpret(traced)
    if not isinstance(value, Affine) or value.is_constant:
        raise LoweringError("the model's output does not depend on its input")
    if value.is_float:
        raise LoweringError("the model's output depends on its input without a quantizer between; quantize its layers")
    logits = fixed_point(value, "output")
    return emit(logits, np.dtype(example.dtype))


def check_evaluation_mode(model: nnx.Module) -> None:
    """Checks that no module is in training mode.

    Raises:
        ValueError: naming the first module that is.
    """
    for path, module in named_modules(model):
        for attribute, evaluating in (("use_running_average", True), ("deterministic", True)):
            if getattr(module, attribute, evaluating) is not evaluating:
                raise ValueError(
                    f"module {path!r} ({type(module).__name__}) is in training mode; call model.eval() before lowering"
                )


def _interpret(traced: Trace) -> Value:
    context = Context(traced.batch)
    shape = known_shape(traced.argument.shape, traced.batch)
    ones = np.zeros((1,) * len(shape), np.int64)
    values: dict[Variable, Value] = {traced.argument: Affine.from_node(Node("input", (), shape, ones, ones))}

    def read(operand) -> Value:
        return values[operand] if isinstance(operand, Variable) else np.asarray(operand)

    for equation in traced.equations:
        operands = [read(operand) for operand in equation.operands]
        results = _apply(context, equation, operands)
        values.update(zip(equation.results, results, strict=True))
    return read(traced.result)


_KEEPS_CODES = ("mul", "div", "neg", "reshape", "transpose", "squeeze", "expand_dims", "convert_element_type", "copy",
                "broadcast_in_dim", "slice", "rev")  # fmt: skip


def _apply(context: Context, equation: Equation, operands: list[Value]) -> tuple[Value, ...]:
    name = equation.primitive.name
    constant = all(not isinstance(value, Affine) or value.is_constant for value in operands)
    codes = any(isinstance(value, Affine) for value in operands)
    if constant and name != QUANTIZE_NAME and not (codes and name in _KEEPS_CODES):
        plain = [value.value() if isinstance(value, Affine) else value for value in operands]
        return tuple(evaluate(context, equation, plain))
    rule = RULES.get(name)
    if rule is None:
        raise LoweringError(
            f"`{name}` in {equation.where} has no integer form; supported on quantized values: "
            + ", ".join(sorted(RULES))
        )
    try:
        result = rule(context, equation, *operands)
    except LoweringError as error:
        if equation.where in str(error):
            raise
        raise LoweringError(f"`{name}` in {equation.where} has no integer form: {error}") from None
    return result if isinstance(result, tuple) else (result,)
