"""The fused operations are the product of the two fake-quantized tensors, forward and backward."""

import functools
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lglsq_jax as lq
from lglsq_jax.ops import Window, quantized_conv, quantized_matmul
from lglsq_jax.ops.window import convolve
from tests.short_run import simulated_devices

from .test_exact import CONVOLUTIONS

SPECS = {
    "lsq": (lq.QuantSpec(3, method=lq.methods.LSQ), lq.QuantSpec(4, batch_axis=0, method=lq.methods.LSQ)),
    "lg_lsq, per channel": (lq.QuantSpec(4, channel_axis=-1), lq.QuantSpec(8, signed=False, batch_axis=0)),
    "offset": (
        lq.QuantSpec(8, narrow_range=True, method=lq.methods.LSQ_PLUS),
        lq.QuantSpec(2, signed=False, batch_axis=0, method=lq.methods.LSQ_PLUS),
    ),
}


@functools.partial(jax.jit, static_argnums=(0, 1))
def output_and_gradients(product, specs, operands, g):
    """``product(specs, x, kernel, x_scale, kernel_scale, x_offset, progress)`` and all its gradients."""
    y, pull_back = jax.vjp(lambda operands: product(specs, *operands), operands)
    return y, pull_back(g.astype(y.dtype))[0]


def operands_for(specs, x_shape, kernel_shape, dtype=jnp.float32):
    weights, inputs = specs
    rng = np.random.default_rng(5)
    x = jnp.asarray(rng.normal(size=x_shape) + (not inputs.signed), dtype)
    kernel = jnp.asarray(rng.normal(size=kernel_shape), dtype)
    scales = jnp.float32(0.21), jnp.asarray(rng.uniform(0.1, 0.4, weights.scale_shape(kernel_shape)), jnp.float32)
    offset = jnp.float32(-0.4) if inputs.method.learn_offset else None
    return x, kernel, *scales, offset, jnp.float32(0.5)


def fused_conv(window):
    def run(specs, x, kernel, x_scale, kernel_scale, offset, progress):
        geometry = {"window": window, "weights": specs[0], "inputs": specs[1]}
        return quantized_conv(x, kernel, x_scale, kernel_scale, x_offset=offset, progress=progress, **geometry)

    return run


def composed(of_floats):
    def run(specs, x, kernel, x_scale, kernel_scale, offset, progress):
        x_hat = lq.fake_quantize(x, x_scale, specs[1], offset, progress)
        return of_floats(x_hat, lq.fake_quantize(kernel, kernel_scale, specs[0], None, progress))

    return run


def assert_same(fused, plain, specs, operands):
    g_shape = jax.eval_shape(lambda o: plain(specs, *o), operands).shape
    g = jnp.float32(np.random.default_rng(1).normal(size=g_shape))
    (y, gradients), (y_plain, expected) = (output_and_gradients(f, specs, operands, g) for f in (fused, plain))
    assert y.dtype == operands[0].dtype
    np.testing.assert_allclose(y, y_plain, rtol=1e-5, atol=2e-6 * float(jnp.abs(y_plain).max()))
    for found, wanted in zip(jax.tree.leaves(gradients), jax.tree.leaves(expected), strict=True):
        # Sums of products that cancel: held to the largest gradient of the tensor.
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5 * float(jnp.abs(wanted).max()))


@pytest.mark.parametrize(
    ("kind", "specs"),
    [
        pytest.param(kind, specs, id=f"{kind}, {name}")
        for kind in CONVOLUTIONS
        for name, specs in SPECS.items()
        if name == "offset" or kind in ("strides and uneven padding", "depthwise")
    ],
)
def test_quantized_conv_is_the_convolution_of_the_fake_quantized_tensors(kind, specs):
    x_shape, kernel_shape, *geometry = CONVOLUTIONS[kind]
    window = Window(*geometry)
    plain = composed(lambda x, kernel: convolve(x, kernel, window))
    assert_same(fused_conv(window), plain, specs, operands_for(specs, x_shape, kernel_shape))


