"""A program as one safetensors file: plain arrays and a JSON header, nothing that is executed on loading."""

import collections
import hashlib
import json
import math
import os
import zlib
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from ..errors import UserError
from ..files import write_whole
from .dimensions import Shape, decode, encode
from .kernels import KERNELS
from .packing import narrowed, pack, packed_size, unpack
from .program import Instruction, IntegerProgram

FORMAT = "lglsq_jax integer program"
VERSION = 3
_READABLE = ("1", "2", "3")  # 1: every number of a rescale in 4 bytes; 1 and 2: one float input, fewer operations
_INPUT_DTYPES = ("float32", "float16", "bfloat16", "float64", "uint8", "int8")
_PLAIN = ("op", "inputs", "shape", "low", "high", "attributes", "path", "name")
_LARGEST_HEADER = 2**28  # a compressed list of instructions may not grow beyond this
_CONSTANT_DTYPES = collections.defaultdict(
    tuple,
    constant=("int8", "uint8"),
    rescale=("int8", "int16", "int32", "uint32"),
    table=("int8", "uint8", "int16", "int32"),
    staircase=("int8", "uint8", "int16", "int32"),
    encode=("float32",),
)


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
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, OverflowError, RecursionError) as error:
        reason = f"it has no {error}" if isinstance(error, KeyError) else str(error) or type(error).__name__
        raise UserError(f"{name} is not a usable integer program: {reason}") from None


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
    try:
        outer = json.loads(data[8 : 8 + length])
        tensors = load_tensors(data)
    except (SafetensorError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"it is not a whole safetensors file ({error})") from None
    metadata = outer.get("__metadata__", {}) if isinstance(outer, dict) else {}
    if metadata.get("format") != FORMAT:
        raise ValueError(f"its format is {metadata.get('format')!r}, not {FORMAT!r}")
    if metadata.get("version") not in _READABLE:
        raise ValueError(f"its version is {metadata.get('version')!r}; this release reads {', '.join(_READABLE)}")
    if set(tensors) != {"program", "constants"} or any(array.dtype != np.uint8 for array in tensors.values()):
        raise ValueError("it does not hold the two byte arrays of a program")
    packed, constants = tensors["program"].tobytes(), tensors["constants"].tobytes()
    if metadata.get("sha256") != hashlib.sha256(packed + constants).hexdigest():
        raise ValueError("its checksum does not match its contents, so it was changed or damaged")
    header = json.loads(_inflate(packed))
    if header["fields"] != [*_PLAIN, "constants"]:
        raise ValueError(f"its instructions have the fields {header['fields']}")
    instructions: list[Instruction] = []
    for index, step in enumerate(header["instructions"]):
        instructions.append(_instruction(index, step, constants))
    step = float(header["output_step"])
    if not instructions or not (0 < step < float("inf")):
        raise ValueError("it has no instructions or no finite output step")
    return IntegerProgram(tuple(instructions), *_inputs(header, instructions), step)


def _inputs(header: dict[str, Any], instructions: list[Instruction]) -> tuple[tuple[Shape, ...], tuple[str, ...]]:
    """Returns shape and dtype of each input; versions 1 and 2 had one."""
    if "input_shape" in header:
        shapes, dtypes = [header["input_shape"]], [header["input_dtype"]]
    else:
        shapes, dtypes = header["input_shapes"], header["input_dtypes"]
    if not shapes or len(shapes) != len(dtypes):
        raise ValueError(f"it has {len(shapes)} input shapes and {len(dtypes)} input dtypes")
    for dtype in dtypes:
        if dtype not in _INPUT_DTYPES:
            raise ValueError(f"its input dtype {dtype!r} is not one of {', '.join(_INPUT_DTYPES)}")
    found = [step.attributes.setdefault("index", 0) for step in instructions if step.op == "input"]
    if sorted(found) != list(range(len(shapes))):
        raise ValueError(f"its input instructions read the inputs {found} of {len(shapes)}")
    return tuple(map(decode, shapes)), tuple(dtypes)


def _inflate(packed: bytes) -> bytes:
    inflater = zlib.decompressobj()
    try:
        text = inflater.decompress(packed, _LARGEST_HEADER)
    except zlib.error as error:
        raise ValueError(f"its list of instructions cannot be read ({error})") from None
    if not inflater.eof:
        raise ValueError(f"its list of instructions is longer than {_LARGEST_HEADER} bytes")
    return text


def _instruction(index: int, step: Any, blob: bytes) -> Instruction:
    if not isinstance(step, list) or len(step) != len(_PLAIN) + 1:
        raise ValueError(f"instruction {index} does not have the fields {', '.join(_PLAIN)}, constants")
    fields: dict[str, Any] = dict(zip(_PLAIN, step[:-1], strict=True))
    stored = step[-1]
    op, attributes = fields["op"], fields["attributes"]
    if op not in KERNELS and op not in ("input", "encode"):
        raise ValueError(f"instruction {index} is an unknown operation {op!r}")
    if not all(isinstance(number, int) and 0 <= number < index for number in fields["inputs"]):
        raise ValueError(f"instruction {index} reads {fields['inputs']}, which are not all before it")
    decode(fields["shape"])
    if op == "rescale" and not 1 <= attributes["shift"] <= 62:
        raise ValueError(f"instruction {index} shifts by {attributes['shift']}, not by 1 to 62")
    shifts = attributes.get("term_shifts", [0] * len(fields["inputs"]))
    if len(shifts) != len(fields["inputs"]) or not all(0 <= shift <= 62 for shift in shifts):
        raise ValueError(f"instruction {index} shifts its terms by {shifts}, not each by 0 to 62")
    constants = {}
    for name, (kind, shape, offset) in stored.items():
        if kind not in _CONSTANT_DTYPES[op]:
            raise ValueError(f"constant {name!r} of instruction {index} is {kind}, not {_CONSTANT_DTYPES[op]}")
        if not all(isinstance(size, int) and size >= 0 for size in [*shape, offset]):
            raise ValueError(f"constant {name!r} of instruction {index} has shape {shape} at {offset}")
        count = math.prod(shape)
        size = packed_size(count, attributes["bits"]) if op == "constant" else count * np.dtype(kind).itemsize
        if offset + size > len(blob):
            raise ValueError(f"constant {name!r} of instruction {index} reaches beyond the end of the file")
        piece = blob[offset : offset + size]
        if op == "constant":
            stream = np.frombuffer(piece, np.uint8)
            constants[name] = unpack(stream, attributes["bits"], tuple(shape), signed=attributes["signed"])
        else:
            numbers = np.frombuffer(piece, np.dtype(kind).newbyteorder("<")).reshape(shape)
            constants[name] = numbers.astype(_computed_dtype(op, name, attributes, kind))
    fields |= {"inputs": tuple(fields["inputs"]), "shape": tuple(fields["shape"]), "constants": constants}
    return Instruction(**fields)


def _computed_dtype(op: str, name: str, attributes: dict[str, Any], stored: str) -> str:
    """Returns the dtype that a constant has in the program; narrower ones save space in the file alone."""
    if name in ("table", "values"):
        if attributes["dtype"] not in ("int8", "uint8", "int32"):
            raise ValueError(f"the results of a {op} are {attributes['dtype']!r}, not int8, uint8 or int32")
        return attributes["dtype"]
    return "int32" if stored in ("int8", "int16") else stored
