"""From an eval-mode model to an integer program."""

import dataclasses
import warnings
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Shaped

from ..inspection import check_scales
from ..paths import named_modules
from ..primitives import QUANTIZE_NAME
from .affine import Affine, Value
from .build import fixed_point
from .constants import evaluate
from .curve import ELEMENTWISE, Curve, combined, remembered
from .dimensions import known_shape
from .emit import emit
from .errors import LoweringError, OpenBatchError
from .flow import check_flow
from .node import Node
from .program import IntegerProgram
from .rules import RULES
from .rules.context import Context
from .tables import tabulated
from .trace import Equation, Trace, Variable, scoped, trace


def lower(
    model: nnx.Module | Callable, example_input: Shaped[Array, "n ..."], *more: Shaped[Array, "n ..."]
) -> IntegerProgram:
    r"""Returns the integer program of a quantized model: ``encode``, an integer-only body, ``decode``.

    The model is traced in evaluation mode and its equations are interpreted over values
    :math:`\sum_i s_i n_i + b` with integer tensors ``n_i`` and constants known now. Batch norm, biases and scales only
    change the constants; a quantizer rounds the pending sum to codes once, in fixed point; a ReLU becomes a clip. What
    no quantizer touches (a residual stream, a mean) travels as int32 fixed point.

    Args:
        model: any nnx model, or plain function of arrays, of supported primitives; calibrated and in eval mode.
        example_input: fixes every axis of the input but the first, the batch. Float, or uint8 or int8 for a model that
            takes raw images, such as one that begins with :class:`lglsq_jax.Normalize`.
        more: further inputs of a model that takes several.

    Raises:
        LoweringError: an operation has no integer form or meets an unquantized value (names the primitive, the module's
            path and the source line), or an accumulator could overflow.
        ValueError: the model is in training mode or has a scale that is not finite and positive (names the module), or
            does not return one array.

    Warns:
        UserWarning: the model does not leave its batch open, so that the program takes as many samples as the example.
    """
    examples = [jnp.asarray(example) for example in (example_input, *more)]
    for example in examples:
        if not (jnp.issubdtype(example.dtype, jnp.floating) or example.dtype in (jnp.uint8, jnp.int8)):
            raise ValueError(f"`example_input` must be a float, uint8 or int8 array, got {example.dtype}")
        if example.ndim < 1:
            raise ValueError(f"`example_input` must have a batch axis, got shape {example.shape}")
    function = as_function(model) if isinstance(model, nnx.Module) else model
    traced = trace(function, *examples)
    try:
        program = _program(traced)
    except OpenBatchError as error:
        traced = dataclasses.replace(trace(function, *examples, open_batch=False), fixed_by=str(error))
        program = _program(traced)
    if traced.fixed_by:
        warnings.warn(
            f"the program takes {examples[0].shape[0]} samples at a time, as the example has, since the model does not "
            f"leave its batch open ({traced.fixed_by}); use x.shape[0] in it rather than len(x) or a number",
            stacklevel=2,
        )
    return program


def _program(traced: Trace) -> IntegerProgram:
    inputs = [_input(index, argument, traced.batch) for index, argument in enumerate(traced.arguments)]
    value = _interpret(traced, inputs)
    if isinstance(value, Curve):
        value = tabulated(value, "output")
    if not isinstance(value, Affine) or value.is_constant:
        raise LoweringError("the model's output does not depend on its input")
    if value.is_float:
        raise LoweringError("the model's output depends on its input without a quantizer between; quantize its layers")
    logits = fixed_point(value, "output")
    program = emit(logits, inputs)
    try:
        check_flow(program.instructions, program.input_shapes, program.input_dtypes)
    except ValueError as error:  # a number in the place of the batch passes while the batch is a symbol
        kind = LoweringError if traced.batch is None else OpenBatchError
        raise kind(f"the program does not fit together: {error}") from None
    return program


def as_function(model: nnx.Module) -> Callable:
    """Returns a model as a plain function, in whose programs layers keep the model's own paths.

    For what begins or ends outside the model, without a module around it that would prefix every path::

        network, normalize = lq.integer.as_function(model), lq.Normalize(mean, std)
        program = lq.integer.lower(lambda images: network(normalize(images)), images)

    The function holds the model's arrays as they are now.

    Raises:
        ValueError: the model is in training mode or has a scale that is not finite and positive (names the module).
    """
    check_evaluation_mode(model)
    check_scales(model)
    return scoped(model)


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