def fused_matmul(specs, x, kernel, x_scale, kernel_scale, offset, progress):
    return quantized_matmul(
        x,
        kernel,
        x_scale,
        kernel_scale,
        weights=specs[0],
        inputs=specs[1],
        x_offset=offset,
        progress=progress,
    )


@pytest.mark.parametrize("specs", SPECS.values(), ids=SPECS)
@pytest.mark.parametrize("x_shape", [(6, 9), (2, 3, 9), (9,)], ids=str)
def test_quantized_matmul_is_the_product_of_the_fake_quantized_tensors(x_shape, specs):
    assert_same(fused_matmul, composed(jnp.matmul), specs, operands_for(specs, x_shape, (9, 4)))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_narrow_types_are_multiplied_as_codes_and_cast_once(dtype):
    specs = SPECS["lg_lsq, per channel"]
    operands = operands_for(specs, (6, 9), (9, 4), dtype)
    wide = (operands[0].astype(jnp.float32), operands[1].astype(jnp.float32), *operands[2:])
    g = jnp.ones((6, 4))
    y, gradients = output_and_gradients(fused_matmul, specs, operands, g)
    y_wide, gradients_wide = output_and_gradients(fused_matmul, specs, wide, g)
    assert (y.dtype, gradients[0].dtype, gradients[2].dtype) == (dtype, dtype, jnp.float32)
    np.testing.assert_array_equal(y, y_wide.astype(dtype))
    np.testing.assert_allclose(gradients[3], gradients_wide[3], rtol=1e-6)


def test_vmap_checkpoint_and_a_changing_progress():
    specs, (x, kernel, *rest) = SPECS["lsq"], operands_for(SPECS["lsq"], (4, 6, 9), (9, 4))
    run = functools.partial(fused_matmul, specs)
    mapped = jax.vmap(lambda x: run(x, kernel, *rest))(x)
    np.testing.assert_array_equal(mapped, jnp.stack([run(one, kernel, *rest) for one in x]))
    traces = []

    @jax.jit
    def gradient(kernel, progress):
        traces.append(1)
        kept = jax.checkpoint(lambda kernel: run(x[0], kernel, *rest[:3], progress).sum())
        return jax.grad(kept)(kernel)

    plain = jax.grad(lambda kernel: run(x[0], kernel, *rest[:3], 0.5).sum())(kernel)
    np.testing.assert_allclose(gradient(kernel, 0.5), plain, rtol=1e-6, atol=1e-6)
    gradient(kernel, 0.9)
    assert len(traces) == 1


def test_the_fused_operation_keeps_no_codes_for_the_backward_pass():
    specs = SPECS["lg_lsq, per channel"]
    operands = operands_for(specs, (6, 9), (9, 4))
    _, pull_back = jax.vjp(functools.partial(fused_matmul, specs), *operands)
    kept = sum(leaf.size for leaf in jax.tree.leaves(pull_back))
    assert kept <= sum(operand.size for operand in operands if operand is not None)


X, KERNEL = np.ones((2, 3), np.float32), np.ones((3, 4), np.float32)
GOOD = {"inputs": lq.QuantSpec(4), "weights": lq.QuantSpec(4)}


