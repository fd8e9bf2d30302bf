"""A model as one flat list of equations, each with the module it stands in and its line of source."""

import dataclasses
import os
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import export
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
    """A traced model: ``result`` is computed from ``argument`` by ``equations``, in order.

    ``batch`` is the symbol that stands for the batch size in shapes; None where the model fixes its batch size.
    """

    argument: Variable
    equations: tuple[Equation, ...]
    result: Variable | np.ndarray | jax.Array
    batch: Any | None


def trace(model: Callable, example: Any) -> Trace:
    """Traces ``model`` on an input like ``example``, with the batch size (axis 0) left open where the model allows it.

    Raises:
        ValueError: the model does not return exactly one array.
    """
    example = jnp.asarray(example)
    function = _scoped(model) if isinstance(model, nnx.Module) else model
    (batch,) = export.symbolic_shape("batch")
    try:
        closed = jax.make_jaxpr(function)(jax.ShapeDtypeStruct((batch, *example.shape[1:]), example.dtype))
    except Exception:
        # Not every function of a shape works on a symbol; a real mistake shows again with the example's own shape.
        batch = None
        closed = jax.make_jaxpr(function)(jax.ShapeDtypeStruct(example.shape, example.dtype))
    if len(closed.jaxpr.outvars) != 1:
        raise ValueError(f"the model must return one array, got {len(closed.jaxpr.outvars)}")
    argument = _variable(closed.jaxpr.invars[0])
    equations: list[Equation] = []
    (result,) = _inline(closed.jaxpr, closed.consts, (argument,), "", "", equations)
    return Trace(argument, tuple(equations), result, batch)


def _inline(jaxpr: Jaxpr, consts, arguments, path: str, source: str, equations: list[Equation]):
    environment: dict[Any, Any] = dict(zip(jaxpr.constvars, consts, strict=True))
    environment.update(zip(jaxpr.invars, arguments, strict=True))

    def read(atom):
        return np.asarray(atom.val, _variable(atom).dtype) if isinstance(atom, Literal) else environment[atom]

    for equation in jaxpr.eqns:
        scopes = re.findall(r"module\[([^\]]*)\]", str(equation.source_info.name_stack))
        here = scopes[-1] if scopes else path
        line = _source_line(equation.source_info.traceback) or source
        operands = tuple(read(atom) for atom in equation.invars)
        body = equation.params.get(_BODIES.get(equation.primitive.name, ""))
        if body is not None:
            inner, inner_consts = (body.jaxpr, body.consts) if isinstance(body, ClosedJaxpr) else (body, ())
            results = _inline(inner, inner_consts, operands, here, line, equations)
        else:
            results = tuple(map(_variable, equation.outvars))
            equations.append(Equation(equation.primitive, equation.params, operands, results, here, line))
        environment.update(zip(equation.outvars, results, strict=True))
    return tuple(read(atom) for atom in jaxpr.outvars)


def _variable(atom) -> Variable:
    return Variable(tuple(atom.aval.shape), getattr(atom.aval, "dtype", None))


def _scoped(model: nnx.Module) -> Callable:
    """Returns a copy of the model whose modules put their paths into the trace."""
    copy = nnx.clone(model)
    for path, module in list(named_modules(copy)):
        if callable(module):
            object.__setattr__(module, "__class__", _scoped_class(type(module), path))
    return lambda x: copy(x)


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
