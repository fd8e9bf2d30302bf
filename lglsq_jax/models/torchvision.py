"""TorchVision's weight files in and out of our networks. Nothing in a file is ever executed."""

import dataclasses
import importlib
import io
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from safetensors import SafetensorError, deserialize
from safetensors.numpy import save as as_safetensors

from ..files import write_whole
from ..layers import Scale

_COUNTER = "num_batches_tracked"  # PyTorch's batch norm counts batches; with a fixed momentum nothing reads it
_WRAPPERS = ("model", "state_dict")  # names under which training scripts keep the weights in a larger file

_DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": jnp.bfloat16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U8": np.uint8,
    "BOOL": np.bool_,
}
"""How safetensors names dtypes."""


@dataclasses.dataclass(frozen=True)
class _Entry:
    """One array of a file and the variable that it fills."""

    key: str
    variable: nnx.Variable
    to_ours: Callable[[np.ndarray], np.ndarray]
    to_torch: Callable[[np.ndarray], np.ndarray]

    @property
    def shape(self) -> tuple[int, ...]:
        """The array's shape in a file."""
        return self.to_torch(np.broadcast_to(np.float32(0), self.variable[...].shape)).shape


def load_torchvision(model: nnx.Module, path: str | os.PathLike, *, keep: Iterable[str] = ()) -> None:
    """Fills a float network with weights under TorchVision's names, from ``.safetensors`` or PyTorch's ``.pth``.

    Works for any nnx model of convolutions, linear layers and batch norms whose module paths are the file's names with
    ``/`` for ``.``. Kernels are transposed from ``[o, i, *taps]`` to ``[*taps, i, o]`` and computed with as float32.
    A ``.pth`` file is read with ``torch.load(weights_only=True)``, which cannot execute code. The model changes only if
    everything fits.

    Args:
        model: the network, such as ``models.resnet18(rngs=rngs)``.
        path: the file.
        keep: patterns of module paths that stay as they are and may lack in the file or have other shapes there, such
            as ``["fc"]`` for a network with other classes; a pattern must match the whole path.

    Raises:
        ValueError: keys are missing, unused or of another shape, all listed in one message; values are not finite; the
            file is damaged or of another kind; a ``keep`` pattern matches nothing; or the model is quantized already.
        ModuleNotFoundError: a ``.pth`` file, and PyTorch is not installed.
        OSError: the file cannot be read.
    """
    entries = _entries(model)
    kept = _kept(entries, keep)
    stored = _read(Path(path))
    wanted = [entry for entry in entries if entry.key not in kept]
    missing = [entry.key for entry in wanted if entry.key not in stored]
    known = {entry.key for entry in entries}
    unused = [key for key in stored if key not in known and key.rpartition(".")[2] != _COUNTER]
    misshapen = [
        f"{entry.key} ({list(stored[entry.key].shape)} in the file, {list(entry.shape)} in the network)"
        for entry in wanted
        if entry.key in stored and stored[entry.key].shape != entry.shape
    ]
    problems = {"missing": missing, "unused": unused, "of another shape": misshapen}
    listed = [f"{name}: {', '.join(keys)}" for name, keys in problems.items() if keys]
    if listed:
        raise ValueError(f"{path} does not fit {type(model).__name__}: {'; '.join(listed)}")
    with np.errstate(over="ignore"):
        numbers = {entry.key: np.asarray(stored[entry.key], np.float32) for entry in wanted}
    broken = [key for key, values in numbers.items() if not np.isfinite(values).all()]
    if broken:
        raise ValueError(f"{path} must hold finite numbers, but these have NaN or infinity: {', '.join(broken)}")
    for entry in wanted:
        entry.variable[...] = jnp.asarray(entry.to_ours(numbers[entry.key]))


def save_torchvision(model: nnx.Module, path: str | os.PathLike) -> None:
    """Writes a float network's weights under TorchVision's names, as ``load_torchvision`` reads them.

    ``.safetensors`` files, and ``.pth`` files where PyTorch is installed; PyTorch loads either with ``strict=True``. An
    earlier file is replaced at once, or left as it was.

    Raises:
        ValueError: the file's name ends in something else, or the model is quantized.
        ModuleNotFoundError: a ``.pth`` file, and PyTorch is not installed.
        OSError: the file cannot be written.
    """
    path = Path(path)
    arrays = {}
    for entry in _entries(model):
        arrays[entry.key] = np.ascontiguousarray(entry.to_torch(np.asarray(entry.variable[...], np.float32)))
        if entry.key.endswith(".running_var"):
            arrays[entry.key.removesuffix("running_var") + _COUNTER] = np.zeros((), np.int64)
    if _kind(path) == ".safetensors":
        write_whole(path, as_safetensors(arrays))
        return
    torch, buffer = _torch(path), io.BytesIO()
    torch.save({key: torch.from_numpy(array.copy()) for key, array in arrays.items()}, buffer)
    write_whole(path, buffer.getvalue())


