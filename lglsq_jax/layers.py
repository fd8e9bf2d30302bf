"""Convolution and linear layers that own their scales: nnx's own layers with the product replaced."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jaxtyping import Array, ArrayLike, Float

from .calibration import init_scale
from .deferred import Deferred, defer, dequantize_deferred, fake_quantize_deferred
from .mesh_axes import varying_axes
from .ops import Window, quantized_conv, quantized_matmul
from .quantizers import check_offset, check_scale, fake_quantize
from .spec import QuantSpec
from .variables import Progress


class Scale(nnx.Param):
    """A quantizer's learned scale, in the unit of what it quantizes; NaN until it is calibrated."""


class Offset(nnx.Param):
    """A quantizer's learned offset (LSQ+), in the unit of what it quantizes; NaN until it is calibrated."""


class _Quantized:
    """What a quantized layer adds to nnx's: two specs, their scales, and the fake-quantized or fused product."""

    weights: QuantSpec | None
    inputs: QuantSpec | None
    weight_scale: Scale | None
    input_scale: Scale | None
    input_offset: Offset | None
    progress: Progress
    observer: Callable[[Array], bool] | None = None  # on temporary copies only: sees inputs; True runs in float
    deferred: Iterator[Deferred] | None = None  # on temporary copies only: one a call, puts the gradient rules off
    switch: Callable[[], Array] | None = None  # on temporary copies only: a traced bool; False: without quantizers
    kernel: nnx.Param
    dtype: Any

    def _add_quantizers(self, weights: QuantSpec | None, inputs: QuantSpec | None) -> None:
        for name, spec in (("weights", weights), ("inputs", inputs)):
            if spec is not None and not isinstance(spec, QuantSpec):
                raise TypeError(f"`{name}` must be a QuantSpec or None, got {spec!r}")
        if inputs is not None and inputs.channel_axis is not None:
            raise ValueError(f"`inputs.channel_axis` must be None in a layer, got {inputs.channel_axis}")
        if weights is not None:
            last = len(self.kernel.shape) - 1
            if weights.channel_axis not in (None, -1, last):
                raise ValueError(
                    f"`weights.channel_axis` must be None or the output axis, {last} or -1, got {weights.channel_axis}"
                )
            if weights.maximum > 127:
                raise ValueError(
                    "`weights` must have codes that fit int8: signed, or unsigned with at most 7 bits, got 8 bits"
                )
            weights = dataclasses.replace(weights, method=weights.method.for_weights())
        self.weights, self.inputs = weights, inputs
        unset = jnp.float32(jnp.nan)
        self.weight_scale = None if weights is None else Scale(jnp.full(weights.scale_shape(self.kernel.shape), unset))
        self.input_scale = None if inputs is None else Scale(unset)
        self.input_offset = Offset(unset) if inputs is not None and inputs.method.learn_offset else None
        self.progress = Progress(jnp.zeros((), jnp.float32))

    def set_scales(
        self,
        *,
        weights: ArrayLike | None = None,
        inputs: ArrayLike | None = None,
        input_offset: ArrayLike | None = None,
    ) -> None:
        """Sets the given scales and leaves the others; all or, where one is refused, none.

        Raises:
            ValueError: the layer has no such quantizer, a scale or the offset has another shape, a scale is not finite
                and positive, or the offset is not finite.
        """
        for variable, value in self.checked_scales(weights, inputs, input_offset):
            variable[...] = jnp.asarray(value, jnp.float32)

    def checked_scales(
        self, weights: ArrayLike | None, inputs: ArrayLike | None, input_offset: ArrayLike | None
    ) -> list[tuple[nnx.Variable, ArrayLike]]:
        """Returns the variables that ``set_scales`` sets with their new values; raises what it raises."""
        new: list[tuple[nnx.Variable, ArrayLike]] = []
        for name, value, spec, variable in (
            ("weights", weights, self.weights, self.weight_scale),
            ("inputs", inputs, self.inputs, self.input_scale),
        ):
            if value is None:
                continue
            if spec is None or variable is None:
                raise ValueError(f"`{name}` are not quantized in this layer, got a scale for them")
            check_scale(value, spec, self.kernel.shape if name == "weights" else (), name)
            new.append((variable, value))
        if input_offset is not None:
            if self.inputs is None or self.input_offset is None:
                raise ValueError("`input_offset` needs a method with a learned offset, such as methods.LSQ_PLUS")
            check_offset(input_offset, self.inputs, (), "input_offset")
            new.append((self.input_offset, input_offset))
        return new

    def transformed(self, kernel: Float[Array, "..."]) -> Float[Array, "..."]:
        """Returns the kernel through the method's float transform, where it has one."""
        transform = None if self.weights is None else self.weights.method.weight_transform
        return kernel if transform is None else transform(kernel)

    @property
    def quantizer_kernel(self) -> Float[Array, "..."]:
        """The kernel as its quantizer sees it: masked, in the layer's dtype, transformed."""
        return self._quantizer_kernel(self.kernel[...].dtype if self.dtype is None else self.dtype)

    def _quantizer_kernel(self, dtype) -> Float[Array, "..."]:
        """The kernel as a call with inputs of ``dtype`` gives it to its quantizer."""
        kernel = self.kernel[...]
        mask = getattr(self, "mask", None)
        if mask is not None:
            kernel = kernel * mask
        promote = self.promote_dtype  # pyright: ignore[reportAttributeAccessIssue]
        _, kernel, _ = promote((jnp.zeros((), dtype), kernel, None), dtype=dtype)
        return self.transformed(kernel)

    def defer(self, x: jax.ShapeDtypeStruct) -> Deferred:
        """Returns what puts off the gradient rules of one call, from the inputs of that call for the whole batch.

        Differentiable: backward, the rules of both quantizers are applied to what the calls on all parts handed back.
        """

        def value(variable: nnx.Variable | None):
            return None if variable is None else variable[...]

        return defer(
            None if self.weights is None else self._quantizer_kernel(x.dtype),
            value(self.weight_scale),
            value(self.input_scale),
            value(self.input_offset),
            self.progress[...],
            weights=self.weights,
            inputs=self.inputs,
            x_shape=x.shape,
            x_axes=varying_axes(x),
        )

    def _product(self, x, kernel, float_product, fused_product):
        def in_float():  # lq.compute_in keeps kernels in float32
            return float_product(x, kernel.astype(x.dtype))

        if self.observer is not None and self.observer(x):
            return in_float()
        deferred = None if self.deferred is None else next(self.deferred)
        if deferred is None:
            kernel = self.transformed(kernel)

        def quantized_product():
            if self.weight_scale is not None and self.input_scale is not None:
                offset = None if self.input_offset is None else self.input_offset[...]
                scales = self.input_scale[...], self.weight_scale[...]
                return fused_product(x, kernel, *scales, offset, self.progress[...], deferred)
            quantized = kernel
            if self.weights is not None and self.weight_scale is not None:
                if deferred is None:
                    quantized = fake_quantize(kernel, self.weight_scale[...], self.weights, None, self.progress[...])
                else:
                    quantized = dequantize_deferred(deferred, self.weight_scale[...], self.weights, kernel.dtype)
            return float_product(self._fake_quantized(x, deferred), quantized)

        with self._readable_errors():
            return self._switched(quantized_product, in_float)

    def _switched(self, quantized: Callable[[], Array], in_float: Callable[[], Array]) -> Array:
        """The quantized result, or, where a switch is set, whichever it says: both are compiled, one is computed."""
        if self.switch is None:
            return quantized()
        return lax.cond(self.switch(), quantized, lambda: in_float().astype(jax.eval_shape(quantized).dtype))

    def _fake_quantized(self, x, deferred: Deferred | None):
        """The inputs on the grid of their quantizer, where they have one."""
        if self.inputs is None or self.input_scale is None:
            return x
        offset = None if self.input_offset is None else self.input_offset[...]
        scale, progress = self.input_scale[...], self.progress[...]
        if deferred is not None:
            return fake_quantize_deferred(x, scale, offset, self.inputs, progress, deferred)
        return fake_quantize(x, scale, self.inputs, offset, progress)

    @contextlib.contextmanager
    def _readable_errors(self):
        """Says what to do where the scales were never set."""
        try:
            yield
        except ValueError as error:
            if self.known_uncalibrated:
                raise ValueError("the layer's scales are not set: call calibrate(model, batches) first") from error
            raise

    @property
    def calibrated(self) -> bool:
        """Whether every scale is finite and positive and every offset finite (False while they are NaN)."""
        # jnp would trace them while the model is traced
        scales = [np.asarray(scale[...]) for scale in (self.weight_scale, self.input_scale) if scale is not None]
        good = all(bool((np.isfinite(scale) & (scale > 0)).all()) for scale in scales)
        return good and (self.input_offset is None or bool(np.isfinite(np.asarray(self.input_offset[...]))))

    @property
    def known_uncalibrated(self) -> bool:
        """Whether it can be seen that a scale or offset is not set; False while JAX is tracing them."""
        variables = (self.weight_scale, self.input_scale, self.input_offset)
        traced = any(isinstance(v[...], jax.core.Tracer) for v in variables if v is not None)
        return not traced and not self.calibrated

    def start_weight_scale(self, how: str | None = None) -> Float[Array, "..."]:
        """Returns a starting scale for the kernel as it is now; see ``init_scale``."""
        assert self.weights is not None
        return init_scale(self.quantizer_kernel, self.weights, how or self.weights.method.weight_start or "mse")


