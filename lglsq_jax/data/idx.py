"""The four files of MNIST and its successors: IDX, with or without gzip."""

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np

from ..errors import UserError
from .arrays import from_arrays
from .config import DataConfig
from .dataset import Dataset

FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
UNSIGNED_BYTE = 0x08


def read(config: DataConfig) -> Dataset:
    """Reads the folder ``config.path``. A file with ``.gz`` at its end goes before one without.

    Raises:
        UserError: folder or file missing, truncated or damaged; images and labels do not fit together.
    """
    folder = Path(str(config.path)).expanduser()
    if not folder.is_dir():
        what = "a file" if folder.exists() else "nothing"
        raise UserError(f"`path` must be a folder with the files {', '.join(FILES)} (.gz or not), {folder} is {what}")
    found = [next((path for path in (folder / f"{name}.gz", folder / name) if path.is_file()), None) for name in FILES]
    missing = [name for name, path in zip(FILES, found, strict=True) if path is None]
    if missing:
        raise UserError(f"the folder {folder} must also hold {' and '.join(missing)} (.gz or not)")
    paths = [path for path in found if path is not None]
    arrays = [read_idx(path, dims) for path, dims in zip(paths, (3, 1, 3, 1), strict=True)]
    return from_arrays("idx", *arrays, called=[str(path) for path in paths])


def read_idx(path: Path, dims: int) -> np.ndarray:
    """The uint8 array of ``dims`` dimensions in an IDX file.

    Format: two zero bytes, a byte for the type (8: unsigned byte), a byte for the number of dimensions, each dimension
    as a big-endian 32-bit number, then the values (Y. LeCun, "The MNIST database of handwritten digits").

    Raises:
        UserError: the file cannot be read, or it is not exactly such a file.
    """
    content = _content(path)
    header = 4 + 4 * dims
    magic = bytes((0, 0, UNSIGNED_BYTE, dims))
    if content[:4] != magic:
        raise UserError(
            f"{path} must start with the IDX magic number 0x{magic.hex()} (unsigned bytes, {dims} dimensions), "
            f"got 0x{content[:4].hex()}"
        )
    if len(content) < header:
        raise UserError(f"{path} is truncated: it must hold a header of {header} bytes, got {len(content)} bytes")
    shape = struct.unpack(f">{dims}I", content[4:header])
    if 0 in shape:
        raise UserError(f"{path} must hold at least one value, its header gives the shape {shape}")
    if len(content) - header != math.prod(shape):
        cut = "is truncated: it " if len(content) - header < math.prod(shape) else ""
        raise UserError(
            f"{path} {cut}must hold {math.prod(shape)} bytes for the shape {shape} of its header, "
            f"got {len(content) - header}"
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def _content(path: Path) -> bytes:
    try:
        if path.suffix != ".gz":
            return path.read_bytes()
        with gzip.open(path) as file:
            return file.read()
    except EOFError:
        raise UserError(f"{path} is truncated: the gzip file must be complete, it ends too early") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{path} must be a whole gzip file, got damaged or other content ({error})") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None
