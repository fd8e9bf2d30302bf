"""Learned low-bit quantization in JAX, down to an integer-only program.

Numerics (:class:`QuantSpec`, :func:`quantize`, :func:`fake_quantize`, ...) are pure functions on arrays; layers
(:class:`QuantConv`, :class:`QuantLinear`) and :func:`quantize_model` put them into Flax NNX models; ``integer.lower``
turns a trained model into a program of integer operations. See ``docs/tutorial.md``.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_WHERE = {
    "QuantSpec": "spec",
    "quantize": "quantizers",
    "dequantize": "quantizers",
    "fake_quantize": "quantizers",
    "init_scale": "calibration",
    "GradientMethod": "gradients",
    "QuantizerContext": "gradients",
    "TanhNormalize": "gradients",
    "STE": "gradients",
    "ASR": "gradients",
    "NoErrorRule": "gradients",
    "MDE": "gradients",
    "EWGS": "gradients",
    "FixedScale": "gradients",
    "LSQScale": "gradients",
    "LLSQScale": "gradients",
    "PACTScale": "gradients",
    "SSG": "gradients",
    "ScaleDirection": "gradients",
    "QuantConv": "layers",
    "QuantLinear": "layers",
    "Quantizer": "layers",
    "Identity": "identity",
    "Normalize": "normalize",
    "Scale": "layers",
    "Offset": "layers",
    "Progress": "variables",
    "Rule": "convert",
    "quantize_model": "convert",
    "calibrate": "convert",
    "BatchNorm": "batch_norm",
    "set_batch_norm_groups": "batch_norm",
    "reestimate_batch_norm": "batch_norm",
    "set_progress": "convert",
    "compute_in": "precision",
    "accumulate_gradients": "accumulation",
    "plan": "inspection",
    "check_scales": "inspection",
    "layer_statistics": "inspection",
    "weight_codes": "inspection",
    "sensitivity": "layer_sensitivity",
    "layer_divergence": "bit_allocation",
    "multiply_adds": "bit_allocation",
    "allocate_bits": "bit_allocation",
    "UserError": "errors",
}
_MODULES = ("data", "gradients", "integer", "methods", "models", "ops", "oscillations", "study", "training")

__all__ = [*_WHERE, *_MODULES, "__version__"]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first used, so that ``--help`` does not wait for JAX."""
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    if name in _WHERE:
        value = getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
