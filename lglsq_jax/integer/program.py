"""The integer program: encode the input once, compute with integers alone, decode the logits once."""

import dataclasses
import functools
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Int32, Shaped

from ..primitives import clip_codes, normalise
from .dimensions import Batch, Shape, decode
from .kernels import KERNELS
from .narrow import prepared
from .portions import in_portions

if TYPE_CHECKING:
    from .layers import Layer


@dataclasses.dataclass(frozen=True, eq=False)
class Instruction:
    """One operation of a program.

    Attributes:
        op: a key of ``kernels.KERNELS``, or "input" and "encode" before the integers begin.
        inputs: positions of earlier instructions.
        shape: the result's shape; a multiple of the batch is written ``"b*1"``.
        low: smallest value that can occur.
        high: largest value that can occur.
        attributes: plain static values.
        constants: arrays, integer but for those of "encode".
        path: path of the module it comes from.
        name: of a layer's input codes; otherwise empty.
    """

    op: str
    inputs: tuple[int, ...]
    shape: tuple[int | str, ...]
    low: int
    high: int
    attributes: dict[str, Any]
    constants: dict[str, np.ndarray]
    path: str = ""
    name: str = ""


@dataclasses.dataclass(frozen=True, eq=False)
class IntegerProgram:
    """A network as integers: ``program(x) == program.decode(program.integer_body(program.encode(x)))``.

    Made by :func:`lglsq_jax.integer.lower` or :func:`lglsq_jax.integer.load`. Any batch size runs, where the model
    left it open; each compiles once.

    Attributes:
        instructions: in the order in which they run; the last one makes the logits.
        input_shapes: shape of each input of the model; the batch axis may be open.
        input_dtypes: dtype of each input: a float, or uint8 or int8 for what is integer already.
        output_step: real value of one unit of the int32 logits.
    """

    instructions: tuple[Instruction, ...]
    input_shapes: tuple[Shape, ...]
    input_dtypes: tuple[str, ...]
    output_step: float

    @property
    def input_shape(self) -> Shape:
        """Shape of the (first) input."""
        return self.input_shapes[0]

    @property
    def input_dtype(self) -> str:
        """Dtype of the (first) input."""
        return self.input_dtypes[0]

    def __call__(self, *inputs: Shaped[Array, "n ..."]) -> Float[Array, "n ..."]:
        """Returns the float logits of the model's inputs."""
        return self.decode(self.integer_body(self.encode(*inputs)))

    def encode(self, *inputs: Shaped[Array, "n ..."]) -> Int[Array, "n ..."] | tuple[Int[Array, "n ..."], ...]:
        """Returns the integer codes of the inputs: int8, or uint8 where the first quantizer is unsigned.

        An input that is integer already, such as a uint8 image, is passed on as it is. A tuple where the network
        quantizes its inputs in several ways, or has several.

        Raises:
            ValueError: an input has another shape or dtype than the program was made for, or holds NaN.
        """
        if len(inputs) != len(self.input_shapes):
            raise ValueError(f"the program takes {len(self.input_shapes)} inputs, got {len(inputs)}")
        arrays = []
        for index, (x, shape, dtype) in enumerate(zip(inputs, self.input_shapes, self.input_dtypes, strict=True)):
            name, x = "x" if len(inputs) == 1 else f"inputs[{index}]", jnp.asarray(x)
            expected = tuple("n" if isinstance(dim, Batch) else dim for dim in shape)
            fits = len(x.shape) == len(expected) and all(
                want == "n" or want == have for want, have in zip(expected, x.shape, strict=True)
            )
            if not fits:
                wanted = "[" + ", ".join(map(str, expected)) + "]"
                raise ValueError(f"`{name}` must have shape {wanted}, got {list(x.shape)}")
            if jnp.issubdtype(dtype, jnp.integer):
                if x.dtype != dtype:
                    raise ValueError(f"`{name}` must be {dtype}, as the model took, got {x.dtype}")
            elif not jnp.issubdtype(x.dtype, jnp.floating):
                raise ValueError(f"`{name}` must be a float array, as the model took, got {x.dtype}")
            elif not isinstance(x, jax.core.Tracer) and bool(jnp.isnan(x).any()):
                raise ValueError(f"`{name}` must not contain NaN, which has no integer code")
            arrays.append(x.astype(dtype))
        return self._encode(*arrays)

    @functools.cached_property
    def _encode(self):
        return jax.jit(lambda *inputs: self._single(self._run_encode(inputs)))

    @functools.cached_property
    def entries(self) -> tuple[int, ...]:
        """Positions of the instructions where codes come in: every encode, and every input that is integer already.

        ``encode`` returns their codes in this order, and ``integer_body`` takes them so.
        """
        return tuple(
            index
            for index, step in enumerate(self.instructions)
            if step.op == "encode" or (step.op == "input" and "int" in step.attributes.get("dtype", "float32"))
        )

    @functools.cached_property
    def integer_body(self):
        """The jitted function from codes to int32 logits; nothing in it is a float."""

        def integer_body(codes: Int[Array, "n ..."]) -> Int32[Array, "n ..."]:
            return in_portions(self.instructions, codes, self._logits)

        return jax.jit(integer_body)

    def _logits(self, codes):
        return self._run_body(codes)[len(self.instructions) - 1].astype(jnp.int32)

    def decode(self, accumulators: Int32[Array, "n ..."]) -> Float[Array, "n ..."]:
        """Returns the float logits: the int32 ones times ``output_step``."""
        return jnp.asarray(accumulators).astype(jnp.float32) * jnp.float32(self.output_step)

    @functools.cached_property
    def layer_codes(self):
        """The jitted function from codes to ``{layer: codes of its input}``, for every named quantizer."""

        def layer_codes(codes):
            values = self._run_body(codes)
            return {step.name: values[index] for index, step in enumerate(self.instructions) if step.name}

        return jax.jit(layer_codes)

    @functools.cached_property
    def replay(self):
        """The compiled ``(codes, given, forced) -> (codes by layer, int32 logits)``, for comparisons layer by layer.

        ``given`` holds codes for every named quantizer. Where ``forced`` is true each takes the place of the codes that
        the program computed, which are returned all the same: what a layer makes of inputs that are not its own.
        """

        # Constants go in as arguments: compiling takes half as long where none of them can be folded.
        constants = jax.device_put([step.constants for step in self._prepared])

        @jax.jit
        def replay(constants, codes, given, forced):
            pairs = zip(self._prepared, constants, strict=True)
            steps = [dataclasses.replace(step, constants=own) for step, own in pairs]
            computed = {}

            def replace(step: Instruction, value):
                if not step.name:
                    return value
                computed[step.name] = value
                return jnp.where(forced, given[step.name].astype(value.dtype), value)

            values = self._run_body(codes, replace, steps)
            return computed, values[len(self.instructions) - 1].astype(jnp.int32)

        return functools.partial(replay, constants)

    @property
    def weights(self) -> dict[str, np.ndarray]:
        """The integer weights, by the path of their layer (numbered where a layer has several)."""
        found: dict[str, np.ndarray] = {}
        for step in self.instructions:
            if step.op == "constant":
                base = name = step.path or "constant"
                count = 2
                while name in found:
                    name, count = f"{base}#{count}", count + 1
                found[name] = step.constants["codes"]
        return found

    @property
    def layers(self) -> "tuple[Layer, ...]":
        """The convolutions and matrix products, in the order in which they run, as plain arrays and numbers."""
        from .layers import layers_of

        return layers_of(self)

    def save(self, path: str | os.PathLike) -> None:
        """Writes the program to one file, weights packed at their true bit width; see ``docs/integer.md``.

        The file appears whole or not at all.

        Raises:
            OSError: it cannot be written; an earlier file of that name is left as it was.
        """
        from .storage import save

        save(self, path)

    def to_c_header(self, path: str | os.PathLike, name: str = "network") -> None:
        """Writes the integer body as one C99 header: constants, instructions, memory; see ``docs/chip.md``.

        ``examples/c/interpreter.c`` runs it, one sample at a time, to the bit as :attr:`integer_body` does.

        Args:
            path: the file, written whole or not at all.
            name: C identifier of the program; every array begins with it.

        Raises:
            UserError: the file cannot be written.
            ValueError: ``name`` is no usable C identifier, or a tensor has more than 12 axes.
        """
        from .export.c_header import save_c_header

        save_c_header(self, path, name)

    def to_stablehlo(self, path: str | os.PathLike) -> None:
        """Writes the integer body as one ``jax.export`` artefact, which JAX alone runs; see ``docs/stablehlo.md``.

        For CPU, CUDA and TPU; the batch size stays open where the model left it open. Weights are constants in it.

        Raises:
            UserError: the file cannot be written.
        """
        from .export.stablehlo import save_stablehlo

        save_stablehlo(self, path)

    def to_onnx(
        self, path: str | os.PathLike, form: str = "integer", opset: int = 21, *, wide_sums: bool = False
    ) -> None:
        """Writes the program as an ONNX model; see ``docs/onnx.md``.

        The file appears whole or not at all.

        Args:
            path: the file.
            form: "integer" for codes in and int32 logits out through integer operators alone, equal to
                ``integer_body`` to the bit; "qdq" for a float image in and float logits out, with the pairs of
                ``QuantizeLinear`` and ``DequantizeLinear`` from which runtimes make their own quantized kernels.
            opset: the operator set, 18 to 24.
            wide_sums: of the QDQ form: whether what runs it adds products of uint8 by int8 in 32 bits, as ARM, GPUs and
                x86 with VNNI do. Weights of 8 bits are then int8, which is twice as fast as the uint8 that are right
                everywhere; on x86 without VNNI such a file gives wrong sums.

        Raises:
            UserError: an argument is not one of these, the file cannot be written, or the package onnx is missing.
        """
        from .export.onnx_file import save_onnx

        save_onnx(self, path, form, opset, wide_sums=wide_sums)

    def summary(self):
        """Returns a table of the layers: bits, shapes, bytes and integer multiply-adds; ``print`` shows it."""
        from .summary import summarize

        return summarize(self)

    @staticmethod
    def _single(codes: list):
        return codes[0] if len(codes) == 1 else tuple(codes)

    def _run_encode(self, inputs: Sequence) -> list:
        values: dict[int, Any] = {}
        codes = []
        batch = _batch_of(self.input_shapes, inputs)
        for index, step in enumerate(self.instructions):
            if step.op == "input" and index in self.entries:
                codes.append(inputs[step.attributes.get("index", 0)])
            elif step.op == "input":
                values[index] = inputs[step.attributes.get("index", 0)]
            elif step.op == "encode":
                codes.append(_encode(step, values[step.inputs[0]]))
            elif step.inputs and all(number in values for number in step.inputs):
                values[index] = _run(step, batch, [values[number] for number in step.inputs])
        return codes

    @functools.cached_property
    def _prepared(self) -> tuple[Instruction, ...]:
        return prepared(self.instructions)

    def _run_body(
        self,
        codes,
        replace: Callable[[Instruction, Any], Any] = lambda step, value: value,
        steps: Sequence[Instruction] | None = None,
    ) -> dict[int, Any]:
        given = list(codes) if isinstance(codes, tuple | list) else [codes]
        entries = self.entries
        if len(given) != len(entries):
            raise ValueError(f"`codes` must hold {len(entries)} arrays as `encode` returns them, got {len(given)}")
        values = {}
        for index, array in zip(entries, given, strict=True):
            dtype, shape = self.instructions[index].attributes["dtype"], self.instructions[index].shape
            array = jnp.asarray(array)
            if array.dtype != dtype:
                raise ValueError(f"`codes` must be {dtype} as `encode` returns them, got {array.dtype}")
            pairs = zip(shape, array.shape, strict=False)
            if array.ndim != len(shape) or any(isinstance(want, int) and want != have for want, have in pairs):
                wanted = "[" + ", ".join(str(dim).replace("b*1", "n").replace("b*", "n*") for dim in shape) + "]"
                raise ValueError(f"`codes` must have shape {wanted} as `encode` returns them, got {list(array.shape)}")
            values[index] = replace(self.instructions[index], array)
        batch = _batch_of([decode(list(self.instructions[index].shape)) for index in entries], given)
        for index, step in enumerate(steps or self._prepared):
            ready = all(number in values for number in step.inputs)
            if index not in values and step.op not in ("input", "encode") and ready:
                values[index] = replace(step, _run(step, batch, [values[number] for number in step.inputs]))
        return values


def _batch_of(shapes: Sequence[Shape], arrays: Sequence) -> int:
    """Returns the batch size that arrays show; 1 where it is fixed."""
    for shape, array in zip(shapes, arrays, strict=True):
        for dim, size in zip(shape, array.shape, strict=True):
            if isinstance(dim, Batch):
                return size // dim.times
    return 1


def _run(step: Instruction, batch: int, inputs: list):
    return KERNELS[step.op]({**step.attributes, "batch": batch}, step.constants, *inputs)


def _encode(step: Instruction, x):
    """``clip(round((gain x + bias - offset) / scale))``, by the quantizer's own functions: the same code to the bit."""
    constants = step.constants
    values = x.astype(jnp.float32)
    if (constants["gain"] != 1).any() or constants["bias"].any():
        values = values * constants["gain"] + constants["bias"]
    v = normalise(values - constants["offset"], jnp.asarray(constants["scale"]))
    codes = jnp.round(clip_codes(v, step.attributes["low"], step.attributes["high"]))
    return codes.astype(step.attributes["dtype"])
