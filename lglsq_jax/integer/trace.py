"""A model as one flat list of equations, each with the module it stands in and its line of source."""

import dataclasses
import functools
import os
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import export, lax
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal, Primitive

from ..paths import named_modules

# Primitives that only call a body, and the parameter that holds it.
_BODIES = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "remat": "jaxpr",
    "remat2": "jaxpr",
    "checkpoint": "jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
}


@dataclasses.dataclass(frozen=True, eq=False)
class Variable:
    """A value computed by an equation, or the model's input."""

    shape: tuple
    dtype: Any


@dataclasses.dataclass(frozen=True, eq=False)
class Equation:
    """One primitive applied to variables and concrete arrays.

    Attributes:
        primitive: what is computed.
        params: its static parameters.
        operands: variables, or arrays for what is known before the model runs.
        results: the variables that it sets.
        path: path of the module that it stands in.
        source: ``file:line`` of the model's code.
    """

    primitive: Primitive
    params: dict[str, Any]
    operands: tuple[Variable | np.ndarray | jax.Array, ...]
    results: tuple[Variable, ...]
    path: str
    source: str

    @property
    def where(self) -> str:
        """The module and the source line, for error messages."""
        module = f"module {self.path!r}" if self.path else "the model itself"
        return f"{module} ({self.source})"


@dataclasses.dataclass(frozen=True, eq=False)
class Trace:
    """A traced model: ``result`` is computed from ``arguments`` by ``equations``, in order.

    ``batch`` is the symbol that stands for the batch size in shapes; None where the model fixes its batch size, with
    ``fixed_by``, what the model raised for the symbol.
    """

    arguments: tuple[Variable, ...]
    equations: tuple[Equation, ...]
    result: Variable | np.ndarray | jax.Array
    batch: Any | None
    fixed_by: str = ""


def trace(model: Callable, *examples: Any, open_batch: bool = True) -> Trace:
    """Traces ``model`` on inputs like ``examples``, their batch size (axis 0) left open where the model allows it.

    Calls are looked into and loops of a known length (``lax.scan``) are written out.

    Raises:
        ValueError: the model does not return exactly one array.
    """
    arrays = [jnp.asarray(example) for example in examples]
    function = scoped(model) if isinstance(model, nnx.Module) else model
    batch, closed, fixed_by = None, None, ""
    if open_batch:
        (batch,) = export.symbolic_shape("batch")
        try:
            closed = jax.make_jaxpr(function)(*(jax.ShapeDtypeStruct((batch, *a.shape[1:]), a.dtype) for a in arrays))
        except Exception as error:
            # Not every function of a shape works on a symbol; a real mistake shows again with the example's own shape.
            batch, fixed_by = None, f"{type(error).__name__}: {str(error).strip().split(chr(10))[0]}"
    if closed is None:
        closed = jax.make_jaxpr(function)(*(jax.ShapeDtypeStruct(a.shape, a.dtype) for a in arrays))
    if len(closed.jaxpr.outvars) != 1:
        raise ValueError(f"the model must return one array, got {len(closed.jaxpr.outvars)}")
    arguments = tuple(map(_variable, closed.jaxpr.invars))
    equations: list[Equation] = []
    (result,) = _inline(closed, arguments, "", "", equations)
    return Trace(arguments, tuple(equations), result, batch, fixed_by)


