"""A program as one safetensors file: plain arrays and a JSON header, nothing that is executed on loading.

A file is read without trust: nothing is allocated that is larger than the file gives reason for, and whatever a kernel
takes for granted is checked here, so that a program that was loaded runs.
"""

import hashlib
import json
import math
import os
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from ..errors import UserError
from ..files import write_whole
from .dimensions import Shape, decode, encode
from .flow import check_flow
from .packing import narrowed, pack, packed_size, unpack
from .program import Instruction, IntegerProgram
from .validation import INPUT_DTYPES, INT32, OPERATIONS, check_instruction, check_numbers, is_whole

FORMAT = "lglsq_jax integer program"
VERSION = 3
_READABLE = ("1", "2", "3")  # 1: every number of a rescale in 4 bytes; 1 and 2: one float input, fewer operations
_PLAIN = ("op", "inputs", "shape", "low", "high", "attributes", "path", "name")
_LEAST_TEXT, _TEXT_A_BYTE, _MOST_TEXT = 2**16, 64, 2**26
"""A list of instructions may inflate to so many bytes in any case, and to so many for each compressed byte; in all to
so many. Lists that ``save`` wrote grow 5 to 15 times."""


def save(program: IntegerProgram, path: str | os.PathLike) -> None:
    """Writes a program; see :meth:`IntegerProgram.save`."""
    pieces: list[bytes] = []
    offset = 0
    steps = []
    for step in program.instructions:
        stored = {}
        for name, array in step.constants.items():
            if step.op == "constant":
                packed, kind = pack(array, step.attributes["bits"], signed=step.attributes["signed"]), array.dtype
            else:
                packed = narrowed(array)
                kind = packed.dtype
            stored[name] = [kind.name, list(array.shape), offset]
            pieces.append(packed.astype(packed.dtype.newbyteorder("<")).tobytes())
            offset += len(pieces[-1])
        fields = (getattr(step, field) for field in _PLAIN)
        steps.append([*fields, stored])
    header = {
        "fields": [*_PLAIN, "constants"],
        "instructions": steps,
        "input_shapes": [encode(shape) for shape in program.input_shapes],
        "input_dtypes": list(program.input_dtypes),
        "output_step": program.output_step,
    }
    text = json.dumps(header, separators=(",", ":")).encode()
    tensors = {"program": zlib.compress(text, 9), "constants": b"".join(pieces)}
    arrays = {name: np.frombuffer(piece, np.uint8) for name, piece in tensors.items()}
    digest = hashlib.sha256(tensors["program"] + tensors["constants"]).hexdigest()
    data = save_tensors(arrays, {"format": FORMAT, "version": str(VERSION), "sha256": digest})
    write_whole(path, _in_fixed_order(data))


def _in_fixed_order(data: bytes) -> bytes:
    """Returns the same safetensors file with its header sorted: safetensors orders metadata anew at every call."""
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8:end]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + data[end:]


def load(path: str | os.PathLike) -> IntegerProgram:
    """Reads a program that :meth:`IntegerProgram.save` wrote.

    Raises:
        FileNotFoundError: there is no such file.
        UserError: the file is of another kind, truncated, changed, or from a newer version; one sentence says which.
    """
    name = os.fspath(path)
    with open(name, "rb") as file:
        data = file.read()
    try:
        return _parse(data)
    except RecursionError:
        raise UserError(f"{name} is not a usable integer program: its lists are nested too deeply") from None
    except ValueError as error:
        raise UserError(f"{name} is not a usable integer program: {error}") from None


def file_version(path: str | os.PathLike) -> int:
    """Returns the version of a program's file that ``load`` reads."""
    with open(path, "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return int(header["__metadata__"]["version"])


def _parse(data: bytes) -> IntegerProgram:
    if len(data) < 8:
        raise ValueError(f"it has only {len(data)} bytes")
    length = int.from_bytes(data[:8], "little")
    if not 2 <= length <= len(data) - 8:
        raise ValueError("its header is longer than the file, so it is truncated or of another kind")
    packed, constants = _contents(data, length)
    header = _object(json.loads(_inflate(packed)), "its contents", ("fields", "instructions", "output_step"))
    if header["fields"] != [*_PLAIN, "constants"]:
        raise ValueError("its instructions have the fields of another format")
    listed, step = _list(header["instructions"], "its instructions"), header["output_step"]
    if not listed or type(step) not in (int, float) or not 0 < step < float("inf"):
        raise ValueError("it has no instructions or no finite output step")
    shapes, dtypes = _inputs(header)
    instructions: list[Instruction] = []
    used = 0
    for index, fields in enumerate(listed):
        try:
            instruction, used = _instruction(index, fields, constants, used, dtypes)
        except ValueError as error:
            raise ValueError(f"instruction {index}: {error}") from None
        instructions.append(instruction)
    if used != len(constants):
        raise ValueError(f"its constants have {len(constants)} bytes, of which its instructions use {used}")
    found = [step.attributes["index"] for step in instructions if step.op == "input"]
    if sorted(found) != list(range(len(shapes))):
        raise ValueError(f"its input instructions read the inputs {found[:40]} of {len(shapes)}")
    check_flow(instructions, shapes, dtypes)
    return IntegerProgram(tuple(instructions), shapes, dtypes, float(step))


def _contents(data: bytes, length: int) -> tuple[bytes, bytes]:
    """Returns the compressed list of instructions and the constants of a whole, unchanged file."""
    try:
        outer = json.loads(data[8 : 8 + length])
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"it is not a whole safetensors file ({error})") from None
    metadata = outer.get("__metadata__", {}) if isinstance(outer, dict) else {}
    metadata = metadata if isinstance(metadata, dict) else {}
    if metadata.get("format") != FORMAT:
        raise ValueError(f"its format is {repr(metadata.get('format'))[:60]}, not {FORMAT!r}")
    if metadata.get("version") not in _READABLE:
        version = repr(metadata.get("version"))[:60]
        raise ValueError(f"its version is {version}; this release reads {', '.join(_READABLE)}")
    tensors = {name: entry for name, entry in outer.items() if name != "__metadata__"}
    plain = all(isinstance(entry, dict) and entry.get("dtype") == "U8" for entry in tensors.values())
    if set(tensors) != {"program", "constants"} or not plain:
        raise ValueError("it does not hold the two byte arrays of a program")
    try:
        arrays = load_tensors(data)
    except SafetensorError as error:
        raise ValueError(f"it is not a whole safetensors file ({error})") from None
    packed, constants = arrays["program"].tobytes(), arrays["constants"].tobytes()
    if metadata.get("sha256") != hashlib.sha256(packed + constants).hexdigest():
        raise ValueError("its checksum does not match its contents, so it was changed or damaged")
    return packed, constants