class Quantizer(_Quantized, nnx.Module):
    r"""Puts a value on the grid of a quantizer: :math:`\hat x = s \operatorname{clip}(\operatorname{round}(x / s))`.

    For values that a layer's own input quantizer does not cover: before an activation such as SiLU or a product of two
    branches, whose integer form is a table of codes. ``calibrate`` sets its scale, as that of a layer's inputs.

    Args:
        inputs: the quantizer; per tensor.

    Raises:
        TypeError: the spec is not a ``QuantSpec``.
        ValueError: the spec has a channel axis.
    """

    def __init__(self, inputs: QuantSpec):
        if not isinstance(inputs, QuantSpec):
            raise TypeError(f"`inputs` must be a QuantSpec, got {inputs!r}")
        self._add_quantizers(None, inputs)

    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """Returns the fake-quantized value."""
        if self.observer is not None and self.observer(x):
            return x
        with self._readable_errors():
            deferred = None if self.deferred is None else next(self.deferred)
            return self._switched(lambda: self._fake_quantized(x, deferred), lambda: x)


class QuantConv(_Quantized, nnx.Conv):
    r"""``nnx.Conv`` on integer codes: :math:`y = s_x s_w (q_x * q_w) + b`.

    Takes every argument of ``nnx.Conv`` (strides, padding of any kind, dilations, groups, mask, dtype, ...) and two
    specs. Scales start as NaN; ``calibrate`` or :meth:`set_scales` sets them.

    Args:
        in_features: input channels.
        out_features: output channels.
        kernel_size: one size a spatial axis.
        *args: further positional arguments of ``nnx.Conv``.
        weights: quantizer of the kernel, per tensor or per output channel (``channel_axis=-1``); None leaves it float.
        inputs: quantizer of the inputs, per tensor; None leaves them float.
        rngs: as in ``nnx.Conv``.
        **kwargs: further keyword arguments of ``nnx.Conv``.

    Raises:
        TypeError: a spec is not a ``QuantSpec``.
        ValueError: a spec's channel axis does not fit.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel_size,
        *args,
        weights: QuantSpec | None = None,
        inputs: QuantSpec | None = None,
        rngs: nnx.Rngs,
        **kwargs,
    ):
        if "conv_general_dilated" in kwargs:
            raise TypeError("`conv_general_dilated` cannot be replaced in QuantConv, which is a convolution of its own")
        super().__init__(in_features, out_features, kernel_size, *args, rngs=rngs, **kwargs)
        del self.conv_general_dilated  # nnx keeps lax's on the instance; the method below takes its place
        self._add_quantizers(weights, inputs)

    def conv_general_dilated(
        self,
        x,
        kernel,
        strides,
        padding,
        lhs_dilation=None,
        rhs_dilation=None,
        dimension_numbers=None,
        feature_group_count=1,
        precision=None,
        preferred_element_type=None,
        out_sharding=None,
    ):
        """Convolves as ``lax.conv_general_dilated`` does, through this layer's quantizers; called by ``nnx.Conv``."""

        def float_product(x, kernel):
            return lax.conv_general_dilated(
                x,
                kernel,
                strides,
                padding,
                lhs_dilation,
                rhs_dilation,
                dimension_numbers,
                feature_group_count,
                precision=precision,
                preferred_element_type=preferred_element_type,
                out_sharding=out_sharding,
            )

        def fused_product(x, kernel, x_scale, kernel_scale, offset, progress, deferred):
            assert self.inputs is not None and self.weights is not None
            window = Window.resolve(
                x.shape, kernel.shape, strides, padding, lhs_dilation, rhs_dilation, feature_group_count
            )
            y = quantized_conv(
                x if preferred_element_type is None else x.astype(preferred_element_type),
                kernel,
                x_scale,
                kernel_scale,
                inputs=self.inputs,
                weights=self.weights,
                window=window,
                x_offset=offset,
                progress=progress,
                deferred=deferred,
            )
            return y if out_sharding is None else jax.sharding.reshard(y, out_sharding)

        return self._product(x, kernel, float_product, fused_product)


