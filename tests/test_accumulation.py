"""Gradients from parts of a batch are those of the whole batch, for every method; the mean of the parts' is not."""

import dataclasses
import functools
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

import lglsq_jax as lq
from lglsq_jax.accumulation import accumulated_value_and_grad
from lglsq_jax.training.skeleton import Skeleton
from tests.short_run import simulated_devices

ROWS = 8


def specs(method, bits, *, axis=None, signed=False, batch_axis: int | None = 0):
    return {
        "weights": lq.QuantSpec(bits, channel_axis=axis, method=method),
        "inputs": lq.QuantSpec(bits, signed=signed, batch_axis=batch_axis, method=method),
    }


class EveryPath(nnx.Module):
    """Fused, weights only, inputs only, a Quantizer, float; per tensor and per channel; 2 to 8 bits; a layer twice."""

    def __init__(self, method):
        rngs = nnx.Rngs(0)
        self.conv = lq.QuantConv(2, 3, (2, 2), **specs(method, 4, axis=-1, signed=True), rngs=rngs)
        self.weights = lq.QuantLinear(3, 4, weights=lq.QuantSpec(3, method=method), rngs=rngs)
        self.quantizer = lq.Quantizer(specs(method, 5)["inputs"])
        self.inputs = lq.QuantLinear(4, 4, inputs=specs(method, 2)["inputs"], rngs=rngs)
        self.twice = lq.QuantLinear(4, 4, **specs(method, 6), rngs=rngs)
        self.whole = lq.QuantLinear(4, 3, **specs(method, 7, axis=-1, batch_axis=None), rngs=rngs)
        self.last = lq.QuantLinear(3, 3, **specs(method, 8, signed=True), rngs=rngs)
        self.out = nnx.Linear(3, 2, rngs=rngs)

    def __call__(self, x):
        x = self.quantizer(nnx.silu(self.weights(nnx.relu(self.conv(x)).mean((1, 2)))))
        x = nnx.relu(self.twice(nnx.relu(self.inputs(x))))
        x = nnx.relu(self.twice(x) + x)
        return self.out(self.last(self.whole(x)))


class RandomNetwork(nnx.Module):
    """A few layers of random kinds."""

    def __init__(self, rng):
        self.layers = nnx.List([])
        for _ in range(3):
            kinds = specs(
                lq.methods.get(rng.choice(lq.methods.names())),
                int(rng.integers(2, 9)),
                axis=rng.choice([None, -1]),
                signed=True,
            )
            kept = rng.choice(["weights", "inputs", "both"])
            kinds = {name: spec for name, spec in kinds.items() if kept in (name, "both")}
            self.layers.append(lq.QuantLinear(4, 4, **kinds, rngs=nnx.Rngs(0)))

    def __call__(self, x):
        x = jnp.concatenate([x.mean((1, 2)), x.max((1, 2))], -1)
        for layer in self.layers:
            x = nnx.tanh(layer(x)) + x
        return x[:, :2]


def loss(model, batch):
    y = model(batch["x"])
    return jnp.mean(jnp.square(y - batch["target"]) * batch["gain"]), y


def values(model, seed):
    """Random parameters, with the structure of those of ``model``."""
    rng = np.random.default_rng(seed)

    def draw(path, variable):
        shape = variable[...].shape
        if isinstance(variable, lq.Scale):
            return rng.uniform(0.05, 0.4, shape)
        return rng.normal(size=shape) * (0.2 if isinstance(variable, lq.Offset) else 0.7)

    flat = nnx.to_flat_state(nnx.state(model, nnx.Param))
    return nnx.from_flat_state([(path, v.replace(jnp.float32(draw(path, v)))) for path, v in flat])


def sample(seed, gain=1.0):
    rng = np.random.default_rng(seed)
    x, target = rng.normal(size=(ROWS, 4, 4, 2)), rng.normal(size=(ROWS, 2))
    return {"x": jnp.float32(x + 0.3), "target": jnp.float32(target), "gain": jnp.full((ROWS, 1), gain, jnp.float32)}


def part(batch, k, parts):
    return jax.tree.map(lambda array: array[k::parts], batch)


