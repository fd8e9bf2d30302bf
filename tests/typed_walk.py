"""Calls the public functions with the types and shapes of their annotations checked; run by test_annotations.py.

In a process of its own, because the checks are woven into the package while it is imported. Networks are only traced,
so nothing is compiled for them.
"""

import os
import sys
import warnings
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from jaxtyping import install_import_hook  # noqa: E402

# The modules inside the package: the package itself has a module-level __getattr__, which cannot be checked.
MODULES = [f"lglsq_jax.{path.stem}" for path in (ROOT / "lglsq_jax").iterdir() if path.stem != "__init__"]
warnings.filterwarnings("ignore", message=".*deprecated by PEP 585")
install_import_hook(MODULES, "beartype.beartype")

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from flax import nnx  # noqa: E402

import lglsq_jax as lq  # noqa: E402
from lglsq_jax.batches import arguments, calls  # noqa: E402


def walk_numerics():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 4, 4, 3)), jnp.float32)
    for spec in (lq.QuantSpec(4, channel_axis=-1), lq.QuantSpec(3, signed=False, batch_axis=0)):
        for how in ("mse", "lsq", "max"):
            scale = lq.init_scale(x, spec, how=how)
        assert lq.fake_quantize(x, scale, spec).shape == x.shape
        lq.dequantize(lq.quantize(x, scale, spec), scale, spec)
        for name in ("ste", "lsq", "llsq", "ewgs", "lg_lsq"):
            rules = lq.QuantSpec(4, signed=spec.signed, channel_axis=spec.channel_axis, method=lq.methods.get(name))
            jax.eval_shape(jax.grad(lambda x, s, rules=rules: lq.fake_quantize(x, s, rules).sum(), (0, 1)), x, scale)


def walk_oscillations():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 2)), jnp.float32)
    for spec in (lq.QuantSpec(3, channel_axis=-1), lq.QuantSpec(3, signed=False)):
        scale = jnp.full(spec.scale_shape(x.shape), 0.3)
        known = lq.oscillations.start(lq.quantize(x, scale, spec))
        known = lq.oscillations.track(known, lq.quantize(-x, scale, spec), 0.01)
        known = lq.oscillations.freeze(known, lq.oscillations.on_cosine(0.1, 0.01, jnp.float32(0.5)))
        assert lq.oscillations.hold(x, scale, spec, known).shape == x.shape
        lq.oscillations.dampening(x, scale, spec)


def walk_networks():
    def quantized():
        model = lq.models.resnet8(num_classes=4, rngs=nnx.Rngs(0))
        weights = lq.QuantSpec(3, channel_axis=-1)
        inputs = lq.QuantSpec(3, signed=False, batch_axis=0)
        return lq.quantize_model(model, lq.models.recommended_rules(model, weights=weights, inputs=inputs))

    images = jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32)
    model = nnx.eval_shape(quantized)
    nnx.eval_shape(nnx.grad(lambda model, x: (model(x) ** 2).mean()), model, images)
    for build in (lq.models.resnet18, lq.models.resnet50):
        model = nnx.eval_shape(lambda build=build: build(num_classes=4, rngs=nnx.Rngs(0)))
        nnx.eval_shape(lambda model, x: model(x), model, images)


def walk_codes():
    layer = lq.QuantLinear(4, 2, weights=lq.QuantSpec(7, signed=False), rngs=nnx.Rngs(0))
    layer.set_scales(weights=0.1)
    assert lq.weight_codes(layer)[""].dtype == jnp.uint8


def walk_batches():
    image, depth = np.ones((2, 4, 4, 3), np.float32), jnp.ones((2, 5))
    for model, batch in ((lambda image: image, image), (lambda image, depth: image, (image, depth))):
        assert len(next(calls(model, [batch]))) == len(arguments(model, batch, "it"))


def a_wrong_type_is_seen():
    try:
        lq.quantize("not an array", jnp.float32(1.0), lq.QuantSpec(4))
    except Exception as error:
        assert "type" in type(error).__name__.lower(), f"the checks are not in force: {error!r}"
    else:
        raise AssertionError("the checks are not in force")


if __name__ == "__main__":
    a_wrong_type_is_seen()
    walk_numerics()
    walk_codes()
    walk_batches()
    walk_oscillations()
    walk_networks()
    print("annotations hold")
