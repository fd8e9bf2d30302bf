"""What every integer program must hold to, as functions that the tests of this folder share."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr

import lglsq_jax as lq

SIGNED = lq.QuantSpec(bits=4, signed=True, method=lq.methods.LSQ)
UNSIGNED = lq.QuantSpec(bits=4, signed=False, method=lq.methods.LSQ)


def float_types(jaxpr) -> set[str]:
    """Names of the floating-point types anywhere in a jaxpr: values, literals, parameters, bodies within bodies."""
    if isinstance(jaxpr, ClosedJaxpr):
        constants = {jnp.result_type(constant) for constant in jaxpr.consts}
        return _floats(constants) | float_types(jaxpr.jaxpr)
    atoms = [*jaxpr.invars, *jaxpr.constvars, *jaxpr.outvars]
    found = set()
    for equation in jaxpr.eqns:
        atoms += [*equation.invars, *equation.outvars]
        for value in equation.params.values():
            found |= _floats_of_parameter(value)
    return found | _floats({atom.aval.dtype for atom in atoms if hasattr(atom.aval, "dtype")})


def _floats_of_parameter(value) -> set[str]:
    if isinstance(value, ClosedJaxpr | Jaxpr):
        return float_types(value)
    if isinstance(value, dict):
        value = tuple(value.values())
    if isinstance(value, tuple | list):
        return set().union(*map(_floats_of_parameter, value))
    if isinstance(value, float):
        return {"float"}
    if hasattr(value, "dtype"):
        value = value.dtype
    if isinstance(value, np.dtype) or (isinstance(value, type) and issubclass(value, np.generic)):
        return _floats({np.dtype(value)})
    return set()


def _floats(dtypes) -> set[str]:
    return {str(dtype) for dtype in dtypes if jnp.issubdtype(dtype, jnp.inexact)}


def assert_integers_only(program, x) -> None:
    """The body's jaxpr on the codes of ``x`` holds no float at any depth."""
    assert float_types(jax.make_jaxpr(program.integer_body)(program.encode(x))) == set()


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    """Standard normal float32 values."""
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def fake(x, scale, spec, offset=None):
    """``fake_quantize`` with a scale as a float32 array."""
    return lq.fake_quantize(x, jnp.asarray(scale, jnp.float32), spec, offset)


def assert_same_codes(model, x, step: float):
    """Lowers a function whose output is quantized in steps of ``step``; returns the program.

    Its codes must be those of the function: none differs by more than one, and 99.9 % not at all.
    """
    program = lq.integer.lower(model, x)
    assert_integers_only(program, x)
    expected = np.asarray(jax.jit(model)(x), np.float64) / step
    found = np.asarray(program(x), np.float64) / step
    assert found.shape == expected.shape
    assert len(np.unique(np.rint(expected))) > 2, "the example is too dull to see a mistake"
    difference = np.abs(np.rint(found) - np.rint(expected))
    assert difference.max() <= 1
    assert (difference == 0).mean() >= 0.999
    return program


def verified(model, program, *batches):
    """Verifies and holds the report to the promises; returns it."""
    report = lq.integer.verify(model, program, batches)
    assert report.unexplained == 0
    assert report.max_difference <= 1
    assert report.equal_fraction >= 0.999
    return report