def _entries(model: nnx.Module) -> list[_Entry]:
    entries = []
    for path, module in nnx.iter_modules(model):
        prefix = ".".join(map(str, path)) + "." if path else ""
        if isinstance(module, nnx.Conv):
            entries.append(_Entry(f"{prefix}weight", module.kernel, _conv_to_ours, _conv_to_torch))
        elif isinstance(module, nnx.Linear):
            entries.append(_Entry(f"{prefix}weight", module.kernel, np.transpose, np.transpose))
        elif isinstance(module, nnx.BatchNorm):
            named = {"weight": module.scale, "running_mean": module.mean, "running_var": module.var}
            entries += [_plain(prefix + name, variable) for name, variable in named.items() if variable is not None]
        else:
            continue
        if module.bias is not None:
            entries.append(_plain(f"{prefix}bias", module.bias))
    if not entries:
        raise ValueError(f"`model` must hold convolutions, linear layers or batch norms, got {type(model).__name__}")
    if nnx.to_flat_state(nnx.state(model, Scale)):
        raise ValueError("`model` must be a float network; load or save its weights before quantize_model")
    return entries


def _plain(key: str, variable: nnx.Variable) -> _Entry:
    return _Entry(key, variable, np.asarray, np.asarray)


def _conv_to_ours(kernel: np.ndarray) -> np.ndarray:
    return np.moveaxis(kernel, (0, 1), (-1, -2))


def _conv_to_torch(kernel: np.ndarray) -> np.ndarray:
    return np.moveaxis(kernel, (-1, -2), (0, 1))


def _kept(entries: list[_Entry], keep: Iterable[str]) -> set[str]:
    if isinstance(keep, str):
        raise ValueError(f"`keep` must be a list of patterns, got the string {keep!r}")
    paths = {entry.key: entry.key.rpartition(".")[0].replace(".", "/") for entry in entries}
    kept = set()
    for pattern in keep:
        try:
            found = {key for key, path in paths.items() if re.fullmatch(pattern, path)}
        except re.error as error:
            raise ValueError(f"`keep` must hold regular expressions, got {pattern!r}: {error}") from None
        if not found:
            raise ValueError(
                f"`keep` matches no module: {pattern!r}; known are {', '.join(sorted(set(paths.values())))}"
            )
        kept |= found
    return kept


def _kind(path: Path) -> str:
    if path.suffix not in (".safetensors", ".pth", ".pt"):
        raise ValueError(f"a file of weights must end in .safetensors, .pth or .pt, got {str(path)!r}")
    return path.suffix


def _read(path: Path) -> dict[str, np.ndarray]:
    if _kind(path) == ".safetensors":
        try:
            return {name: _numbers(**tensor) for name, tensor in deserialize(path.read_bytes())}
        except (SafetensorError, TypeError, ValueError) as error:
            raise ValueError(f"{path} must be a safetensors file of numbers, but it is not ({error})") from None
    torch = _torch(path)
    content = path.read_bytes()
    try:
        stored = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # torch has no type of its own for a damaged file
        reason = str(error).strip().split("\n")[0]
        raise ValueError(f"{path} must be a PyTorch file of weights alone, but it is not ({reason})") from None
    for name in _WRAPPERS:
        if isinstance(stored, dict) and isinstance(stored.get(name), dict):
            stored = stored[name]
    if not isinstance(stored, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in stored.values()):
        raise ValueError(f"{path} must hold tensors by name, got {type(stored).__name__}")
    return {key: (tensor.float() if tensor.is_floating_point() else tensor).numpy() for key, tensor in stored.items()}


def _numbers(dtype: str, shape: list[int], data: bytes) -> np.ndarray:
    """A tensor of a safetensors file; its library's own reader for NumPy knows no bfloat16."""
    if dtype not in _DTYPES:
        raise ValueError(f"a tensor of dtype {dtype}; known are {', '.join(_DTYPES)}")
    return np.frombuffer(data, np.dtype(_DTYPES[dtype]).newbyteorder("<")).reshape(shape)


def _torch(path: Path) -> Any:
    try:
        return importlib.import_module("torch")
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            f"{path.suffix} files need PyTorch, which is not installed: install torch, or use a .safetensors file"
        ) from None