@pytest.mark.parametrize(
    ("arguments", "options", "error", "sentence"),
    [
        (
            (X, KERNEL, 1.0, 1.0),
            {"inputs": lq.QuantSpec(4, channel_axis=1)},
            ValueError,
            "`inputs.channel_axis` must be None, since a sum over channels has one input scale, got 1",
        ),
        (
            (X, KERNEL, 1.0, 1.0),
            {"weights": lq.QuantSpec(4, channel_axis=0)},
            ValueError,
            "`weights.channel_axis` must be None or the output axis, 1 or -1, got 0",
        ),
        (
            (X, KERNEL, 1.0, 1.0),
            {"weights": lq.QuantSpec(8, signed=False)},
            ValueError,
            "`weights` must have codes that fit int8: signed, or unsigned with at most 7 bits, got 8 bits",
        ),
        ((X, KERNEL, np.nan, 1.0), {}, ValueError, "`x_scale` must be finite and positive, got nan"),
        ((X, KERNEL, 1.0, -1.0), {}, ValueError, "`kernel_scale` must be finite and positive, got -1.0"),
        (
            (X, KERNEL, np.ones(3), 1.0),
            {},
            ValueError,
            "`x_scale` must have shape () for a tensor of shape (2, 3), got (3,)",
        ),
        (
            (X, KERNEL, 1.0, 1.0),
            {"x_offset": np.ones(3)},
            ValueError,
            "`x_offset` must have shape () for a tensor of shape (2, 3), got (3,)",
        ),
        ((X, KERNEL, 1.0, 1.0), {"x_offset": np.nan}, ValueError, "`x_offset` must be finite, got nan"),
        (
            (X, KERNEL, 1.0, 1.0),
            {"progress": -1.0},
            ValueError,
            "`progress` must be a finite number from 0 to 1, got -1.0",
        ),
        ((X.astype(int), KERNEL, 1.0, 1.0), {}, TypeError, "`x` must have a float dtype, got int32"),
        ((X, KERNEL.astype(int), 1.0, 1.0), {}, TypeError, "`kernel` must have a float dtype, got int32"),
    ],
)
def test_a_wrong_argument_is_one_sentence(arguments, options, error, sentence):
    with pytest.raises(error) as caught:
        quantized_matmul(*arguments, **GOOD | options)
    assert str(caught.value) == sentence


def test_a_python_number_is_an_offset_too():
    found = quantized_matmul(X, KERNEL, 1.0, 1.0, x_offset=0.25, **GOOD)
    np.testing.assert_array_equal(found, np.full((2, 4), 3.75))


SHARDED = """
import jax, jax.numpy as jnp, numpy as np, lglsq_jax as lq
from jax.sharding import NamedSharding, PartitionSpec as P
from lglsq_jax.ops import Window, quantized_conv

assert len(jax.devices()) == 4
weights = lq.QuantSpec(3, channel_axis=-1)
inputs = lq.QuantSpec(4, signed=False, batch_axis=0)
window = Window((1, 1), ((1, 1), (1, 1)), (1, 1), (1, 1))
rng = np.random.default_rng(0)
x, kernel = rng.normal(size=(8, 5, 5, 3)).astype("float32"), rng.normal(size=(3, 3, 3, 4)).astype("float32")
operands = x, kernel, jnp.float32(0.2), jnp.full(4, 0.3)

@jax.jit
def gradients(x, *rest):
    def loss(*o):
        return jnp.mean(jnp.sin(quantized_conv(*o, inputs=inputs, weights=weights, window=window, progress=0.5)))
    return jax.grad(loss, (0, 1, 2, 3))(x, *rest)

alone = gradients(*operands)
mesh = jax.make_mesh((4,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
place = lambda spec: NamedSharding(mesh, spec)
spread = gradients(jax.device_put(x, place(P("batch"))), *jax.device_put(operands[1:], place(P())))
assert len(spread[0].sharding.device_set) == 4
for one, other in zip(alone, spread):
    np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5 * float(jnp.abs(one).max()))
print("same gradients")
"""


def test_a_batch_spread_over_four_devices_has_the_same_gradients():
    environment = os.environ | {
        "XLA_FLAGS": simulated_devices(4),
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(Path(lq.__file__).resolve().parent.parent),
    }
    run = subprocess.run([sys.executable, "-c", SHARDED], capture_output=True, text=True, env=environment, timeout=120)
    assert run.stdout.strip() == "same gradients", run.stderr[-3000:]