def compiled(model):
    """Functions of parameters and batch: the results for the whole batch, for 2 and for 4 parts; plain gradients."""
    graph, _, rest = nnx.split(model, nnx.Param, ...)

    def fresh(parameters):
        model = nnx.merge(graph, parameters, rest, copy=True)
        lq.set_progress(model, 0.4)
        return model

    @jax.jit
    def run(parameters, batch):
        large = nnx.value_and_grad(loss, has_aux=True)(fresh(parameters), batch)
        return large, *(lq.accumulate_gradients(loss, fresh(parameters), batch, k, has_aux=True) for k in (2, 4))

    @jax.jit
    def plain(parameters, batch):
        return nnx.grad(loss, has_aux=True)(fresh(parameters), batch)[0]

    return run, plain


def assert_same(found, wanted):
    found, wanted = (dict(nnx.to_flat_state(state)) for state in (found, wanted))
    assert found.keys() == wanted.keys()
    for path, variable in wanted.items():
        one, other = np.asarray(found[path][...]), np.asarray(variable[...])
        assert one.dtype == other.dtype and np.isfinite(other).all()
        # A scale's gradient is one sum, whose terms may cancel.
        bound = 1e-4 if path[-1] in ("input_scale", "weight_scale", "input_offset") else 1e-5
        np.testing.assert_allclose(one, other, rtol=bound, atol=bound * np.abs(other).max(), err_msg=str(path))


def assert_all_same(results):
    ((value, y), gradients), *others = results
    for (total, stacked), accumulated in others:
        np.testing.assert_allclose(total, value, rtol=1e-5)
        np.testing.assert_allclose(stacked.swapaxes(0, 1).reshape(y.shape), y, rtol=1e-5, atol=1e-5)
        assert_same(accumulated, gradients)


@functools.cache
def every_path(name):
    model = EveryPath(lq.methods.get(name))
    return model, *compiled(model)


@pytest.mark.parametrize("name", lq.methods.names())
def test_parts_give_the_gradients_of_the_whole_batch(name):
    model, run, _ = every_path(name)

    @settings(max_examples=10, derandomize=True)
    @given(st.integers(0, 2**32 - 1), st.sampled_from([1e-3, 1.0, 1e4]))
    def check(seed, gain):
        assert_all_same(run(values(model, seed), sample(seed, gain)))

    check()


def test_the_mean_of_gradients_is_another_one_where_tanh_saturates():
    model, run, plain = every_path("lg_lsq")
    parameters, batch = values(model, 1), sample(1, 1e4)
    results = run(parameters, batch)
    assert_all_same(results)
    each = [plain(parameters, part(batch, k, 4)) for k in range(4)]
    mean = dict(nnx.to_flat_state(jax.tree.map(lambda *gradients: sum(gradients) / 4, *each)))
    exact, scales = (dict(nnx.to_flat_state(state)) for state in (results[0][1], parameters))
    for layer in ("quantizer", "inputs", "last"):
        path = (layer, "input_scale")
        assert 0.08 < np.abs(exact[path][...]) / scales[path][...] < 0.12  # as large as tau: in saturation
    off = {path: np.abs(mean[path][...] - g[...]).max() / np.abs(g[...]).max() for path, g in exact.items()}
    assert max(distance for path, distance in off.items() if path[-1] == "input_scale") > 0.3
    # Where the signs of a weight's gradient differ from part to part, so does MDE's factor.
    assert max(distance for path, distance in off.items() if path[-1] == "kernel") > 1e-4


@pytest.mark.slow
@settings(max_examples=3, derandomize=True)
@given(st.integers(0, 2**32 - 1))
def test_random_networks(seed):
    model = RandomNetwork(np.random.default_rng(seed))
    assert_all_same(compiled(model)[0](values(model, seed), sample(seed)))


