"""Gradients of quantized products on four simulated devices beside those of one; a program of its own.

    python gradients_on_meshes.py OUT

Writes ``OUT``, a JSON object: for each case and way the largest difference, relative to the largest entry of an array,
and how often the compiled program gathers; or the sentence with which it was refused.
"""

import dataclasses
import json
import os
import sys
from typing import Any

from tests.short_run import simulated_devices

os.environ["XLA_FLAGS"] = simulated_devices(4)
os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import lglsq_jax as lq
from lglsq_jax.ops import Window, quantized_conv, quantized_matmul
from lglsq_jax.report.distributions import layer_distributions

METHODS = {name: lq.methods.get(name) for name in ("lsq", "lsq_plus", "llsq", "lg_lsq")}
WHOLE, ROWS = PartitionSpec(), PartitionSpec("data")


@dataclasses.dataclass(frozen=True)
class Case:
    method: str
    x: tuple[int, ...]
    kernel: tuple[int, ...]
    groups: int = 1
    batch_axis: int | None = 0
    by_channel: bool = True


CASES = {
    "conv": Case("lsq_plus", (8, 5, 5, 3), (3, 3, 3, 8)),
    "large": Case("lg_lsq", (8, 32, 32, 64), (3, 3, 64, 64)),
    "linear": Case("llsq", (8, 6), (6, 5)),
    "depthwise": Case("lg_lsq", (8, 5, 5, 32), (3, 3, 1, 32), groups=32),
    "grouped": Case("lg_lsq", (8, 4, 4, 16), (3, 3, 8, 16), groups=2),
    "batch_counts": Case("lg_lsq", (8, 6), (6, 5), batch_axis=None, by_channel=False),
    "plain": Case("lsq", (8, 6), (6, 5)),
}


def start(case: Case) -> tuple[dict[str, Any], jax.Array]:
    draw = np.random.default_rng(0)
    scales = case.kernel[-1:] if case.by_channel else ()
    parameters = {
        "kernel": 0.3 * draw.normal(size=case.kernel),
        "kernel_scale": 0.07 * draw.uniform(0.5, 2, scales),
        "x_scale": np.array(0.2),
        "h_scale": np.array(0.4),
    }
    if METHODS[case.method].learn_offset:
        parameters["x_offset"] = np.array(-0.1)
    return jax.tree.map(jnp.float32, parameters), jnp.float32(draw.normal(size=case.x))


def loss(case: Case, parameters: dict[str, Any], x: jax.Array) -> jax.Array:
    method = METHODS[case.method]
    weights = lq.QuantSpec(4, channel_axis=-1 if case.by_channel else None, method=method)
    arguments = {
        "inputs": lq.QuantSpec(4, batch_axis=case.batch_axis, method=method),
        "weights": weights,
        "x_offset": parameters.get("x_offset"),
        "progress": 0.3,
    }
    operands = x, parameters["kernel"], parameters["x_scale"], parameters["kernel_scale"]
    if len(case.kernel) == 2:
        y = quantized_matmul(*operands, **arguments)
    else:
        window = Window.resolve(case.x, case.kernel, (1, 1), "SAME", None, None, case.groups)
        y = quantized_conv(*operands, window=window, **arguments)
    spec = lq.QuantSpec(4, signed=False, batch_axis=case.batch_axis, method=method)
    y = lq.fake_quantize(jax.nn.relu(y), parameters["h_scale"], spec, None, 0.3)
    return jnp.mean(jnp.square(y) * jnp.linspace(0, 1, y.shape[-1]))


def by_way(way: str, loss):
    """Returns the mesh of a way and its function from parameters and batch to the gradients of both."""
    name, _, devices = way.partition("_on_")
    kind = AxisType.Explicit if name == "explicit" else AxisType.Auto
    mesh = jax.make_mesh((int(devices or 4),), ("data",), axis_types=(kind,))

    def mean(parameters, x):
        return jax.lax.pmean(loss(parameters, x), "data")

    def of_parts(parameters, x):
        of_parameters, of_x = jax.grad(loss, (0, 1))(parameters, x)
        return jax.lax.pmean(of_parameters, "data"), of_x / mesh.size

    gradients = {
        "auto": jax.grad(loss, (0, 1)),
        "explicit": jax.grad(loss, (0, 1)),
        "inside": jax.shard_map(
            jax.grad(mean, (0, 1)), mesh=mesh, in_specs=(WHOLE, ROWS), out_specs=(WHOLE, ROWS), check_vma=True
        ),
        "outside": jax.grad(jax.shard_map(mean, mesh=mesh, in_specs=(WHOLE, ROWS), out_specs=WHOLE), (0, 1)),
        "unchecked": jax.shard_map(
            of_parts, mesh=mesh, in_specs=(WHOLE, ROWS), out_specs=(WHOLE, ROWS), check_vma=False
        ),
    }
    return mesh, gradients[name]


WAYS = {
    "conv": ("auto", "explicit", "inside", "unchecked"),
    "large": ("explicit", "inside"),
    "linear": ("explicit", "outside", "unchecked"),
    "depthwise": ("explicit", "inside"),
    "grouped": ("auto", "explicit"),
    "batch_counts": ("explicit", "inside", "explicit_on_1", "inside_on_1", "unchecked_on_1"),
    "plain": ("explicit", "outside", "unchecked"),
}


def difference(found, wanted) -> float:
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True)
    return max(float(np.abs(np.asarray(a) - np.asarray(b)).max() / np.abs(b).max()) for a, b in pairs)