class QuantLinear(_Quantized, nnx.Linear):
    r"""``nnx.Linear`` on integer codes: :math:`y = s_x s_w \, q_x q_w + b`.

    Takes every argument of ``nnx.Linear`` and two specs, as :class:`QuantConv` does.

    Args:
        in_features: size of the last axis of the inputs.
        out_features: size of the last axis of the outputs.
        weights: quantizer of the kernel, per tensor or per output (``channel_axis=-1``); None leaves it float.
        inputs: quantizer of the inputs, per tensor; None leaves them float.
        rngs: as in ``nnx.Linear``.
        **kwargs: further keyword arguments of ``nnx.Linear``.

    Raises:
        TypeError: a spec is not a ``QuantSpec``.
        ValueError: a spec's channel axis does not fit.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        weights: QuantSpec | None = None,
        inputs: QuantSpec | None = None,
        rngs: nnx.Rngs,
        **kwargs,
    ):
        if "dot_general" in kwargs:
            raise TypeError("`dot_general` cannot be replaced in QuantLinear, which is a product of its own")
        super().__init__(in_features, out_features, rngs=rngs, **kwargs)
        del self.dot_general  # nnx keeps lax's on the instance; the method below takes its place
        self._add_quantizers(weights, inputs)

    def dot_general(self, x, kernel, dimension_numbers, precision=None, preferred_element_type=None, out_sharding=None):
        """Multiplies as ``lax.dot_general`` does, through this layer's quantizers; called by ``nnx.Linear``."""

        def float_product(x, kernel):
            return lax.dot_general(
                x, kernel, dimension_numbers, precision, preferred_element_type, out_sharding=out_sharding
            )

        def fused_product(x, kernel, x_scale, kernel_scale, offset, progress, deferred):
            assert self.inputs is not None and self.weights is not None
            y = quantized_matmul(
                x if preferred_element_type is None else x.astype(preferred_element_type),
                kernel,
                x_scale,
                kernel_scale,
                inputs=self.inputs,
                weights=self.weights,
                x_offset=offset,
                progress=progress,
                deferred=deferred,
            )
            return y if out_sharding is None else jax.sharding.reshard(y, out_sharding)

        return self._product(x, kernel, float_product, fused_product)