class WithBatchNorm(nnx.Module):
    """A quantized layer before and after a batch norm, and dropout."""

    def __init__(self, method=lq.methods.LG_LSQ):
        rngs = nnx.Rngs(0)
        self.first = lq.QuantLinear(2, 4, **specs(method, 4, signed=True), rngs=rngs)
        self.norm = nnx.BatchNorm(4, momentum=0.5, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=nnx.Rngs(1))
        self.last = lq.QuantLinear(4, 2, **specs(method, 4, signed=True), rngs=rngs)
        self.set()

    def set(self):
        for layer in (self.first, self.last):
            layer.set_scales(weights=0.1, inputs=0.3)

    def __call__(self, x):
        return self.last(self.dropout(self.norm(self.first(x.mean((1, 2))))))


def test_batch_norm_sees_part_after_part():
    batch = sample(3)
    model, parts, whole = WithBatchNorm(), WithBatchNorm(), WithBatchNorm()
    for each in (model, parts, whole):
        each.dropout.deterministic = True
    (value, _), gradients = nnx.jit(lambda m, b: lq.accumulate_gradients(loss, m, b, 4, has_aux=True))(model, batch)
    found = [float(nnx.jit(loss)(parts, part(batch, k, 4))[0]) for k in range(4)]
    np.testing.assert_allclose(value, np.mean(found), rtol=1e-5)
    np.testing.assert_allclose(model.norm.mean[...], parts.norm.mean[...], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(model.norm.var[...], parts.norm.var[...], rtol=1e-5, atol=1e-6)
    expected = nnx.jit(nnx.grad(loss, has_aux=True))(whole, batch)[0]
    assert np.abs(model.norm.mean[...] - whole.norm.mean[...]).max() > 1e-3
    with pytest.raises(AssertionError):
        assert_same(gradients, expected)


def test_batch_norm_in_evaluation_mode_is_like_any_layer():
    batch, model = sample(3), WithBatchNorm()
    model.eval()
    expected = nnx.jit(nnx.grad(loss, has_aux=True))(model, batch)[0]
    (_, _), found = nnx.jit(lambda m, b: lq.accumulate_gradients(loss, m, b, 2, has_aux=True))(model, batch)
    assert_same(found, expected)


def test_random_state_goes_on_from_part_to_part():
    model = WithBatchNorm()
    before = int(model.dropout.rngs.count[...])
    alike = jax.tree.map(lambda array: jnp.repeat(array[:2], 4, axis=0), sample(0))  # all parts hold the same rows
    (_, y), _ = nnx.jit(lambda m, b: lq.accumulate_gradients(loss, m, b, 4, has_aux=True))(model, alike)
    assert int(model.dropout.rngs.count[...]) == before + 4
    assert len({array.tobytes() for array in np.asarray(y)}) > 1


def test_the_pure_form_works_on_a_model_taken_apart():
    skeleton, parameters, rest = Skeleton.of(WithBatchNorm())

    def build(parameters, rest):
        model = skeleton.model(parameters, rest)
        model.eval()
        lq.set_progress(model, 0.3)
        return model

    run = accumulated_value_and_grad(build, loss, lambda model: skeleton.arrays(model)[1], 2)
    (value, (y, after)), gradients = jax.jit(run)(parameters, rest, sample(0))

    def whole(parameters):
        return loss(build(parameters, rest), sample(0))[0]

    expected = jax.jit(jax.grad(whole))(parameters)
    assert gradients.keys() == parameters.keys() and after.keys() == rest.keys() and y.shape == (2, 4, 2)
    np.testing.assert_allclose(value, whole(parameters), rtol=1e-5)
    for path, gradient in gradients.items():
        np.testing.assert_allclose(gradient, expected[path], rtol=1e-5, atol=1e-5 * np.abs(expected[path]).max())


class Branches(nnx.Module):
    """One layer that the loss does not reach, one that it does, one that is not called; a penalty on a kernel."""

    def __init__(self, **types):
        rngs = nnx.Rngs(0)
        both = specs(lq.methods.LG_LSQ, 3, signed=True)
        self.frozen = lq.QuantLinear(2, 4, **both, rngs=rngs, **types)
        self.last = lq.QuantLinear(4, 2, **both, rngs=rngs, **types)
        self.spare = lq.QuantLinear(4, 2, **both, rngs=rngs, **types)
        for layer in (self.frozen, self.last, self.spare):
            layer.set_scales(weights=0.2, inputs=0.1)

    def __call__(self, x):
        return self.last(jax.lax.stop_gradient(self.frozen(x.mean((1, 2)))))


def test_what_the_loss_does_not_reach_keeps_gradient_zero_and_a_penalty_counts_once():
    def penalised(model, batch):
        return loss(model, batch)[0] + 0.1 * jnp.sum(model.last.kernel[...] ** 2) + model.last.input_scale[...]

    model, batch = Branches(), sample(5)
    value, gradients = nnx.jit(lambda m, b: lq.accumulate_gradients(penalised, m, b, 4))(model, batch)
    expected_value, expected = nnx.jit(nnx.value_and_grad(penalised))(model, batch)
    np.testing.assert_allclose(value, expected_value, rtol=1e-5)
    assert_same(gradients, expected)
    assert not any(np.any(leaf) for name in ("frozen", "spare") for leaf in jax.tree.leaves(gradients[name]))


def test_bfloat16_layers_are_summed_in_float32():
    model, batch = Branches(dtype=jnp.bfloat16, param_dtype=jnp.bfloat16), sample(6)
    (_, _), found = nnx.jit(lambda m, b: lq.accumulate_gradients(loss, m, b, 4, has_aux=True))(model, batch)
    expected = nnx.jit(nnx.grad(loss, has_aux=True))(model, batch)[0]
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_allclose(np.float32(one), np.float32(other), atol=0.02 * np.abs(np.float32(other)).max())


def layer(method=lq.methods.LG_LSQ):
    layer = lq.QuantLinear(2, 2, **specs(method, 4), rngs=nnx.Rngs(0))
    layer.set_scales(weights=0.1, inputs=0.1)
    return layer


class Calling(nnx.Module):
    """Calls a layer in a way of its own."""

    def __init__(self, how, inner=None):
        self.inner = layer() if inner is None else inner
        self.how = how

    def __call__(self, x):
        return self.how(self.inner, x.mean((1, 2)))


@dataclasses.dataclass(frozen=True)
class LooksAtTensors:
    """A rule that breaks the promise of ``scale_gradient``."""

    def terms(self, context):
        return (context.gradient,)

    def scale_gradient(self, context, sums):
        return sums[0] + jnp.max(context.codes)


def in_a_loop(inner, x):
    return jax.lax.fori_loop(0, 2, lambda _, x: inner(x), x)


def more_for_parts(inner, x):
    return inner(x) if len(x) == ROWS else inner(inner(x))


def less_for_parts(inner, x):
    return inner(inner(x)) if len(x) == ROWS else inner(x)


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        (lambda inner, x: jax.jit(inner)(x), "layer 'inner' must not be called inside jax.jit"),
        (lambda inner, x: nnx.remat(lambda m, x: m(x))(inner, x), "layer 'inner' must not be called inside jax.jit"),
        (lambda inner, x: jax.vmap(inner)(x), "layer 'inner' must not be called inside jax.jit"),
        (in_a_loop, "layer 'inner' must not be called inside jax.jit"),
        (more_for_parts, "layer 'inner' is called more often for a part of the batch than for the whole"),
        (less_for_parts, "layer 'inner' is called less often for a part of the batch than for the whole"),
        (lambda inner, x: lq.fake_quantize(x, inner.input_scale[...], inner.inputs), "calls fake_quantize"),
        (
            lambda inner, x: jax.checkpoint(lambda x: lq.fake_quantize(x, inner.input_scale[...], inner.inputs))(x),
            "calls fake_quantize",
        ),
    ],
)
def test_rules_that_cannot_be_put_off_are_refused(how, sentence):
    with pytest.raises(ValueError, match=sentence):
        lq.accumulate_gradients(loss, Calling(how), sample(0), 2, has_aux=True)