def compare(way: str, loss, parameters, x, wanted) -> dict[str, Any]:
    mesh, function = by_way(way, loss)
    with jax.set_mesh(mesh):
        operands = (
            jax.device_put(parameters, NamedSharding(mesh, WHOLE)),
            jax.device_put(x, NamedSharding(mesh, ROWS)),
        )
        try:
            program = jax.jit(function).lower(*operands).compile()
        except ValueError as error:
            return {"refused": str(error)}
        text = program.as_text()
        gathers = sum(text.count(f" {name}(") for name in ("all-gather", "all-to-all", "collective-permute"))
        return {"difference": difference(program(*operands), wanted), "gathers": gathers}


class Small(nnx.Module):
    def __init__(self):
        rngs, method = nnx.Rngs(0), METHODS["lg_lsq"]
        specs = {
            "weights": lq.QuantSpec(4, channel_axis=-1, method=method),
            "inputs": lq.QuantSpec(4, batch_axis=0, method=method),
        }
        self.conv = lq.QuantConv(3, 4, (3, 3), rngs=rngs, **specs)
        self.middle = lq.Quantizer(specs["inputs"])
        self.last = lq.QuantLinear(4, 2, rngs=rngs, **specs)

    def __call__(self, x):
        return self.last(self.middle(self.conv(x)).mean((1, 2)))


def accumulated() -> dict[str, dict[str, Any]]:
    """The gradients of layers, from two parts of each device's rows."""
    x = jnp.float32(np.random.default_rng(0).normal(size=(8, 4, 4, 3)))
    model = Small()
    lq.calibrate(model, [x])
    graph, parameters, rest = nnx.split(model, nnx.Param, ...)

    def loss(model, x):
        return jnp.square(model(x) - 1).mean()

    def whole(parameters, rest, x):
        return nnx.grad(loss)(nnx.merge(graph, parameters, rest), x)

    def parts(loss):
        return lambda parameters, rest, x: lq.accumulate_gradients(loss, nnx.merge(graph, parameters, rest), x, 2)[1]

    wanted = jax.jit(whole)(parameters, rest, x)
    found = {}
    for way, kind in (("explicit", AxisType.Explicit), ("inside", AxisType.Auto)):
        mesh = jax.make_mesh((4,), ("data",), axis_types=(kind,))
        function = parts(loss)
        if way == "inside":
            mean = parts(lambda model, x: jax.lax.pmean(loss(model, x), "data"))
            function = jax.shard_map(mean, mesh=mesh, in_specs=(WHOLE, WHOLE, ROWS), out_specs=WHOLE)
        with jax.set_mesh(mesh):
            state = jax.device_put((parameters, rest), NamedSharding(mesh, WHOLE))
            rows = jax.device_put(x, NamedSharding(mesh, ROWS))
            found[f"accumulated {way}"] = {"difference": difference(jax.jit(function)(*state, rows), wanted)}
    return found


def looked_at() -> dict[str, dict[str, Any]]:
    """Statistics and histograms of layers, of a batch that is split over an explicit mesh."""
    x = jnp.float32(np.random.default_rng(0).normal(size=(8, 4, 4, 3)))
    model = Small()
    lq.calibrate(model, [x])

    def numbers(x):
        counts = [
            part.counts for layer in layer_distributions(model, x) for part in (layer.weights, layer.inputs) if part
        ]
        values = [value for layer in lq.layer_statistics(model, x).values() for value in layer.values()]
        return np.concatenate([*counts, values])

    wanted = numbers(x)
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Explicit,))
    with jax.set_mesh(mesh):
        nnx.update(model, jax.device_put(nnx.state(model), NamedSharding(mesh, WHOLE)))
        found = numbers(jax.device_put(x, NamedSharding(mesh, ROWS)))
    return {"looked at explicit": {"difference": difference(found, wanted)}}


def called_twice() -> dict[str, dict[str, Any]]:
    """Statistics of a layer that is called twice, oscillations, and a layout that is asked for in the call."""
    spec = lq.QuantSpec(4)
    x = jnp.float32(np.random.default_rng(0).normal(size=(8, 6)))
    layer = lq.QuantLinear(6, 4, weights=spec, inputs=spec, rngs=nnx.Rngs(0))
    layer.set_scales(weights=0.1, inputs=0.2)

    class Twice(nnx.Module):
        def __init__(self):
            self.layer = layer

        def __call__(self, x):
            return self.layer(x) + self.layer(2 * x)

    def numbers(x):
        codes = lq.quantize(x, jnp.float32(0.2), spec)
        known = lq.oscillations.track(lq.oscillations.start(codes), -codes, 0.5)
        held = lq.oscillations.hold(x, 0.2, spec, lq.oscillations.freeze(known, 0.1))
        seen = [float(value) for value in lq.layer_statistics(Twice(), x)["layer"].values()]
        return np.asarray(seen), np.asarray(held), np.asarray(layer(x))

    wanted = numbers(x)
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Explicit,))
    with jax.set_mesh(mesh):
        nnx.update(layer, jax.device_put(nnx.state(layer), NamedSharding(mesh, WHOLE)))
        rows = jax.device_put(x, NamedSharding(mesh, ROWS))
        found = numbers(rows)
        y = layer(rows, out_sharding=PartitionSpec(None, "data"))
        assert jax.typeof(y).sharding.spec == PartitionSpec(None, "data"), jax.typeof(y)
    return {"called twice explicit": {"difference": difference((*found, y), (*wanted, wanted[-1]))}}


def main(out: str) -> None:
    found = {**accumulated(), **looked_at(), **called_twice()}
    for name, case in CASES.items():
        parameters, x = start(case)

        def own(parameters, x, case=case):
            return loss(case, parameters, x)

        wanted = jax.jit(jax.grad(own, (0, 1)))(parameters, x)
        for way in WAYS[name]:
            found[f"{name} {way}"] = compare(way, own, parameters, x, wanted)
    with open(out, "w") as file:
        json.dump(found, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