def _input(index: int, argument: Variable, batch: Any | None) -> Node:
    """Returns the node of an input of the model; of a float one nothing is known."""
    shape, dtype = known_shape(argument.shape, batch), np.dtype(argument.dtype)
    ends = (np.iinfo(dtype).min, np.iinfo(dtype).max) if np.issubdtype(dtype, np.integer) else (0, 0)
    low, high = (np.full((1,) * len(shape), end, np.int64) for end in ends)
    return Node("input", (), shape, low, high, {"index": index, "dtype": dtype.name})


def _interpret(traced: Trace, inputs: list[Node]) -> Value | Curve:
    context = Context(traced.batch)
    arguments = zip(traced.arguments, inputs, strict=True)
    values: dict[Variable, Value | Curve] = {argument: Affine.from_node(node) for argument, node in arguments}

    def read(operand) -> Value | Curve:
        return values[operand] if isinstance(operand, Variable) else np.asarray(operand)

    for equation in traced.equations:
        operands = [read(operand) for operand in equation.operands]
        results = _apply(context, equation, operands)
        values.update(zip(equation.results, results, strict=True))
    return read(traced.result)


_KEEPS_CODES = ("mul", "div", "neg", "reshape", "transpose", "squeeze", "expand_dims", "convert_element_type", "copy",
                "broadcast_in_dim", "slice", "rev")  # fmt: skip

# Moving elements commutes with a function of each element.
_MOVES = ("reshape", "squeeze", "expand_dims", "transpose", "broadcast_in_dim", "slice", "split", "rev", "gather",
          "tile", "dynamic_slice", "optimization_barrier", "sharding_constraint")  # fmt: skip


def _apply(context: Context, equation: Equation, operands: list[Value | Curve]) -> tuple[Value | Curve, ...]:
    name = equation.primitive.name
    moving = [value for value in operands if not isinstance(value, np.ndarray) and not value.is_constant]
    codes = any(isinstance(value, Affine) for value in operands)
    if not moving and name != QUANTIZE_NAME and not (codes and name in _KEEPS_CODES):
        plain = [value.value() if isinstance(value, Affine) else np.asarray(value) for value in operands]
        return tuple(evaluate(context, equation, plain))
    rule = RULES.get(name)
    try:
        if (found := _as_curve(context, equation, operands, moving)) is not None:
            return found
        if rule is None:
            raise LoweringError("supported on quantized values: " + ", ".join(sorted({*RULES, *ELEMENTWISE})))
        if name != QUANTIZE_NAME:
            limit = 2.0 ** (22 if name == "mul" else 30)  # a product of two values must stay within int32
            operands = [tabulated(v, equation.path, limit) if isinstance(v, Curve) else v for v in operands]
        result = rule(context, equation, *operands)
        if name in ELEMENTWISE and not isinstance(result, tuple):
            result = remembered(equation, operands, context.shape(equation), result)
    except LoweringError as error:
        if equation.where in str(error):
            raise
        raise LoweringError(f"`{name}` in {equation.where} has no integer form: {error}") from None
    return result if isinstance(result, tuple) else (result,)


def _as_curve(context: Context, equation: Equation, operands: list, moving: list) -> tuple[Curve, ...] | None:
    """Returns the results where they are best kept as functions of one value; None where a rule must be asked."""
    name = equation.primitive.name
    curves = [value for value in moving if isinstance(value, Curve)]
    if name in ELEMENTWISE and not any(value.is_float for value in moving):
        if curves or name not in RULES or (name in ("mul", "div") and len(moving) > 1):
            curve = combined(equation, operands, context.shape(equation))
            return None if curve is None else (curve,)
    if name in _MOVES and curves and all(curve.uniform for curve in curves):
        bases = [value.base if isinstance(value, Curve) else value for value in operands]
        results = RULES[name](context, equation, *bases)
        results = results if isinstance(results, tuple) else (results,)
        return tuple(curves[0].of(base) for base in results) if len(moving) == 1 else None
    return None
