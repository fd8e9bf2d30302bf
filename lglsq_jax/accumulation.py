"""Gradient accumulation: the gradients of a large batch from passes over its parts, one after another.

Not the mean of the parts' gradients: the rules of a quantizer are not linear, so they are put off (``deferred.py``)
and applied once, to sums over the whole batch. See ``docs/accumulation.md``.
"""

from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.extend.core import ClosedJaxpr, get_opaque_trace_state, jaxpr_as_fun
from jaxtyping import Array, Float, Shaped

from .deferred import Deferred
from .mesh_axes import devices_at, layout, left_to_compiler, type_of, type_of_row, zeros_of
from .paths import QuantLayer, quantized_layers
from .quantizers import RULES_SCOPE

Calls = dict[str, list[jax.ShapeDtypeStruct]]


def accumulate_gradients(
    loss: Callable[..., Any], model: nnx.Module, batch: Any, parts: int, *, has_aux: bool = False
) -> tuple[Any, nnx.State]:
    r"""Returns ``nnx.value_and_grad(loss, has_aux=has_aux)(model, batch)``, computed part after part of the batch.

    Part ``k`` of ``K`` holds the rows ``k, k + K, k + 2K, ...``, so the temporary memory is about that of a batch of
    ``n / K`` rows. Value and gradients are those of the whole batch, up to the order of float sums, provided that

    .. math:: L = \frac{1}{K} \sum_k L_k,

    the loss is a mean over rows, and rows do not see each other. Batch norm in training mode does not fulfil that: each
    part is normalised by its own statistics, and the running ones are updated ``K`` times. Dropout draws other numbers.

    Call it under ``nnx.jit``, as ``nnx.value_and_grad``. Set the progress (``set_progress``) before, not in the loss.

    Args:
        loss: ``loss(model, batch)``, a scalar, or with ``has_aux`` a pair of a scalar and anything else.
        model: any nnx model. What it keeps beside parameters (batch statistics, random state) is updated in place.
        batch: arrays in any structure, each ``[n, ...]``.
        parts: ``K``, how many parts; must divide ``n``.
        has_aux: whether the loss returns a pair.

    Returns:
        ``value, gradients`` or ``(value, aux), gradients``. ``gradients`` is a state of all ``nnx.Param``. ``aux`` has
        a first axis of size ``K``; ``aux.swapaxes(0, 1).reshape(n, ...)`` brings rows into the order of the batch.

    Raises:
        ValueError: ``parts`` does not divide ``n``, a layer is not calibrated, a quantizer is called where its rules
            cannot be put off (inside jax.jit, jax.checkpoint, vmap or a loop, or by ``fake_quantize`` itself), or a
            rule looks at tensors in ``scale_gradient``.
    """
    for path, layer in quantized_layers(model):
        if layer.known_uncalibrated:
            raise ValueError(f"the scales of layer {path!r} are not set: call calibrate(model, batches) first")
    graph, parameters, rest = nnx.split(model, nnx.Param, ...)

    def build(parameters, rest):
        return nnx.merge(graph, parameters, rest, copy=True)

    def rest_of(model):
        return nnx.split(model, nnx.Param, ...)[2]

    def with_aux(model, batch):
        return loss(model, batch) if has_aux else (loss(model, batch), None)

    run = accumulated_value_and_grad(build, with_aux, rest_of, parts)
    (value, (aux, rest)), gradients = run(parameters, rest, batch)
    nnx.update(model, rest)
    return (value, aux) if has_aux else value, gradients


def accumulated_value_and_grad(
    build: Callable[[Any, Any], nnx.Module],
    loss: Callable[[nnx.Module, Any], tuple[Float[Array, ""], Any]],
    rest_of: Callable[[nnx.Module], Any],
    parts: int,
) -> Callable[[Any, Any, Any], tuple[tuple[Float[Array, ""], tuple[Any, Any]], Any]]:
    """Returns the pure ``run(parameters, rest, batch) -> (value, (aux, rest)), gradients`` of a model taken apart.

    As ``jax.value_and_grad`` of ``build`` and ``loss`` with respect to ``parameters``, where ``accumulate_gradients``
    says equal. ``run`` may be traced; a batch whose rows are split over devices stays where it is if each device's
    number of rows is a multiple of ``parts``.

    Args:
        build: makes the model from its parameters and the rest, its progress set and its mode chosen.
        loss: a mean over rows and anything else, from a model and a batch.
        rest_of: what the model keeps for the next part, in the structure of ``rest``.
        parts: how many parts; ``aux`` gets a first axis of this size.

    Raises:
        ValueError: as ``accumulate_gradients``; ``parts`` itself is checked here, the rest when ``run`` is called.
    """
    if isinstance(parts, bool) or not isinstance(parts, int) or parts < 1:
        raise ValueError(f"`parts` must be a whole number >= 1, got {parts!r}")

    def run(parameters, rest, batch):
        rows = _divided(batch, parts)
        value_like, calls = _calls(build, loss, parameters, rest, batch)

        def hoist(parameters):
            layers = quantized_layers(build(parameters, rest))
            return parameters, {path: [layer.defer(x) for x in calls[path]] for path, layer in layers}

        hoisted, pull_back = jax.vjp(hoist, parameters)

        def loss_of_part(hoisted, rest, part):
            parameters, deferred = hoisted
            model = build(parameters, rest)
            with _Deferring(model, deferred):
                value, aux = loss(model, part)
            return value / parts, (aux, rest_of(model))

        def body(carry, part):
            value, total, rest = carry
            (share, (aux, rest)), gradients = jax.value_and_grad(loss_of_part, has_aux=True)(hoisted, rest, part)
            total = jax.tree.map(lambda total, share: total + share.astype(total.dtype), total, gradients)
            return (value + share, total, rest), aux

        zeros = jax.tree.map(lambda array: jnp.zeros_like(array, _wide(array.dtype)), hoisted)
        start = zeros_of(value_like), zeros, rest
        body = _without_rules(body, start, rows)
        (value, total, rest), aux = lax.scan(body, start, rows)
        (gradients,) = pull_back(jax.tree.map(lambda total, like: total.astype(like.dtype), total, hoisted))
        return (value, (aux, rest)), gradients

    return run