def test_a_quantized_teacher_is_no_obstacle():
    teacher, model = layer(), Calling(lambda inner, x: inner(x))

    def distilled(model, batch):
        return jnp.mean(jnp.square(model(batch["x"]) - teacher(batch["x"].mean((1, 2)) * 2)))

    value, _ = lq.accumulate_gradients(distilled, model, sample(0), 2)
    np.testing.assert_allclose(value, distilled(model, sample(0)), rtol=1e-5)


def test_a_rule_that_looks_at_tensors_is_refused():
    model = Calling(lambda inner, x: inner(x), layer(lq.GradientMethod(scale_rule=LooksAtTensors())))
    with pytest.raises(ValueError, match=r"`scale_gradient` of a scale rule must use only the sums.* got `codes`"):
        lq.accumulate_gradients(loss, model, sample(0), 2, has_aux=True)


def test_the_progress_is_set_before():
    def late(model, batch):
        lq.set_progress(model, 0.5)
        return loss(model, batch)

    with pytest.raises(ValueError, match="`loss` must not set the progress"):
        lq.accumulate_gradients(late, Calling(lambda inner, x: inner(x)), sample(0), 2, has_aux=True)


@pytest.mark.parametrize(
    ("parts", "sentence"),
    [
        (3, "`parts` must divide the rows of the batch, 8, got 3"),
        (16, "`parts` must divide the rows of the batch, 8, got 16"),
        (0, "`parts` must be a whole number >= 1, got 0"),
        (2.0, r"`parts` must be a whole number >= 1, got 2\.0"),
        (True, "`parts` must be a whole number >= 1, got True"),
    ],
)
def test_parts_that_do_not_fit_are_named(parts, sentence):
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        lq.accumulate_gradients(loss, Branches(), sample(0), parts, has_aux=True)