def _inline(closed: ClosedJaxpr, arguments, path: str, source: str, equations: list[Equation]) -> tuple:
    """Appends the equations of a jaxpr applied to arguments, calls and loops written out; returns its results."""
    jaxpr = closed.jaxpr
    environment: dict[Any, Any] = dict(zip(jaxpr.constvars, closed.consts, strict=True))
    environment.update(zip(jaxpr.invars, arguments, strict=True))

    def read(atom):
        return np.asarray(atom.val, _variable(atom).dtype) if isinstance(atom, Literal) else environment[atom]

    for equation in jaxpr.eqns:
        scopes = re.findall(r"module\[([^\]]*)\]", str(equation.source_info.name_stack))
        here = scopes[-1] if scopes else path
        line = _source_line(equation.source_info.traceback) or source
        operands = tuple(read(atom) for atom in equation.invars)
        name, params = equation.primitive.name, equation.params
        if (body := params.get(_BODIES.get(name, ""))) is not None:
            results = _inline(_closed(body), operands, here, line, equations)
        elif name == "scan":
            results = _unrolled(params, operands, here, line, equations)
        elif name == "cond" and not isinstance(operands[0], Variable):
            chosen = params["branches"][int(np.clip(operands[0], 0, len(params["branches"]) - 1))]
            results = _inline(chosen, operands[1:], here, line, equations)
        else:
            results = tuple(map(_variable, equation.outvars))
            equations.append(Equation(equation.primitive, params, operands, results, here, line))
        environment.update(zip(equation.outvars, results, strict=True))
    return tuple(read(atom) for atom in jaxpr.outvars)


def _closed(body: ClosedJaxpr | Jaxpr) -> ClosedJaxpr:
    return body if isinstance(body, ClosedJaxpr) else ClosedJaxpr(body, ())


def _unrolled(params: dict[str, Any], operands, path: str, source: str, equations: list[Equation]) -> tuple:
    """Writes out a ``lax.scan``: its body once for each turn, on slices of what it scans over."""
    fixed, carried, length = params["num_consts"], params["num_carry"], params["length"]
    constants, carry, scanned = operands[:fixed], operands[fixed : fixed + carried], operands[fixed + carried :]
    turns: list[tuple] = [()] * length

    def applied(function: Callable, *values) -> Any:
        if not any(isinstance(value, Variable) for value in values):
            return np.asarray(function(*map(jnp.asarray, values)))
        shapes = [jax.ShapeDtypeStruct(value.shape, value.dtype) for value in values]
        return _inline(jax.make_jaxpr(function)(*shapes), values, path, source, equations)[0]

    for turn in reversed(range(length)) if params["reverse"] else range(length):
        of_turn = functools.partial(lax.index_in_dim, index=turn, axis=0, keepdims=False)
        arguments = (*constants, *carry, *(applied(of_turn, value) for value in scanned))
        results = _inline(params["jaxpr"], arguments, path, source, equations)
        carry, turns[turn] = results[:carried], results[carried:]
    stacked = (applied(lambda *rows: jnp.stack(rows), *rows) for rows in zip(*turns, strict=True))
    return (*carry, *stacked)


def _variable(atom) -> Variable:
    return Variable(tuple(atom.aval.shape), getattr(atom.aval, "dtype", None))


def scoped(model: nnx.Module) -> Callable:
    """Returns a function that computes what the model does now, whose modules put their paths into the trace."""
    copy = nnx.clone(model)
    for path, module in list(named_modules(copy)):
        if callable(module):
            object.__setattr__(module, "__class__", _scoped_class(type(module), path))
    graph, state = nnx.split(copy)
    # Put together inside the trace: nnx.scan and its like refuse modules that are older than the trace.
    return lambda *inputs: nnx.merge(graph, jax.tree.map(lambda leaf: leaf, state))(*inputs)


def _scoped_class(kind: type, path: str) -> type:
    def __call__(self, *args, **kwargs):
        with jax.named_scope(f"module[{path}]"):
            return kind.__call__(self, *args, **kwargs)  # pyright: ignore[reportCallIssue]

    return type(kind.__name__, (kind,), {"__call__": __call__})


_PACKAGE = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "")
_NETWORKS = os.path.join(_PACKAGE, "models", "")
_LIBRARIES = tuple(f"{os.sep}{name}{os.sep}" for name in ("site-packages", "dist-packages"))


def _source_line(traceback) -> str:
    """Returns the innermost line that is the model's own, inside no library; our networks count as models."""
    for frame in traceback.frames if traceback is not None else ():
        file = frame.file_name
        library = file.startswith("<") or f"{os.sep}lib{os.sep}python" in file or any(n in file for n in _LIBRARIES)
        if not library and (not file.startswith(_PACKAGE) or file.startswith(_NETWORKS)):
            return f"{os.path.relpath(file) if os.path.isabs(file) else file}:{frame.line_num}"
    return ""