def _wide(dtype):
    return jnp.promote_types(dtype, jnp.float32)


def _divided(batch, parts: int):
    """The batch with a new first axis of size ``parts``; part ``k`` holds every ``parts``-th row from ``k`` on."""
    arrays = [jnp.asarray(array) for array in jax.tree.leaves(batch)]
    sizes = sorted({array.shape[:1] for array in arrays})
    if len(sizes) != 1 or not sizes[0]:
        raise ValueError(f"the arrays of `batch` must have one first axis, the rows, got {[a.shape for a in arrays]}")
    size = sizes[0][0]
    if size % parts or not size:
        raise ValueError(f"`parts` must divide the rows of the batch, {size}, got {parts}")

    def divide(array: Shaped[Array, "n ..."]) -> Shaped[Array, "parts m ..."]:
        return array.reshape(size // parts, parts, *array.shape[1:]).swapaxes(0, 1)

    def divided(array):
        array = jnp.asarray(array)
        rows, *rest = layout(array)
        placed = rows if size // parts % devices_at(array, 0) == 0 else None  # else each device has the whole part
        return left_to_compiler(divide, (None, placed, *rest), array)

    return jax.tree.map(divided, batch)


def _calls(build, loss, parameters, rest, batch) -> tuple[jax.ShapeDtypeStruct, Calls]:
    """What the loss is, and what every quantized layer is given, one entry a call, when it sees the whole batch."""
    calls: Calls = {}

    def look(parameters, rest, batch):
        model = build(parameters, rest)
        outside = get_opaque_trace_state(convention="nnx")
        for path, layer in quantized_layers(model):
            calls[path] = []

            def observer(x, path=path):
                if get_opaque_trace_state(convention="nnx") != outside:
                    raise ValueError(
                        f"layer {path!r} must not be called inside jax.jit, jax.checkpoint, vmap or a loop where "
                        "gradients are accumulated: its rules could not be put off"
                    )
                calls[path].append(type_of(x))
                return False

            object.__setattr__(layer, "observer", observer)  # past nnx: not a part of the module's state
        return loss(model, batch)[0]

    return jax.eval_shape(look, parameters, rest, batch), calls


class _Deferring:
    """While it lasts, the quantized layers of a temporary model take what puts their rules off, call by call."""

    def __init__(self, model: nnx.Module, deferred: dict[str, list[Deferred]]):
        self.layers = quantized_layers(model)
        self.deferred = deferred
        self.progress = {path: _value(layer) for path, layer in self.layers}

    def __enter__(self):
        self.left = {path: iter(self.deferred[path]) for path, _ in self.layers}
        for path, layer in self.layers:
            object.__setattr__(layer, "deferred", self._next(path))

    def _next(self, path: str):
        yield from self.left[path]
        raise ValueError(f"layer {path!r} is called more often for a part of the batch than for the whole")

    def __exit__(self, kind, error, trace):
        for path, layer in self.layers:
            object.__delattr__(layer, "deferred")
            if kind is None and next(self.left[path], None) is not None:
                raise ValueError(f"layer {path!r} is called less often for a part of the batch than for the whole")
            if kind is None and _value(layer) is not self.progress[path]:
                raise ValueError("`loss` must not set the progress where gradients are accumulated: set it before")


def _value(layer: QuantLayer) -> Array:
    return layer.progress.get_value()


def _without_rules(body: Callable, start, rows) -> Callable:
    """The body of the loop, traced; a quantizer in it whose rules were not put off is an error."""
    part = jax.tree.map(type_of_row, rows)
    closed, shapes = cast(tuple[ClosedJaxpr, Any], jax.make_jaxpr(body, return_shape=True)(start, part))
    if _applies_rules(closed.jaxpr):
        raise ValueError(
            "gradients cannot be accumulated where the loss calls fake_quantize, quantized_conv or quantized_matmul "
            "itself, or a quantized layer that is not part of the model: use QuantConv, QuantLinear or Quantizer"
        )
    flat, structure = jaxpr_as_fun(closed), jax.tree.structure(shapes)
    return lambda carry, part: jax.tree.unflatten(structure, flat(*jax.tree.leaves((carry, part))))


def _applies_rules(jaxpr) -> bool:
    inner = (
        getattr(part, "jaxpr", part)
        for equation in jaxpr.eqns
        for part in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda part: hasattr(part, "jaxpr"))
        if hasattr(getattr(part, "jaxpr", part), "eqns")
    )
    named = (str(equation.source_info.name_stack) for equation in jaxpr.eqns)
    return any(RULES_SCOPE in name for name in named) or any(map(_applies_rules, inner))