def test_arrays_of_different_length_are_named():
    with pytest.raises(ValueError, match="the arrays of `batch` must have one first axis"):
        lq.accumulate_gradients(loss, Branches(), sample(0) | {"gain": jnp.ones((4, 1))}, 2, has_aux=True)


def test_an_uncalibrated_layer_is_named():
    model = Calling(lambda inner, x: inner(x), lq.QuantLinear(2, 2, **specs(lq.methods.LSQ, 4), rngs=nnx.Rngs(0)))
    with pytest.raises(ValueError, match=r"the scales of layer 'inner' are not set: call calibrate"):
        lq.accumulate_gradients(loss, model, sample(0), 2, has_aux=True)


SHARDED = """
import jax, jax.numpy as jnp, numpy as np, lglsq_jax as lq
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec as P

assert len(jax.devices()) == 4
spec = {"weights": lq.QuantSpec(3, channel_axis=-1), "inputs": lq.QuantSpec(3, batch_axis=0)}
layers = [lq.QuantLinear(6, 6, rngs=nnx.Rngs(i), **spec) for i in range(2)]
for layer in layers:
    layer.set_scales(weights=np.full(6, 0.2), inputs=0.4)
graph, parameters, rest = nnx.split(nnx.Sequential(*layers), nnx.Param, ...)

def gradients(parameters, rest, x):
    model = nnx.merge(graph, parameters, rest)
    return lq.accumulate_gradients(lambda model, x: jnp.mean(jnp.sin(300 * model(x))), model, x, 2)

x = np.random.default_rng(0).normal(size=(16, 6)).astype("float32")
alone = jax.jit(gradients)(parameters, rest, x)
mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
same, split = NamedSharding(mesh, P()), NamedSharding(mesh, P("data"))
run = jax.jit(gradients, in_shardings=(same, same, split), out_shardings=same).lower(parameters, rest, x).compile()
moved = [name for name in ("all-gather", "all-to-all", "collective-permute") if name in run.as_text()]
assert not moved, moved
assert "all-reduce" in run.as_text()
spread = run(*jax.device_put((parameters, rest), same), jax.device_put(x, split))
for one, other in zip(jax.tree.leaves(alone), jax.tree.leaves(spread), strict=True):
    np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5 * float(jnp.abs(one).max()))
print("same gradients")
"""


def test_a_batch_spread_over_four_devices_stays_where_it_is_and_gives_the_same():
    environment = os.environ | {
        "XLA_FLAGS": simulated_devices(4),
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(Path(lq.__file__).resolve().parent.parent),
    }
    run = subprocess.run([sys.executable, "-c", SHARDED], capture_output=True, text=True, env=environment, timeout=240)
    assert run.stdout.strip() == "same gradients", run.stderr[-3000:]