def _object(value: Any, what: str, names: Sequence[str] = ()) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{what} must be an object, got {type(value).__name__}")
    for name in names:
        if name not in value:
            raise ValueError(f"it has no {name!r}")
    return value


def _list(value: Any, what: str) -> list:
    if not isinstance(value, list):
        raise ValueError(f"{what} must be a list, got {type(value).__name__}")
    return value


def _inputs(header: dict[str, Any]) -> tuple[tuple[Shape, ...], tuple[str, ...]]:
    """Returns shape and dtype of each input; versions 1 and 2 had one."""
    if "input_shape" in header:
        shapes, dtypes = [header["input_shape"]], [str(header.get("input_dtype"))]
    else:
        _object(header, "its contents", ("input_shapes", "input_dtypes"))
        shapes, dtypes = (_list(header[name], name) for name in ("input_shapes", "input_dtypes"))
    if not shapes or len(shapes) != len(dtypes):
        raise ValueError(f"it has {len(shapes)} input shapes and {len(dtypes)} input dtypes")
    for dtype in dtypes:
        if dtype not in INPUT_DTYPES:
            raise ValueError(f"its input dtype {str(dtype)[:60]!r} is not one of {', '.join(INPUT_DTYPES)}")
    return tuple(decode(_list(shape, "an input's shape")) for shape in shapes), tuple(dtypes)


def _inflate(packed: bytes) -> bytes:
    inflater = zlib.decompressobj()
    most = min(max(_LEAST_TEXT, _TEXT_A_BYTE * len(packed)), _MOST_TEXT)
    try:
        text = inflater.decompress(packed, most)
    except zlib.error as error:
        raise ValueError(f"its list of instructions cannot be read ({error})") from None
    if inflater.unconsumed_tail or not inflater.eof:
        longer = len(text) >= most
        raise ValueError(f"its list of instructions is {f'longer than {most} bytes' if longer else 'cut off'}")
    return text


def _instruction(index: int, step: Any, blob: bytes, used: int, input_dtypes: Sequence[str]) -> tuple[Instruction, int]:
    """Returns the instruction, and how many bytes of the constants are used after it."""
    if not isinstance(step, list) or len(step) != len(_PLAIN) + 1:
        raise ValueError(f"it does not have the fields {', '.join(_PLAIN)}, constants")
    *plain, stored = step
    op, inputs, shape, low, high, attributes, path, name = plain
    if not isinstance(op, str) or op not in OPERATIONS:
        raise ValueError(f"it is an unknown operation {str(op)[:60]!r}")
    if not all(is_whole(number, 0, index - 1) for number in _list(inputs, "its inputs")):
        raise ValueError(f"it reads {str(inputs)[:60]}, which are not all before it")
    decode(_list(shape, "its shape"))
    if not (is_whole(low) and is_whole(high) and low <= high):
        raise ValueError(f"its values lie between {str(low)[:60]} and {str(high)[:60]}, not in order within {INT32}")
    if not isinstance(path, str) or not isinstance(name, str):
        raise ValueError("its path and its name must be strings")
    if op == "input" and isinstance(attributes, dict):  # versions 1 and 2 had one input and did not say so
        attributes = {"index": 0, "dtype": input_dtypes[0]} | attributes
    check_instruction(op, len(inputs), attributes, stored)
    constants = {}
    for label, (kind, sizes, offset) in stored.items():
        count = math.prod(sizes)
        size = packed_size(count, attributes["bits"]) if op == "constant" else count * np.dtype(kind).itemsize
        if offset + size > len(blob):
            raise ValueError(f"constant {label!r} reaches beyond the end of the file")
        if offset != used:
            raise ValueError(f"constant {label!r} begins at {offset}, not behind the one before it at {used}")
        piece, used = blob[offset : offset + size], offset + size
        if op == "constant":
            stream = np.frombuffer(piece, np.uint8)
            constants[label] = unpack(stream, attributes["bits"], tuple(sizes), signed=attributes["signed"])
        else:
            constants[label] = np.frombuffer(piece, np.dtype(kind).newbyteorder("<")).reshape(sizes).astype(kind)
    check_numbers(op, attributes, constants)
    constants = {label: array.astype(_computed(label, attributes, array.dtype)) for label, array in constants.items()}
    return Instruction(op, tuple(inputs), tuple(shape), low, high, attributes, constants, path, name), used


def _computed(name: str, attributes: dict[str, Any], stored: np.dtype) -> np.dtype:
    """Returns the dtype that a constant has in the program; narrower ones save space in the file alone."""
    if name in ("table", "values"):
        return np.dtype(attributes["dtype"])
    return np.dtype("int32") if stored == np.int16 or (stored == np.int8 and name != "codes") else stored
